"""Every failure of a tier, through every entrance: retried, sent on, kept from a tier that is down, and told."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bundles import DOUBTFUL, TIERS, small_records
from langchain_core.messages import HumanMessage
from routers import Clock, ProviderError
from scripted import EVERY, STREAMS, Make, ScriptedModel, ask, route_of

from routenlp_integrations.langchain import RoutingChatModel, chat_model, queried
from router_core import Breaker, Budget, showing
from router_core.driving import aperform, perform
from router_core.errors import TierError
from router_core.lapse import Lapse, LapseWatch, write_lapses
from router_core.outages import Outages
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.router import Router
from router_core.sticky import conversation_key

WITH = {"configurable": {"thread_id": "a"}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Waits of the chat model pass on this clock."""
    clock = Clock()
    monkeypatch.setattr(queried, "perform", partial(perform, sleep=clock.sleep))
    monkeypatch.setattr(queried, "aperform", partial(aperform, sleep=clock.asleep))
    monkeypatch.setattr(chat_model, "time", SimpleNamespace(sleep=clock.sleep))
    monkeypatch.setattr(chat_model, "asyncio", SimpleNamespace(sleep=clock.asleep))
    return clock


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What a tier that hangs waits for, until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def calls(tiers: dict[str, ScriptedModel]) -> list[int]:
    """How often each tier was called."""
    return [len(tiers[name].calls) for name in TIERS]


# Time-outs


@pytest.mark.parametrize("how", EVERY)
async def test_a_tier_that_hangs(make: Make, easy: str, how: str, stuck: threading.Event) -> None:
    """The time-out is enforced and not handed to the tier; an asynchronous call is cancelled; others are not timed."""
    model, tiers = make({"small": {"hangs": stuck}}, timeout={"small": 0.02})
    route = route_of(await ask(model, how, easy))
    assert route["tier"] == "large"
    assert "small failed: TimeoutError" in route["reason"]
    assert route["certificate"]["risk"] == "joint"
    assert not any("timeout" in call for tier in tiers.values() for call in tier.calls)
    assert tiers["small"].cancelled == how.startswith("a")


@pytest.mark.parametrize("policy", ["route", "buffer"])
async def test_a_stream_is_not_timed_once_it_shows(
    make: Make, easy: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first shown chunk the rest may take any time; the reference tier's too."""
    model, _ = make(timeout=30.0, stream_policy=policy)
    late = [0.0]
    monkeypatch.setattr(showing, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late[0]))
    shown = []
    async for chunk in model.astream(easy, {"configurable": {"tier": "large"}}):
        shown.append(chunk.text)
        late[0] += 100.0 * bool(chunk.text)
    assert "".join(shown) == "The answer is good."


# Errors of providers


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize(
    ("error", "waited"),
    [
        (ProviderError(429, {"retry-after": "3"}), [3.0]),
        (ProviderError(503, {}), None),
        (ProviderError(408, {"Retry-After": "0"}), None),
        (ConnectionError("sk-secret down"), None),
        (TimeoutError(), None),
    ],
)
async def test_what_is_retried(
    make: Make, easy: str, how: str, error: Exception, waited: list[float] | None, clock: Clock
) -> None:
    """A failure that may pass is retried after a wait, counted, and changes nothing about the certificate."""
    model, tiers = make({"small": {"fails": error, "fails_first": 1}}, max_retries=2)
    message = await ask(model, how, easy)
    route = route_of(message)
    assert message.text == "The answer is good."
    assert (route["tier"], calls(tiers)) == ("small", [2, 0, 0])
    assert [attempt["retries"] for attempt in route["attempts"]] == [1]
    slept = [seconds for seconds in clock.slept if seconds]
    assert slept == waited if waited else 0.25 <= slept[0] < 0.5
    assert route["certificate"]["policy"] == (ROUTE_ONLY if how in STREAMS else CASCADE)


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize(
    ("error", "retries"),
    [
        (ProviderError(401), 0),
        (ProviderError(429, {"retry-after": "3600"}), 0),
        (ValueError("sk-secret"), 0),
        (ProviderError(500), 2),
        (ConnectionError("sk-secret down"), 2),
    ],
)
@pytest.mark.parametrize(("on_failure", "tier"), [("reference", "large"), ("next", "medium")])
async def test_what_is_given_up(
    make: Make, easy: str, how: str, error: Exception, retries: int, on_failure: str, tier: str, clock: Clock
) -> None:
    """A failure that will not pass, or not soon, or not in `max_retries`, sends the query on."""
    model, tiers = make({"small": {"fails": error}}, max_retries=2, on_failure=on_failure)
    route = route_of(await ask(model, how, easy))
    assert route["tier"] == tier
    assert len(tiers["small"].calls) == 1 + retries
    assert [attempt.get("retries", 0) for attempt in route["attempts"]] == [retries, 0]
    assert len([seconds for seconds in clock.slept if seconds]) == retries
    assert (route["certificate"] is None) == (on_failure == "next")
    assert "sk-secret" not in str(route)


