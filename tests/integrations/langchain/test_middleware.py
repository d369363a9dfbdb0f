"""`RoutingMiddleware` in `create_agent`: each model call on the tier of its query, and nothing of the agent lost."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agents import AgentModel, answers, look_up, tools_of
from bundles import TIERS, small_records
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.errors import GraphInterrupt
from pydantic import BaseModel
from routers import Clock, ProviderError
from scripted import route_of

import routenlp_integrations.langchain as face
from routenlp_integrations.langchain import RoutingMiddleware
from routenlp_integrations.langchain import middleware as module
from routenlp_integrations.langchain.messages import turns
from router_core import Breaker, Budget
from router_core.driving import aperform, perform
from router_core.errors import BudgetError, InputError, MissingExtraError, TierError
from router_core.policy import ROUTE_ONLY
from router_core.route_text import route_text
from router_core.router import Router, estimate_tokens

Build = Callable[..., tuple[Any, dict[str, AgentModel]]]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.fixture
def build(small_router: Router) -> Build:
    """Make an agent over three tiers; `tiers` gives a tier's own arguments, the rest goes to the middleware."""

    def make(
        tiers: dict[str, dict[str, Any]] | None = None,
        tools: tuple[Any, ...] = (look_up,),
        agent: dict[str, Any] | None = None,
        also: tuple[AgentMiddleware[Any, Any, Any], ...] = (),
        **params: Any,
    ) -> tuple[Any, dict[str, AgentModel]]:
        own = tiers or {}
        models = {
            name: AgentModel(**{"model_name": f"{name}-1", "looks_up": bool(tools), **own.get(name, {})})
            for name in TIERS
        }
        router = RoutingMiddleware(small_router, models, **{"task": "mood", **params})
        agent = {"system_prompt": "Be brief.", **(agent or {})}
        idle = AgentModel(model_name="idle", fails=RuntimeError("the agent's own model was called"))
        return create_agent(idle, tools=list(tools), middleware=[router, *also], **agent), models

    return make


def called(models: dict[str, AgentModel]) -> dict[str, int]:
    """How often each tier was called."""
    return {name: len(model.calls) for name, model in models.items()}


async def run(agent: Any, how: str, query: Any, **kwargs: Any) -> list[Any]:
    """Run an agent by any entrance and return its messages."""
    given = {"messages": query if isinstance(query, list) else [HumanMessage(query)]}
    if how == "invoke":
        return agent.invoke(given, **kwargs)["messages"]
    if how == "ainvoke":
        return (await agent.ainvoke(given, **kwargs))["messages"]
    if how == "stream":
        states = list(agent.stream(given, stream_mode="values", **kwargs))
    else:
        states = [state async for state in agent.astream(given, stream_mode="values", **kwargs)]
    return states[-1]["messages"]


ENTRANCES = ("invoke", "ainvoke", "stream", "astream")


@pytest.mark.parametrize("how", ENTRANCES)
@pytest.mark.parametrize("tier", TIERS)
async def test_agent_loop_with_tools(build: Build, queries: dict[str, str], tier: str, how: str) -> None:
    """A query's tier does the whole loop: tools bound, prompt kept, tool run, route in both messages."""
    agent, models = build()
    messages = await run(agent, how, queries[tier])
    assert called(models) == {name: 2 * (name == tier) for name in TIERS}
    assert [type(message) for message in messages] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert messages[2].content == "found x"
    assert messages[3].text.strip() == "The answer is good."
    for call in models[tier].calls:
        assert tools_of(call) == ["look_up"]
        assert call["messages"][0] == SystemMessage("Be brief.")
    for message in answers(messages):
        assert message.response_metadata["model_name"] == f"{tier}-1"
        assert [attempt["tier"] for attempt in route_of(message)["attempts"]] == [tier]
        assert route_of(message)["cost_usd"] > 0


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_without_tools_the_certificate_holds(
    build: Build, queries: dict[str, str], small_router: Router, how: str
) -> None:
    """A plain question that keeps to the policy carries exactly what was shown of it."""
    for tier in TIERS:
        agent, _ = build(tools=())
        [message] = answers(await run(agent, how, queries[tier]))
        decision = small_router.decide(queries[tier], "mood")
        route = route_of(message)
        assert (route["tier"], route["certificate"]) == (tier, decision.certificate)
        assert route["certificate"]["policy"] == ROUTE_ONLY
        assert set(route) == {"tier", "attempts", "cost_usd", "task", "bundle", "certificate", "reason"}


