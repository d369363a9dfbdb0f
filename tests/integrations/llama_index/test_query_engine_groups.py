"""Groups of interchangeable engines: what is served, what is escalated, what fails, and what is told of it."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import DOUBTFUL, PORTFOLIO, SURE, TIERS, small_records
from engines import ScriptedEngine, ScriptedSelector, tool
from llama_index.core import QueryBundle
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import router_query_engine

from routenlp_integrations.llama_index import AnswerRule, EngineGroup, RouterQueryEngine
from router_core.breaker import Breaker
from router_core.budget import Budget
from router_core.errors import BudgetError, BundleError, InputError, TierError
from router_core.lapse import LapseWatch
from router_core.limits import Limits
from router_core.outages import Outages
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.retries import RetryPolicy
from router_core.router import Router

HOWS = ("query", "aquery")
GOOD = SURE.format("good")


@pytest.fixture(scope="session")
def bundle_router(small_bundle: Path) -> Router:
    """The small bundle, loaded once."""
    return Router.load(small_bundle)


@pytest.fixture
def router(bundle_router: Router) -> Router:
    """A router whose certificates no other test has made lapse."""
    return replace(bundle_router, lapses=LapseWatch(), outages=Outages())


@pytest.fixture(scope="session")
def question(bundle_router: Router) -> str:
    """A mood query that starts at the small tier under both policies, and on which doubt is rejected twice."""
    records = small_records()
    for prompt, task in zip(records.prompt, records.task, strict=True):
        cascade, direct = (bundle_router.start(prompt, "mood", policy) for policy in (CASCADE, ROUTE_ONLY))
        if task != "mood" or cascade.tier or direct.tier or cascade.before is None:
            continue
        accepted = [bundle_router.accept(cascade, k, said, {}, {})[0] for k in (0, 1) for said in (GOOD, DOUBTFUL)]
        if accepted == [True, False, True, False]:
            return prompt
    pytest.fail("no query of the population serves")


def engines(**own: dict[str, Any]) -> dict[str, ScriptedEngine]:
    """One engine per tier of the small bundle, all answering well unless told."""
    return {name: ScriptedEngine(**{"reply": GOOD, "node": f"{name} node", **own.get(name, {})}) for name in TIERS}


def routed(
    found: dict[str, ScriptedEngine], selector: Any = None, more: tuple[Any, ...] = (), **group: Any
) -> RouterQueryEngine:
    """A router whose first choice is the group "docs" of these engines."""
    tools = [*(tool(name, engine) for name, engine in found.items()), *more]
    if not {"router", "bundle", "rule"} & set(group):
        group["router"] = None
    group.setdefault("task", "mood")
    cascades = {"docs": EngineGroup(tuple(found), **group)}
    return RouterQueryEngine(selector or ScriptedSelector(0), tools, llm=MockLLM(), cascades=cascades)


async def ask(engine: Any, how: str, query: Any) -> Any:
    """Query an engine either way."""
    found = getattr(engine, how)(query)
    return await found if inspect.isawaitable(found) else found


async def said(response: Any) -> str:
    """The whole text of any response."""
    if hasattr(response, "async_response_gen"):
        return "".join([piece async for piece in response.async_response_gen()])
    return "".join(response.response_gen) if hasattr(response, "response_gen") else str(response)


def route_of(response: Any) -> dict[str, Any]:
    """The route in a response."""
    return response.metadata["routenlp"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", HOWS)
async def test_a_router_in_a_group_keeps_its_route(router: Router, question: str, how: str, streaming: bool) -> None:
    """Its attempts stand under the group's attempt of it, which costs their sum; a price of the caller wins."""
    doubts = {"small": {"reply": DOUBTFUL}, "medium": {"reply": DOUBTFUL}}
    inner = routed(engines(**doubts, large={"streaming": streaming}), router=router, stream_policy="buffer")
    for price, cost in ((None, None), (lambda name, _: 0.25 if name == "large" else None, 0.25)):
        found = {**engines(**doubts), "large": inner}
        response = await ask(routed(found, router=router, price=price), how, question)
        assert await said(response) == GOOD
        route = route_of(response)
        *cheap, last = route["attempts"]
        assert [one["tier"] for one in (*cheap, last)] == list(TIERS)
        assert not any("route" in one for one in cheap)
        assert [one["tier"] for one in last["route"]["attempts"]] == list(TIERS)
        assert last["cost_usd"] == (cost or last["route"]["cost_usd"]) > 0
        assert route["cost_usd"] == pytest.approx(sum(one["cost_usd"] for one in route["attempts"]))
        assert last["route"]["reason"] != "the stream has not ended"


# What the selector sees


