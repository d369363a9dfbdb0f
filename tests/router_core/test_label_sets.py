"""Sets of labels: equal to crepes, the same on every call, and safe where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.errors import InputError
from router_core.label_sets import LabelSets, TakenClaim

tied = st.sampled_from([0.0, 0.1, 0.3, 0.1 + 0.2, 0.5, 1.0])
rows = st.lists(st.tuples(tied, tied, tied), min_size=1, max_size=25)


@settings(deadline=None, max_examples=60)
@given(rows, st.lists(st.integers(0, 2), min_size=25, max_size=25), st.tuples(tied, tied, tied), st.booleans())
def test_p_values_and_sets_equal_crepes(
    calib: list[tuple[float, ...]], labels: list[int], query: tuple[float, ...], per_label: bool
) -> None:
    """p-values are crepes' own without smoothing, marginal and Mondrian, and the set is p > alpha."""
    strange, right = np.array(calib), np.array(labels[: len(calib)])
    for alpha in (0.05, 0.1, 0.25, 1 / 3):
        sets = LabelSets.of(strange, right, alpha, per_label=per_label)
        ours = np.array([sets.p(label, query[label]) for label in range(3)])
        own = strange[np.arange(len(right)), right]
        theirs = np.ones(3)
        for label in range(3):
            scores = own[right == label] if per_label else own
            if len(scores):
                fitted = ConformalClassifier().fit(scores)
                theirs[label] = fitted.predict_p(np.array([[query[label]]]), smoothing=False)[0, 0]
        assert np.array_equal(ours, theirs)
        assert np.array_equal(sets.members(np.array(query)), theirs > alpha)


def test_too_few_queries_leave_nothing_out() -> None:
    """Below 1 / alpha - 1 calibration queries every label stays in, and is named."""
    strange, right = np.full((18, 2), 0.5), np.zeros(18, dtype=int)
    assert LabelSets.of(strange, right, 0.05).members(np.array([0.9, 1.0])).all()
    assert LabelSets.of(strange, right, 0.05).too_few == (0, 1)
    enough = LabelSets.of(np.full((19, 2), 0.5), np.zeros(19, dtype=int), 0.05)
    assert enough.too_few == ()
    assert enough.members(np.array([0.5, 0.9])).tolist() == [True, False]
    assert LabelSets.of(np.full((19, 2), 0.5), np.zeros(19, dtype=int), 0.05, per_label=True).too_few == (1,)


def test_unknown_is_never_left_out_nor_taken() -> None:
    """NaN stays in the set with p = 1, is refused in calibration, and is never taken."""
    sets = LabelSets.of(np.linspace(0, 0.5, 40)[:, None], np.zeros(40, dtype=int), 0.1)
    assert sets.members(np.array([np.nan])).all()
    assert sets.p(0, float("nan")) == 1.0
    with pytest.raises(InputError, match="NaN"):
        LabelSets(0.1, (np.array([np.nan]),), 1)
    with pytest.raises(InputError, match="alpha"):
        LabelSets(1.0, (np.array([0.5]),), 1)
    with pytest.raises(InputError, match="lists"):
        LabelSets(0.1, (np.zeros(1), np.zeros(1)), 3)
    claim = TakenClaim.of([0.5], np.ones(100), np.ones(100, dtype=bool), 0.1, 0.1)
    assert claim.takes(0.5)
    assert not claim.takes(float("nan"))


def test_arrays_come_back() -> None:
    """What is stored gives the same sets; sizes that do not add up are refused."""
    rng = np.random.default_rng(0)
    sets = LabelSets.of(rng.random((50, 3)), rng.integers(0, 3, 50), 0.2, per_label=True)
    again = LabelSets.from_arrays(0.2, 3, sets.to_arrays())
    probe = rng.random((200, 3))
    assert np.array_equal(sets.members(probe), again.members(probe))
    assert again.n == 50
    with pytest.raises(InputError, match="sizes"):
        LabelSets.from_arrays(0.2, 3, {**sets.to_arrays(), "set_sizes": np.array([1, 2, 3])})


def test_claim_stops_at_the_first_failure() -> None:
    """Nothing can be shown of few queries; a threshold is one of the path's, and counts all ties at it."""
    assert TakenClaim.of([0.5], [1.0] * 20, [True] * 20, 0.1, 0.1).threshold is None
    assert TakenClaim.of([0.5], [], [], 0.1, 0.1).threshold is None
    probability, right = [0.9] * 60 + [0.6] * 40, [True] * 60 + [False] * 40
    claim = TakenClaim.of([0.3, 0.6, 0.9], probability, right, 0.1, 0.1)
    assert (claim.threshold, claim.taken, claim.wrong, claim.n) == (0.9, 60, 0, 100)
    # 0.3 and 0.6 both fail: stopping means the loose step is never reached, whatever it shows.
    assert not claim.takes(0.6)
