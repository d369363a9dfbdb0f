"""Exact tests along a path, the choice among certified steps, and the record of what was shown."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.certificate import (
    Certificate,
    PathResult,
    allowed_bad,
    binom_cdf,
    certify_path,
    cheapest,
    clopper_pearson,
    crc_allowed,
    fixed_sequence,
    joint_p_values,
    minimum_n,
    walk,
)
from router_core.errors import InputError
from router_core.keys import check_disjoint, hash_keys, ids_sha256

sizes = st.integers(1, 400)
levels = st.floats(0.005, 0.6)


def exact_cdf(k: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= k) in rational arithmetic."""
    q = Fraction(p)
    return float(sum((math.comb(n, j) * q**j * (1 - q) ** (n - j) for j in range(k + 1)), Fraction(0)))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(-1, 61), st.floats(0.01, 0.9))
def test_binom_cdf_is_exact(n: int, k: int, p: float) -> None:
    """Equal to rational arithmetic up to rounding; 0 below and 1 above the range."""
    expected = 1.0 if k >= n else exact_cdf(k, n, p)
    assert binom_cdf(k, n, p) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert binom_cdf(-1, n, p) == 0.0


@settings(deadline=None)
@given(sizes, levels, levels)
def test_allowed_bad_is_the_largest_that_passes(n: int, alpha: float, delta: float) -> None:
    """allowed_bad is where P(Binomial <= k) crosses delta, and -1 when k = 0 is already too likely."""
    k = allowed_bad(n, alpha, delta)
    assert k == -1 or binom_cdf(k, n, alpha) <= delta
    assert binom_cdf(k + 1, n, alpha) > delta


@settings(deadline=None)
@given(levels, levels)
def test_minimum_n_is_the_least(alpha: float, delta: float) -> None:
    """At minimum_n zero bad answers certify; one item fewer certifies nothing."""
    n = minimum_n(alpha, delta)
    assert allowed_bad(n, alpha, delta) >= 0
    assert allowed_bad(n - 1, alpha, delta) == -1


def test_minimum_n_of_the_method() -> None:
    """The three published minima, and the vanishing points of conformal risk control."""
    assert [minimum_n(a, d) for a, d in ((0.05, 0.05), (0.05, 0.10), (0.01, 0.05))] == [59, 45, 299]
    assert [crc_allowed(n, a) for n, a in ((18, 0.05), (19, 0.05), (98, 0.01), (99, 0.01))] == [-1, 0, -1, 0]
    assert crc_allowed(19, 0.15) == 2, "alpha is the decimal that was typed: .15 * 20 = 3"


def test_clopper_pearson() -> None:
    """Published limits, the closed forms at both ends, and inversion of the binomial tails."""
    assert clopper_pearson(0, 0, 0.95) == (0.0, 1.0)
    np.testing.assert_allclose(clopper_pearson(0, 20, 0.95), (0.0, 1 - 0.025 ** (1 / 20)))
    np.testing.assert_allclose(clopper_pearson(20, 20, 0.95), (0.025 ** (1 / 20), 1.0))
    low, high = clopper_pearson(21, 500, 0.95)
    assert binom_cdf(21, 500, high) == pytest.approx(0.025)
    assert 1 - binom_cdf(20, 500, low) == pytest.approx(0.025)
    for arguments in ((-1, 5, 0.9), (6, 5, 0.9), (1, 5, 1.0)):
        with pytest.raises(InputError, match="No interval"):
            clopper_pearson(*arguments)


@settings(deadline=None)
@given(st.integers(1, 200), levels, levels, st.lists(st.integers(0, 200), min_size=1, max_size=30))
def test_walk_stops_at_the_first_failure(n: int, alpha: float, delta: float, counts: list[int]) -> None:
    """Every step up to the returned one is within the allowance, the next is not; step 0 is not tested."""
    counts = [min(k, n) for k in counts]
    step = walk(counts, n, alpha, delta)
    allowed = allowed_bad(n, alpha, delta)
    assert all(k <= allowed for k in counts[1 : step + 1])
    assert step == len(counts) - 1 or counts[step + 1] > allowed