def test_tools_void_the_certificate_of_cheap_tiers_only(build: Build, queries: dict[str, str]) -> None:
    """Routed calls with tools say that nothing was shown of them; a joint risk holds where the reference serves."""
    for tier in TIERS:
        first, second = (route_of(m) for m in answers(build()[0].invoke({"messages": queries[tier]})["messages"]))
        assert "tools are asked for, which calib did not have" in first["reason"]
        assert "calib did not have" in second["reason"]
        assert (first["certificate"] is None) == (second["certificate"] is None) == (tier != "large")


def test_uncalibrated_calls_can_go_to_the_reference(build: Build, queries: dict[str, str]) -> None:
    """`uncalibrated="reference"` keeps the certificate of every call, and still routes calls without tools."""
    agent, models = build(uncalibrated="reference")
    messages = agent.invoke({"messages": queries["small"]})["messages"]
    assert called(models) == {"small": 0, "medium": 0, "large": 2}
    assert all(route_of(message)["certificate"] is not None for message in answers(messages))
    agent, models = build(uncalibrated="reference", tools=())
    agent.invoke({"messages": queries["small"]})
    assert called(models) == {"small": 1, "medium": 0, "large": 0}


def test_tool_messages_do_not_route(build: Build, queries: dict[str, str]) -> None:
    """A history with tool calls and their results is routed by its last human turn."""
    agent, models = build()
    call = {"name": "look_up", "args": {"query": queries["large"]}, "id": "1", "type": "tool_call"}
    history = [
        HumanMessage(queries["small"]),
        AIMessage("", tool_calls=[call]),
        ToolMessage(queries["large"], tool_call_id="1"),
    ]
    [message] = answers(agent.invoke({"messages": history})["messages"])[1:]
    assert called(models) == {"small": 1, "medium": 0, "large": 0}
    assert route_of(message)["reason"].startswith("tools are asked for, which calib did not have; small: ")


def test_conversations_route_like_the_chat_model(build: Build, queries: dict[str, str], small_router: Router) -> None:
    """What of a conversation is routed is `route_text`'s to say."""
    for tier in TIERS:
        history = [HumanMessage(queries["large"]), AIMessage("Bad."), HumanMessage(queries[tier])]
        agent, _ = build(tools=())
        [message] = answers(agent.invoke({"messages": history})["messages"])
        assert route_of(message)["tier"] == small_router.decide(route_text(turns(history)), "mood").tier


@pytest.mark.parametrize("how", ENTRANCES)
@pytest.mark.parametrize(("sticky", "calls"), [("run", {"small": 1, "large": 2}), (None, {"small": 2, "large": 1})])
async def test_sticky_run_goes_up_not_down(
    build: Build, queries: dict[str, str], how: str, sticky: str | None, calls: dict[str, int]
) -> None:
    """After a failure the run stays on the reference tier if it sticks, and tries the cheap tier again if not."""
    failing = {"fails": ConnectionError("down"), "fails_on": (0,)}
    agent, models = build({"small": failing}, sticky=sticky)
    first, second = (route_of(message) for message in answers(await run(agent, how, queries["small"])))
    assert called(models) == {"medium": 0, **calls}
    assert [(a["tier"], a["accepted"]) for a in first["attempts"]] == [("small", False), ("large", True)]
    assert first["certificate"] is None
    assert "small failed: ConnectionError" in first["reason"]
    assert ("gone up to large" in second["reason"]) == (sticky == "run")


