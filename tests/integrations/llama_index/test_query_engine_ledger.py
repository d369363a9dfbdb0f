"""Groups of engines: the decision told to instrumentation, and the route kept in a ledger."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from bundles import DOUBTFUL, SURE, TIERS
from engines import ScriptedEngine, ScriptedSelector, tool
from kept_routes import PLAN, kept
from ledgers import url_of
from llama_index.core.llms import MockLLM
from scripted_llm import Events

from routenlp_integrations.llama_index import EngineGroup, RouterQueryEngine
from router_core import InputError, TierError
from router_core.ledger import Ledger
from router_core.router import Router

HOWS = ("query", "aquery")
GOOD = SURE.format("good")


def routed(router: Router, own: dict[str, dict[str, Any]] | None = None, **given: Any) -> RouterQueryEngine:
    """A router over the group "docs" of one engine per tier, all answering well unless told."""
    told = {name: {"reply": GOOD, "node": f"{name} node", **(own or {}).get(name, {})} for name in TIERS}
    tools = [tool(name, ScriptedEngine(**params)) for name, params in told.items()]
    cascades = {"docs": EngineGroup(TIERS, router=router, task="mood", stream_policy="route")}
    return RouterQueryEngine(ScriptedSelector(0), tools, llm=MockLLM(), cascades=cascades, **given)


async def ask(engine: RouterQueryEngine, how: str, text: str) -> dict[str, Any]:
    """The route of one query, its stream read to the end."""
    response: Any = engine.query(text) if how == "query" else await engine.aquery(text)
    if hasattr(response, "response_gen"):
        if how == "query":
            "".join(response.response_gen)
        else:
            [piece async for piece in response.response_gen]
    found: dict[str, Any] = response.metadata["routenlp"]
    return found


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", HOWS)
async def test_the_decision_is_told_and_kept(
    small_router: Router, ledger: Ledger, easy: str, events: Events, how: str, streaming: bool
) -> None:
    """One event and one row with the route of the response, in the router's own span; feedback finds it by its id."""
    doubts = {} if streaming else {"small": {"reply": DOUBTFUL}}
    every = {name: {"streaming": streaming, **doubts.get(name, {})} for name in TIERS}
    route = await ask(routed(small_router, every, ledger=ledger), how, easy)
    (event,) = events.decisions
    told = event.model_dump()
    assert {name: told[name] for name in route if name != "policy"} == {k: v for k, v in route.items() if k != "policy"}
    assert event.group == "docs"
    assert str(event.span_id).startswith("RouterQueryEngine.")
    assert easy not in str(event)
    ledger.feedback(route["id"], "label", 1.0)
    (row,) = kept(ledger)
    assert (row.id, row.tier, row.text) == (route["id"], route["tier"], easy)
    assert [(a.tier, a.accepted) for a in row.attempts] == [(a["tier"], a["accepted"]) for a in route["attempts"]]
    assert all(a.answer for a in row.attempts)
    assert row.certified == (route["certificate"] is not None)
    assert [one.value for one in row.feedback] == [1.0]
    assert len(row.attempts) == (1 if streaming else 2)


async def test_no_engine_is_asked_in_a_query_of_its_groups(small_router: Router, easy: str, events: Events) -> None:
    """LlamaIndex's own events: a query of the router, and one of every engine that was asked; none of the group's."""
    await ask(routed(small_router, {"small": {"reply": DOUBTFUL}}), "aquery", easy)
    names = events.names(None)
    assert names.count("QueryStartEvent") == names.count("QueryEndEvent") == 3