def test_walk_edges() -> None:
    """No items, no step but the reference, and a failure at step 1 certify nothing; NaN ends a sequence."""
    assert walk([0, 0, 0], 0, 0.05, 0.1) == 0
    assert walk([0], 500, 0.05, 0.1) == 0
    assert walk([0, 19, 0, 0], 500, 0.05, 0.1) == 0
    assert walk([0, 18, 18, 19, 0], 500, 0.05, 0.1) == 2
    assert fixed_sequence([0.01, np.nan, 0.01], 0.1) == 1
    assert fixed_sequence([], 0.1) == 0
    for alpha, delta in ((0.0, 0.1), (1.0, 0.1), (0.05, 0.0), (0.05, math.nan)):
        with pytest.raises(InputError, match="between 0 and 1"):
            walk([0, 0], 100, alpha, delta)


def test_deploys_the_cheapest_certified_step() -> None:
    """The lowest tune cost among certified steps wins; ties go to the less aggressive."""
    bad = np.zeros((5, 100), dtype=np.uint8)
    bad[2, :1] = bad[3, :1] = 1
    bad[4, :2] = 1
    assert certify_path(bad, [1.0, 0.6, 0.3, 0.5, 0.1], 0.05, 0.1) == PathResult(2, 1, (1, 2, 3))
    assert certify_path(bad, [1.0, 0.3, 0.3, 0.3, 0.1], 0.05, 0.1).step == 1
    assert certify_path(bad, [0.2, 0.3, 0.3, 0.3, 0.1], 0.05, 0.1) == PathResult(0, 0, (1, 2, 3))
    assert certify_path(bad[:, :40], [1.0, 0.6, 0.3, 0.5, 0.1], 0.05, 0.1) == PathResult(0, 0, ())
    step, count, certified = certify_path(bad, [1.0, 0.6, 0.3, 0.2, 0.1], 0.05, 0.1)
    assert (step, count, certified) == (3, 1, (1, 2, 3))
    assert cheapest([3, 1], [5.0, 4.0, 0.0, 4.0]) == 1


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_duplicated_columns_and_row_order(seed: int) -> None:
    """Reordering items changes nothing: the outcome depends on the counts alone."""
    rng = np.random.default_rng(seed)
    bad = (rng.random((8, 120)) < np.linspace(0, 0.08, 8)[:, None]).astype(np.uint8)
    cost = rng.random(8)
    shuffled = certify_path(bad[:, rng.permutation(120)], cost, 0.05, 0.1)
    assert shuffled == certify_path(bad, cost, 0.05, 0.1)


@pytest.mark.parametrize(
    ("bad", "cost", "message"),
    [
        (np.zeros((2, 3)), [1.0], "must be"),
        (np.zeros(3), [1.0], "must be"),
        (np.array([[0, 0], [0, 2]]), [1.0, 0.5], "other than 0 and 1"),
        (np.array([[0.0, 0.0], [0.0, np.nan]]), [1.0, 0.5], "other than 0 and 1"),
        (np.array([[0, 1], [0, 1]]), [1.0, 0.5], "Step 0"),
        (np.zeros((2, 100)), [1.0, np.nan], "not finite"),
    ],
)
def test_certify_path_refuses(bad: np.ndarray, cost: list[float], message: str) -> None:
    """Wrong shapes, values other than 0 and 1, a step 0 that is not the reference, unknown costs."""
    with pytest.raises(InputError, match=message):
        certify_path(bad, cost, 0.05, 0.1)


def test_p_values_against_mapie() -> None:
    """MAPIE's p-value for a 0/1 loss is ours; its bound for losses in [0, 1] is never below ours."""
    methods = pytest.importorskip("mapie.risk_control.methods")
    n = 512  # k / n is exact, so MAPIE's ceil(n * risk) is k
    k = np.arange(0, 60)
    for alpha in (0.02, 0.05, 0.1):
        ours = joint_p_values(k, n, alpha)
        binary, general = (
            methods.compute_hoeffding_bentkus_p_value(k / n, n, alpha, binary=flag)[:, 0] for flag in (True, False)
        )
        np.testing.assert_allclose(ours, binary, rtol=1e-9)
        assert (ours <= general * (1 + 1e-12)).all()
        # The formula of METHOD 2.1, written out.
        rate = np.minimum(k / n, alpha)
        with np.errstate(divide="ignore", invalid="ignore"):
            first = np.where(rate > 0, rate * np.log(rate / alpha), 0.0)
        hoeffding = np.exp(-n * (first + (1 - rate) * np.log((1 - rate) / (1 - alpha))))
        np.testing.assert_allclose(np.minimum(hoeffding, np.e * ours), general, rtol=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20), levels)
