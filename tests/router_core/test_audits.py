"""Random audits: chosen before anything is known, paid from a budget, graded, and stored with their probability."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from ledgers import accepted, both, escalated, url_of

from router_core import Answer, InputError
from router_core.audits import Auditor, AuditPlan
from router_core.ledger import Ledger, new_id
from router_core.ledger.reader import LedgerReader, LoggedRoute

PLAN = AuditPlan(rate=1.0, budget_usd=1.0)
PRICE: Callable[..., float] = lambda tier, text, answer: 0.01  # noqa: E731


def _read(tmp_path: Path, ledger: Ledger) -> list[LoggedRoute]:
    assert ledger.flush(10)
    return list(LedgerReader(url_of(tmp_path)).routes())


def test_an_audit_asks_grades_and_stores(tmp_path: Path, ledger: Ledger) -> None:
    """The reference's answer, its cost and both grades are stored with the route's id and probability."""
    auditor = Auditor(ledger, {"large": lambda query: f"bad: {query}"}, price=PRICE, plan=PLAN)
    decision = auditor.decide()
    route = accepted()
    assert ledger.append(route, text="What a lamp!", reference="large", audit=decision) == decision.id
    auditor.submit(decision, route, "What a lamp!")
    assert auditor.join()
    (logged,) = _read(tmp_path, ledger)
    assert (logged.audited, logged.audit_probability, logged.cost_usd) == (True, 1.0, 1e-5)
    small, large = logged.attempts
    assert (small.quality, small.audit) == (0.0, False)
    assert (large.quality, large.audit, large.cost_usd, large.answer) == (1.0, True, 0.01, "bad: What a lamp!")
    (told,) = logged.feedback
    assert (told.kind, told.value, told.text) == ("audit", 0.0, "bad: What a lamp!")
    assert auditor.spent_usd == pytest.approx(0.01)


def test_the_choice_is_a_hash_of_the_id(ledger: Ledger) -> None:
    """The same id and seed give the same choice, another seed another; about as many as the rate says."""
    auditor = Auditor(ledger, {"large": str}, price=PRICE, plan=AuditPlan(rate=0.2, budget_usd=1.0))
    other = Auditor(ledger, {"large": str}, price=PRICE, plan=AuditPlan(rate=0.2, budget_usd=1.0, seed=1))
    names = [new_id() for _ in range(2_000)]
    chosen = [auditor.decide(id=name).chosen for name in names]
    assert chosen == [auditor.decide(id=name).chosen for name in names]
    assert chosen != [other.decide(id=name).chosen for name in names]
    assert 300 < sum(chosen) < 500
    assert sum(auditor.decide(0.5, name).chosen for name in names) > 850


def test_a_query_not_chosen_costs_nothing(ledger: Ledger) -> None:
    """`submit` of a decision against an audit calls nobody."""
    asked: list[Any] = []
    auditor = Auditor(ledger, {"large": asked.append}, price=PRICE, plan=AuditPlan(rate=1e-12, budget_usd=1.0))  # type: ignore[dict-item]
    auditor.submit(auditor.decide(), accepted(), "x")
    assert auditor.join()
    assert asked == []


def test_a_spent_budget_is_recorded_as_probability_0(tmp_path: Path, ledger: Ledger) -> None:
    """When the budget cannot pay another audit none is chosen and 0 is written; the next window starts afresh."""
    now = [0.0]
    plan = AuditPlan(rate=1.0, budget_usd=0.035, window_s=60.0)
    auditor = Auditor(ledger, {"large": lambda _: "good"}, price=PRICE, plan=plan, clock=lambda: now[0])
    found = []
    for i in range(10):
        now[0] = 0.0 if i < 8 else 61.0
        decision = auditor.decide()
        found.append(decision.probability)
        ledger.append(accepted(), text="x", reference="large", audit=decision)
        auditor.submit(decision, accepted(), "x")
        assert auditor.join()
    assert found == [1.0] * 3 + [0.0] * 5 + [1.0] * 2
    told = ledger.stats() if ledger.flush(10) else {}
    assert told["audits"] == {"chosen": 5, "done": 5, "failed": 0, "unaffordable": 5, "cost_usd": pytest.approx(0.05)}


def test_a_failing_reference_is_recorded(tmp_path: Path, ledger: Ledger) -> None:
    """An audit that fails leaves a row without a grade, never nothing; so does a grade that fails."""

    def down(_: Any) -> str:
        raise TimeoutError("down")

    def no_grade(answer: str, gold: str) -> float:
        return 7.0

    for tiers, plan in (
        ({"large": down}, PLAN),
        ({"large": lambda _: "good"}, AuditPlan(rate=1.0, budget_usd=1.0, grade=no_grade)),
    ):
        auditor = Auditor(ledger, tiers, price=PRICE, plan=plan)
        decision = auditor.decide()
        ledger.append(accepted(), text="x", reference="large", audit=decision)
        auditor.submit(decision, accepted(), "x")
        assert auditor.join()
    routes = _read(tmp_path, ledger)
    assert [route.feedback[0].value for route in routes] == [None, None]
    assert [route.feedback[0].text for route in routes] == [
        "audit failed: TimeoutError",
        "the grade failed: InputError",
    ]
    assert all(attempt.quality is None for route in routes for attempt in route.attempts)


def test_only_tiers_that_were_not_asked_are_asked(tmp_path: Path, ledger: Ledger) -> None:
    """An escalated query is graded from the answers it already has; a query sent on at once gets its cheap answer."""
    asked: list[str] = []

    def tier(name: str) -> Callable[[Any], Answer]:
        def call(_: Any) -> Answer:
            asked.append(name)
            return Answer("good", 5, 1)

        return call

    auditor = Auditor(ledger, {"small": tier("small"), "large": tier("large")}, price=PRICE, plan=PLAN)
    for route, answers in ((escalated(), both()), (escalated(), {"large": Answer("bad")})):
        decision = auditor.decide()
        ledger.append(route, text="x", answers=answers, reference="large", audit=decision)
        auditor.submit(decision, route, "x", answers=answers)
        assert auditor.join()
    assert asked == ["small"]
    first, second = _read(tmp_path, ledger)
    assert [attempt.quality for attempt in first.attempts] == [0.0, 1.0]
    assert [(a.tier, a.audit, a.answer) for a in second.attempts][-1] == ("small", True, "good")
    assert [route.feedback[0].value for route in (first, second)] == [1.0, 1.0]


async def test_async_tiers_run_on_the_callers_loop(tmp_path: Path, ledger: Ledger) -> None:
    """Under a running loop an async reference tier is asked by a task of that loop, after `submit` returned."""
    loops: list[Any] = []

    async def large(query: str) -> Answer:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return Answer("good")

    auditor = Auditor(ledger, {"large": large}, price=PRICE, plan=PLAN)
    decision = auditor.decide()
    ledger.append(accepted(), text="x", reference="large", audit=decision)
    auditor.submit(decision, accepted(), "x", {"messages": []})
    assert loops == []
    for _ in range(10):
        await asyncio.sleep(0.01)
    assert loops == [asyncio.get_running_loop()]
    assert auditor.join()


def test_async_tiers_run_without_a_loop(tmp_path: Path, ledger: Ledger) -> None:
    """Called from plain code, an async tier is awaited in the thread."""

    async def large(_: Any) -> str:
        return "good"

    auditor = Auditor(ledger, {"large": large}, price=PRICE, plan=PLAN)
    decision = auditor.decide()
    ledger.append(accepted(), text="x", reference="large", audit=decision)
    auditor.submit(decision, accepted(), "x")
    assert auditor.join()
    assert _read(tmp_path, ledger)[0].feedback[0].value == 1.0


def test_a_backlog_stops_choosing(ledger: Ledger) -> None:
    """While audits pile up none is chosen, with probability 0 on record; `submit` never waits."""

    def slow(_: Any) -> str:
        time.sleep(0.2)
        return "good"

    auditor = Auditor(ledger, {"large": slow}, price=PRICE, plan=PLAN, waiting=2)
    began, found = time.monotonic(), []
    for _ in range(6):
        decision = auditor.decide()
        found.append(decision.probability)
        auditor.submit(decision, accepted(), "x")
    assert time.monotonic() - began < 0.2
    assert found[-1] == 0.0
    assert 2 <= sum(found) <= 4
    assert auditor.join()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": 0.0}, "audit rate"),
        ({"rate": 1.1}, "audit rate"),
        ({"budget_usd": 0.0}, "budget_usd"),
        ({"window_s": float("inf")}, "window_s"),
        ({"grade": "vibes"}, "unknown metric"),
    ],
)
def test_wrong_plans_are_refused(values: dict[str, Any], said: str) -> None:
    """What is no probability, budget, window or grade."""
    with pytest.raises(InputError, match=said):
        AuditPlan(**{"rate": 0.1, "budget_usd": 1.0, **values})
