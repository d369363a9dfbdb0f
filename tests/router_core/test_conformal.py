"""Conformal p-values and thresholds: equal to crepes, to each other, and safe where nothing is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.conformal import (
    BadPValues,
    acceptance_threshold,
    minimum_bin,
    mondrian_thresholds,
    p_value,
    thresholds,
)
from router_core.errors import InputError, RouteNLPError
from router_core.fitting import conformal as fitting

# Few distinct values, so that ties are the rule, and values that differ in the last bit.
tied = st.sampled_from([0.0, 0.1, 0.3, 0.1 + 0.2, 0.5, 0.7, 1.0, float(np.float32(0.7)), -1.0, np.inf, -np.inf])
scores = st.one_of(tied, st.floats(allow_nan=False))
calibration = st.lists(scores, max_size=30).map(sorted)
levels = st.one_of(
    st.floats(0.0, 1.0),
    st.tuples(st.integers(1, 31), st.integers(1, 31)).map(lambda pair: min(pair) / max(pair)),
)


@settings(deadline=None)
@given(calibration, scores, levels)
def test_threshold_decides_as_p_above_eps(cal: list[float], a: float, eps: float) -> None:
    """`p > eps` and `a <= thr` agree for every score, ties and attainable levels included."""
    if eps < 1.0 or a > -np.inf:
        assert (p_value(cal, a) > eps) == (a <= float(thresholds(cal, eps)))


@settings(deadline=None)
@given(calibration, st.one_of(tied, st.floats(-1e300, 1e300)), levels)
def test_acceptance_threshold_is_the_complement(cal: list[float], a: float, eps: float) -> None:
    """For finite scores `a >= acceptance_threshold(thr)` is exactly "bad is rejected"."""
    if np.isfinite(a):
        assert (a >= acceptance_threshold(float(thresholds(cal, eps)))) == (p_value(cal, a) <= eps)


@settings(deadline=None)
@given(calibration, st.lists(scores, min_size=1, max_size=8))
def test_p_value_equals_crepes(cal: list[float], probe: list[float]) -> None:
    """The scalar p-value equals crepes without smoothing, bit for bit."""
    theirs = ConformalClassifier().fit(np.array(cal)).predict_p(np.array(probe), smoothing=False)
    assert np.array_equal(theirs, [p_value(cal, a) for a in probe])
    assert np.array_equal(theirs, [p_value(np.array(cal), a) for a in probe])


def test_strict_comparison_mutant_is_caught() -> None:
    """Counting `>` instead of `>=`, or taking the next rank, disagrees with crepes at a tie."""
    cal = [0.2, 0.5, 0.5, 0.5, 0.9]
    assert p_value(cal, 0.5) == 5 / 6
    assert sum(c > 0.5 for c in cal) + 1 != 5
    thr = float(thresholds(cal, 0.5))
    assert thr == 0.5
    assert [p_value(cal, a) > 0.5 for a in (0.5, np.nextafter(0.5, 1.0))] == [True, False]


def test_small_bins_and_extreme_levels() -> None:
    """A bin too small gives +inf, a level of 1 or more -inf, and minimum_bin is the size where that ends."""
    assert thresholds([0.1, 0.2, 0.3], 0.2) == np.inf
    assert thresholds([0.1, 0.2, 0.3], 0.25) == 0.3
    assert thresholds([], 0.99) == np.inf
    assert thresholds([], 1.0) == thresholds([0.4], 1.5) == -np.inf
    assert thresholds([0.4], -0.1) == np.inf
    assert np.array_equal(thresholds([0.1, 0.2, 0.3], [0.2, 0.25, 1.0]), [np.inf, 0.3, -np.inf])
    assert [minimum_bin(eps) for eps in (0.01, 0.05, 0.1, 0.5, 1.0)] == [99, 19, 9, 1, 0]
    for eps in (0.01, 0.05, 0.07, 0.1, 1 / 3, 0.29):
        q = minimum_bin(eps)
        assert np.isfinite(thresholds(np.zeros(q), eps))
        assert thresholds(np.zeros(q - 1), eps) == np.inf
    # The k-th score from the end read as cal[-k] would give the *lowest* score for k = 0.
    assert acceptance_threshold(np.inf) == np.inf
    assert acceptance_threshold(-np.inf) == -np.inf


def test_unknown_never_looks_safe() -> None:
    """Unseen task, unseen tier, empty bin and NaN score give p = 1; crepes alone would trust the NaN."""
    fitted = BadPValues({("t", "cheap"): np.linspace(0, 1, 50), ("t", "empty"): np.empty(0)})
    assert fitted.p("t", "cheap", 2.0) == 1 / 51
    assert fitted.p("t", "empty", 2.0) == 1.0
    assert fitted.p("u", "cheap", 2.0) == fitted.p("t", "dear", 2.0) == fitted.p("t", "cheap", np.nan) == 1.0
    trusting = ConformalClassifier().fit(np.linspace(0, 1, 50)).predict_p(np.array([np.nan]), smoothing=False)
    assert trusting[0] == 1 / 51
    assert ("u", "cheap") not in fitted.thresholds(0.1)


def test_mondrian_thresholds_sort_their_input() -> None:
    """Bins may come in any order; each gets the threshold of its own scores."""
    got = mondrian_thresholds({"a": [0.9, 0.1, 0.5], "b": np.array([0.2])}, 0.5)
    assert got == {"a": 0.5, "b": 0.2}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BadPValues({("t", "cheap"): np.array([0.1, np.nan])}), "NaN"),
        (lambda: BadPValues({("t", "cheap"): np.zeros((2, 2))}), "one per answer"),
        (lambda: thresholds([0.1], float("nan")), "eps is NaN"),
        (lambda: minimum_bin(0.0), "above 0"),
        (
            lambda: BadPValues.from_parts({"bins": [["t", "cheap", 3]]}, {"bad_scores": np.zeros(2)}),
            "fit again",
        ),
        (lambda: fitting.fit_bad_p_values(["t"], ["c"], [0.1, 0.2], [1]), "one length"),
        (lambda: fitting.fit_bad_p_values(["t"], ["c"], [np.nan], [1]), "NaN"),
    ],
)
def test_bad_input_is_named(build: object, message: str) -> None:
    """NaN, wrong shapes and wrong sizes are refused in one sentence."""
    with pytest.raises(InputError, match=message):
        build()  # type: ignore[operator]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.text(max_size=4), st.text(max_size=4)),
        st.lists(st.floats(allow_nan=False), max_size=6),
        max_size=5,
    )
)
def test_parts_round_trip(bins: dict[tuple[str, str], list[float]]) -> None:
    """Header and array rebuild the same bins, bit for bit, through JSON."""
    fitted = BadPValues({key: np.array(values, dtype=np.float64) for key, values in bins.items()})
    again = BadPValues.from_parts(json.loads(json.dumps(fitted.to_json())), fitted.to_arrays())
    assert list(again.scores) == list(fitted.scores) == sorted(bins)
    assert all(again.scores[key].tobytes() == fitted.scores[key].tobytes() for key in bins)


def test_npz_round_trip_without_objects(tmp_path: Path) -> None:
    """The arrays go through npz with pickle forbidden, and the frozen scores cannot be written to."""
    fitted = BadPValues({("t", "cheap"): np.array([0.3, 0.1])})
    np.savez(tmp_path / "bad.npz", **fitted.to_arrays())  # type: ignore[arg-type]
    with np.load(tmp_path / "bad.npz", allow_pickle=False) as arrays:
        again = BadPValues.from_parts(fitted.to_json(), dict(arrays))
    assert again.p("t", "cheap", 0.2) == fitted.p("t", "cheap", 0.2) == 2 / 3
    with pytest.raises(ValueError, match="read-only"):
        fitted.scores["t", "cheap"][0] = 1.0


def test_fit_keeps_the_bad_answers_only() -> None:
    """Only bad answers are fitted, per (task, tier); a bin without any is absent; good NaN is harmless."""
    rng = np.random.default_rng(7)
    m = 400
    task = rng.choice(["a", "b"], m).tolist()
    tier = rng.choice(["x", "y", "z"], m).tolist()
    score = np.round(rng.random(m), 2)
    bad = (rng.random(m) < 0.4) & (np.array(tier) != "z")
    score[np.flatnonzero(~bad)[0]] = np.nan
    fitted = fitting.fit_bad_p_values(task, tier, score, bad)
    assert list(fitted.scores) == [(t, k) for t in "ab" for k in "xy"]
    for (t, k), cal in fitted.scores.items():
        rows = bad & (np.array(task) == t) & (np.array(tier) == k)
        assert np.array_equal(cal, np.sort(score[rows]))
    assert fitting.fit_bad_p_values(["a"], ["x"], [0.5], [0]).scores == {}


def test_check_against_crepes_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    """A p-value that counts `>` instead of `>=` does not get past the comparison with crepes."""
    fitted = BadPValues({("a", "x"): np.round(np.random.default_rng(8).random(50), 1)})
    fitting.check_against_crepes(fitted)

    def strict(cal: np.ndarray, a: float) -> float:
        return float((np.sum(np.asarray(cal) > a) + 1) / (len(cal) + 1))

    monkeypatch.setattr(fitting, "p_value", strict)
    with pytest.raises(RouteNLPError, match="different p-values"):
        fitting.check_against_crepes(fitted)


def test_serving_imports_numpy_only() -> None:
    """Importing the conformal layer, kernels and certificate loads no statistics library and no numba."""
    code = (
        "import sys, router_core.conformal, router_core.kernels, router_core.certificate, router_core.keys;"
        "heavy = {'scipy', 'sklearn', 'numba', 'crepes', 'pandas', 'torch'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(  # noqa: S603  our own interpreter, a constant program
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
