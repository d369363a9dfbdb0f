"""Budgets and stickiness of the chat model: what a run is, what is kept, what a copy or a cache knows of them."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import AgentModel, answers, look_up
from bundles import DOUBTFUL, SURE, TIERS
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import ConfigurableField, RunnableConfig, RunnableLambda
from routers import Clock
from scripted import EVERY, STREAMS, Make, ProviderModel, ask, route_of

from routenlp_integrations.langchain import RoutingChatModel
from router_core import Breaker, Budget, Sticky
from router_core.errors import BudgetError
from router_core.router import Router

DOUBTS = {"small": {"reply": DOUBTFUL}, "medium": {"reply": DOUBTFUL}}
LIMITS: dict[str, Any] = {
    "breaker": Breaker(2, 7.0),
    "budget": Budget(0.5, "window", window_seconds=60.0, on_exceeded="raise"),
    "sticky": Sticky(5, margin=0.1),
    "timeout": {"small": 3.0},
    "max_retries": 2,
}


def thread(name: object) -> RunnableConfig:
    """A configuration that names the conversation."""
    return {"configurable": {"thread_id": name}}


def settings(model: Any) -> list[Any]:
    """What limits a model was made with."""
    return [getattr(model, name).settings for name in ("breaker", "budget", "sticky")]


@pytest.fixture
def price(small_router: Router, easy: str) -> Callable[[int], float]:
    """What a tier is expected to cost for the easy query, US dollars."""
    start = small_router.start(easy, "mood")
    return lambda tier: small_router.expected_price(tier, start)


@pytest.fixture
def once(price: Callable[[int], float]) -> float:
    """A budget that the small tier's first call fits, but not the second."""
    return price(0) + (10 * 0.1 + 5 * 0.4) / 1e6 / 2


# Budgets


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("on_exceeded", ["stop", "raise"])
async def test_per_call(make: Make, easy: str, how: str, on_exceeded: Any, price: Callable[[int], float]) -> None:
    """An escalation beyond the budget is not made; what was paid for is served, or raised with its route."""
    budget = Budget(price(0), on_exceeded=on_exceeded)
    model, tiers = make({"small": {"reply": DOUBTFUL}}, budget=budget, stream_policy="buffer")
    for _ in range(2):
        if on_exceeded == "stop":
            message = await ask(model, how, easy)
            route = route_of(message)
            assert message.text == DOUBTFUL
            assert route["budget"] == {
                "usd": budget.usd,
                "per": "call",
                "spent_usd": route["cost_usd"],
                "stopped": True,
            }
        else:
            with pytest.raises(BudgetError, match="is expected to cost") as caught:
                await ask(model, how, easy)
            assert caught.value.route is not None
            assert caught.value.route.answer.raw.generations[0].message.text == DOUBTFUL
            assert caught.value.route.certificate is None
    assert [len(tiers[name].calls) for name in TIERS] == [2, 0, 0]


@pytest.mark.parametrize("how", EVERY)
async def test_enough_is_recorded(make: Make, easy: str, how: str) -> None:
    """A budget that suffices changes nothing, and what it has paid is told."""
    model, _ = make(budget=Budget(1.0))
    route = route_of(await ask(model, how, easy))
    assert route["budget"] == {"usd": 1.0, "per": "call", "spent_usd": route["cost_usd"], "stopped": False}
    assert route["certificate"] is not None


@pytest.mark.parametrize("how", EVERY)
async def test_nothing_is_affordable(make: Make, easy: str, how: str) -> None:
    """No tier is called, and the caller is told what one would have cost."""
    model, tiers = make(budget=Budget(0.0))
    with pytest.raises(BudgetError, match=r"left of the budget of 0 USD per call") as caught:
        await ask(model, how, easy)
    assert caught.value.route is None
    assert not any(tier.calls for tier in tiers.values())


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("name", ["a", 7])
async def test_per_thread(make: Make, easy: str, how: str, name: object, once: float) -> None:
    """A run is LangGraph's thread, whatever its id is made of."""
    model, _ = make(budget=Budget(once, per="run"))
    await ask(model, how, easy, config=thread(name))
    with pytest.raises(BudgetError):
        await ask(model, how, easy, config=thread(name))
    await ask(model, how, easy, config=thread("b"))


@pytest.mark.parametrize("how", EVERY)
async def test_per_calling_run(make: Make, easy: str, how: str, once: float) -> None:
    """Without a thread it is the run that calls, for streams too; a call on its own is a run."""
    model, _ = make(budget=Budget(once, per="run"))
    done: list[AIMessage] = []

    async def twice(_: str, config: RunnableConfig) -> None:
        for _ in range(2):
            done.append(await ask(model, how, easy, config=config))

    for count in (1, 2):
        with pytest.raises(BudgetError):
            await RunnableLambda(twice).ainvoke("")
        assert len(done) == count
        await ask(model, how, easy)