@pytest.mark.parametrize("tools", [(), (look_up,)])
def test_a_run_that_went_up_ends_selective_claims(
    small_router: Router, queries: dict[str, str], tools: tuple[Any, ...]
) -> None:
    """A plain call kept from its tier takes the claims of others away until that tier answers; one with tools none."""
    shown = {key: replace(one, risk="selective") for key, one in small_router.certificates.items()}
    router = replace(small_router, certificates=shown)
    models = {name: AgentModel(model_name=f"{name}-1", looks_up=False) for name in TIERS}
    agent = create_agent(models["large"], list(tools), middleware=[RoutingMiddleware(router, models, task="mood")])
    asked = HumanMessage(queries["small"])
    route = route_of(agent.invoke({"messages": [HumanMessage(queries["large"])]})["messages"][-1])
    assert route["tier"] == "large"
    earlier = AIMessage("Good.", response_metadata={"routenlp": {**route, "tier": "large"}})
    stays = route_of(agent.invoke({"messages": [asked, earlier]})["messages"][-1])
    assert "gone up to large" in stays["reason"]
    away = router.outages.why(["small"])
    assert ("small has not answered since" in away) == (not tools)
    assert (router.decide(queries["medium"], "mood").certificate is None) == (not tools)
    route = route_of(agent.invoke({"messages": [asked]})["messages"][-1])
    assert (route["tier"], router.outages.why(TIERS)) == ("small", "")


def test_next_turn_starts_afresh(build: Build, queries: dict[str, str], small_router: Router) -> None:
    """Stickiness ends with the run: after a turn on the reference tier the next may be cheap."""
    agent, models = build()
    before = agent.invoke({"messages": queries["large"]})["messages"]
    turn = next(
        HumanMessage(prompt)
        for prompt in small_records().prompt
        if small_router.decide(route_text(turns([*before, HumanMessage(prompt)])), "mood").tier != "large"
    )
    agent.invoke({"messages": [*before, turn]})
    assert len(models["large"].calls) == 2
    assert sum(called(models).values()) == 4


def test_another_bundles_route_does_not_stick(build: Build, queries: dict[str, str]) -> None:
    """Only routes of this very bundle hold a run up."""
    agent, models = build()
    route = {"tier": "large", "bundle": "another"}
    call = {"name": "look_up", "args": {"query": "y"}, "id": "1", "type": "tool_call"}
    before = AIMessage("", tool_calls=[call], response_metadata={"routenlp": route})
    agent.invoke({"messages": [HumanMessage(queries["small"]), before, ToolMessage("y", tool_call_id="1")]})
    assert called(models) == {"small": 1, "medium": 0, "large": 0}


@pytest.mark.parametrize(
    ("profile", "query", "lack"),
    [
        ({"tool_calling": False}, "", "small lacks tool calling"),
        ({"image_inputs": False}, [IMAGE], "small lacks image inputs"),
        ({"max_input_tokens": 5}, "", "small lacks a context of "),
    ],
)
def test_tiers_that_cannot_are_no_candidates(
    build: Build, queries: dict[str, str], profile: dict[str, Any], query: Any, lack: str
) -> None:
    """A call that the chosen tier's profile rules out goes to the reference tier and says why."""
    agent, models = build({"small": {"profile": profile}})
    content = [{"type": "text", "text": queries["small"]}, *query]
    messages = agent.invoke({"messages": [HumanMessage(content)]})["messages"]
    assert called(models) == {"small": 0, "medium": 0, "large": 2}
    assert lack in route_of(answers(messages)[0])["reason"]


def test_model_without_bind_tools_is_no_candidate(small_router: Router, queries: dict[str, str]) -> None:
    """A chat model that cannot be given tools is passed over in an agent that has some."""
    tiers = {"small": FakeListChatModel(responses=["no"]), "medium": AgentModel(), "large": AgentModel()}
    agent = create_agent(tiers["large"], [look_up], middleware=[RoutingMiddleware(small_router, tiers, task="mood")])
    route = route_of(answers(agent.invoke({"messages": queries["small"]})["messages"])[0])
    assert [attempt["tier"] for attempt in route["attempts"]] == ["large"]
    assert "small lacks tool calling" in route["reason"]


def test_filter_finds_another_tier_or_says_what_each_lacks(build: Build, queries: dict[str, str]) -> None:
    """Without the reference the highest tier that can is called; without any, every tier's lack is listed."""
    unable = {"profile": {"tool_calling": False}}
    agent, models = build({"small": unable, "large": unable})
    message = answers(agent.invoke({"messages": queries["small"]})["messages"])[0]
    assert called(models)["medium"] == 2
    assert route_of(message)["certificate"] is None
    agent, models = build(dict.fromkeys(TIERS, unable))
    with pytest.raises(InputError, match=r"small lacks tool calling; medium lacks .*; large lacks tool calling"):
        agent.invoke({"messages": queries["small"]})
    assert called(models) == dict.fromkeys(TIERS, 0)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_errors_of_the_reference_are_raised_as_they_are(build: Build, queries: dict[str, str], how: str) -> None:
    """When the reference tier fails too, the agent sees its very exception."""
    error = TimeoutError("reference down")
    agent, models = build({"small": {"fails": ConnectionError("down")}, "large": {"fails": error}})
    with pytest.raises(TimeoutError) as raised:
        await run(agent, how, queries["small"])
    assert raised.value is error
    assert called(models) == {"small": 1, "medium": 0, "large": 1}