# A tier that stays down


@pytest.mark.parametrize("how", EVERY)
async def test_breaker(make: Make, easy: str, how: str, clock: Clock) -> None:
    """After k failures queries go straight to the reference, until a probe succeeds."""
    breaker = Breaker(2, 30.0, clock=clock)
    model, tiers = make({"small": {"fails": ConnectionError("down")}}, breaker=breaker)
    for expected in ([1, 0, 1], [2, 0, 2], [2, 0, 3]):
        route = route_of(await ask(model, how, easy))
        assert calls(tiers) == expected
    assert "small rests after repeated failures; sent to large" in route["reason"]
    assert [attempt["tier"] for attempt in route["attempts"]] == ["large"]
    assert route["certificate"] is not None
    tiers["small"].fails = None
    clock.sleep(29.0)
    assert route_of(await ask(model, how, easy))["tier"] == "large"
    clock.sleep(1.0)
    assert route_of(await ask(model, how, easy))["tier"] == "small"
    assert breaker.state("small") == "closed"


@pytest.mark.parametrize("how", STREAMS)
async def test_breaks_in_mid_stream_count(make: Make, easy: str, how: str) -> None:
    """A tier that breaks after something was shown is down as well; one that is left early is not."""
    breaker = Breaker(1)
    model, tiers = make({"small": {"fails": ConnectionError("cut"), "fails_after": 3}}, breaker=breaker)
    with closing(model._stream([HumanMessage(easy)])) as left:  # type: ignore[type-var]
        assert [next(left).text for _ in range(2)] == ["", "The"]
    assert breaker.state("small") == "closed"
    with pytest.raises(TierError, match="small failed in the middle"):
        await ask(model, how, easy)
    assert breaker.state("small") == "open"
    assert route_of(await ask(model, how, easy))["tier"] == "large"
    assert len(tiers["small"].calls) == 2


@pytest.mark.parametrize("how", EVERY)
async def test_the_reference_is_down(make: Make, easy: str, how: str) -> None:
    """Its failure is raised, or the best cheap answer is served uncertified where there is one."""
    down = {"large": {"fails": ConnectionError("sk-secret down")}, "medium": {"reply": DOUBTFUL}}
    small = {"small": {"reply": DOUBTFUL}}
    for breaker in (None, Breaker(1)):
        model, _ = make({**down, **small}, stream_policy="buffer", breaker=breaker)
        for told in ("large failed: ConnectionError", "large rests" if breaker else "large failed"):
            with pytest.raises(TierError, match=told) as caught:
                await ask(model, how, easy)
            assert "sk-secret" not in str(caught.value)
    model, _ = make({**down, **small}, stream_policy="buffer", on_reference_failure="best")
    message = await ask(model, how, easy)
    assert (message.text, route_of(message)["certificate"]) == (DOUBTFUL, None)
    assert "best cheap answer served uncertified" in route_of(message)["reason"]
    model, _ = make({**down, "small": {"fails": ConnectionError("down")}}, on_reference_failure="best")
    with pytest.raises(TierError, match="no other answer may be served"):
        await ask(model, how, easy)


# Certificates that end while the model runs


