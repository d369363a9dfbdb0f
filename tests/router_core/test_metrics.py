"""Graders give what their definitions say, always in [0, 1]."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.metrics import exact_match, set_f1, token_f1


def test_exact_match_ignores_case_and_punctuation() -> None:
    """Equality is of normalised text, with one gold answer or several."""
    assert exact_match(" Positive. ", "positive") == 1.0
    assert exact_match("no", ["yes", "No!"]) == 1.0
    assert exact_match("no", "yes") == 0.0
    assert exact_match("", []) == 0.0


def test_token_f1_counts_repeated_words() -> None:
    """Two of three words shared with two of two gives 0.8; a repeated word counts once for each gold copy."""
    assert token_f1("the red cat", "red cat") == pytest.approx(0.8)
    assert token_f1("cat cat", "cat") == pytest.approx(2 / 3)
    assert token_f1("", "") == 1.0
    assert token_f1("a", "") == 0.0


def test_set_f1_ignores_repetition_and_order() -> None:
    """Labels are a set."""
    assert set_f1(["A", "b", "a"], ["B", "A"]) == 1.0
    assert set_f1(["a"], ["a", "b"]) == pytest.approx(2 / 3)
    assert set_f1([], []) == 1.0


@given(st.text(max_size=30), st.text(max_size=30))
def test_graders_stay_in_range_and_are_reflexive(a: str, b: str) -> None:
    """Every grade lies in [0, 1], is symmetric, and is 1 for the same answer."""
    for grade in (token_f1, exact_match, lambda x, y: set_f1(x.split(), y.split())):
        assert 0.0 <= grade(a, b) <= 1.0
        assert grade(a, b) == grade(b, a)
        assert grade(a, a) == 1.0
