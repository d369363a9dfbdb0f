"""Batch kernels: numba, numpy and crepes or a plain cascade give the same bits."""

from __future__ import annotations

import time

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from router_core import kernels
from router_core.conformal import BadPValues, p_value
from router_core.errors import InputError, MissingExtraError
from router_core.kernels import Engine, bad_served, mondrian_p_values, numba_available, sweep

ENGINES: tuple[Engine, ...] = ("numba", "numpy") if numba_available() else ("numpy",)


def bins_and_scores(seed: int, sizes: list[int], n: int) -> tuple[BadPValues, NDArray[np.int64], NDArray[np.float64]]:
    """Bad scores per bin, and [n, 4] bins and scores with ties, NaN, infinities and unseen bins."""
    rng = np.random.default_rng(seed)
    fitted = BadPValues({("t", f"k{b}"): np.round(rng.random(size), 2) for b, size in enumerate(sizes)})
    bins = rng.integers(-1, len(sizes), (n, 4))
    scores = np.round(rng.random((n, 4)), 2)
    scores[rng.random((n, 4)) < 0.05] = np.nan
    scores[rng.random((n, 4)) < 0.05] = np.inf
    return fitted, bins, scores


@settings(deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 30))
def test_p_values_equal_the_scalar(seed: int, sizes: list[int], n: int) -> None:
    """Both engines equal the scalar p-value at every entry; NaN scores and unseen bins give 1."""
    fitted, bins, scores = bins_and_scores(seed, sizes, n)
    values, offsets = fitted.pack()
    cal = [fitted.scores["t", f"k{b}"] for b in range(len(sizes))]
    flat = zip(bins.ravel().tolist(), scores.ravel().tolist(), strict=True)
    expected = [1.0 if b < 0 else p_value(cal[b], a) for b, a in flat]
    for engine in ENGINES:
        got = mondrian_p_values(values, offsets, bins, scores, engine=engine)
        assert np.array_equal(got, np.array(expected).reshape(n, 4))


def test_p_values_equal_crepes() -> None:
    """2,000 x 4 scores with ties over 8 bins and one unseen: equal to crepes bit for bit."""
    rng = np.random.default_rng(11)
    fitted = BadPValues({(f"task{b}", "cheap"): np.round(rng.random(120), 3) for b in range(8)})
    values, offsets = fitted.pack()
    bins = rng.integers(-1, 8, 2000)
    scores = np.round(rng.random((2000, 4)), 3)
    crepes = ConformalClassifier().fit(values, bins=np.repeat(np.arange(8), np.diff(offsets)))
    theirs = crepes.predict_p(scores, bins=bins, smoothing=False)
    for engine in ENGINES:
        assert np.array_equal(mondrian_p_values(values, offsets, bins, scores, engine=engine), theirs)
    assert np.array_equal(fitted.bins(["task3", "new"], ["cheap", "dear"]), [[3, -1], [-1, -1]])


@pytest.mark.skipif(not numba_available(), reason="measures the compiled kernel")
def test_p_values_are_fast() -> None:
    """100,000 x 4 scores against 8 bins of 10,000 take less than 0.1 s of CPU time once compiled (best of five)."""
    rng = np.random.default_rng(12)
    fitted = BadPValues({("t", f"k{b}"): np.round(rng.random(10_000), 3) for b in range(8)})
    values, offsets = fitted.pack()
    bins, scores = rng.integers(0, 8, (100_000, 4)), rng.random((100_000, 4))
    took = []
    for _ in range(6):
        begin = time.thread_time()
        mondrian_p_values(values, offsets, bins, scores)
        took.append(time.thread_time() - begin)
    assert min(took[1:]) < 0.1


def cascade(
    start_score: list[float],
    accept_score: list[list[float]],
    start_thr: list[float],
    accept_thr: list[float],
    cost: list[float],
) -> tuple[int, float]:
    """One query through one policy, written as the rule is told: the oracle of the sweep."""
    reference = len(cost) - 1
    start = next((s for s in range(reference) if start_score[s] >= start_thr[s]), reference)
    paid = 0.0
    for j in range(start, reference):
        if start_thr[j] == accept_thr[j] == float("inf"):
            continue
        paid += cost[j]
        if accept_score[start][j] >= accept_thr[j]:
            return j, paid
    return reference, paid + cost[reference]


def random_sweep(seed: int, n: int, tiers: int, steps: int) -> list[NDArray[np.float64]]:
    """Arguments of `sweep` with ties, NaN scores and infinite thresholds; step 0 is the reference."""
    rng = np.random.default_rng(seed)
    cheap = tiers - 1
    start_score, accept_score = (
        np.round(rng.random((n, cheap)), 1),
        np.round(rng.random((n, cheap, cheap)), 1),
    )
    start_score[rng.random(start_score.shape) < 0.1] = np.nan
    accept_score[rng.random(accept_score.shape) < 0.1] = np.nan
    start_thr, accept_thr = (np.round(rng.random((steps, cheap)), 1) for _ in range(2))
    for thr in (start_thr, accept_thr):
        thr[rng.random(thr.shape) < 0.3] = np.inf
        thr[rng.random(thr.shape) < 0.1] = -np.inf
        thr[0] = np.inf
    return [start_score, accept_score, start_thr, accept_thr, rng.random((n, tiers))]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 12), st.integers(1, 5), st.integers(1, 6))
