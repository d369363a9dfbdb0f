"""A real index: two engines recorded over its questions, a bundle fitted on them, cost and quality held out."""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engines import ScriptedEngine, ScriptedSelector, local_embedding, tool

from routenlp_integrations.llama_index import RouterQueryEngine, record_engines
from routenlp_integrations.notebook.company import QUESTIONS, contains
from routenlp_integrations.notebook.engines import PRICES, company_engines, company_index
from router_core.cascade import Cascade
from router_core.certificate import clopper_pearson
from router_core.errors import InputError, MissingExtraError
from router_core.records import read_records
from router_core.route import Answer
from router_core.router import Router
from router_core.splits import Prepared, prepare

NAMES = PRICES.names


@pytest.fixture(scope="module")
def prepared(company: Path) -> Prepared:
    """The records with their splits settled."""
    return prepare(read_records(company / "records.jsonl"))


@pytest.fixture(scope="module")
def engine(company: Path) -> RouterQueryEngine:
    """The certified cascade over a real index, beside a source of another kind."""
    found = company_engines(company_index(local_embedding()))
    tools = [tool("news", ScriptedEngine("no news")), *(tool(name, one) for name, one in found.items())]
    return RouterQueryEngine(
        ScriptedSelector(1),
        tools,
        llm=found["docs_dear"]._response_synthesizer._llm,
        cascades={"docs": list(NAMES)},
        bundle=company / "bundle",
    )


@pytest.fixture(scope="module")
def served(engine: RouterQueryEngine, prepared: Prepared) -> list[tuple[int, Any]]:
    """Row and response of every held-out question."""
    return [(i, engine.query(prepared.records.prompt[i])) for i in prepared.test.tolist()]


def test_the_records_are_about_a_choice_worth_making(prepared: Prepared) -> None:
    """Both engines answered everything; the dear one is far better and costs far more; signals are complete."""
    records = prepared.records
    assert len(records) >= 300
    quality, cost = records.quality.mean(axis=0), records.cost.mean(axis=0)
    assert 0.2 < quality[0] < 0.8 < quality[1]
    assert cost[1] > 10 * cost[0] > 0
    assert set(records.signals) == {"retrieval_score", "retrieval_margin", "groundedness"}
    assert all(math.isfinite(value) for values in records.signals.values() for value in values.ravel())


def bad(prepared: Prepared, tiers: list[tuple[int, int]]) -> int:
    """How many held-out questions were answered cheaply and worse than the dear engine would have."""
    quality = prepared.records.quality
    return sum(int(tier == 0 and quality[i, 1] > quality[i, 0]) for i, tier in tiers)


def test_the_certified_cascade_saves_money_at_its_risk(prepared: Prepared, served: list[tuple[int, Any]]) -> None:
    """Held out it costs less than the dear engine at its certified risk; serving every cheap answer fails the check."""
    routes = [response.metadata["routenlp"] for _, response in served]
    assert all(route["certificate"]["alpha"] == 0.1 for route in routes)
    assert {route["tier"] for route in routes} == set(NAMES)
    reference = prepared.records.cost[[i for i, _ in served], 1].sum()
    assert sum(route["cost_usd"] for route in routes) < 0.9 * reference
    tiers = [(i, NAMES.index(response.metadata["routenlp"]["tier"])) for i, response in served]
    assert clopper_pearson(bad(prepared, tiers), len(tiers), 0.99)[0] <= 0.1
    assert clopper_pearson(bad(prepared, [(i, 0) for i, _ in tiers]), len(tiers), 0.99)[0] > 0.1
    gold = {one.text: one.gold for one in QUESTIONS}
    right = sum(contains(str(response), gold[prepared.records.prompt[i]]) for i, response in served)
    assert right / len(served) >= prepared.records.quality[prepared.test, 1].mean() - 0.1


def test_what_was_certified_is_what_is_served(company: Path, prepared: Prepared, served: list[tuple[int, Any]]) -> None:
    """A replay of the records through the core takes the same routes at the same confidences and costs."""
    records, router = prepared.records, Router.load(company / "bundle")
    judged = 0
    for i, response in served:
        tiers = {
            name: lambda _, i=i, m=m: Answer(
                records.response[i][m] or "",
                cost_usd=float(records.cost[i, m]),
                signals={signal: float(values[i, m]) for signal, values in records.signals.items()},
            )
            for m, name in enumerate(records.models)
        }
        replayed, route = Cascade(router, tiers).run(records.prompt[i]), response.metadata["routenlp"]
        assert (route["tier"], str(response)) == (replayed.tier, replayed.answer.text)
        assert route["cost_usd"] == pytest.approx(replayed.cost_usd)
        assert [one["confidence"] for one in route["attempts"]] == [one.confidence for one in replayed.attempts]
        judged += sum(one.confidence is not None for one in replayed.attempts)
    assert judged > 10


def test_evidence_decides_within_the_group(served: list[tuple[int, Any]]) -> None:
    """Some questions start cheap and are served, some start cheap and are escalated, some start dear."""
    ways = Counter(tuple(one["tier"] for one in response.metadata["routenlp"]["attempts"]) for _, response in served)
    assert set(ways) <= {("docs_cheap",), ("docs_cheap", "docs_dear"), ("docs_dear",)}
    assert ways["docs_cheap",]
    assert ways["docs_cheap", "docs_dear"] + ways["docs_dear",]