def test_fixed_sequence_against_mapie(p_values: list[float], delta: float) -> None:
    """MAPIE's fixed-sequence procedure rejects the same hypotheses."""
    risk_control = pytest.importorskip("mapie.risk_control")
    theirs = risk_control.FWERFixedSequenceTesting().run(np.array(p_values), delta)
    assert theirs.tolist() == list(range(fixed_sequence(p_values, delta)))


def a_certificate(**changes: object) -> Certificate:
    """Make a certificate of task 'qa', with fields replaced."""
    base = Certificate(
        scope="qa", policy="cascade", risk="joint", alpha=0.05, delta=0.1, n=500, bad=16,
        certified=True, step=37, lower_bound=None, minimum_n=45,
        calib_sha256=ids_sha256(["q1", "q2"]), use_count=1,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_certificate_round_trip() -> None:
    """A certificate goes through JSON unchanged, and a missing or unknown field is refused."""
    certificate = a_certificate(notes=("a note",), alpha=0.1 + 0.2)
    data = json.loads(json.dumps(certificate.to_json()))
    assert Certificate.from_json(data) == certificate
    with pytest.raises(InputError, match="'extra'"):
        Certificate.from_json(data | {"extra": 1})
    del data["bad"]
    with pytest.raises(InputError, match="'bad'"):
        Certificate.from_json(data)


def test_describe_says_what_is_claimed() -> None:
    """The sentence names scope, policy, risk, alpha, delta, n, bad, grouping, data, use and what voids it."""
    text = a_certificate(use_count=2, notes=("holds for this mix of 3 subtasks, not for each",)).describe()
    for part in (
        "'qa'", "'cascade' at step 37", "probability at least 0.9", "joint risk",
        "at most 0.05 of all queries",
        "alpha = 0.05, delta = 0.1", "16 bad among 500 calibration items, one per group",
        ids_sha256(["q1", "q2"])[:12],
        "use no. 2", "void after any change", "not for each.",
    ):  # fmt: skip
        assert part in text, part
    assert "selective" not in text
    assert text.count(".") == text.count("0.") + text.count("no.") + 1, "one sentence"


def test_describe_claims_nothing_without_a_certificate() -> None:
    """An uncertified scope says so, with the n it needs, and promises only the reference tier."""
    text = a_certificate(certified=False, step=0, bad=0, n=30).describe()
    assert "nothing is claimed" in text
    assert "fewer than the 45 it needs" in text
    assert "every query goes to the reference tier" in text
    assert "probability at least" not in text
    assert "fewer than" not in a_certificate(certified=False, step=0, bad=0, n=60).describe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"certified": False}, "certified=False at step 37"),
        ({"step": 0}, "certified=True at step 0"),
        ({"bad": 501}, "501 bad"),
        ({"risk": "average"}, "Risk 'average'"),
        ({"alpha": 1.5}, "between 0 and 1"),
    ],
)
def test_certificate_refuses_contradictions(changes: dict[str, object], message: str) -> None:
    """A record that contradicts itself cannot be made."""
    with pytest.raises(InputError, match=message):
        a_certificate(**changes)


def test_hashes_of_ids() -> None:
    """Order and repetition of ids do not matter, separators cannot be forged, odd characters do not fail."""
    assert ids_sha256(["b", "a", "a"]) == ids_sha256(["a", "b"])
    assert ids_sha256(["a,b"]) != ids_sha256(["a", "b"])
    assert ids_sha256(['a","b']) != ids_sha256(["a", "b"])
    keys = hash_keys(["x", "\ud800", "\x00", "x"])
    assert keys.dtype == np.uint64
    assert len(keys) == 3
    assert hash_keys([]).shape == (0,)
    check_disjoint(train=keys, tune=hash_keys(["y"]), calib=hash_keys([]))
    with pytest.raises(InputError, match="tune and calib share 1 ids or groups"):
        check_disjoint(train=keys, tune=hash_keys(["y"]), calib=hash_keys(["y", "z"]))
