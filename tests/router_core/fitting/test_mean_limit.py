"""The upper limit of a mean loss: exact for counts, seldom too low otherwise; the bootstrap in its place is too low."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from router_core.certificate import clopper_pearson
from router_core.fitting.incumbent import _bootstrap
from router_core.fitting.mean_limit import upper_limit

LEVEL, TRIALS = 0.9, 300
Limit = Callable[[NDArray[np.float64], float, int], float]


def bootstrap(losses: NDArray[np.float64], level: float, seed: int) -> float:
    """The mutant: a percentile of resampled means."""
    return float(np.quantile(_bootstrap(losses, seed), level))


def too_low(limit: Limit, values: tuple[float, ...], shares: tuple[float, ...], n: int) -> float:
    """How often the limit lies below the mean of what the losses were drawn from."""
    draw, mean = np.random.default_rng(1), float(np.dot(values, shares))
    return float(np.mean([limit(draw.choice(values, p=shares, size=n), LEVEL, 0) < mean for _ in range(TRIALS)]))


def test_counts_are_clopper_and_pearson() -> None:
    """Zero losses of n leave 1 - (1 - level)^(1/n), not 0; all losses leave 1."""
    assert upper_limit(np.zeros(50), LEVEL, 0) == pytest.approx(1 - 0.1 ** (1 / 50))
    assert upper_limit(np.repeat([0.0, 1.0], [47, 3]), LEVEL, 0) == pytest.approx(clopper_pearson(3, 50, 0.8)[1])
    assert upper_limit(np.ones(5), LEVEL, 0) == 1.0
    assert bootstrap(np.zeros(50), LEVEL, 0) == 0.0


@pytest.mark.parametrize(
    ("values", "shares", "n"),
    [
        ((0.0, 1.0), (0.96, 0.04), 25),
        ((-0.1, 0.0, 0.9), (0.02, 0.95, 0.03), 40),
        ((-1.0, 0.0, 1.0), (0.1, 0.7, 0.2), 60),
    ],
)
def test_it_is_seldom_too_low(values: tuple[float, ...], shares: tuple[float, ...], n: int) -> None:
    """At most 1 - level of the time, but for three standard errors; the bootstrap is too low when losses are rare."""
    allowed = 1 - LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / TRIALS)
    assert too_low(upper_limit, values, shares, n) <= allowed
    if shares[-1] < 0.1:
        assert too_low(bootstrap, values, shares, n) > allowed


def test_it_closes_in_on_the_mean() -> None:
    """Many losses with little spread leave a limit near their mean."""
    losses = np.random.default_rng(2).normal(0.05, 0.02, size=2_000)
    assert 0.05 < upper_limit(losses, LEVEL, 0) < 0.07