def test_the_selector_sees_a_group_as_one_choice(router: Router) -> None:
    """It stands in the place of its first tool, under its own name and the reference tool's description."""
    selector, found = ScriptedSelector(1), engines()
    tools = [tool("before", ScriptedEngine()), *(tool(name, engine) for name, engine in found.items())]
    tools.append(tool("after", ScriptedEngine()))
    engine = RouterQueryEngine(selector, tools, llm=MockLLM(), cascades={"docs": list(TIERS)}, router=router)
    engine.query("q")
    choices = [(one.name, one.description) for one in selector.asked[0][0]]
    assert choices == [
        ("before", "answers about before"),
        ("docs", "answers about large"),
        ("after", "answers about after"),
    ]
    told = RouterQueryEngine(
        selector, tools, llm=MockLLM(), cascades={"docs": EngineGroup(TIERS, router=router, description="all docs")}
    )
    told.query("q")
    assert selector.asked[1][0][1].description == "all docs"


def test_other_tools_are_never_escalated(router: Router) -> None:
    """A source outside the group answers as it does, however badly, and has no route."""
    found, other = engines(), ScriptedEngine("Empty Response")
    response = routed(found, ScriptedSelector(1), (tool("other", other),), router=router).query("q")
    assert str(response) == "Empty Response"
    assert "routenlp" not in response.metadata
    assert not any(engine.calls for engine in found.values())


# Served and escalated


@pytest.mark.parametrize("how", HOWS)
async def test_a_good_cheap_answer_is_served(router: Router, question: str, how: str) -> None:
    """The response is the cheap engine's own, the route says why, and the selection is still there."""
    found = engines(small={"metadata": {"own": 1}})
    response = await ask(routed(found, router=router), how, question)
    route = route_of(response)
    assert isinstance(response, Response)
    assert (str(response), response.source_nodes, response.metadata["own"]) == (GOOD, found["small"].nodes, 1)
    assert response.metadata["selector_result"].ind == 0
    assert (route["tier"], route["group"], route["policy"]) == ("small", "docs", "cascade")
    assert [(one["tier"], one["accepted"]) for one in route["attempts"]] == [("small", True)]
    assert route["certificate"]["risk"] == "joint"
    assert not found["medium"].calls
    assert not found["large"].calls


@pytest.mark.parametrize("how", HOWS)
async def test_doubt_escalates_within_the_group(router: Router, question: str, how: str) -> None:
    """Each attempt is told and paid for; prompt tokens are those of the question and its nodes."""
    found = engines(small={"reply": DOUBTFUL}, medium={"reply": DOUBTFUL})
    other = ScriptedEngine()
    response = await ask(routed(found, more=(tool("other", other),), router=router), how, question)
    route = route_of(response)
    assert [(one["tier"], one["accepted"]) for one in route["attempts"]] == [
        ("small", False),
        ("medium", False),
        ("large", True),
    ]
    assert (route["tier"], str(response), other.calls) == ("large", GOOD, [])
    sent = [math.ceil(len(question) / 4) + math.ceil(len(f"{name} node") / 4) for name in TIERS]
    texts = (DOUBTFUL, DOUBTFUL, GOOD)
    prices = [
        tier.price(tokens, math.ceil(len(text) / 4))
        for tier, tokens, text in zip(PORTFOLIO.tiers, sent, texts, strict=True)
    ]
    assert [one["cost_usd"] for one in route["attempts"]] == pytest.approx(prices)
    assert route["cost_usd"] == pytest.approx(sum(prices))


def test_costs_come_from_the_engine_or_the_caller(router: Router, question: str) -> None:
    """Usage in the metadata counts tokens; a price of the caller's wins; None leaves it to the portfolio."""
    usage = {"usage": {"input_tokens": 1_000_000, "output_tokens": 500_000}}
    told = routed(engines(small={"metadata": usage}), router=router).query(question)
    assert route_of(told)["cost_usd"] == pytest.approx(0.1 + 0.2)
    asked: list[tuple[str, str]] = []

    def price(name: str, response: Response) -> float | None:
        asked.append((name, str(response)))
        return 0.5 if name == "small" else None

    found = engines(small={"reply": DOUBTFUL}, medium={"metadata": {**usage}})
    told = routed(found, router=router, price=price).query(question)
    assert [one["cost_usd"] for one in route_of(told)["attempts"]] == pytest.approx([0.5, 1.0 + 2.0])
    assert asked == [("small", DOUBTFUL), ("medium", GOOD)]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("nothing", ["Empty Response", "", "  "])