def test_sweep_equals_one_cascade_at_a_time(seed: int, n: int, tiers: int, steps: int) -> None:
    """Both engines serve the tier and charge the dollars of a plain cascade; step 0 is the reference."""
    arguments = random_sweep(seed, n, tiers, steps)
    start_score, accept_score, start_thr, accept_thr, cost = (a.tolist() for a in arguments)
    for engine in ENGINES:
        served, total = sweep(*arguments, engine=engine)
        assert served.dtype == np.int8
        assert total.dtype == np.float64
        for g in range(steps):
            for i in range(n):
                expected = cascade(start_score[i], accept_score[i], start_thr[g], accept_thr[g], cost[i])
                assert (served[g, i], total[g, i]) == expected
        assert (served[0] == tiers - 1).all()
        assert np.array_equal(total[0], arguments[4][:, -1])


def test_sweep_charges_every_tier_tried() -> None:
    """A query refused by two tiers pays three; a tier with both thresholds +inf is not called or paid."""
    start_score, accept_score = np.ones((1, 2)), np.zeros((1, 2, 2))
    inf = np.inf
    start_thr = np.array([[inf, inf], [0.5, 0.5], [inf, 0.5], [0.5, inf], [0.5, inf]])
    accept_thr = np.array([[inf, inf], [0.5, 0.5], [inf, 0.5], [0.5, inf], [0.5, -inf]])
    for engine in ENGINES:
        served, total = sweep(
            start_score, accept_score, start_thr, accept_thr, np.array([[1.0, 10.0, 100.0]]), engine=engine
        )
        assert served[:, 0].tolist() == [2, 2, 2, 2, 1]
        assert total[:, 0].tolist() == [100.0, 111.0, 110.0, 101.0, 11.0]
    last_tier_only = np.array([100.0, 100.0, 100.0, 100.0, 10.0])
    assert not np.array_equal(total[:, 0], last_tier_only), "charging the final tier only must show"


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_lower_accept_threshold_never_turns_accept_into_reject(seed: int, a: float, b: float) -> None:
    """For the same start, lowering accept thresholds serves an earlier tier or the same one."""
    start_score, accept_score, _, _, cost = random_sweep(seed, 20, 4, 1)
    thr = np.array([[max(a, b)] * 3, [min(a, b)] * 3])
    served, _ = sweep(start_score, accept_score, np.full((2, 3), 0.5), thr, cost, engine="numpy")
    assert (served[1] <= served[0]).all()


def test_bad_served_looks_up_the_serving_tier() -> None:
    """B of the served tier, per step and query."""
    bad = np.array([[1, 0, 0], [1, 1, 0]], dtype=np.uint8)
    served = np.array([[2, 2], [0, 1], [1, 0]], dtype=np.int8)
    got = bad_served(served, bad)
    assert got.tolist() == [[0, 0], [1, 1], [0, 1]]
    assert got.dtype == np.uint8


def test_readonly_and_transposed_input() -> None:
    """Arrays that are read-only, float32 or not contiguous are accepted and left alone."""
    arguments = random_sweep(3, 9, 3, 4)
    frozen = [np.asfortranarray(a) for a in arguments]
    for array in frozen:
        array.setflags(write=False)
    for engine in ENGINES:
        served, total = sweep(*arguments, engine=engine)
        again, charged = sweep(*frozen, engine=engine)
        assert np.array_equal(served, again)
        assert np.array_equal(total, charged)


def test_without_numba_the_numpy_engine_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` falls back to numpy; asking for numba by name says which extra is missing."""
    monkeypatch.setattr(kernels, "numba_available", lambda: False)
    arguments = random_sweep(4, 5, 3, 2)
    assert np.array_equal(sweep(*arguments)[0], sweep(*arguments, engine="numpy")[0])
    with pytest.raises(MissingExtraError, match=r"routenlp\[fit\]"):
        sweep(*arguments, engine="numba")


def broken(index: int, change: object) -> list[NDArray[np.float64]]:
    """Sweep arguments with one of them changed."""
    arguments = random_sweep(5, 6, 3, 4)
    arguments[index] = change(arguments[index])  # type: ignore[operator]
    return arguments


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, lambda a: a[:, :1], "start_score has shape"),
        (1, lambda a: a[:-1], "accept_score has shape"),
        (3, lambda a: a[:-1], "accept_thr has shape"),
        (4, lambda a: a[:, :2], "start_score has shape"),
        (4, lambda a: a[0], "cost has shape"),
        (2, lambda a: a * np.nan, "threshold of the policy path is NaN"),
        (0, lambda a: a + np.inf, r"score of the policy path is \+inf"),
    ],
)
def test_sweep_refuses(index: int, change: object, message: str) -> None:
    """Wrong shapes, NaN thresholds and +inf scores (they would clear a step's +inf) are refused by name."""
    with pytest.raises(InputError, match=message):
        sweep(*broken(index, change))


def test_p_values_refuse() -> None:
    """Shapes that disagree and bin numbers out of range are refused."""
    values, offsets = BadPValues({("t", "k"): np.zeros(3)}).pack()
    with pytest.raises(InputError, match="disagree"):
        mondrian_p_values(values, offsets, np.zeros((2, 3), dtype=np.int64), np.zeros((2, 4)))
    for number in (-2, 1):
        with pytest.raises(InputError, match="Bin numbers"):
            mondrian_p_values(values, offsets, np.array([number]), np.zeros((1, 4)))
