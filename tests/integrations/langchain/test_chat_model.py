"""`RoutingChatModel`: construction, one query, its metadata, callbacks, configuration, copies, concurrency."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
import threading
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from bundles import DOUBTFUL, TIERS, small_records
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import RunnableLambda
from scripted import STREAMS, USAGE, WHOLE, Make, ScriptedModel, ask, route_of

from routenlp_integrations.langchain import RoutingChatModel
from routenlp_integrations.langchain.messages import answer_of
from routenlp_integrations.langchain.streaming import Screen
from routenlp_integrations.langchain.tiers import Call
from router_core.errors import BundleError, InputError
from router_core.router import Router

ROUTE_KEYS = {"tier", "attempts", "cost_usd", "task", "bundle", "certificate", "reason"}
ATTEMPT_KEYS = {"tier", "confidence", "cost_usd", "accepted", "reason"}


class Counter(BaseCallbackHandler):
    """Counts what a run reports."""

    def __init__(self) -> None:
        self.starts = self.ends = self.errors = self.tokens = 0

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """A run began."""
        self.starts += 1

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        """A run ended."""
        self.ends += 1

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        """A run failed."""
        self.errors += 1

    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        """A token came."""
        self.tokens += 1


class Turnstile(BaseRateLimiter):
    """Counts how often it was passed."""

    def __init__(self) -> None:
        self.passed = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        """Pass."""
        self.passed += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """Pass."""
        self.passed += 1
        return True


@pytest.mark.parametrize("how", WHOLE + STREAMS)
async def test_every_entrance_serves_the_cheap_tier(make: Make, easy: str, how: str) -> None:
    """The answer, its usage and its model name are the small tier's, and only that tier was called."""
    model, tiers = make()
    message = await ask(model, how, easy)
    route = route_of(message)
    assert message.text == "The answer is good."
    assert message.usage_metadata == USAGE
    assert message.response_metadata["model_name"] == "small-1"
    assert [len(tiers[name].calls) for name in TIERS] == [1, 0, 0]
    assert set(route) == ROUTE_KEYS
    assert [set(attempt) for attempt in route["attempts"]] == [ATTEMPT_KEYS]
    assert route["cost_usd"] == (10 * 0.1 + 5 * 0.4) / 1e6
    assert route["certificate"]["policy"] == ("route_only" if how in STREAMS else "cascade")
    assert json.loads(json.dumps(route, allow_nan=False)) == route


@pytest.mark.parametrize("how", WHOLE)
async def test_a_rejected_answer_is_paid_for_and_escalated(make: Make, easy: str, how: str) -> None:
    """A doubtful cheap answer costs its attempt; usage counts the answering tier alone."""
    model, tiers = make({"small": {"reply": DOUBTFUL}})
    message = await ask(model, how, easy)
    route = route_of(message)
    assert route["tier"] != "small"
    assert [a["accepted"] for a in route["attempts"]] == [False] * (len(route["attempts"]) - 1) + [True]
    assert route["cost_usd"] == sum(a["cost_usd"] for a in route["attempts"])
    assert message.usage_metadata == USAGE
    assert message.response_metadata["model_name"] == f"{route['tier']}-1"
    assert len(tiers["small"].calls) == 1


@pytest.mark.parametrize("how", WHOLE + STREAMS)
async def test_one_run_and_usage_once(make: Make, easy: str, how: str) -> None:
    """One start, one end and one usage per query, however many tiers were called."""
    model, _ = make({"small": {"reply": DOUBTFUL}})
    seen = Counter()
    with get_usage_metadata_callback() as usage:
        message = await ask(model, how, easy, config={"callbacks": [seen]})
    assert (seen.starts, seen.ends, seen.errors) == (1, 1, 0)
    assert usage.usage_metadata == {message.response_metadata["model_name"]: USAGE}
    assert (seen.tokens > 0) == (how in STREAMS)


async def test_the_declared_name_stands_in(make: Make, easy: str) -> None:
    """A model that does not name itself is named as the portfolio declares it."""
    model, _ = make({name: {"names_itself": False} for name in TIERS})
    for how in ("invoke", "stream"):
        assert (await ask(model, how, easy)).response_metadata["model_name"] == "small-1"


def test_tokens_are_estimated_over_the_conversation(make: Make, easy: str) -> None:
    """Without usage metadata a query is priced at four bytes a token, the whole conversation counted."""
    model, _ = make({"small": {"usage": None}})
    alone = route_of(model.invoke(easy))["cost_usd"]
    longer = route_of(model.invoke([SystemMessage("x" * 4000), HumanMessage(easy)]))["cost_usd"]
    assert longer - alone == pytest.approx(1000 * 0.1 / 1e6)