# Limits


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Waits of the middleware pass on this clock."""
    clock = Clock()
    monkeypatch.setattr(module, "perform", partial(perform, sleep=clock.sleep))
    monkeypatch.setattr(module, "aperform", partial(aperform, sleep=clock.asleep))
    return clock


@pytest.mark.parametrize("how", ENTRANCES)
@pytest.mark.parametrize("tier", ["small", "large"])
async def test_failures_that_pass_are_retried(
    build: Build, queries: dict[str, str], how: str, tier: str, clock: Clock
) -> None:
    """A 429 waits as long as it says and is asked again, the reference tier like any other."""
    error = ProviderError(429, {"retry-after": "3"})
    agent, models = build({tier: {"fails": error, "fails_on": (0, 1)}}, tools=(), max_retries=2)
    [message] = answers(await run(agent, how, queries[tier]))
    route = route_of(message)
    assert (route["tier"], [attempt["retries"] for attempt in route["attempts"]]) == (tier, [2])
    assert [seconds for seconds in clock.slept if seconds] == [3.0, 3.0]
    assert called(models) == {name: 3 * (name == tier) for name in TIERS}
    assert route["certificate"] is not None


@pytest.mark.parametrize("how", ENTRANCES)
async def test_failures_that_do_not_pass(build: Build, queries: dict[str, str], how: str, clock: Clock) -> None:
    """A bad key is not retried; the reference tier's last error is raised as it is, its own cause kept."""
    agent, models = build({"small": {"fails": ProviderError(401)}}, tools=(), max_retries=2)
    [message] = answers(await run(agent, how, queries["small"]))
    assert (route_of(message)["tier"], called(models)["small"]) == ("large", 1)
    error = ProviderError(500)
    error.__cause__ = cause = ConnectionError("down")
    agent, models = build({"large": {"fails": error}}, tools=(), max_retries=2)
    with pytest.raises(ProviderError) as raised:
        await run(agent, how, queries["large"])
    assert (raised.value is error, raised.value.__cause__ is cause) == (True, True)
    assert called(models)["large"] == 3
    assert len([seconds for seconds in clock.slept if seconds]) == 2


@pytest.mark.parametrize("how", ENTRANCES)
async def test_a_tier_that_hangs(build: Build, queries: dict[str, str], how: str) -> None:
    """A synchronous call is left behind, an asynchronous one cancelled; the reference tier answers."""
    stuck = threading.Event()
    agent, models = build({"small": {"hangs": stuck}}, tools=(), timeout={"small": 0.02})
    [message] = answers(await run(agent, how, queries["small"]))
    stuck.set()
    assert route_of(message)["tier"] == "large"
    assert "small failed: TimeoutError" in route_of(message)["reason"]
    assert models["small"].cancelled == how.startswith("a")
    assert route_of(message)["certificate"]["risk"] == "joint"


@pytest.mark.parametrize("how", ENTRANCES)
async def test_breaker_keeps_calls_from_a_tier(build: Build, queries: dict[str, str], how: str) -> None:
    """Once open, the tier rests; a reference tier at rest is an error of ours."""
    clock = Clock()
    breaker = Breaker(1, 30.0, clock=clock)
    agent, models = build({"small": {"fails": ConnectionError("down")}}, tools=(), breaker=breaker)
    for _ in range(2):
        [message] = answers(await run(agent, how, queries["small"]))
        assert (route_of(message)["tier"], called(models)["small"]) == ("large", 1)
    assert "small rests after repeated failures" in route_of(message)["reason"]
    clock.sleep(30.0)
    models["small"].fails = None
    [message] = answers(await run(agent, how, queries["small"]))
    assert route_of(message)["tier"] == "small"
    breaker.leave("large", breaker.enter("large") or 0, False)
    with pytest.raises(TierError, match="large rests"):
        await run(agent, how, queries["large"])


