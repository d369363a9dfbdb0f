"""P5, P6: many steps are free only when their order is fixed beforehand and a failure ends the walk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from router_core.certificate import certify_path, fixed_sequence, joint_p_values

from .checks import ALPHA, DELTA, holds

pytestmark = pytest.mark.statistical

DRAWS = 2000

Rule = Callable[[NDArray[np.uint8]], tuple[int, ...]]


def production(bad: NDArray[np.uint8]) -> tuple[int, ...]:
    """Certified steps of the real rule."""
    return certify_path(bad, np.zeros(len(bad)), ALPHA, DELTA).certified_steps


def p_values(bad: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Exact p-values of steps 1..G-1."""
    return joint_p_values(bad[1:].sum(axis=1, dtype=np.int64), bad.shape[1], ALPHA)


def every_small_p(bad: NDArray[np.uint8]) -> tuple[int, ...]:
    """Broken rule: continues after a failure, which is the uncorrected scan over all steps."""
    return tuple(int(g) + 1 for g in np.flatnonzero(p_values(bad) <= DELTA))


def order_from_calib(bad: NDArray[np.uint8]) -> tuple[int, ...]:
    """Broken rule: walks the steps from fewest to most bad answers, an order read off calib."""
    p = p_values(bad)
    order = np.argsort(p, kind="stable")
    return tuple(int(g) + 1 for g in order[: fixed_sequence(p[order], DELTA)])


def unsafe_draws(rule: Rule) -> int:
    """Draws in which `rule` certifies anything on a path where every step is unsafe.

    Step g accepts the window ``u in [g/50, g/50 + .2) mod 1`` of a uniform score with P(bad | u) = .2525
    throughout, so that each step has joint risk .0505: just above alpha, and the steps err in different
    places.
    """
    steps, n = 50, 500
    rng = np.random.default_rng(201)
    window = np.arange(steps) / steps
    hits = 0
    for _ in range(DRAWS):
        u, bad = rng.random(n), rng.random(n) < 0.2525
        accept = (u - window[:, None]) % 1.0 < 0.2
        path = np.concatenate((np.zeros((1, n), dtype=bool), accept & bad)).astype(np.uint8)
        hits += bool(rule(path))
    return hits


def test_p5_every_step_unsafe() -> None:
    """P5: with every step unsafe the fixed sequence certifies in at most delta of draws, a scan far more."""
    assert holds("P5 fixed sequence", unsafe_draws(production), DRAWS, DELTA)
    assert not holds("P5 uncorrected scan", unsafe_draws(every_small_p), DRAWS, DELTA)


def test_p5_flat_selective_risk() -> None:
    """P5: flat P(bad | u) = .0505, selective p-values: the fixed sequence holds, the scan does not."""
    from scipy.stats import binom

    n, steps = 500, 50
    rng = np.random.default_rng(202)
    share = np.arange(steps, 0, -1) / steps
    fixed = scan = 0
    for _ in range(DRAWS):
        u, bad = rng.random(n), rng.random(n) < 0.0505
        accept = u <= share[:, None]
        p = binom.cdf((accept & bad).sum(axis=1), accept.sum(axis=1), ALPHA)
        fixed += fixed_sequence(p, DELTA) > 0
        scan += bool((p <= DELTA).any())
    assert holds("P5 selective, fixed sequence", fixed, DRAWS, DELTA)
    assert not holds("P5 selective, scan", scan, DRAWS, DELTA)


def is_fixed_prefix(rule: Rule) -> bool:
    """Whether a rule walks steps 1, 2, ... and stops at the first p > delta, whatever calib says."""
    rng = np.random.default_rng(203)
    for _ in range(300):
        rate = rng.uniform(0.0, 0.08, size=12)
        rate[0] = 0.0
        bad = (rng.random((12, 200)) < rate[:, None]).astype(np.uint8)
        p = p_values(bad)
        expected = int(np.argmax(np.append(p, 1.0) > DELTA))
        if rule(bad) != tuple(range(1, expected + 1)):
            return False
    return True


def test_p6_order_and_stop() -> None:
    """P6: steps are tested in path order and the first failure ends the walk; both broken rules show."""
    assert is_fixed_prefix(production)
    assert not is_fixed_prefix(order_from_calib)
    assert not is_fixed_prefix(every_small_p)


def test_p6_order_from_calib_breaks_the_promise() -> None:
    """P6: sorting the steps by calib outcome certifies unsafe steps too often."""
    assert not holds("P6 order chosen on calib", unsafe_draws(order_from_calib), DRAWS, DELTA)


def test_p6_shuffled_labels_keep_the_order() -> None:
    """P6: shuffling calib labels changes which steps pass, never the order in which they are tested."""
    rng = np.random.default_rng(204)
    accept = rng.random((20, 300)) < np.linspace(0.0, 0.5, 20)[:, None]
    label = rng.random(300) < 0.1
    seen = set()
    for _ in range(50):
        steps = production((accept & rng.permutation(label)).astype(np.uint8))
        assert steps == tuple(range(1, len(steps) + 1))
        seen.add(len(steps))
    assert len(seen) > 1, "the shuffles must matter for this test to say anything"