def test_log_probabilities_become_a_signal(make: Make, easy: str) -> None:
    """Token log-probabilities in OpenAI's shape reach the cascade as their mean."""
    _, tiers = make({"small": {"logprobs": [-0.5, -1.5]}, "medium": {"logprobs": [float("-inf")]}})
    for name, wanted in (("small", {"mean_logprob": -1.0}), ("medium", {}), ("large", {})):
        query: list[BaseMessage] = [HumanMessage(easy)]
        assert answer_of(tiers[name]._generate(query), query).signals == wanted
        screen = Screen(Call(query, None, {}), final=True)
        for chunk in tiers[name]._stream(query):
            screen.add(chunk)
        assert screen.answer().signals == wanted


# Construction


def test_from_bundle_checks_the_names(small_bundle: Path) -> None:
    """Wrong names of tiers are refused, both sides listed."""
    with pytest.raises(InputError, match=r"small, medium, large .*given were small, big"):
        RoutingChatModel.from_bundle(small_bundle, tiers={"small": ScriptedModel(), "big": ScriptedModel()})


def test_from_bundle_refuses_what_it_cannot_use(small_bundle: Path, tmp_path: Path) -> None:
    """A tier that is no chat model, an unknown parameter and a folder that is no bundle are refused by name."""
    tiers: dict[str, Any] = {name: ScriptedModel() for name in TIERS}
    with pytest.raises(InputError, match="tier 'small' is a str"):
        RoutingChatModel.from_bundle(small_bundle, tiers={**tiers, "small": "gpt"})
    with pytest.raises(InputError, match="'strem_policy'"):
        RoutingChatModel.from_bundle(small_bundle, tiers=tiers, strem_policy="route")
    with pytest.raises(InputError, match="no parameter 'bugdet'"):
        RoutingChatModel(bundle=str(small_bundle), tiers=tiers, bugdet=None)
    with pytest.raises(ValueError, match="timeout names huge"):
        RoutingChatModel.from_bundle(small_bundle, tiers=tiers, timeout={"huge": 1.0})
    with pytest.raises(BundleError, match="not a bundle"):
        RoutingChatModel.from_bundle(tmp_path, tiers=tiers)


def test_from_bundle_loads(small_bundle: Path, easy: str) -> None:
    """A folder and three models are enough."""
    model = RoutingChatModel.from_bundle(
        small_bundle, {name: ScriptedModel(model_name=f"{name}-1") for name in TIERS}, task="mood"
    )
    assert route_of(model.invoke(easy))["certificate"]["scope"] == "mood"


def test_standard_parameters_reach_the_tier(make: Make, easy: str) -> None:
    """Parameters that are set go with the call; those that are not stay away; the call's own win."""
    model, tiers = make(temperature=0.5, max_tokens=9, stop=["END"], timeout={"small": 30.0}, max_retries=2)
    model.invoke(easy)
    model.invoke(easy, stop=["X"], temperature=0.0, seed=1)
    first, second = tiers["small"].calls
    assert (first["temperature"], first["max_tokens"], first["stop"]) == (0.5, 9, ["END"])
    assert not {"timeout", "max_retries"} & set(first), "enforced here, and unknown to many clients"
    assert (second["temperature"], second["stop"], second["seed"]) == (0.0, ["X"], 1)
    bare, others = make()
    bare.invoke(easy)
    assert set(others["small"].calls[0]) == {"messages", "stop", "how", "thread"}


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_bound_arguments_and_rate_limiter_of_a_tier(small_router: Router, easy: str, how: str) -> None:
    """What was bound to a tier goes with its call, the call's own wins, and its rate limiter is passed once."""
    gate = Turnstile()
    small = ScriptedModel(rate_limiter=gate)
    bound = small.bind(seed=7, stop=["B"], temperature=1.0).bind(seed=8)
    tiers = {"small": bound, "medium": ScriptedModel(), "large": ScriptedModel()}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood", temperature=0.2)
    await ask(model, how, easy)
    call = small.calls[0]
    assert (call["seed"], call["stop"], call["temperature"], gate.passed) == (8, ["B"], 0.2, 1)


# Configuration


@pytest.mark.parametrize("how", WHOLE + STREAMS)
async def test_configurable_task_and_tier(make: Make, easy: str, how: str) -> None:
    """The configuration names the task and forces a tier; only a forced reference tier stays certified."""
    model, tiers = make(task="sum")
    named = route_of(await ask(model, how, easy, config={"configurable": {"task": "mood"}}))
    assert (named["task"], named["certificate"]["scope"]) == ("mood", "mood")
    forced = route_of(await ask(model, how, easy, config={"configurable": {"tier": "medium"}}))
    assert (forced["tier"], forced["certificate"]) == ("medium", None)
    assert "forced" in forced["reason"]
    reference = route_of(await ask(model, how, easy, config={"configurable": {"tier": "large"}}))
    assert (reference["tier"], reference["certificate"]["risk"]) == ("large", "joint")
    assert [len(tiers[name].calls) for name in TIERS] == [1, 1, 1]