def _price(router: Router, query: str) -> tuple[float, float]:
    """What the small tier is expected to cost for a query, and what it does."""
    sent = [SystemMessage("Be brief."), HumanMessage(query)]
    tokens = sum(estimate_tokens(message.text) for message in sent)
    return router.expected_price(0, router.start(query, "mood", ROUTE_ONLY), tokens), (10 * 0.1 + 5 * 0.4) / 1e6


@pytest.mark.parametrize("how", ENTRANCES)
async def test_budget_per_run(build: Build, queries: dict[str, str], small_router: Router, how: str) -> None:
    """All calls since the human message are one run, paid together; the next run has its own budget."""
    agent, models = build(budget=Budget(1.0, per="run"))
    for _ in range(2):
        first, second = (route_of(m) for m in answers(await run(agent, how, queries["small"])))
        assert first["budget"] == {"usd": 1.0, "per": "run", "spent_usd": first["cost_usd"], "stopped": False}
        assert second["budget"]["spent_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"])
    expected, paid = _price(small_router, queries["small"])
    agent, models = build(budget=Budget(expected + paid / 2, per="run", on_exceeded="raise"), tools=())
    thread: Any = {"configurable": {"thread_id": "a"}}
    await run(agent, how, queries["small"], config=thread)
    with pytest.raises(BudgetError, match="small is expected to cost"):
        await run(agent, how, queries["small"], config=thread)
    await run(agent, how, queries["small"])
    assert called(models) == {"small": 2, "medium": 0, "large": 0}


@pytest.mark.parametrize("how", ENTRANCES)
async def test_budget_stops_at_what_is_affordable(
    build: Build, queries: dict[str, str], small_router: Router, how: str
) -> None:
    """A call that the reference tier should have, and that does not fit, goes to a tier that can and does."""
    expected, _ = _price(small_router, queries["large"])
    agent, models = build(budget=Budget(1.5 * expected), tools=())
    [message] = answers(await run(agent, how, queries["large"]))
    route = route_of(message)
    assert (route["tier"], route["certificate"], route["budget"]["stopped"]) == ("small", None, True)
    unable = {"small": {"profile": {"tool_calling": False}}}
    agent, models = build(unable, budget=Budget(1.5 * expected))
    with pytest.raises(BudgetError):
        await run(agent, how, queries["large"])
    assert called(models) == dict.fromkeys(TIERS, 0)


@pytest.mark.parametrize("how", ENTRANCES)
async def test_another_model_answers(build: Build, queries: dict[str, str], how: str) -> None:
    """An answer of another model than was certified is not a cheap tier's to give, and certificates lapse."""
    agent, models = build({"small": {"model_name": "small-2"}}, tools=())
    for attempts in (["small", "large"], ["large"]):
        [message] = answers(await run(agent, how, queries["small"]))
        route = route_of(message)
        assert [attempt["tier"] for attempt in route["attempts"]] == attempts
        assert route["certificate"] is None
        assert "certificate lapsed" in route["reason"]
    assert called(models) == {"small": 1, "medium": 0, "large": 2}


def test_the_served_response_is_the_routes(build: Build, queries: dict[str, str], small_router: Router) -> None:
    """Where the budget ends after an answer that was kept, that answer is the agent's message."""
    expected, _ = _price(small_router, queries["small"])
    agent, models = build({"small": {"model_name": "small-2"}}, tools=(), budget=Budget(1.5 * expected))
    [message] = answers(agent.invoke({"messages": queries["small"]})["messages"])
    route = route_of(message)
    assert (route["tier"], route["certificate"]) == ("small", None)
    assert message.response_metadata["model_name"] == "small-2"
    assert called(models) == {"small": 1, "medium": 0, "large": 0}


def test_interrupts_are_no_failures(build: Build, queries: dict[str, str]) -> None:
    """An interrupt that another middleware raises stops the graph; the reference tier is not asked instead."""
    seen = []

    class Stop(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: ModelRequest[Any], handler: Any) -> ModelResponse[Any]:
            seen.append(request.model)
            raise GraphInterrupt

    agent, models = build(also=(Stop(),))
    agent.invoke({"messages": queries["small"]})
    assert seen == [models["small"]]