async def test_an_empty_response_goes_to_the_reference(router: Router, question: str, how: str, nothing: str) -> None:
    """What LlamaIndex says when nothing was retrieved is no answer; a joint risk stays certified."""
    response = await ask(routed(engines(small={"reply": nothing}), router=router), how, question)
    route = route_of(response)
    assert [one["tier"] for one in route["attempts"]] == ["small", "large"]
    assert "small returned nothing" in route["attempts"][0]["reason"]
    assert route["certificate"] is not None


def test_each_engine_gets_a_query_of_its_own(router: Router, question: str) -> None:
    """The embedding one retriever leaves in the query is not another's, and the caller's query stays as it was."""

    class Embedding(ScriptedEngine):
        def _query(self, query_bundle: QueryBundle) -> Any:
            self.seen = query_bundle.embedding
            query_bundle.embedding = [1.0]
            return super()._query(query_bundle)

    found: dict[str, Any] = {**engines(), "small": Embedding(DOUBTFUL), "medium": Embedding(GOOD)}
    query = QueryBundle(question)
    routed(found, router=router).query(query)
    assert found["medium"].seen is None
    assert query.embedding is None


def test_a_cached_response_is_left_alone(router: Router, question: str) -> None:
    """An engine that gives the same object twice gets it back without a route in it."""
    kept = Response(GOOD, [], {"own": 1})

    class Caching(ScriptedEngine):
        def _query(self, query_bundle: QueryBundle) -> Any:
            return kept

    found: dict[str, Any] = {**engines(), "small": Caching()}
    engine = routed(found, router=router)
    first, second = engine.query(question), engine.query(question)
    assert kept.metadata == {"own": 1}
    assert route_of(first) is not route_of(second)


@pytest.mark.parametrize("price", [lambda *_: 1 / 0, lambda *_: "dear"], ids=["raises", "no number"])
def test_a_price_that_fails_loses_no_answer(router: Router, question: str, price: Any) -> None:
    """The answer was given and paid for: it is served, priced by the portfolio, and the caller is warned."""
    found = engines()
    with pytest.warns(UserWarning, match="price of an attempt of 'small' cannot be told"):
        route = route_of(routed(found, router=router, price=price).query(question))
    assert route == route_of(routed(engines(), router=router).query(question))
    assert not found["large"].calls


class Cited(Response):
    """A response of the user's own kind, with more than LlamaIndex's fields and another constructor."""

    def __init__(self, text: str, sources: list[str]) -> None:
        super().__init__(text)
        self.sources = sources


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", HOWS)
async def test_what_an_engine_put_on_its_response_stays(
    router: Router, question: str, how: str, streaming: bool
) -> None:
    """Its class, also with a constructor of its own, and attributes that are no fields, as with LlamaIndex's router."""

    class Citing(ScriptedEngine):
        def _query(self, query_bundle: QueryBundle) -> Any:
            answered: Any = super()._query(query_bundle)
            answered.sources = ["page 7"]
            return answered if streaming else Cited(str(answered), answered.sources)

        async def _aquery(self, query_bundle: QueryBundle) -> Any:
            answered: Any = await super()._aquery(query_bundle)
            answered.sources = ["page 7"]
            return answered if streaming else Cited(str(answered), answered.sources)

    found: dict[str, Any] = {**engines(), "small": Citing(GOOD, streaming=streaming)}
    response = await ask(routed(found, router=router, stream_policy="buffer"), how, question)
    assert response.sources == ["page 7"]
    assert streaming or type(response) is Cited
    assert await said(response) == GOOD
    assert route_of(response)["tier"] == "small"


def test_a_query_with_an_image_goes_to_the_reference(router: Router, question: str) -> None:
    """Calib had no images."""
    response = routed(engines(), router=router).query(QueryBundle(question, image_path="a.png"))
    assert route_of(response)["tier"] == "large"
    assert "image" in route_of(response)["reason"]


def test_a_lapsed_certificate_is_not_claimed(router: Router, question: str) -> None:
    """After a lapse, also one during the query, nothing is claimed."""
    found = engines(small={"reply": lambda _: router.lapses.lapse(None, "an alarm") or GOOD})
    engine = routed(found, router=router)
    during, after = (route_of(engine.query(question)) for _ in range(2))
    assert (during["tier"], during["certificate"]) == ("small", None)
    assert "an alarm" in during["reason"]
    assert (after["tier"], after["certificate"]) == ("large", None)


# Which model answered


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("key", ["model_name", "model"])
async def test_another_model_than_was_certified(router: Router, question: str, how: str, key: str) -> None:
    """An engine that names it is noticed: that answer is covered by nothing, and the scope lapses."""
    found = engines(small={"metadata": {key: "other-9"}})
    engine = routed(found, router=router)
    first, then = [route_of(await ask(engine, how, question)) for _ in range(2)]
    assert (first["tier"], first["certificate"]) == ("large", None)
    assert "another model" in first["attempts"][0]["reason"]
    assert (then["attempts"][0]["tier"], then["certificate"]) == ("large", None)
    assert "'other-9'" in then["reason"]
    assert router.fingerprints.counts == {("small", "other-9"): 1}