async def test_configurable_survives_binding(make: Make, easy: str) -> None:
    """Task and tier still work behind bind, bind_tools, with_config and inside a chain."""
    model, tiers = make()
    config: Any = {"configurable": {"task": "mood", "tier": "medium"}}
    for runnable in (model.bind(seed=1), model.bind_tools([_tool()]), model.with_config(tags=["x"])):
        assert route_of(runnable.invoke(easy, config))["tier"] == "medium"
        assert {spec.id for spec in runnable.config_specs} == {"task", "tier"}
    assert tiers["medium"].calls[1]["tools"][0]["function"]["name"] == "look_up"
    chain: RunnableLambda[str, AIMessage] = RunnableLambda(lambda text: model.invoke(text))  # noqa: PLW0108 - its signature would be handed the config
    assert route_of(chain.invoke(easy, config))["tier"] == "medium"
    fixed = model.with_config(configurable={"task": "sum"})
    assert route_of(fixed.invoke(easy))["task"] == "sum"


@pytest.mark.parametrize("value", ["huge", 3])
def test_a_wrong_forced_tier_is_refused(make: Make, easy: str, value: object) -> None:
    """An unknown tier, or one that is no text, is an error that names it; no tier is called."""
    model, tiers = make()
    with pytest.raises(InputError, match=str(value)):
        model.invoke(easy, {"configurable": {"tier": value}})
    with pytest.raises(InputError, match=str(value)):
        list(model.stream(easy, {"configurable": {"tier": value}}))
    assert not any(tier.calls for tier in tiers.values())


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_event_streams_keep_route_and_configuration(make: Make, easy: str) -> None:
    """Event streaming v2 and v3 go through the same stream, route and forced tier included."""
    model, _ = make()
    config: Any = {"configurable": {"tier": "medium"}}
    message = model.stream_events(easy, config, version="v3").output
    assert route_of(message)["tier"] == "medium"
    later = await (await model.astream_events(easy, config, version="v3"))
    assert route_of(later)["tier"] == "medium"
    events = [event async for event in model.astream_events(easy, config, version="v2")]
    routes = [e for e in events if "routenlp" in getattr(e["data"].get("chunk"), "response_metadata", {})]
    assert len(routes) == 1
    assert events[-1]["data"]["output"].response_metadata["routenlp"]["tier"] == "medium"


# What surrounds a model


def test_repr_and_identity_show_no_key(make: Make) -> None:
    """Neither repr nor the identifying parameters nor the serialised form hold a tier's secrets."""
    model, _ = make()
    shown = repr(model) + str(model) + json.dumps(model._identifying_params) + json.dumps(model._serialized)
    assert "sk-" not in shown
    assert model.router.bundle_id[:12] in repr(model)
    assert model._llm_type == "routenlp"


def test_tracing_names_the_bundle(make: Make) -> None:
    """LangSmith parameters hold the standard ones and honour a model named by the call."""
    model, _ = make(temperature=0.3, max_tokens=4, stop=["s"])
    told = model._get_ls_params()
    assert (told["ls_provider"], told["ls_temperature"], told["ls_max_tokens"]) == ("routenlp", 0.3, 4)
    assert told["ls_stop"] == ["s"]
    assert told["ls_model_name"].startswith("routenlp-")


