"""The closed loops of the structured tasks, a ROOT each, and the one bundle of the generation tasks.

Everything is made under ``work/`` and taken up again where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import Item, calib_folds, rounds_of
from prices import nominal_portfolio, tokens
from protocol import (
    ALPHA,
    DELTA,
    FOLDS,
    GENERATION,
    NOMINAL,
    REFERENCE,
    ROUNDS,
    TAUGHT,
    TEACHER_USD,
    TOLERANCE,
    tiers_of,
)
from recipes import KIND, T2_ROUNDS
from scoring import grades, raw_score
from sheet import SHARE, records_of
from tiers import WORK, Answers, items_of, maker_of, pair_of, start_t2, t2_learners
from traffic import Said, log, sources_of

from exporters.loop import LoopOptions, TaskPlan, run_round, start
from exporters.loop.state import students_of
from exporters.students.teacher import Lesson
from router_core.bundle import Bundle
from router_core.fitting import FitSettings, fit
from router_core.ledger import Ledger
from router_core.records import Records
from router_core.release import Release
from router_core.router import Router

__all__ = ["SETTINGS", "Known", "Stage", "generation_bundle", "played", "test_of"]

SETTINGS = FitSettings(alpha=ALPHA, delta=DELTA, tolerance=TOLERANCE, seed=0)
Known = Mapping[str, Mapping[str, Answers]]


@dataclass(frozen=True)
class Stage:
    """One state of one task's loop.

    Attributes
    ----------
    task, name
        ``"start"``, ``"round 1"``, ...
    bundle
        Folder of the bundle to score.
    outcome
        ``"promoted"``, or why it was not; a refused candidate does not serve.
    said
        What its T2 answers to test queries.
    told
        The round's report.
    """

    task: str
    name: str
    bundle: Path
    outcome: str
    said: Said
    told: Mapping[str, Any]

    @property
    def promoted(self) -> bool:
        """Whether it came to serve."""
        return self.outcome == "promoted"


def loop_options(task: str) -> LoopOptions:
    """Options of a task's loop: everything logged is taught, what no escalation paid for is bought."""
    plan = TaskPlan(KIND[task], T2_ROUNDS[task], grade=raw_score[task])
    return LoopOptions(
        portfolio=nominal_portfolio(tiers_of(task)), tier=TAUGHT, plans={task: plan}, settings=SETTINGS, folds=FOLDS,
        student_share=SHARE, select="traffic", budget_usd=TEACHER_USD,
    )  # fmt: skip


def test_of(task: str) -> list[Item]:
    """Test queries of a task."""
    return [item for item in items_of(task) if item.split == "test"]


def structured_records(task: str, known: Known) -> Records:
    """Router part, all of calib and test of a structured task; T2's answers are the loop's to give."""
    items = [item for item in items_of(task) if item.part == "router" or item.split != "train"]
    return records_of(items, known, {}, [tier for tier in tiers_of(task) if tier != TAUGHT])


def played(task: str, known: Known) -> Iterator[Stage]:
    """Start and rounds of a task, each made once."""
    root, options, records = WORK / "roots" / task, loop_options(task), structured_records(task, known)
    make = maker_of(task)
    if not (root / "current").exists():
        start(
            root, records, options=options, checkpoints={f"{TAUGHT}@{task}": start_t2(task)},
            pairs={task: [pair_of(item) for item in t2_learners(task)]}, distil=make,
        )  # fmt: skip
    first = Release(root, min(path.name for path in (root / "releases").iterdir() if path.name[0] != "."))
    yield Stage(task, "start", first.bundle, "promoted", _answered(root, task, 0), {})
    stream = rounds_of(items_of(task))
    for number in range(1, ROUNDS + 1):
        report = _report(root, number)
        if report is None:
            _flow(root, task, number, stream[number - 1], known)
            run_round(
                root, ledger=_ledger(task), records=records, options=options, distil=make,
                ask=teacher([item for part in stream for item in part]),
            )  # fmt: skip
            report = _report(root, number)
        assert report is not None
        if report["outcome"] == "nothing to learn":
            continue
        bundle = root / "rounds" / f"{number:04d}" / "certify" / "bundle"
        yield Stage(task, f"round {number}", bundle, report["outcome"], _answered(root, task, number), report)


def teacher(items: Sequence[Item]) -> Callable[[str], Lesson]:
    """The reference tier as a teacher, paid at its nominal price."""
    gold = {item.prompt: item.gold for item in items}
    return lambda prompt: Lesson(gold[prompt], tokens(prompt) * NOMINAL[REFERENCE] / 1000)


def generation_bundle(known: Known, tau: Mapping[str, float]) -> Bundle:
    """Router of the generation tasks, certified on the first fold."""
    out = WORK / "generation"
    if not out.exists():
        items: list[Item] = []
        for task in GENERATION:
            items += [item for item in items_of(task) if item.part == "router" or item.split == "test"]
            items += calib_folds(items_of(task))[0]
        portfolio = nominal_portfolio()
        fit(records_of(items, known, tau), out=out, tiers=portfolio.names, portfolio=portfolio, settings=SETTINGS)
    return Bundle.load(out)


def _flow(root: Path, task: str, number: int, items: Sequence[Item], known: Known) -> None:
    """A round's traffic, logged once."""
    done = WORK / "flows" / f"{task}-{number}.json"
    if done.exists():
        return
    current = Release.current(root)
    found = students_of(current, TAUGHT, [task])[task].answer_many([item.prompt for item in items])
    said = {item.query_id: (one.text, one.signals) for item, one in zip(items, found, strict=True)}
    done.parent.mkdir(parents=True, exist_ok=True)
    with Ledger(_ledger(task), store_text=True, queue=100_000) as ledger:
        went = log(ledger, Router.load(root), items, sources_of(known, {task: said}), grades({}))
    done.write_text(json.dumps({"release": current.id, "queries": len(items), "reference": went}))


def _ledger(task: str) -> str:
    (WORK / "ledgers").mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{WORK / 'ledgers' / task}.db"


def _report(root: Path, number: int) -> dict[str, Any] | None:
    path = root / "rounds" / f"{number:04d}" / "report.json"
    return json.loads(path.read_text()) if path.exists() else None


def _answered(root: Path, task: str, number: int) -> Said:
    """What the student of a stage answers to test queries, as the loop asked it."""
    path = root / "rounds" / f"{number:04d}" / "answer" / ("new.jsonl" if number else "answers.jsonl")
    wanted, found = {item.query_id for item in test_of(task)}, dict[str, tuple[str, dict[str, float]]]()
    with path.open() as lines:
        for line in lines:
            row = json.loads(line)
            if row["query_id"] in wanted:
                found[row["query_id"]] = (row["text"], row["signals"])
    return found