@pytest.mark.parametrize("how", HOWS)
async def test_a_shown_stream_of_another_model(router: Router, question: str, how: str) -> None:
    """It cannot be taken back, and is served without a certificate."""
    found = engines(small={"metadata": {"model_name": "other-9"}, "streaming": True})
    response = await ask(routed(found, router=router, stream_policy="route"), how, question)
    assert await said(response) == GOOD
    assert (route_of(response)["tier"], route_of(response)["certificate"]) == ("small", None)


def test_the_certified_model_and_an_unnamed_one(router: Router, question: str) -> None:
    """A dated snapshot keeps the certificate; so does an engine that names nothing, and a node by the name `model`."""
    node = {"model_name": {"page": 1}}
    for told in ({"model_name": "small-1-2026-01-02"}, {}, node):
        route = route_of(routed(engines(small={"metadata": told}), router=router).query(question))
        assert (route["tier"], route["certificate"]["policy"]) == ("small", "cascade")
    assert router.fingerprints.counts == {("small", "small-1-2026-01-02"): 1}


# Without a bundle


@pytest.mark.parametrize("how", HOWS)
async def test_without_a_bundle_the_reference_answers_and_says_so(how: str) -> None:
    """No rule of thumb decides unasked."""
    found = engines()
    route = route_of(await ask(routed(found), how, "q"))
    assert (route["tier"], route["certificate"], route["bundle"]) == ("large", None, None)
    assert route["reason"] == "this group has no bundle; sent to large"
    assert not found["small"].calls


@pytest.mark.parametrize(
    ("reply", "node", "score", "tiers", "why"),
    [
        ("grey kettle", "the kettle is grey", 0.9, ["small"], "served by an uncertified rule"),
        ("grey kettle", "the kettle is grey", 0.3, ["small", "medium"], "retrieval_score 0.300 < 0.5"),
        ("grey kettle", "the kettle is grey", None, ["small", "medium"], "retrieval_score is missing"),
        ("green lamp", "the kettle is grey", 0.9, ["small", "medium"], "groundedness 0.000 < 0.8"),
        ("grey kettle", None, 0.9, ["small", "medium"], "retrieval_score 0.000 < 0.5"),
        ("Empty Response", "the kettle is grey", 0.9, ["small", "large"], "small returned nothing"),
    ],
)
def test_a_rule_is_followed_only_where_asked_for(
    reply: str, node: str | None, score: float | None, tiers: list[str], why: str
) -> None:
    """Evidence escalates one engine up; nothing is certified."""
    found = engines(small={"reply": reply, "node": node, "score": score}, medium={"node": GOOD})
    rule = AnswerRule(retrieval_score=0.5, groundedness=0.8)
    route = route_of(routed(found, rule=rule).query("what is the colour?"))
    assert [one["tier"] for one in route["attempts"]] == tiers
    assert why in route["attempts"][0]["reason"]
    assert route["certificate"] is None


def test_a_rule_reads_an_engine_s_own_signals() -> None:
    """Numbers under ``metadata["signals"]`` count; what is not finite is missing."""
    rule = AnswerRule(signals=(("own", 0.5),))
    for value, tier in ((0.6, "small"), (0.4, "medium"), (math.nan, "medium")):
        found = engines(small={"metadata": {"signals": {"own": value}}}, medium={"metadata": {"signals": {"own": 1}}})
        assert route_of(routed(found, rule=rule).query("q"))["tier"] == tier


# Failures


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("tier", TIERS)
async def test_each_engine_s_failure_is_handled(router: Router, question: str, how: str, tier: str) -> None:
    """A cheap engine's failure goes to the reference; the reference's is a `TierError` with its cause."""
    own: dict[str, Any] = {name: {"reply": DOUBTFUL} for name in TIERS[: TIERS.index(tier)]}
    found = engines(**own, **{tier: {"fails": ConnectionError("down")}})
    engine = routed(found, router=router)
    if tier == "large":
        with pytest.raises(TierError, match="large failed: ConnectionError") as raised:
            await ask(engine, how, question)
        assert isinstance(raised.value.__cause__, ConnectionError)
        return
    route = route_of(await ask(engine, how, question))
    assert route["tier"] == "large"
    assert route["attempts"][-2]["reason"] == f"{tier} failed: ConnectionError"
    assert route["certificate"] is not None