def test_empty_answers(build: Build, queries: dict[str, str]) -> None:
    """An empty cheap answer goes to the reference tier, whose own is the agent's to end with."""
    agent, models = build({"small": {"reply": ""}, "large": {"reply": ""}}, tools=())
    [message] = answers(agent.invoke({"messages": queries["small"]})["messages"])
    assert called(models) == {"small": 1, "medium": 0, "large": 1}
    assert message.text == ""
    assert "small returned nothing" in route_of(message)["reason"]


@pytest.mark.parametrize("how", ENTRANCES)
async def test_usage_is_counted_once(build: Build, queries: dict[str, str], how: str) -> None:
    """Two model calls are two runs of the tier, and nothing else is counted."""
    agent, _ = build()
    with get_usage_metadata_callback() as usage:
        await run(agent, how, queries["small"])
    assert {name: told["total_tokens"] for name, told in usage.usage_metadata.items()} == {"small-1": 30}


async def test_tokens_stream_from_the_chosen_tier(build: Build, queries: dict[str, str]) -> None:
    """`stream_mode="messages"` shows the tier's tokens once, and the update that follows has the route."""
    agent, models = build(tools=())
    shown, updates = [], []
    given = {"messages": queries["small"]}
    for mode, part in agent.stream(given, stream_mode=["messages", "updates"]):
        (shown if mode == "messages" else updates).append(part)
    assert "".join(chunk.text for chunk, _ in shown).strip() == "The answer is good."
    assert len([chunk for chunk, _ in shown if chunk.text]) == 4
    assert route_of(updates[-1]["model"]["messages"][-1])["tier"] == "small"
    assert [call["how"] for call in models["small"].calls] == ["stream"]
    words = [chunk.text async for chunk, _ in agent.astream(given, stream_mode="messages") if chunk.text]
    assert words == ["The ", "answer ", "is ", "good. "]


def test_tier_that_fails_in_mid_stream(build: Build, queries: dict[str, str]) -> None:
    """Its tokens have been shown, but the agent's message is the reference tier's."""
    agent, _ = build({"small": {"fails": ConnectionError("cut"), "fails_after": 2}}, tools=())
    state: dict[str, Any] = {}
    for mode, part in agent.stream({"messages": queries["small"]}, stream_mode=["messages", "values"]):
        state = part if mode == "values" else state
    [message] = answers(state["messages"])
    assert message.text.strip() == "The answer is good."
    assert [attempt["tier"] for attempt in route_of(message)["attempts"]] == ["small", "large"]


def test_configurable_names_the_task_and_forces_a_tier(build: Build, queries: dict[str, str]) -> None:
    """`config["configurable"]` works as on the chat model, and wrong values are refused in a sentence."""
    agent, models = build(tools=(), task=None)
    given = {"messages": queries["small"]}
    forced = agent.invoke(given, config={"configurable": {"task": "mood", "tier": "medium"}})["messages"][-1]
    assert (route_of(forced)["tier"], route_of(forced)["task"]) == ("medium", "mood")
    assert route_of(forced)["certificate"] is None
    assert "tier forced" in route_of(forced)["reason"]
    named = agent.invoke(given, config={"configurable": {"task": "mood"}})["messages"][-1]
    assert (route_of(named)["tier"], route_of(named)["task"]) == ("small", "mood")
    for wrong, told in (("huge", "the portfolio has small, medium, large"), (3, "must be text")):
        with pytest.raises(InputError, match=told):
            agent.invoke(given, config={"configurable": {"tier": wrong}})
    assert called(models) == {"small": 1, "medium": 1, "large": 0}


class Verdict(BaseModel):
    """A structured answer."""

    mood: str


def test_response_format_reaches_the_tier(build: Build, queries: dict[str, str]) -> None:
    """Provider-native structured output is asked of the tier that was chosen, and parsed."""
    agent, models = build(
        {name: {"reply": '{"mood": "good"}'} for name in TIERS},
        tools=(),
        agent={"response_format": ProviderStrategy(Verdict)},
    )
    state = agent.invoke({"messages": queries["small"]})
    assert state["structured_response"] == Verdict(mood="good")
    assert models["small"].calls[0]["response_format"]["json_schema"]["name"] == "Verdict"
    route = route_of(state["messages"][-1])
    assert (route["tier"], route["certificate"]) == ("small", None)
    assert "structured output is asked for" in route["reason"]


