"""The students of one tier: one for every task, or one per task.

In the paper the cheapest tier is fine-tuned per task. A release holds such a tier as one checkpoint per task
(`router_core.release`), and to routers, ledgers and portfolios it is one model with one fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from router_core.arrays import dump_json, sha256
from router_core.errors import InputError
from router_core.release import Release
from router_core.student import Student, StudentAnswer, load_student

__all__ = ["StudentSet", "set_fingerprint"]


def set_fingerprint(fingerprints: Mapping[str, str]) -> str:
    """Fingerprint of a tier, given those of its students by task; a single student's is its own.

    Of several it is the SHA-256 of the canonical JSON of the sorted (task, fingerprint) pairs. The task of a single
    student that serves all of them is ``""``.
    """
    if len(fingerprints) == 1:
        return next(iter(fingerprints.values()))
    return sha256(dump_json(sorted(fingerprints.items())))


class StudentSet:
    """The students of a tier; safe across threads.

    Parameters
    ----------
    tier
        Name of the tier.
    students
        By task; a single one under ``""`` serves every task.

    Raises
    ------
    InputError
        When there is none, or one for all tasks beside others.
    """

    def __init__(self, tier: str, students: Mapping[str, Student]) -> None:
        if not students or ("" in students and len(students) > 1):
            msg = f"tier {tier} has {len(students)} students; give one for all tasks, or one for each"
            raise InputError(msg)
        self.tier, self.students = tier, dict(students)
        self.fingerprint = set_fingerprint({task: student.fingerprint for task, student in students.items()})

    @classmethod
    def load(cls, path: str | Path, tier: str | None = None, threads: int = 1) -> Self:
        """Load the students of a tier.

        Parameters
        ----------
        path
            A release ROOT, the folder of one release, or of one checkpoint.
        tier
            Which of a release's tiers, None for the only one; must be the checkpoints' own where that is given.
        threads
            See `Student`.

        Raises
        ------
        BundleError
            When there is none, one is damaged or newer than this reader, or it is another tier's.
        """
        release = Release.at(path)
        if release is None:
            lone = load_student(path, tier, threads)
            return cls(tier or lone.tier, {"": lone})
        tier = release.tier(tier)
        tasks = release.tasks(tier) or ("",)
        return cls(tier, {task: load_student(release.checkpoint(tier, task), tier, threads) for task in tasks})

    @property
    def name(self) -> str:
        """``routenlp-student/<tier>@<first 12 digits of the fingerprint>``, what an answer gives as ``model_name``."""
        return f"routenlp-student/{self.tier}@{self.fingerprint[:12]}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that have a student of their own, sorted; empty when one serves all of them."""
        return tuple(sorted(task for task in self.students if task))

    def student(self, task: str | None = None) -> Student:
        """Pick the student of a task.

        Parameters
        ----------
        task
            ``"task"`` or ``"task/subtask"``; None where there is a single student.

        Raises
        ------
        InputError
            When no student was trained for the task, or there are several and none is named.
        """
        if "" in self.students:
            return self.students[""]
        if task is None and len(self.students) == 1:
            return next(iter(self.students.values()))
        found = None if task is None else self.students.get(task.partition("/")[0])
        if found is None:
            asked = "the task must be named" if task is None else f"none was trained for {task!r}"
            msg = f"tier {self.tier} has one student per task and {asked}; name one of: {', '.join(self.tasks)}"
            raise InputError(msg)
        return found

    def answer(self, prompt: str, task: str | None = None) -> StudentAnswer:
        """Answer one prompt, written as in the records; `task` and errors as for `student`."""
        return self.student(task).answer(prompt)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        return f"StudentSet({self.name!r}, tasks={list(self.tasks)})"
