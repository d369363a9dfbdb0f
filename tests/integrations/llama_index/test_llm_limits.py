"""Every failure of a tier, through every entrance; retries, breaker, budgets, stickiness, departures."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from bundles import DOUBTFUL, PORTFOLIO, TIERS
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from routers import Clock, ProviderError
from scripted_llm import EVERY, STREAMS, WHOLE, Make, ask, route_of, said, user

from routenlp_integrations.llama_index import RoutingLLM, driven
from router_core import Breaker, Budget, BudgetError, Sticky
from router_core.driving import aperform, perform
from router_core.errors import TierError
from router_core.router import Router


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Waits that take no time."""
    clock = Clock()
    monkeypatch.setattr(driven, "perform", partial(perform, sleep=clock.sleep))
    monkeypatch.setattr(driven, "aperform", partial(aperform, sleep=clock.asleep))
    monkeypatch.setattr(driven, "time", SimpleNamespace(sleep=clock.sleep))
    monkeypatch.setattr(driven, "asyncio", SimpleNamespace(sleep=clock.asleep, to_thread=asyncio.to_thread))
    return clock


@pytest.mark.parametrize("error", [ProviderError(500), ProviderError(400), ValueError("x"), ConnectionError()])
@pytest.mark.parametrize("how", EVERY)
async def test_a_cheap_tier_that_fails(make: Make, easy: str, how: str, error: Exception) -> None:
    """The reference answers under its certificate; the reason names the failure and not its words."""
    llm, _ = make({"small": {"fails": error}})
    route = route_of(await ask(llm, how, easy))
    assert (route["tier"], [a["tier"] for a in route["attempts"]]) == ("large", ["small", "large"])
    assert f"small failed: {type(error).__name__}" in route["reason"]
    assert "sk-secret" not in str(route)
    assert route["certificate"] is not None


@pytest.mark.parametrize("how", EVERY)
async def test_one_tier_up(make: Make, easy: str, how: str) -> None:
    """``on_failure="next"`` asks the next tier, uncertified."""
    llm, _ = make({"small": {"fails": ConnectionError()}}, on_failure="next")
    route = route_of(await ask(llm, how, easy))
    assert (route["tier"], route["certificate"]) == ("medium", None)


@pytest.mark.parametrize("how", EVERY)
async def test_a_reference_that_fails(make: Make, easy: str, how: str) -> None:
    """An error that says so, or the best cheap answer, uncertified."""
    down: dict[str, dict[str, Any]] = {"large": {"fails": ProviderError(503)}}
    doubts = {"small": {"reply": DOUBTFUL}, "medium": {"reply": DOUBTFUL}, **down}
    llm, _ = make({**doubts, "small": {"fails": ConnectionError()}})
    with pytest.raises(TierError, match="the reference tier failed and no other answer may be served") as caught:
        await ask(llm, how, easy)
    assert "sk-secret" not in str(caught.value)
    llm, _ = make(doubts, on_reference_failure="best", stream_policy="buffer")
    last = await ask(llm, how, easy)
    assert said(last) == DOUBTFUL
    assert route_of(last)["certificate"] is None


@pytest.mark.parametrize("how", EVERY)
async def test_nothing_said_is_a_failure(make: Make, easy: str, how: str) -> None:
    """A cheap tier that returns nothing."""
    llm, _ = make({"small": {"reply": "  "}})
    assert "small returned nothing" in route_of(await ask(llm, how, easy))["reason"]


@pytest.mark.parametrize("how", EVERY)
async def test_retries(make: Make, easy: str, clock: Clock, how: str) -> None:
    """A 429 is waited out as long as it asks for; the answer is the same tier's."""
    error = ProviderError(429, {"retry-after": "3"})
    llm, tiers = make({"small": {"fails": error, "fails_first": 2}}, max_retries=2)
    route = route_of(await ask(llm, how, easy))
    assert (route["tier"], route["attempts"][0]["retries"]) == ("small", 2)
    assert len(tiers["small"].calls) == 3
    assert [wait for wait in clock.slept if wait] == [3.0, 3.0]


@pytest.mark.parametrize("how", ["achat", "acomplete", "chat", "complete"])
async def test_time_outs(make: Make, easy: str, how: str) -> None:
    """A tier that takes too long is given up; asynchronously its call is cancelled."""
    late = threading.Event()
    llm, tiers = make({"small": {"hangs": late}}, timeout={"small": 0.05})
    began = time.monotonic()
    try:
        route = route_of(await ask(llm, how, easy))
    finally:
        late.set()
    assert route["tier"] == "large"
    assert "small failed: TimeoutError" in route["reason"]
    assert time.monotonic() - began < 30
    assert tiers["small"].noted["cancelled"] == (1 if how.startswith("a") else 0)


@pytest.mark.parametrize("how", EVERY)
async def test_a_tier_that_is_down_rests(make: Make, easy: str, how: str) -> None:
    """After repeated failures it is not asked again."""
    llm, tiers = make({"small": {"fails": ConnectionError()}}, breaker=Breaker(failures=2))
    for _ in range(4):
        route = route_of(await ask(llm, how, easy))
    assert len(tiers["small"].calls) == 2
    assert "small rests after repeated failures" in route["reason"]