@pytest.mark.parametrize("how", EVERY)
async def test_per_human_message(make: Make, easy: str, how: str, once: float) -> None:
    """A human message with an id names the run, whichever node of a graph calls."""
    model, _ = make(budget=Budget(once, per="run"))
    await ask(model, how, [HumanMessage(easy, id="1")])
    with pytest.raises(BudgetError):
        await ask(model, how, [SystemMessage("Be brief."), HumanMessage(easy, id="1")])
    await ask(model, how, [HumanMessage(easy, id="2")])


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_an_agent_is_one_run(small_router: Router, easy: str, how: str) -> None:
    """Both model calls of an agent's run are paid from one budget; the next run has its own."""
    tiers = {name: AgentModel(model_name=f"{name}-1") for name in TIERS}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood", budget=Budget(1.0, per="run"))
    agent = create_agent(model, [look_up])
    for _ in range(2):
        given = {"messages": easy}
        state = agent.invoke(given) if how == "invoke" else await agent.ainvoke(given)
        first, second = (route_of(message) for message in answers(state["messages"]))
        assert first["budget"]["spent_usd"] == first["cost_usd"]
        assert second["budget"]["spent_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"])


@pytest.mark.parametrize("how", EVERY)
async def test_per_window(make: Make, easy: str, how: str, once: float) -> None:
    """Spending is forgotten when its time is over."""
    clock = Clock()
    model, _ = make(budget=Budget(once, per="window", window_seconds=60.0, clock=clock))
    await ask(model, how, easy)
    with pytest.raises(BudgetError):
        await ask(model, how, easy)
    clock.sleep(61.0)
    await ask(model, how, easy)


# Stickiness


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("config", [thread("a"), thread(7), None])
async def test_sticky_conversation(make: Make, easy: str, how: str, config: Any) -> None:
    """Up at once, down after three decisions in a row; only the reference tier keeps its certificate meanwhile."""
    model, tiers = make(DOUBTS, sticky="conversation", stream_policy="buffer")
    first = route_of(await ask(model, how, easy, config=config))
    assert (first["tier"], first["certificate"] is None) == ("large", False)
    for name in TIERS[:2]:
        tiers[name].reply = SURE.format("good")
    for count in (1, 2):
        stays = route_of(await ask(model, how, easy, config=config))
        assert [attempt["tier"] for attempt in stays["attempts"]] == ["large"]
        assert f"the conversation stays on large (decision {count} of 3 in a row" in stays["reason"]
        assert stays["certificate"]["risk"] == "joint"
    other: Any = [SystemMessage("Another beginning."), HumanMessage(easy)]
    assert route_of(await ask(model, how, other, config=thread("other") if config else None))["tier"] == "small"
    assert route_of(await ask(model, how, easy, config=config))["tier"] == "small"


@pytest.mark.parametrize("how", EVERY)
async def test_a_middle_tier_that_is_kept_is_uncertified(make: Make, easy: str, how: str) -> None:
    """To stay on a cheap tier is another policy than was certified."""
    model, _ = make(sticky=Sticky(2))
    forced: RunnableConfig = {"configurable": {"tier": "medium", "thread_id": "a"}}
    await ask(model, how, easy, config=forced)
    stays = route_of(await ask(model, how, easy, config=thread("a")))
    assert (stays["tier"], stays["certificate"]) == ("medium", None)
    down = route_of(await ask(model, how, easy, config=thread("a")))
    assert (down["tier"], down["certificate"] is None) == ("small", False)


def test_configurable_fields_share_the_memory(make: Make, easy: str) -> None:
    """Models that LangChain makes for a configured field remember the same conversations."""
    model, tiers = make(DOUBTS, sticky="conversation")
    configured = model.configurable_fields(temperature=ConfigurableField("heat"))
    config: RunnableConfig = {"configurable": {"heat": 0.5, "thread_id": "a"}}
    configured.invoke(easy, config)
    tiers["small"].reply = SURE.format("good")
    assert "stays on large" in route_of(configured.invoke(easy, config))["reason"]


def test_the_configuration_says_what_it_takes(make: Make) -> None:
    """The thread is a field where it matters."""
    assert [spec.id for spec in make()[0].config_specs] == ["task", "tier"]
    for params in ({"sticky": "conversation"}, {"budget": Budget(1.0, per="run")}):
        assert [spec.id for spec in make(**params)[0].config_specs] == ["task", "tier", "thread_id"]


# Concurrency