async def test_the_index_is_asked_asynchronously_too(
    engine: RouterQueryEngine, prepared: Prepared, served: list[tuple[int, Any]]
) -> None:
    """Same answers, nodes and routes, thirty-two at once."""
    found = await asyncio.gather(*(engine.aquery(prepared.records.prompt[i]) for i, _ in served[:32]))
    for (_, before), after in zip(served, found, strict=False):
        assert str(after) == str(before)
        assert after.metadata["routenlp"] == before.metadata["routenlp"]
        assert [node.node.node_id for node in after.source_nodes] == [node.node.node_id for node in before.source_nodes]


def test_a_streaming_synthesizer_is_known_to_stream(company: Path, prepared: Prepared) -> None:
    """LlamaIndex's own streaming engine behind the group: the dear answer comes word by word, with its nodes."""
    found = company_engines(company_index(local_embedding()), streaming=True)
    tools = [tool(name, one) for name, one in found.items()]
    engine = RouterQueryEngine(
        ScriptedSelector(0),
        tools,
        llm=found["docs_dear"]._response_synthesizer._llm,
        cascades={"docs": list(NAMES)},
        bundle=company / "bundle",
    )
    prompts = [prepared.records.prompt[i] for i in prepared.test.tolist()]
    responses = (engine.query(prompt) for prompt in prompts)
    response = next(one for one in responses if one.metadata["routenlp"]["tier"] == "docs_dear")
    assert response.metadata["routenlp"]["cost_usd"] is None
    assert len(list(response.response_gen)) > 3
    assert response.metadata["routenlp"]["cost_usd"] > 0
    assert len(response.source_nodes) == 4


# Recording


def test_a_failed_answer_is_missing_and_told() -> None:
    """The others stay; a warning counts and names the first."""
    engines = {"cheap": ScriptedEngine("yes", fails=OSError("down"), fails_first=1), "dear": ScriptedEngine("yes")}
    with pytest.warns(UserWarning, match="1 answers are missing, the first because of cheap: OSError"):
        rows = record_engines(engines, {"a?": "yes", "b?": "no"}, contains)
    assert [(row["model"], row["quality"]) for row in rows] == [
        ("cheap", None),
        ("dear", 1.0),
        ("cheap", 0.0),
        ("dear", 0.0),
    ]
    assert "cost_usd" not in rows[1]


def test_streams_and_prices_are_recorded() -> None:
    """A stream is read to its end; the caller's price wins; "Empty Response" is no answer; rows keep what they had."""
    engines = {
        "cheap": ScriptedEngine("Empty Response"),
        "dear": ScriptedEngine("yes it is", streaming=True, node="it is", metadata={"usage": {"prompt_tokens": 7}}),
    }
    seen: list[tuple[int, int]] = []
    rows = record_engines(
        engines,
        [{"prompt": "a?", "gold": "yes", "task": "t/s", "group": "g", "split": "train", "query_id": "one"}],
        {"t": contains},
        price=lambda name, response: 0.25 if name == "dear" else None,
        workers=2,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert (rows[0]["response"], rows[0]["quality"], rows[0]["signal_groundedness"]) == ("", 0.0, 0.0)
    assert rows[1] == {
        "query_id": "one",
        "task": "t/s",
        "prompt": "a?",
        "group": "g",
        "split": "train",
        "model": "dear",
        "quality": 1.0,
        "response": "yes it is",
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "cost_usd": 0.25,
        "signal_retrieval_score": 0.9,
        "signal_retrieval_margin": 0.0,
        "signal_groundedness": pytest.approx(2 / 3),
    }
    assert seen == [(1, 1)]


@pytest.mark.parametrize(
    ("engines", "questions", "message"),
    [
        (1, {"a?": "b"}, "1 engines and 1 questions"),
        (2, {}, "2 engines and 0 questions"),
        (2, [{"prompt": "a?"}], "needs a prompt and a gold answer"),
        (2, [{"prompt": "a?", "gold": "b"}] * 2, "two questions have the same text"),
    ],
)
def test_questions_that_cannot_be_recorded_are_refused(engines: int, questions: Any, message: str) -> None:
    """Before anything is asked."""
    found = {f"engine {i}": ScriptedEngine() for i in range(engines)}
    with pytest.raises(InputError, match=message):
        record_engines(found, questions, contains)
    assert not any(one.calls for one in found.values())


def test_a_grade_out_of_range_is_refused() -> None:
    """It is a mistake of the caller, not of the engine."""
    with pytest.raises(InputError, match=r"a grade must lie in \[0, 1\]"):
        record_engines({"a": ScriptedEngine(), "b": ScriptedEngine()}, {"q": "g"}, lambda answer, gold: 2.0)


def test_without_llama_index_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to install."""
    import routenlp_integrations.llama_index as face

    for name in [name for name in sys.modules if name.startswith(("llama_index", f"{face.__name__}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llama_index", None)
    monkeypatch.delitem(vars(face), "RouterQueryEngine", raising=False)
    with pytest.raises(MissingExtraError, match=r"routenlp\[llama-index\] is needed to use RouterQueryEngine"):
        _ = face.RouterQueryEngine
    with pytest.raises(AttributeError, match="no attribute 'Router'"):
        _ = face.Router