@pytest.mark.parametrize("how", EVERY)
async def test_a_budget_per_run(make: Make, easy: str, how: str) -> None:
    """A run is the conversation, else the block around the calls; other runs have their own."""
    price = PORTFOLIO.tiers[2].price(10, 5)
    llm, _ = make(budget=Budget(2.5 * price, per="run", on_exceeded="raise"))
    large = {"tier": "large"}
    spent = [route_of(await ask(llm, how, "Hi", conversation="a", **large))["budget"]["spent_usd"] for _ in range(2)]
    assert spent == pytest.approx([price, 2 * price])
    with pytest.raises(BudgetError, match="large is expected to cost"):
        await ask(llm, how, "Hi", conversation="a", **large)
    with RoutingLLM.asking(tier="large"):
        for _ in range(2):
            await ask(llm, how, "Hi")
        with pytest.raises(BudgetError):
            await ask(llm, how, "Hi")
    for _ in range(4):
        assert route_of(await ask(llm, how, "Hi", **large))["budget"]["stopped"] is False


async def test_an_exceeded_budget_stops_at_the_best_answer(make: Make, easy: str) -> None:
    """``on_exceeded="stop"`` serves what there is, uncertified."""
    cheap = PORTFOLIO.tiers[0].price(60, 40)
    llm, _ = make({"small": {"reply": DOUBTFUL}}, budget=Budget(cheap, on_exceeded="stop"))
    route = route_of(await llm.achat(user(easy)))
    assert (route["tier"], route["certificate"], route["budget"]["stopped"]) == ("small", None, True)


@pytest.mark.parametrize("how", EVERY)
async def test_a_conversation_stays_on_its_tier(make: Make, queries: dict[str, str], how: str) -> None:
    """Named by the call, or known by how it began; going down takes several decisions in a row."""
    llm, _ = make(sticky=Sticky(patience=3))
    for key in ("a", "b"):
        await ask(llm, how, "Hi", conversation=key, tier="large")
    tiers = [route_of(await ask(llm, how, queries["small"], conversation="a"))["tier"] for _ in range(3)]
    assert tiers == ["large", "large", "small"]
    kept = route_of(await ask(llm, how, queries["small"], conversation="b"))
    assert "the conversation stays on large" in kept["reason"]
    assert kept["certificate"] is not None
    assert route_of(await ask(llm, how, queries["small"], conversation="c"))["tier"] == "small"


async def test_a_chat_is_known_by_how_it_began(make: Make, queries: dict[str, str]) -> None:
    """Without a name, the system turn and the first human turn are the conversation."""
    llm, _ = make(sticky="conversation")
    begin = [ChatMessage(role=MessageRole.SYSTEM, content="Be brief."), *user("Hi")]
    llm.chat(begin, tier="large")
    going_on = [*begin, ChatMessage(role=MessageRole.ASSISTANT, content="Yes?"), *user(queries["small"])]
    assert route_of(llm.chat(going_on))["tier"] == "large"


def test_departures_are_the_cores(make: Make, easy: str) -> None:
    """What calib did not have goes to the reference, or through the cascade without a certificate."""
    llm, _ = make()
    calls = [
        *user("Weather in Rome?"),
        ChatMessage(role=MessageRole.ASSISTANT, content="", additional_kwargs={"tool_calls": [{"id": "1"}]}),
        ChatMessage(role=MessageRole.TOOL, content="sunny", additional_kwargs={"tool_call_id": "1"}),
        *user(easy),
    ]
    route = route_of(llm.chat(calls))
    assert route["tier"] == "large"
    assert "the conversation holds tool calls, which calib did not have" in route["reason"]
    assert route["certificate"] is not None
    llm, _ = make(uncalibrated="cascade")
    for told in ({"response_format": {"type": "json_object"}}, {"tools": [{"type": "function"}]}, {"format": "json"}):
        asked: dict[str, Any] = told
        route = route_of(llm.chat(user(easy), **asked))
        assert (route["tier"], route["certificate"]) == ("small", None)
        assert "asked for, which calib did not have" in route["reason"]


def test_a_task_never_calibrated(make: Make, easy: str) -> None:
    """It goes to the reference tier, and a lapse sends a calibrated one there too."""
    llm, _ = make()
    with pytest.warns(UserWarning, match="poems"):
        assert route_of(llm.chat(user(easy), task="poems"))["tier"] == "large"
    llm.router.lapses.lapse("mood", "an alarm rang")
    route = route_of(llm.chat(user(easy)))
    assert (route["tier"], route["certificate"]) == ("large", None)
    assert "an alarm rang" in route["reason"]


@pytest.mark.parametrize("how", [*WHOLE, *STREAMS])
async def test_a_lapse_while_a_tier_answers(make: Make, easy: str, how: str) -> None:
    """A certificate that lapses before the answer is told is not claimed."""
    llm, tiers = make()
    router: Router = llm.router
    tiers["small"].reply = lambda asked: router.lapses.lapse("mood", "an alarm rang") or "The answer is good."
    route = route_of(await ask(llm, how, easy))
    assert route["certificate"] is None
    assert "an alarm rang" in route["reason"]


async def test_a_cancelled_query_holds_nothing(make: Make, easy: str) -> None:
    """A query that is given up leaves its budget free and its breaker closed."""
    llm, tiers = make({"small": {"hangs": threading.Event()}}, budget=Budget(1.0, per="window", window_seconds=3600))
    task = asyncio.create_task(llm.achat(user(easy)))
    while not tiers["small"].calls:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tiers["small"].noted["cancelled"] == 1
    free = route_of(await llm.achat(user(easy), tier="large"))["budget"]
    assert free["spent_usd"] < 0.01


def test_names_of_tiers_are_the_portfolios(make: Make) -> None:
    """The tiers are in cascade order whatever order they were given in."""
    llm, tiers = make()
    llm.tiers = dict(reversed(tiers.items()))
    assert list(llm._tiers) == list(TIERS)
    assert replace(llm.router, bundle_id="0" * 64).bundle_id != llm.router.bundle_id