@pytest.mark.parametrize("how", EVERY)
async def test_another_model_answers(make: Make, easy: str, how: str) -> None:
    """A cheap answer of another model than was certified is not served, and nothing is claimed from then on."""
    model, tiers = make({"small": {"model_name": "small-2"}})
    first = route_of(await ask(model, how, easy))
    # What a stream has shown cannot be taken back.
    assert first["tier"] == ("small" if how in STREAMS else "large")
    assert first["certificate"] is None
    assert "small answered with another model than was certified" in first["reason"]
    tiers["small"].model_name = "small-1"
    later = route_of(await ask(model, how, easy))
    assert [attempt["tier"] for attempt in later["attempts"]] == ["large"]
    assert later["certificate"] is None
    assert "it was certified with 'small-1'; sent to large" in later["reason"]


@pytest.mark.parametrize("how", EVERY)
async def test_another_model_is_the_reference(make: Make, easy: str, how: str) -> None:
    """Its answer is the best there is, without any claim; all scopes lapse."""
    model, _ = make({"small": {"fails": ConnectionError("down")}, "large": {"model_name": "large-2"}})
    for _ in range(2):
        route = route_of(await ask(model, how, easy))
        assert (route["tier"], route["certificate"]) == ("large", None)
        assert "tier large answers with 'large-2'" in route["reason"]
    assert model.router.lapses.why("sum")


@pytest.mark.parametrize("how", EVERY)
async def test_a_lapse_file_appears(small_bundle: Path, tmp_path: Path, easy: str, how: str) -> None:
    """A model that runs reads the lapse beside its bundle, and its end."""
    folder = tmp_path / "bundle"
    shutil.copytree(small_bundle, folder)
    tiers = {name: ScriptedModel(model_name=f"{name}-1") for name in TIERS}
    model = RoutingChatModel.from_bundle(folder, tiers, task="mood")
    model.router.lapses._every_s = model.router.lapses._due = 0.0
    assert route_of(await ask(model, how, easy))["tier"] == "small"
    write_lapses(folder, model.router.bundle_id, [Lapse("mood", "alarm", "too many bad answers", 0.0)])
    route = route_of(await ask(model, how, easy))
    assert (route["tier"], route["certificate"]) == ("large", None)
    assert "certificate lapsed: too many bad answers; sent to large" in route["reason"]
    (tmp_path / "bundle.lapse.json").unlink()
    assert route_of(await ask(model, how, easy))["tier"] == "small"


# Certificates after a departure


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
DOWN = {"small": {"fails": ConnectionError("down")}}
FALTERS = {"small": {"fails": ConnectionError("down"), "fails_first": 1}}
DEPARTURES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, bool, bool]] = {
    # name: tiers, parameters, call, tier that serves, certificate kept if joint, if selective
    "none": ({}, {}, {}, "small", True, True),
    "retry": (FALTERS, {"max_retries": 1}, {}, "small", True, True),
    "fails": (DOWN, {}, {}, "large", True, False),
    "fails, next": (DOWN, {"on_failure": "next"}, {}, "medium", False, False),
    "empty": ({"small": {"reply": " "}}, {}, {}, "large", True, False),
    "rests": (DOWN, {"breaker": "open"}, {}, "large", True, False),
    "unable": ({}, {"capabilities": {"small": {"max_input_tokens": 1}}}, {}, "large", True, False),
    "forced cheap": ({}, {}, {"routenlp_tier": "medium"}, "medium", False, False),
    "forced reference": ({}, {}, {"routenlp_tier": "large"}, "large", True, False),
    "sticks to a cheap tier": ({}, {"sticky": "medium"}, {}, "medium", False, False),
    "sticks to the reference": ({}, {"sticky": "large"}, {}, "large", True, False),
    "tools": ({}, {}, {"tools": [TOOL]}, "large", True, False),
    "tools, routed": ({}, {"uncalibrated": "cascade"}, {"tools": [TOOL]}, "small", False, False),
}


