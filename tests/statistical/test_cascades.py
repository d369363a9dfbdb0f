"""P8, P9, P10: thresholds tier by tier do not add up to a promise about the cascade; the whole path does.

The population is a finite one of 20,000 queries from which calib is drawn with replacement, so every policy's risk is
exact.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from router_core.certificate import allowed_bad, certify_path
from router_core.kernels import bad_served, sweep

from .checks import ALPHA, DELTA, holds, note
from .population import REFERENCE

pytestmark = pytest.mark.statistical

N, STEPS = 20_000, 50
Floats = NDArray[np.float64]


@cache
def population(tiers: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Uncertainty and bad flag of every cheap tier's answer, [N, tiers]: each tier looks at the query afresh."""
    return REFERENCE.draw(np.random.default_rng(700 + tiers), N, tiers)


def cascade(u: Floats, thr: Floats) -> NDArray[np.int8]:
    """Tier that serves, [G, n], when tier k accepts u <= thr[g, k]; by the production sweep."""
    n, tiers = u.shape
    start = np.full((len(thr), tiers), np.inf)
    start[:, 0] = -np.inf
    accept = np.repeat(-u[:, None, :], tiers, axis=1)
    return sweep(np.zeros((n, tiers)), accept, start, -thr, np.ones((n, tiers + 1)))[0]


def bad_along(tiers: int, thr: Floats) -> NDArray[np.uint8]:
    """B of the answer served at each setting of the thresholds, [G, N]."""
    u, bad = population(tiers)
    return bad_served(cascade(u, thr), np.column_stack((bad, np.zeros(N, bool))).astype(np.uint8))


def tier_by_tier(tiers: int, draws: int, n: int, alpha: float, delta: float, seed: int) -> int:
    """Violations when each tier is calibrated alone, on all queries, for joint risk alpha at delta."""
    u, bad = population(tiers)
    grid, rng, over = REFERENCE.path(STEPS), np.random.default_rng(seed), 0
    for _ in range(draws):
        rows = rng.integers(0, N, n)
        counts = ((u[rows] <= grid[:, None, None]) & bad[rows]).sum(axis=1)
        last = (counts <= allowed_bad(n, alpha, delta)).sum(axis=0)
        thr = np.concatenate(([-np.inf], grid))[last]
        accept = u <= thr
        first = accept.argmax(axis=1)
        over += bool((accept.any(axis=1) & bad[np.arange(N), first]).mean() > ALPHA)
    return over


@pytest.mark.parametrize("tiers", [2, 3, 4])
def test_p8_p9_whole_cascade(tiers: int) -> None:
    """P8, P9: the whole path keeps the joint risk; alpha for every tier breaks it, a split budget keeps it."""
    grid, draws, n = REFERENCE.path(STEPS), 500, 500
    along = np.concatenate((np.zeros((1, N), np.uint8), bad_along(tiers, np.repeat(grid[:, None], tiers, axis=1))))
    risk, rng = along.mean(axis=1), np.random.default_rng(710 + tiers)
    steps = [
        certify_path(along[:, rng.integers(0, N, n)], -np.arange(STEPS + 1.0), ALPHA, DELTA).step for _ in range(draws)
    ]
    note(f"P8 {tiers} tiers: mean joint risk of the path {risk[steps].mean():.4f}")
    assert risk[steps].mean() > 0.02, "a rule that always escalates would pass"
    assert holds(f"P8 whole path, {tiers} tiers", int((risk[steps] > ALPHA).sum()), draws, DELTA)
    each = tier_by_tier(tiers, 100, n, ALPHA, DELTA, 720)
    assert not holds(f"P8 alpha for each of {tiers} tiers", each, 100, DELTA)
    split = tier_by_tier(tiers, 100, n, ALPHA / tiers, DELTA / tiers, 721)
    assert holds(f"P9 alpha and delta split over {tiers} tiers", split, 100, DELTA)


def test_p10_thresholds_of_two_tiers_from_one_fold() -> None:
    """P10: at n = 200 one path for both thresholds holds; the best of all pairs on the same fold does not."""
    grid, draws, n = REFERENCE.path(40), 2000, 200
    pairs = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    every = bad_along(2, pairs)
    served = cascade(population(2)[0], pairs) < 2
    risk, share = every.mean(axis=1), served.mean(axis=1)
    path = np.concatenate((np.zeros((1, N), np.uint8), every[:: len(grid) + 1]))
    path_risk, rng = path.mean(axis=1), np.random.default_rng(731)
    over = scan = 0
    for _ in range(draws):
        rows = rng.integers(0, N, n)
        over += bool(path_risk[certify_path(path[:, rows], -np.arange(41.0), ALPHA, DELTA).step] > ALPHA)
        passed = np.flatnonzero(every[:, rows].sum(axis=1) <= allowed_bad(n, ALPHA, DELTA))
        scan += bool(len(passed) and risk[passed[share[passed].argmax()]] > ALPHA)
    assert holds("P10 one path, n=200", over, draws, DELTA)
    assert not holds("P10 best pair on the same fold", scan, draws, DELTA)