@pytest.mark.parametrize("clone", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_copies_route_alike(make: Make, easy: str, clone: Any) -> None:
    """Copies and a pickle round trip give the same route, and warn on their own."""
    model, _ = make()
    twin = clone(model)
    assert isinstance(twin, BaseChatModel)
    assert route_of(twin.invoke(easy)) == route_of(model.invoke(easy))
    with pytest.warns(UserWarning, match="never calibrated"):
        twin.invoke(easy, {"configurable": {"task": f"none-{uuid4()}"}})


def test_a_cached_answer_belongs_to_its_task(make: Make, easy: str) -> None:
    """A cache answers the same call again, and never a call with another task or tier."""
    model, tiers = make(cache=InMemoryCache())
    for _ in range(2):
        model.invoke(easy)
    assert len(tiers["small"].calls) == 1
    assert route_of(model.invoke(easy, {"configurable": {"tier": "large"}}))["tier"] == "large"
    assert route_of(model.invoke(easy, {"configurable": {"task": "mood"}}))["task"] == "mood"


def test_a_tiers_own_message_is_left_alone(small_router: Router, easy: str) -> None:
    """The route is written on a copy: a tier that returns one message twice keeps it clean."""
    tiers = {name: _Same(model_name=name) for name in TIERS}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood")
    model.invoke(easy)
    assert "routenlp" not in _Same.message.response_metadata


class _Same(ScriptedModel):
    """Returns the very same message every time."""

    message: ClassVar[AIMessage] = AIMessage("The answer is good.")

    def _result(self, messages: Any, kwargs: Any) -> Any:
        result = super()._result(messages, kwargs)
        result.generations[0].message = _Same.message
        return result


async def test_concurrent_calls_keep_their_own_routes(make: Make) -> None:
    """64 concurrent calls over both tasks and all tiers: each has the route it has when asked alone."""
    records = small_records()

    def reply(messages: list[Any]) -> str:
        return DOUBTFUL if len(messages[-1].text) % 3 == 0 else f"The answer is {len(messages[-1].text) % 7}."

    model, _ = make({name: {"delay": 0.002, "reply": reply} for name in TIERS})
    asked = [(records.prompt[i], records.task[i] if i % 3 else None) for i in range(64)]
    configs: list[Any] = [{"configurable": {"task": task}} for _, task in asked]
    together = await asyncio.gather(
        *(model.ainvoke(text, config) for (text, _), config in zip(asked, configs, strict=True))
    )
    alone = [model.invoke(text, config) for (text, _), config in zip(asked, configs, strict=True)]
    assert [route_of(m) for m in together] == [route_of(m) for m in alone]
    assert len({route_of(m)["tier"] for m in alone}) == 3
    assert [m.text for m in together] == [m.text for m in alone]


async def test_the_event_loop_is_not_blocked(make: Make, easy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than the way to a thread, encoding and judging, runs off the event loop, also in a stream."""
    model, _ = make()
    monkeypatch.setattr(Router, "quick", property(lambda router: False))
    threads: list[int] = []
    for name in ("start", "accept"):
        original = getattr(Router, name)

        def spied(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            threads.append(threading.get_ident())
            return _original(*args, **kwargs)

        monkeypatch.setattr(Router, name, spied)
    await model.ainvoke(easy)
    await ask(model, "astream", easy)
    assert len(threads) == 4
    assert threading.get_ident() not in threads[:3]


def _tool() -> Any:
    def look_up(word: str) -> str:
        """Look a word up."""
        return word

    return look_up


def test_import_is_lazy() -> None:
    """The package names its classes without importing LangChain, and refuses unknown names."""
    import subprocess
    import sys

    code = (
        "import sys, routenlp_integrations.langchain as face; assert 'langchain_core' not in sys.modules; "
        "assert 'RoutingChatModel' in dir(face); face.RoutingChatModel; assert 'torch' not in sys.modules; "
        "assert not hasattr(face, 'Other')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"temperature": -5}, "temperature = -5.0 must be"),
        ({"temperature": float("nan")}, "temperature = nan must be"),
        ({"max_tokens": -1}, "max_tokens = -1 must be 1 or more"),
        ({"timeout": "x"}, "timeout should be a valid number"),
        ({"budget": 5}, "budget should be an instance of Budget"),
        ({"sticky": "x"}, "sticky should be 'conversation', or should be an instance of Sticky"),
        ({"stream_policy": "x"}, "stream_policy should be"),
        ({"max_retries": -1}, "max_retries = -1 must be"),
    ],
)
def test_wrong_parameters_are_told_in_one_line(make: Make, wrong: dict[str, Any], told: str) -> None:
    """Every parameter that cannot be used is an InputError of one sentence."""
    with pytest.raises(InputError, match=re.escape(told)) as raised:
        make(**wrong)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("how", WHOLE)
async def test_an_answer_from_the_cache_costs_nothing(make: Make, easy: str, how: str) -> None:
    """It says so, in its sum and its attempts, and the kept answer is left as it was."""
    model, tiers = make({"small": {"reply": DOUBTFUL}}, cache=InMemoryCache())
    first, *again = [route_of(await ask(model, how, easy)) for _ in range(3)]
    assert len(tiers["small"].calls) == 1
    assert first["cost_usd"] > 0
    assert "cached" not in first
    for route in again:
        assert (route["cost_usd"], route["cached"]) == (0.0, True)
        assert [(a["tier"], a["cost_usd"]) for a in route["attempts"]] == [(a["tier"], 0.0) for a in first["attempts"]]
        assert {name: route[name] for name in ("tier", "certificate", "reason")} == {
            name: first[name] for name in ("tier", "certificate", "reason")
        }
