"""Grading an answer against another one: by the name of a metric or by the caller's own function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from router_core.errors import InputError
from router_core.metrics import metric

__all__ = ["Grade", "Grading", "grade", "grader"]

Grade = Callable[[str, str], float]
"""(answer, gold or reference answer) -> quality in [0, 1]."""

Grading = str | Grade | Mapping[str, str | Grade]
"""One grade for all tasks, by name or as a function, or one by task."""


def grader(given: Grading) -> Callable[[str | None], Grade]:
    """From a task (without subtask) to its grade.

    Raises
    ------
    InputError
        For a name that is none of `router_core.metrics.METRICS`; the result raises it for a task that has no grade.
    """
    if not isinstance(given, Mapping):
        found = _named(given)
        return lambda _: found
    by_task = {task: _named(one) for task, one in given.items()}

    def of(task: str | None) -> Grade:
        if task not in by_task:
            raise InputError(f"task {task!r} has no grade; the given ones are for {', '.join(by_task) or 'no task'}")
        return by_task[task]

    return of


def grade(function: Grade, answer: str, gold: str) -> float:
    """One grade, checked.

    Raises
    ------
    InputError
        When the function returns no number in [0, 1].
    """
    value = float(function(answer, gold))
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise InputError(f"a grade must lie in [0, 1], not {value!r}")
    return value


def _named(given: str | Grade) -> Grade:
    if not isinstance(given, str):
        return given
    found = metric(given)
    # What an answer is compared with is the gold answer and the reference's at once.
    return lambda answer, gold: found(answer, gold, gold)
