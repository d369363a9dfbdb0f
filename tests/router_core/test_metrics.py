"""Graders give what their definitions say, always in [0, 1]."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.errors import InputError, MissingExtraError
from router_core.metrics import (
    METRICS,
    Gold,
    _scorer,
    exact_match,
    labels_of,
    metric,
    needs_gold,
    set_f1,
    token_f1,
)


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


def _grade(name: str, answer: str, gold: Gold = None, reference: str = "") -> float:
    return metric(name)(answer, gold, reference)


def test_metrics_by_name() -> None:
    """Each name grades as the table of the module says, the best of several gold answers counting."""
    assert _grade("exact", "Yes.", "yes") == 1.0
    assert _grade("exact", "no", ("yes", "No")) == 1.0
    assert _grade("f1", "the red cat", ("a dog", "red cat")) == pytest.approx(0.8)
    assert _grade("rouge_l", "the cat sat", "the cat sat down") == pytest.approx(6 / 7)
    assert _grade("rouge_l", "sat cat the", "the cat sat") == pytest.approx(1 / 3)
    assert _grade("rouge_l", "", "") == 1.0
    assert _grade("rouge_l", "", "x") == 0.0
    assert not needs_gold("agree_with_reference")
    assert not needs_gold("judge:m")
    assert all(needs_gold(name) for name in METRICS if name != "agree_with_reference")


def test_rouge_l_keeps_letters_outside_ascii() -> None:
    """The package's own tokenizer would find nothing to compare here, and give 0."""
    assert _grade("rouge_l", "приговор суда отменён", "приговор суда") == pytest.approx(0.8)


def test_set_f1_reads_lists_and_separated_text() -> None:
    """JSON lists, commas, semicolons and line ends all list labels; several gold answers are the set."""
    assert labels_of('["a, b", "c"]') == ("a, b", "c")
    assert labels_of("a, b;c\n\nd ,") == ("a", "b", "c", "d")
    assert labels_of('"a, b"') == ("a, b",)
    assert _grade("set_f1", "B; a", '["A", "b"]') == 1.0
    assert _grade("set_f1", "a", ("a", "b")) == pytest.approx(2 / 3)
    assert _grade("set_f1", "", "") == 1.0


def test_agreement_is_all_or_nothing_for_short_references() -> None:
    """The reference scores 1; a short reference admits nothing but itself, a long one the F1 of the words."""
    assert _grade("agree_with_reference", "Bad!", None, "bad") == 1.0
    assert _grade("agree_with_reference", "very bad", None, "bad") == 0.0
    long = "the contract ends after thirty days of notice"
    assert _grade("agree_with_reference", long.upper(), None, long) == 1.0
    assert 0.5 < _grade("agree_with_reference", "the contract ends after thirty weeks", None, long) < 1.0


def test_an_unknown_metric_is_refused() -> None:
    """The error lists the names."""
    with pytest.raises(InputError, match="unknown metric 'bleu'; use exact, f1, set_f1"):
        metric("bleu")


def test_rouge_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rouge-score the error names the extra."""
    _scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(MissingExtraError, match=r"routenlp\[collect\]"):
        _grade("rouge_l", "a", "a")


@given(st.sampled_from(sorted(METRICS)), st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_every_metric_stays_in_range(name: str, answer: str, gold: str, reference: str) -> None:
    """Any texts give a grade in [0, 1], and the gold answer itself, or the reference's own, gives 1."""
    assert 0.0 <= _grade(name, answer, gold, reference) <= 1.0
    assert _grade(name, gold, gold, gold) == 1.0
