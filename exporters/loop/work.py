"""What the steps of a start and of a round share: options, records with their splits and folds, and the trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from exporters.fence import Keys, refuse_calib
from exporters.loop.answering import Given, answer_batch, asked_of, with_answers
from exporters.loop.files import read_lines, write_lines
from exporters.loop.folds import Folds, calib_keys
from exporters.loop.options import LoopOptions
from exporters.loop.routing import with_column
from exporters.loop.state import State
from exporters.students.data import Pair
from router_core.checkpoint import Checkpoint
from router_core.encoder import EncoderTrainer
from router_core.errors import InputError
from router_core.fitting.tables import Progress
from router_core.groups import hash_key
from router_core.ledger.rows import conversation_group
from router_core.records import Records
from router_core.release import is_name
from router_core.splits import Prepared, prepare
from router_core.student import Student

__all__ = ["Distil", "Work", "merged_pairs", "read_answers", "write_answers"]

Distil = Callable[..., Checkpoint]
"""`exporters.students.distil`, or what stands in for it."""


@dataclass(frozen=True, eq=False)
class Work:
    """One call's view of a loop.

    Attributes
    ----------
    state
        Places in ROOT.
    options
        Of the loop.
    given
        The records as they were given, in the portfolio's tiers.
    trainers
        Of the router's encoder; the static one when empty.
    progress
        Called as the work goes on.
    distiller
        `exporters.students.distil` when None.
    fresh
        Ids of those calibration queries that are fresh audits, and the fold of this round; none when it is one of the
        start's.
    """

    state: State
    options: LoopOptions
    given: Records
    trainers: Sequence[EncoderTrainer] = ()
    progress: Progress | None = None
    distiller: Distil | None = None
    fresh: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: str | Path, records: Records, options: LoopOptions, **more: Any) -> Work:
        """Check that options and records fit together.

        Raises
        ------
        InputError
            When a planned task is not in the records, or cannot be part of a folder's name.
        """
        for task in options.plans:
            if task not in records.task:
                known = ", ".join(sorted(set(records.task)))
                raise InputError(f"{records.source}: no query is of the planned task {task!r}; the tasks are {known}")
            if not is_name(f"{options.tier}@{task}"):
                raise InputError(
                    f"tier {options.tier!r} and task {task!r} cannot name a folder; use letters and digits"
                )
        return cls(State(root), options, with_column(records, options), **more)

    @cached_property
    def prepared(self) -> Prepared:
        """All records with splits and groups."""
        return prepare(self.given)

    @cached_property
    def calib(self) -> Keys:
        """Keys of every calibration query of every fold, and of rows that were taken out as their group straddles."""
        settled, given = self.prepared.records, self.given
        kept = set(settled.query_id)
        out = calib_keys(given, [i for i, query in enumerate(given.query_id) if query not in kept])
        learned = calib_keys(settled, [i for i, split in enumerate(settled.split) if split in ("train", "tune")])
        return np.union1d(self._keys(self.prepared.calib_all.tolist()), np.setdiff1d(out, learned))

    @cached_property
    def test(self) -> Keys:
        """Keys of every test query."""
        return self._keys(self.prepared.test.tolist())

    @cached_property
    def groups(self) -> dict[str, str]:
        """What the records' groups are called once near-duplicates are merged, by their own and the ledger's name."""
        settled = dict(zip(self.prepared.records.query_id, self.prepared.records.group, strict=True))
        found = {}
        for query, group in zip(self.given.query_id, self.given.group, strict=True):
            if group and query in settled:
                found[group] = found[conversation_group(group)] = settled[query]
        return found

    def _keys(self, rows: Sequence[int]) -> Keys:
        """Keys of rows of the prepared records, by the names that their groups have there and were given with."""
        settled, place = self.prepared.records, {query: i for i, query in enumerate(self.given.query_id)}
        named = calib_keys(self.given, [place[settled.query_id[i]] for i in rows])
        return np.union1d(calib_keys(settled, rows), named)

    @cached_property
    def folds(self) -> Folds:
        """The folds that were allocated at the start."""
        return Folds.load(self.state.folds)

    @property
    def own_tune(self) -> bool:
        """Whether the records name tune rows."""
        return "tune" in self.given.split

    @property
    def digest(self) -> str:
        """Hash of the records' ids, texts and splits."""
        told = hashlib.sha256()
        for one in zip(self.given.query_id, self.given.prompt, self.given.task, self.given.split, strict=True):
            told.update("\x00".join(one).encode("utf-8", "surrogatepass") + b"\x01")
        return told.hexdigest()

    def distil(
        self,
        task: str,
        pairs: Sequence[Pair],
        *,
        replay: Sequence[Pair],
        parent: Checkpoint | None,
        lineage: Mapping[str, Any],
    ) -> Checkpoint:
        """Make the student of a task.

        Raises
        ------
        InputError
            For a calibration item among the pairs, or pairs that cannot be learned from.
        """
        refuse_calib("training pairs", (key for pair in [*pairs, *replay] for key in pair.keys), self.calib)
        make = self.distiller
        if make is None:
            from exporters.students import distil

            make = distil
        plan = self.options.plans[task]
        return make(
            plan.kind, pairs, plan.options, tier=self.options.tier, replay=replay, parent=parent, calib=self.calib,
            lineage=lineage, seed=self.options.seed, progress=self.progress,
        )  # fmt: skip

    def answers(self, records: Records, rows: Sequence[int], students: Mapping[str, Student]) -> list[Given]:
        """What students answer to some rows of planned tasks."""
        planned = {task: student for task, student in students.items() if task in self.options.plans}
        return answer_batch(asked_of(records, rows, planned), planned, self.progress)

    def answered(self, records: Records, given: Sequence[Given]) -> Records:
        """Records with students' answers in the student tier's place."""
        tier = self.options.portfolio.tiers[self.options.portfolio.index(self.options.tier)]
        return with_answers(records, tier, given, self.options.grades)


def merged_pairs(earlier: Sequence[Pair], new: Sequence[Pair]) -> list[Pair]:
    """All pairs, of a text in both the new one."""
    fresh = {hash_key(pair.prompt) for pair in new}
    return [*(pair for pair in earlier if hash_key(pair.prompt) not in fresh), *new]


def write_answers(path: Path, given: Sequence[Given]) -> None:
    """Write answers as JSON lines."""
    write_lines(path, (one.to_json() for one in given))


def read_answers(path: Path) -> list[Given]:
    """Read what `write_answers` wrote."""
    return [Given(**row) for row in read_lines(path)]