def certified(router: Router, risk: str) -> Router:
    """The router as if another kind of risk had been certified."""
    shown = {key: replace(one, risk=risk) for key, one in router.certificates.items()}
    return replace(router, certificates=shown, lapses=LapseWatch(), outages=Outages())


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize("risk", ["joint", "selective"])
@pytest.mark.parametrize("departure", DEPARTURES)
async def test_certificates(
    loaded_router: Router, easy: str, how: str, risk: str, departure: str, clock: Clock
) -> None:
    """A joint certificate outlives what goes straight to the reference tier; a selective one only the policy."""
    own, given, call, tier, joint, selective = DEPARTURES[departure]
    params = dict(given)
    stays = params.get("sticky")
    if stays:
        params["sticky"] = "conversation"
    if "breaker" in params:
        params["breaker"] = breaker = Breaker(1)
        breaker.leave("small", breaker.enter("small") or 0, False)
    models = {name: ScriptedModel(model_name=f"{name}-1", **own.get(name, {})) for name in TIERS}
    model = RoutingChatModel(router=certified(loaded_router, risk), tiers=models, task="mood", **params)
    if stays:
        model._sticky.served(conversation_key([], "a"), stays)  # type: ignore[union-attr]
    route = route_of(await ask(model, how, easy, config=WITH, **call))
    assert route["tier"] == tier
    assert (route["certificate"] is not None) == (joint if risk == "joint" else selective), route["reason"]
    if route["certificate"]:
        assert route["certificate"]["risk"] == risk


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("risk", ["joint", "selective"])
async def test_another_tier_is_away(loaded_router: Router, easy: str, how: str, risk: str) -> None:
    """While a tier of the path is away, answers of the others carry no selective certificate."""
    models = {name: ScriptedModel(model_name=f"{name}-1") for name in TIERS}
    models["medium"] = ScriptedModel(model_name="medium-1", fails=ConnectionError("down"), fails_first=1)
    model = RoutingChatModel(router=certified(loaded_router, risk), tiers=models, task="mood")
    to_medium = {"config": {"configurable": {"tier": "medium"}}}
    claimed = []
    for given in ({}, to_medium, {}, to_medium, {}):
        route = route_of(await ask(model, how, easy, **given))
        claimed += [route["certificate"] is not None] if not given else []
    assert claimed == [True, risk == "joint", True]
    assert route["tier"] == "small"


@pytest.mark.parametrize("how", STREAMS)
@pytest.mark.parametrize("risk", ["joint", "selective"])
async def test_tools_that_the_policy_sends_to_the_reference(loaded_router: Router, how: str, risk: str) -> None:
    """A call of a kind that calib did not have is a departure wherever it goes."""
    records = small_records()
    asked = zip(records.prompt, records.task, strict=True)
    hard = next(p for p, t in asked if t == "mood" and loaded_router.start(p, t, ROUTE_ONLY).tier == 2)
    models = {name: ScriptedModel(model_name=f"{name}-1") for name in TIERS}
    model = RoutingChatModel(router=certified(loaded_router, risk), tiers=models, task="mood", uncalibrated="cascade")
    plain, tools = [route_of(await ask(model, how, hard, **given)) for given in ({}, {"tools": [TOOL]})]
    assert (plain["tier"], tools["tier"]) == ("large", "large")
    assert plain["certificate"] is not None
    assert (tools["certificate"] is not None) == (risk == "joint")


@pytest.mark.parametrize("how", EVERY)
async def test_an_answer_at_the_budget_is_uncertified(make: Make, easy: str, how: str) -> None:
    """Whatever the risk: the policy would have gone on."""
    model, _ = make({"small": {"reply": DOUBTFUL}}, stream_policy="buffer")
    start = model.router.start(easy, "mood")
    prices = [model.router.expected_price(k, start) for k in range(3)]
    model, tiers = make({"small": {"reply": DOUBTFUL}}, stream_policy="buffer", budget=Budget(prices[0]))
    message = await ask(model, how, easy)
    assert calls(tiers) == [1, 0, 0]
    assert (message.text, route_of(message)["certificate"]) == (DOUBTFUL, None)
    assert "best answer so far served uncertified" in route_of(message)["reason"]
