"""Grades by name and by function, one for all tasks or one by task."""

from __future__ import annotations

import pytest

from router_core.errors import InputError
from router_core.grades import agree_with_reference, grade, grader


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("Yes.", "yes", 1.0),
        ("no", "yes", 0.0),
        ("the lamp", "lamp", 0.0),
        ("one two three", "one two three four five six", 2 * 3 / 9),
    ],
)
def test_agreement(answer: str, reference: str, value: float) -> None:
    """All or nothing for short references, overlap of words for longer ones."""
    assert agree_with_reference(answer, reference) == pytest.approx(value)


def test_one_grade_or_one_by_task() -> None:
    """A name or a function serves all tasks; a mapping serves those it names."""
    assert grader("exact")(None)("A", "a") == 1.0
    by_task = grader({"mood": "exact", "sum": lambda answer, gold: 0.5})
    assert (by_task("mood")("A", "a"), by_task("sum")("A", "a")) == (1.0, 0.5)
    with pytest.raises(InputError, match="'chess' has no grade"):
        by_task("chess")
    with pytest.raises(InputError, match="unknown grade 'bleu'"):
        grader({"mood": "bleu"})


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_a_grade_outside_its_range_is_refused(value: float) -> None:
    """Quality lies in [0, 1]."""
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        grade(lambda *_: value, "a", "b")
