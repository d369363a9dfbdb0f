"""What a loop keeps in ROOT beside its releases, and what it reads back.

::

    ROOT/loop/folds.json             calibration queries by fold, allocated at the start
    ROOT/loop/start.json             what the loop was started with
    ROOT/loop/plan.json              plan of the command line
    ROOT/loop/spent.json             folds that were read, and by which round
    ROOT/loop/spent_audits.json      folds of fresh audits that were read: until when, and their keys
    ROOT/loop/asked/<tier>.jsonl     answers that such folds lacked and that were paid for
    ROOT/loop/pairs/<release>/       what the students of a release learned from, one file per task
    ROOT/rounds/<n>/                 journal, outputs of the steps and report of a round
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from exporters.fence import NO_KEYS, Keys
from exporters.loop.files import check_keys, read_json, read_lines, write_lines
from exporters.loop.journal import JOURNAL
from exporters.students.data import Pair
from router_core.errors import InputError
from router_core.keys import hash_keys
from router_core.release import Release
from router_core.student import Student, load_student

__all__ = ["LOOP", "ROUNDS", "State", "pairs_keys", "read_pairs_of", "students_of", "write_pairs"]

LOOP, ROUNDS = "loop", "rounds"
_START, _PAIRS = "start.json", "pairs"


class State:
    """Places of a loop in its ROOT.

    Parameters
    ----------
    root
        The ROOT.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.folds = self.root / LOOP / "folds.json"
        self.start = self.root / LOOP / _START
        self.plan = self.root / LOOP / "plan.json"
        self.spent = self.root / LOOP / "spent.json"
        self.spent_audits = self.root / LOOP / "spent_audits.json"
        self.asked = self.root / LOOP / "asked"

    @property
    def started(self) -> bool:
        """Whether a first release was promoted."""
        return (self.root / "current").is_file() and self.start.is_file()

    def check_started(self) -> dict[str, Any]:
        """What the loop was started with.

        Raises
        ------
        InputError
            When no loop was started here, or what says so is damaged.
        """
        if not self.started:
            raise InputError(f"{self.root} holds no loop; begin with `routenlp loop start`")
        told: dict[str, Any] = read_json(self.start)
        check_keys(
            self.start,
            told,
            dict.fromkeys(("release", "tier", "records"), str),
            "restore it, or start in another folder",
        )
        return told

    def spent_folds(self) -> dict[str, float]:
        """Folds that were read, each with the moment of the round that read it.

        Raises
        ------
        InputError
            When the list is damaged.
        """
        told: dict[str, float] = read_json(self.spent) if self.spent.exists() else {}
        mend = "restore it, or remove it: rounds and releases tell too which folds were read"
        check_keys(self.spent, told, {}, mend)
        if not all(fold.isdigit() for fold in told):
            raise InputError(f"{self.spent} is damaged (it names no folds); {mend}")
        return told

    def round(self, number: int) -> Path:
        """Folder of a round."""
        return self.root / ROUNDS / f"{number:04d}"

    def rounds(self) -> list[int]:
        """Rounds begun so far."""
        folder = self.root / ROUNDS
        found = [item.name for item in folder.iterdir() if (item / JOURNAL).is_file()] if folder.is_dir() else []
        return sorted(int(name) for name in found if name.isdigit())

    def pairs(self, release: str) -> Path:
        """Folder of what the students of a release learned from."""
        return self.root / LOOP / _PAIRS / release

    def learned(self, release: str) -> dict[str, list[Pair]]:
        """What the students of a release learned from, by task."""
        folder = self.pairs(release)
        return {path.stem: read_pairs_of(path) for path in sorted(folder.glob("*.jsonl"))} if folder.is_dir() else {}


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs as JSON lines."""
    write_lines(path, (asdict(pair) for pair in pairs))


def read_pairs_of(path: Path) -> list[Pair]:
    """Read what `write_pairs` wrote.

    Raises
    ------
    InputError
        When it is damaged.
    """
    try:
        return [
            Pair(**{**row, "tags": None if row["tags"] is None else tuple(row["tags"])}) for row in read_lines(path)
        ]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged, and tells what students learned from; restore it") from None


def pairs_keys(pairs: Mapping[str, Sequence[Pair]]) -> Keys:
    """Hashed keys of all pairs."""
    keys = [key for mine in pairs.values() for pair in mine for key in pair.keys]
    return hash_keys(keys) if keys else np.asarray(NO_KEYS)


def students_of(release: Release, tier: str, tasks: Sequence[str]) -> dict[str, Student]:
    """The students of a tier by task; one that serves every task stands under all of `tasks`."""
    if tier not in release.tiers:
        return {}
    alone = release.tasks(tier)
    if not alone:
        student = load_student(release.checkpoint(tier), tier)
        return dict.fromkeys(tasks, student)
    return {task: load_student(release.checkpoint(tier, task), tier) for task in alone}