async def test_64_at_once(make: Make, easy: str, price: Callable[[int], float]) -> None:
    """Every caller gets its own answer and route, or its own error; the window's budget is never exceeded."""
    numbered = [f"{easy} ({i})" for i in range(64)]
    budget = Budget(20 * price(0), per="window", window_seconds=3600.0)
    own = {"delay": 0.002, "reply": lambda messages: SURE.format(messages[-1].text)}
    model, tiers = make(dict.fromkeys(TIERS, own), budget=budget, sticky="conversation")
    done = await asyncio.gather(
        *(model.ainvoke(text, thread(f"t{i % 8}")) for i, text in enumerate(numbered)), return_exceptions=True
    )
    served = [(text, one) for text, one in zip(numbered, done, strict=True) if isinstance(one, AIMessage)]
    assert all(isinstance(one, AIMessage | BudgetError) for one in done)
    assert 0 < len(served) < 64
    paid = 0.0
    for text, message in served:
        route = route_of(message)
        assert message.text == SURE.format(text)
        assert message.response_metadata["model_name"] == f"{route['tier']}-1"
        assert route["cost_usd"] == sum(attempt["cost_usd"] for attempt in route["attempts"])
        assert route["budget"]["spent_usd"] <= budget.usd
        paid += route["cost_usd"]
    # No call here costs more than expected, so nothing may be spent beyond the budget.
    assert budget.account().spent_usd == pytest.approx(paid)
    assert paid <= budget.usd
    assert sum(len(tier.calls) for tier in tiers.values()) == sum(len(route_of(m)["attempts"]) for _, m in served)
    assert budget.account().left_usd == pytest.approx(budget.usd - paid), "something stayed reserved"


async def test_64_runs_at_once(make: Make, easy: str, once: float) -> None:
    """A budget per run pays exactly one call of each of 16 runs, however their calls interleave."""
    model, _ = make({"small": {"delay": 0.002}}, budget=Budget(once, per="run"))
    names = [f"t{i % 16}" for i in range(64)]
    done = await asyncio.gather(*(model.ainvoke(easy, thread(name)) for name in names), return_exceptions=True)
    served = [name for name, one in zip(names, done, strict=True) if isinstance(one, AIMessage)]
    assert sorted(served) == sorted(set(names))


# Copies, serialised forms, caches


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_limits_survive_serialisation(small_bundle: Path, easy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON, pickle and deep copy carry every setting, and none of what was spent or remembered."""
    monkeypatch.setenv("SCRIPTED_API_KEY", "sk-from-outside")
    tiers = {name: ProviderModel(model_name=f"{name}-1") for name in TIERS}
    model = RoutingChatModel.from_bundle(small_bundle, tiers, task="mood", **LIMITS)
    model.invoke(easy)
    loaded = loads(
        dumps(model),
        allowed_objects=[RoutingChatModel, ProviderModel],
        valid_namespaces=["routenlp_integrations", "scripted"],
        secrets_from_env=True,
    )
    for twin in (loaded, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):  # noqa: S301
        assert settings(twin) == settings(model)
        assert (twin.timeout, twin.max_retries) == ({"small": 3.0}, 2)
        route = route_of(twin.invoke(easy))
        assert route["budget"]["spent_usd"] == route["cost_usd"]
        assert twin.sticky is twin._sticky
        assert twin._parts.limits.budget is twin.budget
    shared = copy.copy(model)
    assert route_of(shared.invoke(easy))["budget"]["spent_usd"] > route_of(model.invoke(easy))["cost_usd"]


@pytest.mark.parametrize(
    "other", [{"budget": Budget(0.4)}, {"budget": Budget(0.5, on_exceeded="raise")}, {"sticky": "conversation"}]
)
def test_a_cached_answer_belongs_to_its_limits(make: Make, easy: str, other: dict[str, Any]) -> None:
    """Another budget or stickiness would have routed otherwise; the run that calls would not."""
    cache = InMemoryCache()
    model, tiers = make(cache=cache, budget=Budget(0.5, per="call"))
    twin, others = make(cache=cache, **{"budget": Budget(0.5), **other})
    model.invoke(easy)
    RunnableLambda(model.invoke).invoke(easy)
    assert len(tiers["small"].calls) == 1
    twin.invoke(easy)
    assert len(others["small"].calls) == 1
    by_run, again = make(cache=cache, budget=Budget(0.5, per="run"))
    chain: RunnableLambda[Any, AIMessage] = RunnableLambda(by_run.invoke)
    assert [route_of(chain.invoke(easy))["tier"] for _ in range(2)] == ["small", "small"]
    assert len(again["small"].calls) == 1


@pytest.mark.parametrize("how", STREAMS)
async def test_the_budget_is_on_one_chunk(make: Make, easy: str, how: str) -> None:
    """Streamed, it is told once, on the last chunk."""
    model, _ = make(budget=Budget(1.0))
    chunks = list(model.stream(easy)) if how == "stream" else [chunk async for chunk in model.astream(easy)]
    told = ["budget" in chunk.response_metadata.get("routenlp", {}) for chunk in chunks]
    assert told == [False] * (len(chunks) - 1) + [True]
