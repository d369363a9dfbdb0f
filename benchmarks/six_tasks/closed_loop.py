"""The closed loop over the structured tasks, and the one bundle of the generation tasks.

Everything is made under ``work/`` and taken up again where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import Item, calib_folds, rounds_of
from prices import nominal_portfolio
from protocol import ALPHA, DELTA, FOLDS, GENERATION, ROUNDS, STRUCTURED, TIERS, TOLERANCE
from recipes import KIND, T1
from scoring import grades, raw_score
from sheet import SHARE, records_of
from tiers import WORK, Answers, items_of, learners, pair_of, start_student
from traffic import Said, log, sources_of

from exporters.loop import LoopOptions, TaskPlan, run_round, start
from exporters.loop.state import students_of
from router_core.bundle import Bundle
from router_core.fitting import FitSettings, fit
from router_core.ledger import Ledger
from router_core.release import Release
from router_core.router import Router

__all__ = ["ROOT", "Stage", "generation_bundle", "loop_options", "played", "test_of"]

ROOT = WORK / "root"
SETTINGS = FitSettings(alpha=ALPHA, delta=DELTA, tolerance=TOLERANCE, seed=0)
Known = Mapping[str, Mapping[str, Answers]]


@dataclass(frozen=True)
class Stage:
    """One state of the loop.

    Attributes
    ----------
    name
        ``"start"``, ``"round 1"``, ...
    bundle
        Folder of the bundle to score.
    outcome
        ``"promoted"``, or why it was not; a refused candidate does not serve.
    serving
        Id of the release that serves after it.
    t1
        By task what T1 answers to test queries.
    told
        The round's report.
    """

    name: str
    bundle: Path
    outcome: str
    serving: str
    t1: Mapping[str, Said]
    told: Mapping[str, Any]


def loop_options() -> LoopOptions:
    """The same for every round."""
    plans = {task: TaskPlan(KIND[task], T1[task], grade=raw_score[task]) for task in STRUCTURED}
    return LoopOptions(
        nominal_portfolio(), "t1", plans, settings=SETTINGS, folds=FOLDS, student_share=SHARE, budget_usd=0.0
    )


def test_of(task: str) -> list[Item]:
    """Test queries of a task."""
    return [item for item in items_of(task) if item.split == "test"]


def structured_records(known: Known) -> Any:
    """Router part, all of calib and test of the structured tasks."""
    items = [item for task in STRUCTURED for item in items_of(task) if item.part == "router" or item.split != "train"]
    return records_of(items, known, {})


def played(known: Known) -> Iterator[Stage]:
    """Start and rounds as they are done, each made once."""
    options, records = loop_options(), structured_records(known)
    if not (ROOT / "current").exists():
        start(
            ROOT, records, options=options, checkpoints={f"t1@{task}": start_student(task) for task in STRUCTURED},
            pairs={task: [pair_of(item) for item in learners(task, "seed")] for task in STRUCTURED},
        )  # fmt: skip
    first = Release(ROOT, min(path.name for path in (ROOT / "releases").iterdir()))
    yield Stage("start", first.bundle, "promoted", first.id, _answered(0), {})
    stream = {task: rounds_of(items_of(task)) for task in STRUCTURED}
    for number in range(1, ROUNDS + 1):
        report = _report(number)
        if report is None:
            _flow(number, [item for task in STRUCTURED for item in stream[task][number - 1]], known)
            run_round(ROOT, ledger=_url(), records=records, options=options)
            report = _report(number)
        assert report is not None
        if report["outcome"] == "nothing to learn":
            continue
        bundle = ROOT / "rounds" / f"{number:04d}" / "certify" / "bundle"
        yield Stage(f"round {number}", bundle, report["outcome"], report["release"], _answered(number), report)


def generation_bundle(known: Known, tau: Mapping[str, float]) -> Bundle:
    """Router of the generation tasks, certified on the first fold."""
    out = WORK / "generation"
    if not out.exists():
        items: list[Item] = []
        for task in GENERATION:
            items += [item for item in items_of(task) if item.part == "router" or item.split == "test"]
            items += calib_folds(items_of(task))[0]
        fit(records_of(items, known, tau), out=out, tiers=TIERS, portfolio=nominal_portfolio(), settings=SETTINGS)
    return Bundle.load(out)


def _flow(number: int, items: Sequence[Item], known: Known) -> None:
    """A round's traffic, logged once."""
    done = WORK / f"stream-{number}.json"
    if done.exists():
        return
    current = Release.current(ROOT)
    students = students_of(current, "t1", STRUCTURED)
    t1: dict[str, Said] = {}
    for task in STRUCTURED:
        mine = [item for item in items if item.task == task]
        found = students[task].answer_many([item.prompt for item in mine])
        t1[task] = {item.query_id: (one.text, one.signals) for item, one in zip(mine, found, strict=True)}
    with Ledger(_url(), store_text=True, queue=100_000) as ledger:
        went = log(ledger, Router.load(ROOT), items, sources_of(known, t1), grades({}))
    done.write_text(json.dumps({"release": current.id, "queries": len(items), "reference": went}))


def _url() -> str:
    return f"sqlite:///{WORK / 'ledger.db'}"


def _report(number: int) -> dict[str, Any] | None:
    path = ROOT / "rounds" / f"{number:04d}" / "report.json"
    return json.loads(path.read_text()) if path.exists() else None


def _answered(number: int) -> dict[str, Said]:
    """What the students of a stage answer to test queries, as the loop asked them."""
    folder, task_of = ROOT / "rounds" / f"{number:04d}" / "answer", {}
    for task in STRUCTURED:
        task_of |= {item.query_id: task for item in test_of(task)}
    found: dict[str, dict[str, tuple[str, dict[str, float]]]] = {task: {} for task in STRUCTURED}
    with (folder / ("new.jsonl" if number else "answers.jsonl")).open() as lines:
        for line in lines:
            row = json.loads(line)
            if row["query_id"] in task_of:
                found[task_of[row["query_id"]]][row["query_id"]] = (row["text"], row["signals"])
    return found  # type: ignore[return-value]