@pytest.mark.parametrize("how", HOWS)
async def test_the_best_answer_is_served_where_asked_for(router: Router, question: str, how: str) -> None:
    """When the reference fails, uncertified."""
    found = engines(small={"reply": DOUBTFUL}, medium={"reply": DOUBTFUL}, large={"fails": OSError("down")})
    response = await ask(routed(found, router=router, on_reference_failure="best"), how, question)
    assert str(response) == DOUBTFUL
    assert route_of(response)["certificate"] is None


@pytest.mark.parametrize("how", HOWS)
async def test_a_failure_may_go_one_engine_up(router: Router, question: str, how: str) -> None:
    """``on_failure="next"`` asks the next engine, uncertified."""
    found = engines(small={"fails": OSError("down")})
    route = route_of(await ask(routed(found, router=router, on_failure="next"), how, question))
    assert (route["tier"], route["certificate"]) == ("medium", None)


@pytest.mark.parametrize("how", HOWS)
async def test_a_slow_engine_is_given_up(router: Router, question: str, how: str) -> None:
    """After its time-out; an asynchronous call is cancelled."""
    found = engines(small={"hangs": 0.3})
    began = time.perf_counter()
    engine = routed(found, router=router, limits=Limits(timeout={"small": 0.02}))
    route = route_of(await ask(engine, how, question))
    assert time.perf_counter() - began < 0.3
    assert (route["tier"], route["attempts"][0]["reason"]) == ("large", "small failed: TimeoutError")
    assert found["small"].cancelled == (how == "aquery")


@pytest.mark.parametrize("how", HOWS)
async def test_a_broken_connection_is_retried(router: Router, question: str, how: str) -> None:
    """As often as told, and the attempt says how often."""
    found = engines(small={"fails": ConnectionError("reset"), "fails_first": 1})
    limits = Limits(RetryPolicy(max_retries=1, base_seconds=0.0))
    route = route_of(await ask(routed(found, router=router, limits=limits), how, question))
    assert (route["tier"], route["attempts"][0]["retries"], len(found["small"].calls)) == ("small", 1, 2)


def test_a_breaker_rests_an_engine(router: Router, question: str) -> None:
    """After its failures it is not called."""
    found = engines(small={"fails": OSError("down")})
    engine = routed(found, router=router, limits=Limits(breaker=Breaker(failures=2, cooldown_seconds=60.0)))
    routes = [route_of(engine.query(question)) for _ in range(3)]
    assert len(found["small"].calls) == 2
    assert "rests" in routes[-1]["reason"]


@pytest.mark.parametrize("how", HOWS)
async def test_a_budget_is_kept(router: Router, question: str, how: str) -> None:
    """The best answer so far, or an error, when the next engine costs too much."""
    found = engines(small={"reply": DOUBTFUL}, medium={"reply": DOUBTFUL})
    stopped = await ask(routed(found, router=router, limits=Limits(budget=Budget(0.0004))), how, question)
    assert route_of(stopped)["tier"] in ("small", "medium")
    assert route_of(stopped)["budget"]["stopped"]
    raising = Limits(budget=Budget(0.0004, on_exceeded="raise"))
    with pytest.raises(BudgetError):
        await ask(routed(found, router=router, limits=raising), how, question)


# Streams


@pytest.mark.parametrize("how", HOWS)
async def test_a_stream_is_routed_before_it_begins(router: Router, question: str, how: str) -> None:
    """It is shown as it comes; its route is completed when it ends."""
    found = engines(**{name: {"streaming": True} for name in TIERS})
    response = await ask(routed(found, router=router, stream_policy="route"), how, question)
    route = route_of(response)
    assert (route["tier"], route["policy"], route["cost_usd"]) == ("small", "route_only", None)
    assert found["small"].said == 1
    assert response.source_nodes == found["small"].nodes
    assert response.metadata["selector_result"].ind == 0
    assert await said(response) == GOOD
    assert route_of(response)["attempts"][0]["accepted"]
    assert route_of(response)["cost_usd"] > 0
    assert route_of(response)["certificate"]["policy"] == "route_only"
    assert found["small"].closed == 1


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("reply", [GOOD, DOUBTFUL])
async def test_a_buffered_stream_is_judged_first(router: Router, question: str, how: str, reply: str) -> None:
    """A cheap stream is read and judged before anything of it is shown; the reference's is shown as it comes."""
    found = engines(**{name: {"streaming": True, "reply": reply} for name in TIERS})
    response = await ask(routed(found, router=router, stream_policy="buffer"), how, question)
    served = "small" if reply == GOOD else "large"
    assert route_of(response)["tier"] == served
    assert found["small"].closed == 1
    assert found[served].said == (len(GOOD.split()) if served == "small" else 1)
    assert await said(response) == reply
    assert [one["accepted"] for one in route_of(response)["attempts"]][-1]
    assert route_of(response)["certificate"]["policy"] == "cascade"


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("policy", ["route", "buffer"])
async def test_a_stream_that_fails_before_anything_is_shown_escalates(
    router: Router, question: str, how: str, policy: str
) -> None:
    """Nobody notices but the route."""
    own = {name: {"streaming": True} for name in TIERS}
    own["small"] = {"streaming": True, "fails": OSError("down"), "fails_after": 0 if policy == "route" else 2}
    response = await ask(routed(engines(**own), router=router, stream_policy=policy), how, question)
    assert await said(response) == GOOD
    assert [one["tier"] for one in route_of(response)["attempts"]] == ["small", "large"]


