"""The second half of a round: new students answer, the router learns anew, a fresh fold certifies, the gate judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from exporters.loop.files import read_json, write_json
from exporters.loop.folds import calib_keys
from exporters.loop.gate import Measurements, Verdict, judge
from exporters.loop.held_out import on_test
from exporters.loop.journal import Journal
from exporters.loop.measuring import (
    broken_parts,
    certified_candidate,
    claims_of,
    fold_sha256,
    router_ms,
    student_measure,
)
from exporters.loop.near import near_calib
from exporters.loop.routing import check_untaught, priced_as, router_sheet
from exporters.loop.state import pairs_keys, write_pairs
from exporters.loop.work import Work, read_answers, write_answers
from exporters.students.data import Pair
from router_core.bundle import Bundle
from router_core.checkpoint import Checkpoint
from router_core.errors import InputError
from router_core.fitting.calibrate_bundle import certify_bundle
from router_core.fitting.fit_bundle import fit
from router_core.fitting.incumbent import Comparison, Incumbent
from router_core.promotion import new_release_id, promote, publish
from router_core.records import Records
from router_core.release import Release
from router_core.student import make_student
from router_core.student_set import set_fingerprint

__all__ = ["CHANGED", "Proving"]

CHANGED: Final = "the release that serves has changed"
"""Why a release that passed the gate is not promoted."""


class Proving:
    """Steps answer, retrain, certify, gate and promote of one round.

    Parameters
    ----------
    work
        What the round is called with.
    journal
        Of the round.
    incumbent
        The release that serves now.
    made
        Folders of the new students by task.
    learned
        What the students of the new release learned from, by task.
    """

    def __init__(
        self,
        work: Work,
        journal: Journal,
        incumbent: Release,
        made: Mapping[str, Path],
        learned: Mapping[str, Sequence[Pair]],
    ) -> None:
        self.work, self.journal, self.incumbent = work, journal, incumbent
        self.options, self.learned, self.taught = work.options, learned, pairs_keys(learned)
        self.old = _folders(incumbent, self.options.tier, list(self.options.plans))
        self.new = {**self.old, **made}
        self.changed = sorted(made)

    @cached_property
    def fold(self) -> list[int]:
        """Rows of the round's calib fold."""
        records, fresh = self.work.prepared.records, set(self.work.fresh)
        if fresh:
            return [i for i, query in enumerate(records.query_id) if query in fresh]
        return self.work.folds.rows(records, self.journal.begun["fold"])

    @cached_property
    def sheet(self) -> Records:
        """Rows of the new release."""
        return router_sheet(self.work.prepared, self.options, self.fold, self.taught, own_tune=self.work.own_tune)

    @cached_property
    def answered(self) -> Records:
        """The rows as the new students answer them."""
        return self.work.answered(self.sheet, read_answers(self.journal.path("answer") / "new.jsonl"))

    @cached_property
    def answered_before(self) -> Records:
        """Fold and test as the current students answer them."""
        rows = [i for i, split in enumerate(self.sheet.split) if split in ("calib", "test")]
        mine = self.sheet.take(rows)
        known = set(mine.query_id)
        kept = [one for one in read_answers(self.journal.path("answer") / "new.jsonl") if one.query_id in known]
        task_of = dict(zip(mine.query_id, mine.task, strict=True))
        same = [one for one in kept if task_of[one.query_id] not in self.changed]
        return self.work.answered(mine, [*same, *read_answers(self.journal.path("answer") / "old.jsonl")])

    def answer(self) -> None:
        """Let the students of both releases answer: the new ones every row, the old ones fold and test."""

        def step(folder: Path) -> dict[str, Any]:
            new = {task: make_student(Checkpoint.load(path)) for task, path in self.new.items()}
            old = {task: make_student(Checkpoint.load(self.old[task])) for task in self.changed if task in self.old}
            held = [i for i, split in enumerate(self.sheet.split) if split in ("calib", "test")]
            given = self.work.answers(self.sheet, range(len(self.sheet)), new)
            before = self.work.answers(self.sheet, held, old)
            write_answers(folder / "new.jsonl", given)
            write_answers(folder / "old.jsonl", before)
            return {"answers": len(given) + len(before)}

        self.journal.run("answer", step)

    def retrain(self) -> None:
        """Fit the router on what no student was taught; calib is not read."""

        def step(folder: Path) -> dict[str, Any]:
            check_untaught(self.answered, self.taught)
            prints = {task: Checkpoint.load(path).fingerprint for task, path in self.new.items()}
            bundle = fit(
                self.answered, out=folder / "bundle", tiers=self.options.portfolio.names,
                portfolio=priced_as(self.options.portfolio, self.options.tier, set_fingerprint(prints)),
                settings=self.options.settings, trainers=self.work.trainers, certified=False,
                progress=self.work.progress,
            )  # fmt: skip
            return {"candidate": bundle.candidate_id}

        self.journal.run("retrain", step)

    def certify(self) -> None:
        """Certify the candidate on the fold, and measure the current release beside it."""

        def step(folder: Path) -> dict[str, Any]:
            before = Bundle.load(self.incumbent.bundle)
            bundle, compared = certify_bundle(
                Bundle.load(self.journal.path("retrain") / "bundle"),
                self.answered,
                Incumbent(before, self.answered_before),
                earlier=before.keys,
                progress=self.work.progress,
            )
            saved = bundle.save(folder / "bundle")
            write_json(folder / "comparison.json", compared.to_json())
            return {"bundle": saved.id}

        self.journal.run("certify", step)

    def measured(self) -> Measurements:
        """All the gate looks at, from what lies on disk."""
        place, records = self.journal.path("certify"), self.work.prepared.records
        bundle = Bundle.load(place / "bundle")
        by_scope, everything = fold_sha256(bundle, self.answered)
        calib = np.union1d(self.work.calib, calib_keys(records, self.fold))
        learned = np.union1d(self.taught, np.union1d(bundle.keys.train, bundle.keys.tune))
        prompts = [self.sheet.prompt[i] for i, split in enumerate(self.sheet.split) if split == "train"]
        by_task = {
            task: [prompt for prompt, one in zip(self.sheet.prompt, self.sheet.task, strict=True) if one == task]
            for task in self.new
        }
        return Measurements(
            candidate=bundle.candidate_id,
            certified_candidate=certified_candidate(place / "bundle"),
            fold_sha256=by_scope,
            compared_sha256=everything,
            claims=claims_of(bundle, Bundle.load(self.incumbent.bundle)),
            comparison=Comparison.from_json(read_json(place / "comparison.json")),
            quality_loss={task: self.options.quality_loss(task) for task in sorted(set(self.sheet.task))},
            students={
                task: student_measure(make_student(Checkpoint.load(path)), by_task[task])
                for task, path in sorted(self.new.items())
            },
            router_ms=router_ms(bundle, prompts, self.sheet.task[0]),
            broken=broken_parts(place / "bundle", self.new, self.options.tier),
            leaked=len(np.intersect1d(learned, calib)),
            near=len(near_calib(self.work.prepared, self.learned)),
        )

    def gate(self) -> Verdict:
        """Judge, and write down on what."""

        def step(folder: Path) -> dict[str, Any]:
            broken = broken_parts(self.journal.path("certify") / "bundle", self.new, self.options.tier)
            if broken:
                # What is damaged cannot be measured.
                verdict = Verdict(False, {"hashes": broken})
            else:
                measured = self.measured()
                verdict = judge(measured, self.options.limits)
                write_json(folder / "measurements.json", measured.to_json())
            told = {
                "promoted": verdict.promoted,
                "reasons": {name: list(said) for name, said in verdict.reasons.items()},
            }
            write_json(folder / "verdict.json", told)
            return {**told, "release": new_release_id(self.work.state.root) if verdict.promoted else None}

        told = self.journal.run("gate", step)
        return Verdict(told["promoted"], {name: tuple(said) for name, said in told["reasons"].items()})

    def test(self) -> None:
        """Tell what both releases do with the test split; nothing depends on it."""

        def step(folder: Path) -> dict[str, Any]:
            candidate = Bundle.load(self.journal.path("certify") / "bundle")
            before = on_test(Bundle.load(self.incumbent.bundle), self.answered_before)
            told = {"before": before, "after": on_test(candidate, self.answered)} if before else {}
            write_json(folder / "test.json", told)
            return {"rows": before["all"]["n"] if before else 0}

        self.journal.run("test", step)

    def promote(self) -> None:
        """Publish the release and make it current, unless another serves than it was compared with.

        Doing it twice changes nothing.
        """

        def step(folder: Path) -> dict[str, Any]:
            del folder
            name, state = self.journal.steps["gate"]["told"]["release"], self.work.state
            named = {f"{self.options.tier}@{task}": path for task, path in self.new.items()}
            publish(state.root, name, self.journal.path("certify") / "bundle", named)
            for task, mine in self.learned.items():
                write_pairs(state.pairs(name) / f"{task}.jsonl", mine)
            incumbent = self.journal.begun["incumbent"]
            try:
                promote(state.root, name, expected=incumbent)
            except InputError:
                if Release.current(state.root).id == incumbent:
                    raise
                # Whoever changed what serves knows more than this round, which compared with something else.
                return {"release": None, "refused": CHANGED}
            return {"release": name}

        self.journal.run("promote", step)


def _folders(release: Release, tier: str, tasks: Sequence[str]) -> dict[str, Path]:
    """Checkpoints of a release's tier by task."""
    if tier not in release.tiers:
        return {}
    return {task: release.checkpoint(tier, task) for task in release.tasks(tier) or tasks}
