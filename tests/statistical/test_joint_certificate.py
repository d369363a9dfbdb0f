"""P1, P2, P7: the joint certificate holds per deployment; quantiles, plug-ins and CRC do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from router_core.certificate import allowed_bad, binom_cdf, certify_path, crc_allowed
from router_core.kernels import bad_served, sweep

from .checks import ALPHA, DELTA, holds, last_steps, note
from .population import REFERENCE, path_bad_counts

pytestmark = pytest.mark.statistical

DRAWS = 2000

# Allowed bad counts at alpha = .05: n -> (CRC, delta = .10, delta = .05).
TABLE = {
    100: (4, 1, 1),
    200: (9, 5, 4),
    300: (14, 9, 8),
    500: (24, 18, 16),
    1000: (49, 40, 38),
    2000: (99, 87, 83),
}


def last_allowed(counts: NDArray[np.int64], allowed: int) -> NDArray[np.intp]:
    """Last step of each draw whose bad count (non-decreasing) is within `allowed`; 0 if none."""
    return np.asarray((counts[:, 1:] <= allowed).sum(axis=1))


def true_risk(step: NDArray[np.intp], thr: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exact joint risk of the deployed steps; 0 at step 0."""
    return np.concatenate(([0.0], REFERENCE.joint_risk(thr)))[step]


def test_p1_quantile_of_correct_items() -> None:
    """P1: the (1 - alpha) quantile over correct items has a joint risk near .14 and fails on every draw."""
    n, thr = 500, REFERENCE.path()
    u, bad = REFERENCE.draw(np.random.default_rng(101), DRAWS, n)

    certified = true_risk(last_steps(path_bad_counts(u, bad, thr), n), thr)
    assert holds("P1 certificate", int((certified > ALPHA).sum()), DRAWS, DELTA)

    correct = np.sort(np.where(bad, np.inf, u), axis=1)
    rank = np.ceil(((~bad).sum(axis=1) + 1) * (1 - ALPHA)).astype(int) - 1
    mutant = REFERENCE.joint_risk(correct[np.arange(DRAWS), rank])
    note(f"P1 mutant mean joint risk {mutant.mean():.4f}")
    assert abs(mutant.mean() - 0.14) < 0.005
    assert not holds("P1 mutant", int((mutant > ALPHA).sum()), DRAWS, DELTA)


def matches_table(crc: Callable[[int, float], int], exact: Callable[[int, float, float], int]) -> bool:
    """Whether two rules reproduce the allowed counts, and the vanishing points of CRC at n = 18 and 19."""
    rows = all((crc(n, 0.05), exact(n, 0.05, 0.10), exact(n, 0.05, 0.05)) == row for n, row in TABLE.items())
    return rows and crc(19, 0.05) == 0 and crc(18, 0.05) == -1


def test_p2_allowed_counts() -> None:
    """P2: allowed counts are exact; level used as index, off-by-one and a missing +1 are caught."""
    assert matches_table(crc_allowed, allowed_bad)
    for n in TABLE:
        for delta in (0.10, 0.05):
            k = allowed_bad(n, ALPHA, delta)
            assert binom_cdf(k, n, ALPHA) <= delta < binom_cdf(k + 1, n, ALPHA)

    assert not matches_table(lambda n, alpha: int(alpha * (n + 1)), allowed_bad)  # no +1 for the test item
    assert not matches_table(lambda n, alpha: int(alpha * n), allowed_bad)  # plug-in
    assert not matches_table(crc_allowed, lambda n, alpha, _: int(alpha * n))  # level used as index
    assert not matches_table(crc_allowed, lambda n, a, d: allowed_bad(n, a, d) + 1)  # off by one
    assert not matches_table(crc_allowed, lambda n, a, d: allowed_bad(n + 1, a, d) - 1)


def test_p2_missing_plus_one_in_expectation() -> None:
    """P2: at n = 20 CRC keeps the mean joint risk under alpha; without its +1 it does not."""
    draws, n, thr = 20_000, 20, REFERENCE.path(400)
    rng = np.random.default_rng(102)
    counts = path_bad_counts(*REFERENCE.draw(rng, draws, n), thr)
    u, bad = REFERENCE.draw(rng, draws)

    def bad_accepted(allowed: int) -> int:
        step = last_allowed(counts, allowed)
        return int((bad & (u <= np.concatenate(([-np.inf], thr))[step])).sum())

    assert holds("P2 CRC", bad_accepted(crc_allowed(n, ALPHA)), draws, ALPHA)
    assert not holds("P2 without +1", bad_accepted(int(ALPHA * n)), draws, ALPHA)


def test_p7_per_deployment_not_on_average() -> None:
    """P7: P(joint risk > alpha) <= delta over calibration sets; CRC, right on average, fails it."""
    thr = REFERENCE.path(500)
    for n, seed in ((100, 103), (500, 104)):
        counts = path_bad_counts(*REFERENCE.draw(np.random.default_rng(seed), DRAWS, n), thr)
        certified = true_risk(last_steps(counts, n), thr)
        crc = true_risk(last_allowed(counts, crc_allowed(n, ALPHA)), thr)
        note(f"P7 n={n}: mean joint risk, certificate {certified.mean():.4f}, CRC {crc.mean():.4f}")
        assert certified.mean() > 0.01, "a rule that always escalates would pass"
        assert holds(f"P7 certificate n={n}", int((certified > ALPHA).sum()), DRAWS, DELTA)
        assert not holds(f"P7 CRC n={n}", int((crc > ALPHA).sum()), DRAWS, DELTA)


def test_p7_through_the_production_chain() -> None:
    """P7: sweep, bad lookup and certify_path together keep the promise; CRC in its place fails."""
    n, steps, draws = 300, 60, 1000
    thr = REFERENCE.path(steps)
    risk = np.concatenate(([0.0], REFERENCE.joint_risk(thr)))
    share = np.concatenate(([0.0], REFERENCE.acceptance(thr)))
    tune_cost = np.where(share > 0, 0.1 + (1.0 - share), 1.0)
    start_thr = np.concatenate(([np.inf], np.full(steps, -np.inf)))[:, None]
    accept_thr = np.concatenate(([np.inf], -thr))[:, None]
    cost = np.tile([0.1, 1.0], (n, 1))
    rng = np.random.default_rng(105)
    over = over_crc = 0
    for _ in range(draws):
        u, bad = REFERENCE.draw(rng, n)
        served, paid = sweep(np.zeros((n, 1)), -u[:, None, None], start_thr, accept_thr, cost)
        outcome = bad_served(served, np.column_stack((bad, np.zeros(n))).astype(np.uint8))
        result = certify_path(outcome, tune_cost, ALPHA, DELTA)
        assert paid[0].sum() == n
        over += risk[result.step] > ALPHA
        over_crc += risk[last_allowed(outcome.sum(axis=1)[None], crc_allowed(n, ALPHA))[0]] > ALPHA
    assert holds("P7 chain", int(over), draws, DELTA)
    assert not holds("P7 chain with CRC", int(over_crc), draws, DELTA)