@pytest.mark.parametrize("how", HOWS)
async def test_an_empty_stream_escalates(router: Router, question: str, how: str) -> None:
    """LlamaIndex's "Empty Response" is held back, also word by word."""
    own = {name: {"streaming": True} for name in TIERS}
    own["small"] = {"streaming": True, "reply": "Empty Response"}
    response = await ask(routed(engines(**own), router=router, stream_policy="route"), how, question)
    assert await said(response) == GOOD
    assert route_of(response)["tier"] == "large"


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("tier", ["small", "large"])
async def test_a_stream_that_breaks_off_raises(router: Router, question: str, how: str, tier: str) -> None:
    """After something was shown no other answer can be put behind it; the break counts for the breaker."""
    own: dict[str, Any] = {name: {"streaming": True} for name in TIERS}
    own[tier] = {"streaming": True, "fails": OSError("cut"), "fails_after": 2}
    breaker = Breaker(failures=1, cooldown_seconds=60.0)
    engine = routed(engines(**own), router=router, stream_policy="route", limits=Limits(breaker=breaker))
    query = question if tier == "small" else QueryBundle(question, image_path="a.png")
    response = await ask(engine, how, query)
    with pytest.raises(TierError, match=f"{tier} failed in the middle of its answer, after 10 characters"):
        await said(response)
    assert "in the middle" in route_of(response)["reason"]
    assert route_of(response)["certificate"] is None
    assert breaker.enter(tier) is None


@pytest.mark.parametrize("how", HOWS)
async def test_a_stream_may_be_left(router: Router, question: str, how: str) -> None:
    """The engine's own stream is closed with it."""
    found = engines(**{name: {"streaming": True} for name in TIERS})
    response = await ask(routed(found, router=router, stream_policy="route"), how, question)
    if how == "query":
        next(response.response_gen)
        response.response_gen.close()
    else:
        await anext(response.response_gen)
        await response.response_gen.aclose()
    await asyncio.sleep(0)
    assert found["small"].closed == 1
    route = route_of(response)
    assert route["reason"] == "the stream was left before its end"
    assert route["cost_usd"] == sum(attempt["cost_usd"] for attempt in route["attempts"]) > 0
    assert route["certificate"] is None


@pytest.mark.parametrize("how", HOWS)
async def test_a_stream_that_nobody_reads_was_paid(router: Router, question: str, how: str) -> None:
    """Cheap attempts, and what the reference began, are told when the response is given up; its stream is closed."""
    doubts = {name: {"reply": DOUBTFUL} for name in TIERS[:-1]}
    found = engines(**doubts, large={"streaming": True})
    response = await ask(routed(found, router=router, stream_policy="buffer"), how, question)
    route = route_of(response)
    assert (route["reason"], route["cost_usd"]) == ("the stream has not ended", None)
    assert found["large"].closed == 0
    del response
    gc.collect()
    await asyncio.sleep(0.05)
    assert found["large"].closed == 1
    assert route["reason"] == "the stream was left before its end"
    assert [(one["tier"], one["accepted"]) for one in route["attempts"]] == [
        ("small", False), ("medium", False), ("large", True)
    ]  # fmt: skip
    assert route["cost_usd"] == sum(one["cost_usd"] for one in route["attempts"]) > 0
    assert all(one["cost_usd"] > 0 for one in route["attempts"])


@pytest.mark.parametrize("policy", ["route", "buffer"])
async def test_a_synchronous_stream_does_not_block_the_loop(router: Router, question: str, policy: str) -> None:
    """An engine whose `aquery` gives a plain stream is read in another thread."""

    class Slow(ScriptedEngine):
        async def _aquery(self, query_bundle: QueryBundle) -> Any:
            return self._query(query_bundle)

        def _pieces(self, text: str, failing: Exception | None) -> Any:
            self.threads.append(threading.get_ident())
            time.sleep(0.05)
            yield from super()._pieces(text, failing)

    found: dict[str, Any] = {name: Slow(GOOD, streaming=True) for name in TIERS}
    task = asyncio.ensure_future(routed(found, router=router, stream_policy=policy).aquery(question))
    beats = 0
    while not task.done():
        await asyncio.sleep(0.005)
        beats += 1
    assert beats >= 5
    assert found["small"].threads[-1] != threading.get_ident()
    assert await said(await task) == GOOD