def test_broken_structured_output_goes_to_the_reference(build: Build, queries: dict[str, str]) -> None:
    """An answer that does not parse is a failure of the cheap tier."""
    agent, _ = build(
        {"large": {"reply": '{"mood": "bad"}'}}, tools=(), agent={"response_format": ProviderStrategy(Verdict)}
    )
    state = agent.invoke({"messages": queries["small"]})
    assert state["structured_response"] == Verdict(mood="bad")
    route = route_of(state["messages"][-1])
    assert [attempt["tier"] for attempt in route["attempts"]] == ["small", "large"]
    assert "StructuredOutputValidationError" in route["attempts"][0]["reason"]


def test_structured_output_by_tool_needs_tools(build: Build, queries: dict[str, str]) -> None:
    """A response format by tool call passes over tiers without tools, as does a bare schema over those with neither."""
    for shape in (ToolStrategy(Verdict), Verdict):
        unable = {"profile": {"tool_calling": False, "structured_output": False}}
        agent, models = build(dict.fromkeys(TIERS, unable), tools=(), agent={"response_format": shape})
        with pytest.raises(InputError, match="no tier can serve this call: small lacks"):
            agent.invoke({"messages": queries["small"]})
        assert called(models) == dict.fromkeys(TIERS, 0)


@pytest.mark.parametrize("how", ENTRANCES)
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        *[({name: value}, f"the call sets {name}") for name, value in
          {"temperature": 1.9, "max_tokens": 1, "stop": ["."], "model": "other", "num_ctx": 9}.items()],
        ({"response_format": {"type": "json_object"}}, "structured output is asked for"),
        ({"tool_choice": "any"}, "a tool is asked for"),
        ({"temperature": None, "cache_control": {}, "user": "u"}, ""),
    ],
)  # fmt: skip
async def test_settings_of_a_call(
    small_router: Router, queries: dict[str, str], how: str, settings: dict[str, Any], told: str
) -> None:
    """Settings that change the answers, whoever made them, void the certificate of a cheap answer; others do not."""

    class Sets(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: ModelRequest[Any], handler: Any) -> Any:
            return handler(request.override(model_settings=settings))

        async def awrap_model_call(self, request: ModelRequest[Any], handler: Any) -> Any:
            return await handler(request.override(model_settings=settings))

    models = {name: AgentModel(model_name=f"{name}-1", looks_up=False) for name in TIERS}
    router = RoutingMiddleware(small_router, models, task="mood")
    agent = create_agent(models["large"], tools=[], middleware=[Sets(), router])
    [message] = answers(await run(agent, how, queries["small"]))
    route = route_of(message)
    assert route["tier"] == "small", route["reason"]
    assert (route["certificate"] is None) == bool(told)
    assert told in route["reason"]


def test_arguments_bound_to_a_tier_are_used(small_router: Router, queries: dict[str, str]) -> None:
    """A tier may be given with `.bind(...)`; tools bound beforehand are refused."""
    small = AgentModel(model_name="small-1")
    tiers = {"small": small.bind(temperature=0.5), "medium": AgentModel(), "large": AgentModel()}
    agent = create_agent(tiers["large"], [look_up], middleware=[RoutingMiddleware(small_router, tiers, task="mood")])
    agent.invoke({"messages": queries["small"]})
    assert [(call["temperature"], tools_of(call)) for call in small.calls] == [(0.5, ["look_up"])] * 2
    with pytest.raises(InputError, match=r"tier 'small' has tools bound to it"):
        RoutingMiddleware(small_router, {**tiers, "small": small.bind_tools([look_up])})


