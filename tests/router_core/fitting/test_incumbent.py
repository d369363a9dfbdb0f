"""What two releases do on one fold: intervals that cover, limits that are exact, each with the rule it must not be."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs routenlp[fit]")

from router_core.certificate import clopper_pearson
from router_core.fitting.incumbent import Compared, Deployed, compare

LEVEL = 0.9


def compared(difference: np.ndarray, bad: np.ndarray, seed: int = 0) -> Compared:
    """A candidate that costs so much more than what serves, and loses a whole point of quality where it is bad."""
    n = len(difference)
    ones, served = np.ones(n), np.zeros(n, np.int8)
    old = Deployed(served, ones, ones, ones, np.zeros(n, np.uint8))
    new = Deployed(served, ones + difference, ones - bad, ones, bad.astype(np.uint8))
    return compare(new, old, ones, ["mood"] * n, tiers=2, level=LEVEL, seed=seed)[0]


def test_the_interval_of_cost_covers_its_mean() -> None:
    """Over many folds about nine in ten intervals hold the true mean; the mean of the fold alone never does."""
    draw, rounds, true = np.random.default_rng(5), 200, -0.02
    found = [compared(true + draw.normal(0.0, 0.1, 80), np.zeros(80)) for _ in range(rounds)]
    held = sum(one.difference_usd[0] <= true <= one.difference_usd[1] for one in found)
    assert 0.83 <= held / rounds <= 0.96
    points = [one.new_usd - one.old_usd for one in found]
    assert sum(point == true for point in points) / rounds < 0.83
    assert all(low < point < high for (low, high), point in zip((f.difference_usd for f in found), points, strict=True))


def test_one_saving_in_a_fold_shows_nothing() -> None:
    """The mean is lower, and the interval reaches zero: most resamples of few savings hold none."""
    one = compared(np.array([-1.0] + [0.0] * 99), np.zeros(100))
    assert one.new_usd < one.old_usd
    assert one.difference_usd == (pytest.approx(-0.03), 0.0)


@pytest.mark.parametrize("bad", [0, 1, 7])
def test_the_limit_of_lost_quality_is_exact(bad: int) -> None:
    """Clopper and Pearson's one-sided limit of the share of bad answers, which lies above that share."""
    lost = np.array([1.0] * bad + [0.0] * (60 - bad))
    one = compared(np.zeros(60), lost)
    # One-sided at the level is the upper end of the two-sided interval at twice the way to 1.
    assert one.shortfall_upper == pytest.approx(clopper_pearson(bad, 60, 1.0 - 2.0 * (1.0 - LEVEL))[1])
    assert one.shortfall_upper > lost.mean() + 0.03
    assert (one.new_bad, one.old_bad) == (bad, 0)