def test_an_asynchronous_stream_under_query_is_a_mistake_of_the_caller(router: Router, question: str) -> None:
    """It says what to call instead, and no other engine is asked."""

    class Asynchronous(ScriptedEngine):
        def _query(self, query_bundle: QueryBundle) -> Any:
            return asyncio.run(ScriptedEngine(GOOD, streaming=True)._aquery(query_bundle))

    found: dict[str, Any] = {**engines(), "small": Asynchronous()}
    with pytest.raises(InputError, match="use aquery"):
        routed(found, router=router).query(question)
    assert not found["large"].calls


@pytest.mark.parametrize(
    ("certified", "policy"), [(("cascade",), "cascade"), (("cascade", "route_only"), "route_only")]
)
def test_auto_buffers_only_where_nothing_else_was_certified(
    router: Router, question: str, certified: tuple[str, ...], policy: str
) -> None:
    """As chat models do."""
    shown = {
        key: one
        if key[1] in certified or key[1] not in (CASCADE, ROUTE_ONLY)
        else replace(one, certified=False, step=0)
        for key, one in router.certificates.items()
    }
    found = engines(**{name: {"streaming": True} for name in TIERS})
    response = routed(found, router=replace(router, certificates=shown)).query(question)
    assert route_of(response)["policy"] == policy


# Several choices at once


@pytest.mark.parametrize("how", HOWS)
async def test_routes_of_combined_answers_are_kept(router: Router, question: str, how: str) -> None:
    """One group and a source: its route. Two groups: both, and the sum of what they cost."""
    first, second = engines(), ScriptedEngine("from the other source", node="other node")
    one = await ask(routed(first, ScriptedSelector(0, 1), (tool("other", second),), router=router), how, question)
    assert (route_of(one)["group"], route_of(one)["tier"]) == ("docs", "small")
    assert one.metadata["selector_result"].inds == [0, 1]
    pair = {"cheap": ScriptedEngine(), "dear": ScriptedEngine()}
    tools = [tool(name, engine) for name, engine in {**engines(), **pair}.items()]
    cascades = {"docs": EngineGroup(TIERS, router=router, task="mood"), "pair": ["cheap", "dear"]}
    engine = RouterQueryEngine(ScriptedSelector(0, 1), tools, llm=MockLLM(), cascades=cascades)
    route = route_of(await ask(engine, how, question))
    assert [told["tier"] for told in route["routes"]] == ["small", "dear"]
    assert [told["tier"] for told in route["attempts"]] == ["small", "dear"]
    assert route["cost_usd"] == pytest.approx(sum(told["cost_usd"] for told in route["routes"]))
    assert (route["tier"], route["certificate"]) == (None, None)


def test_a_stream_that_was_combined_has_a_finished_route(router: Router, question: str) -> None:
    """The summariser reads it to the end first."""
    found = engines(**{name: {"streaming": True} for name in TIERS})
    engine = routed(found, ScriptedSelector(0, 1), (tool("other", ScriptedEngine()),), router=router)
    route = route_of(engine.query(question))
    assert route["cost_usd"] > 0
    assert route["attempts"][-1]["accepted"]


class Echoing(ScriptedEngine):
    """Says in its metadata what it was asked, and answers with doubt where told."""

    async def _aquery(self, query_bundle: QueryBundle) -> Any:
        response = await super()._aquery(query_bundle)
        response.metadata = {"asked": query_bundle.query_str}
        return response


@pytest.mark.parametrize("multi", [False, True])
async def test_sixty_four_queries_do_not_mix(router: Router, multi: bool) -> None:
    """Every response has its own answer and route, the loop goes on beating, and no route is left over."""
    found: dict[str, Any] = {
        name: Echoing(lambda text, k=k: (GOOD, DOUBTFUL)[(len(text) + k) % 2], hangs=0.01)
        for k, name in enumerate(TIERS)
    }
    selector = ScriptedSelector(0, 1) if multi else ScriptedSelector(0)
    engine = routed(found, selector, (tool("other", ScriptedEngine("other")),), router=router)
    records = small_records()
    prompts = [prompt for prompt, task in zip(records.prompt, records.task, strict=True) if task == "mood"][:64]
    asked = asyncio.gather(*(engine.aquery(prompt) for prompt in prompts))
    beats = 0
    while not asked.done():
        await asyncio.sleep(0.002)
        beats += 1
    responses = await asked
    # The oldest core gathers several selected engines in another thread and waits for it.
    assert beats >= 3 or (multi and hasattr(router_query_engine, "run_async_tasks"))
    for prompt, response in zip(prompts, responses, strict=True):
        assert multi or response.metadata["asked"] == prompt
        assert route_of(response) == route_of(await engine.aquery(prompt))
    assert len({route_of(response)["tier"] for response in responses}) > 1
    assert not engine._routes._open