@pytest.mark.parametrize("how", HOWS)
async def test_streams_that_are_left_or_break(small_router: Router, ledger: Ledger, easy: str, how: str) -> None:
    """What was shown is kept, uncertified; an audit asks anew what was cut short."""
    streams = {name: {"streaming": True} for name in TIERS}
    engine = routed(small_router, streams, ledger=ledger, audits=PLAN)
    response: Any = engine.query(easy) if how == "query" else await engine.aquery(easy)
    if how == "query":
        next(response.response_gen)
        response.response_gen.close()
    else:
        await anext(response.response_gen)
        await response.response_gen.aclose()
    torn = routed(small_router, {n: {**streams[n], "fails": OSError(), "fails_after": 2} for n in TIERS}, ledger=ledger)
    with pytest.raises(TierError, match="in the middle"):
        await ask(torn, how, easy)
    group: Any = engine._query_engines[0]
    assert await asyncio.to_thread(group._log.auditor.join)
    left, broken = kept(ledger)
    assert ("left" in str(left.reason), "broke" in str(broken.reason)) == (True, True)
    for row in (left, broken):
        assert row.attempts[0].answer
        assert (row.certified, row.audited) == (False, row is left)
        assert {one.tier for one in row.attempts if one.whole} == (set(TIERS) if row is left else set())


@pytest.mark.parametrize("how", HOWS)
async def test_a_stream_that_nobody_reads_is_kept(small_router: Router, ledger: Ledger, easy: str, how: str) -> None:
    """One row, uncertified, with the id in the route that the response still holds."""
    engine = routed(small_router, {name: {"streaming": True} for name in TIERS}, ledger=ledger)
    response: Any = engine.query(easy) if how == "query" else await engine.aquery(easy)
    route = response.metadata["routenlp"]
    del response
    gc.collect()
    await asyncio.sleep(0.05)
    (row,) = kept(ledger)
    assert (row.id, row.tier, row.certified) == (route["id"], "small", False)
    assert "left" in str(row.reason)
    assert row.cost_usd == route["cost_usd"] > 0


@pytest.mark.parametrize("how", HOWS)
async def test_audits_ask_the_groups_own_engines(small_router: Router, ledger: Ledger, easy: str, how: str) -> None:
    """In the background; the engines that were not asked are, streams as a whole."""
    engine = routed(
        small_router, {"large": {"reply": SURE.format("bad"), "streaming": True}}, ledger=ledger, audits=PLAN
    )
    route = await ask(engine, how, easy)
    assert route["tier"] == "small"
    group: Any = engine._query_engines[0]
    assert await asyncio.to_thread(group._log.auditor.join)
    (row,) = kept(ledger)
    assert (row.audited, row.audit_probability) == (True, 1.0)
    assert [(a.tier, a.audit, a.quality) for a in row.attempts] == [
        ("small", False, 0.0),
        ("medium", True, 0.0),
        ("large", True, 1.0),
    ]


async def test_sixty_four_at_once_are_all_kept(small_router: Router, ledger: Ledger, easy: str) -> None:
    """Each with its own text."""
    engine = routed(small_router, ledger=ledger)
    found = await asyncio.gather(*(ask(engine, "aquery", f"{easy} {i}") for i in range(64)))
    texts = {row.id: row.text for row in kept(ledger)}
    assert texts == {route["id"]: f"{easy} {i}" for i, route in enumerate(found)}


def test_what_does_not_fit(small_router: Router, tmp_path: Path) -> None:
    """A plan without a ledger, and a ledger without groups; one URL is opened once for all groups."""
    with pytest.raises(InputError, match="audits need a ledger"):
        routed(small_router, audits=PLAN)
    with pytest.raises(InputError, match="about groups"):
        RouterQueryEngine(ScriptedSelector(0), [tool("a", ScriptedEngine())], llm=MockLLM(), ledger=url_of(tmp_path))
    tools = [tool(f"{name}{i}", ScriptedEngine(GOOD)) for i in range(2) for name in TIERS]
    cascades = {f"docs{i}": [f"{name}{i}" for name in TIERS] for i in range(2)}
    engine = RouterQueryEngine(ScriptedSelector(0, 1), tools, llm=MockLLM(), cascades=cascades, ledger=url_of(tmp_path))
    told = engine.query("hello").metadata["routenlp"]  # type: ignore[union-attr, index]
    ids = {route["id"] for route in told["routes"]}
    assert ids == {row.id for row in kept(engine.ledger)}
    assert len(ids) == 2
    assert engine.ledger.close()