def test_later_middleware_sees_the_tier(build: Build, queries: dict[str, str]) -> None:
    """Middleware behind it gets the routed model, and its changes to the request reach that model."""
    seen = []

    class Look(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: ModelRequest[Any], handler: Any) -> ModelResponse[Any]:
            seen.append(request.model)
            return handler(request.override(system_message=SystemMessage("Be long.")))

    agent, models = build(also=(Look(),))
    agent.invoke({"messages": queries["medium"]})
    assert seen == [models["medium"]] * 2
    assert models["medium"].calls[0]["messages"][0].text == "Be long."


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_concurrent_runs_do_not_mix(build: Build, queries: dict[str, str], asynchronous: bool) -> None:
    """Sixteen runs at once of one agent: each keeps its query's tier, its answer and its own route."""
    slow = {"delay": 0.002, "reply": lambda messages: next(m.text for m in messages if isinstance(m, HumanMessage))}
    agent, models = build(dict.fromkeys(TIERS, slow))
    wanted = [TIERS[i % 3] for i in range(16)]
    given = [{"messages": [HumanMessage(queries[tier])]} for tier in wanted]
    if asynchronous:
        states = await asyncio.gather(*(agent.ainvoke(one) for one in given))
    else:
        with ThreadPoolExecutor(16) as pool:
            states = list(pool.map(agent.invoke, given))
    for tier, state in zip(wanted, states, strict=True):
        routes = [route_of(message) for message in answers(state["messages"])]
        assert [route["tier"] for route in routes] == [tier, tier]
        assert state["messages"][-1].text == queries[tier]
    assert called(models) == {name: 2 * wanted.count(name) for name in TIERS}


async def test_deciding_does_not_block_the_event_loop(
    build: Build, queries: dict[str, str], small_router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder runs in another thread than the loop."""
    threads = set()
    start = Router.start

    def noted(self: Router, *args: Any, **kwargs: Any) -> Any:
        threads.add(threading.get_ident())
        return start(self, *args, **kwargs)

    monkeypatch.setattr(Router, "start", noted)
    await run(build()[0], "ainvoke", queries["small"])
    assert threads
    assert threading.get_ident() not in threads


def test_made_from_a_folder_and_pickled(small_bundle: Path, queries: dict[str, str]) -> None:
    """A bundle's folder will do as router, and the middleware travels to another process."""
    tiers = {name: AgentModel(model_name=f"{name}-1") for name in TIERS}
    limits: Any = {"timeout": 9.0, "max_retries": 1, "breaker": Breaker(3), "budget": Budget(0.5)}
    made = pickle.loads(pickle.dumps(RoutingMiddleware(small_bundle, tiers, task="mood", **limits)))  # noqa: S301
    assert (made.limits.timeout, made.limits.retries.max_retries) == (9.0, 1)
    assert (made.limits.breaker.failures, made.limits.budget.usd) == (3, 0.5)
    agent = create_agent(tiers["large"], [look_up], middleware=[made])
    message = agent.invoke({"messages": queries["small"]})["messages"][-1]
    assert route_of(message)["tier"] == "small"


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"sticky": "conversation"}, "sticky = 'conversation' is unknown; use 'run' or None"),
        ({"timeout": {"huge": 1.0}}, "timeout names huge; the tiers are small, medium, large"),
        ({"timeout": 0}, "timeout = 0 must be seconds above 0"),
        ({"uncalibrated": "ignore"}, "uncalibrated = 'ignore' is unknown; use 'route' or 'reference'"),
        ({"tiers": {"small": AgentModel(), "huge": AgentModel()}}, "tiers must be named small, medium, large"),
        ({"tiers": dict.fromkeys(TIERS, 3)}, "tier 'small' is a int"),
    ],
)
def test_wrong_arguments(small_router: Router, params: dict[str, Any], told: str) -> None:
    """Each is refused in one sentence when the middleware is made."""
    with pytest.raises(InputError, match=told):
        RoutingMiddleware(small_router, **{"tiers": {name: AgentModel() for name in TIERS}, **params})


def test_names_are_lazy_and_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the face imports no agent framework; without it the name says which extra brings it."""
    code = (
        "import sys, routenlp_integrations.langchain as face\n"
        "print([m for m in ('langchain', 'langgraph', 'langchain_core') if m in sys.modules])\n"
        "assert {'RoutingMiddleware', 'RoutingDecisionModel'} <= set(dir(face)) & set(face.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"
    for missing in ("langchain.agents.middleware", "langgraph.errors"):
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "routenlp_integrations.langchain.middleware", raising=False)
            patch.delattr(face, "RoutingMiddleware", raising=False)
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(MissingExtraError, match=r"pip install 'routenlp\[agents\]'"):
                _ = face.RoutingMiddleware
