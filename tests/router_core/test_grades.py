"""Grades by name and by function, one for all tasks or one by task."""

from __future__ import annotations

import pytest

from router_core.errors import InputError
from router_core.grades import grade, grader


def test_one_grade_or_one_by_task() -> None:
    """A name or a function serves all tasks; a mapping serves those it names."""
    assert grader("exact")(None)("A", "a") == 1.0
    assert grader("agree_with_reference")("any")("no", "yes") == 0.0
    by_task = grader({"mood": "exact", "sum": lambda answer, gold: 0.5})
    assert (by_task("mood")("A", "a"), by_task("sum")("A", "a")) == (1.0, 0.5)
    with pytest.raises(InputError, match="'chess' has no grade"):
        by_task("chess")
    with pytest.raises(InputError, match="unknown metric 'bleu'"):
        grader({"mood": "bleu"})


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_a_grade_outside_its_range_is_refused(value: float) -> None:
    """Quality lies in [0, 1]."""
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        grade(lambda *_: value, "a", "b")