async def test_a_slow_router_thinks_off_the_event_loop(
    router: Router, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transformer router's decision and judgement are taken in another thread."""
    threads: list[int] = []
    for name in ("start", "accept"):
        before = getattr(Router, name)

        def noted(*given: Any, before: Any = before) -> Any:
            threads.append(threading.get_ident())
            return before(*given)

        monkeypatch.setattr(Router, name, noted)
    monkeypatch.setattr(Router, "quick", property(lambda _: False))
    assert route_of(await routed(engines(), router=router).aquery(question))["tier"] == "small"
    assert len(threads) == 2
    assert threading.get_ident() not in threads


# What is refused


@pytest.mark.parametrize(
    ("cascades", "message"),
    [
        ({"docs": ["small"]}, "two or more different tools"),
        ({"docs": ["small", "small"]}, "two or more different tools"),
        ({"docs": "small"}, "two or more different tools"),
        ({"docs": ["small", "huge"]}, "no tool named 'huge'; the tools are small, medium, large, twin"),
        ({"docs": ["small", "twin"]}, "2 tools named 'twin'"),
        ({"a": ["small", "medium"], "b": ["medium", "large"]}, "'medium' is in the groups 'a' and 'b'"),
        ({"large": ["small", "medium"]}, "has the name of a tool outside it"),
        ({"docs": "small"}, "given was 'small'"),
        (["small", "large"], "cascades must map groups to their tools"),
    ],
)
def test_groups_that_do_not_fit_are_refused(cascades: Any, message: str) -> None:
    """With what there is on both sides."""
    tools = [tool(name, ScriptedEngine()) for name in (*TIERS, "twin", "twin")]
    with pytest.raises(InputError, match=message):
        RouterQueryEngine(ScriptedSelector(), tools, llm=MockLLM(), cascades=cascades)


def test_bundles_that_do_not_fit_are_refused(router: Router, small_bundle: Path, tmp_path: Path) -> None:
    """Other names, another order, no group to take them, two deciders at once, none at all."""
    tools = [tool(name, ScriptedEngine()) for name in (*TIERS, "other")]

    def make(cascades: Any = None, **params: Any) -> RouterQueryEngine:
        return RouterQueryEngine(ScriptedSelector(), tools, llm=MockLLM(), cascades=cascades, **params)

    with pytest.raises(InputError, match=r"named small, medium, large .*; given were small, other"):
        make({"docs": ["small", "other"]}, router=router)
    with pytest.raises(InputError, match="cascade order is small, medium, large"):
        make({"docs": ["medium", "small", "large"]}, bundle=small_bundle)
    with pytest.raises(InputError, match="no group of cascades is there"):
        make(router=router)
    with pytest.raises(InputError, match="not both"):
        make({"docs": TIERS}, bundle=small_bundle, router=router)
    with pytest.raises(InputError, match="one of bundle, router and rule"):
        EngineGroup(TIERS, router=router, rule=AnswerRule(groundedness=0.5))
    with pytest.raises(InputError, match="least value of one signal"):
        AnswerRule()
    with pytest.raises(InputError, match="stream_policy = 'later' is unknown"):
        EngineGroup(TIERS, stream_policy="later")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="timeout names tiny"):
        make({"docs": EngineGroup(TIERS, router=router, limits=Limits(timeout={"tiny": 1.0}))})
    with pytest.raises(BundleError):
        make({"docs": TIERS}, bundle=tmp_path)


def test_a_router_goes_to_the_group_it_was_fitted_on(router: Router, question: str) -> None:
    """The other group stays without."""
    names = ("cheap", "dear", *TIERS)
    tools = [tool(name, ScriptedEngine(GOOD)) for name in names]
    cascades = {"pair": ["cheap", "dear"], "docs": list(TIERS)}
    engine = RouterQueryEngine(ScriptedSelector(1), tools, llm=MockLLM(), cascades=cascades, router=router)
    assert route_of(engine.query(question))["bundle"] == router.bundle_id
    engine._selector.indices = (0,)
    assert route_of(engine.query(question))["bundle"] is None
