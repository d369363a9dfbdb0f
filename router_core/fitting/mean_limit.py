"""Upper limit of the mean of a bounded loss, valid for every n; a bootstrap sees no loss where none was drawn.

Losses that are 0 or 1 are counted (Clopper and Pearson). Others, in [-1, 1], are bet on: under "the mean of y is at
most m" the wealth prod (1 + b_i (y_i - m)) of bets b_i >= 0 that are fixed before y_i is seen is a supermartingale, so
it reaches 1/delta with probability at most delta (Ville); the limit is the smallest m that it does not refute. The bets
are those of Waudby-Smith and Ramdas (arXiv 2010.09686, predictable plug-in). Which of the two is used is seen from the
losses: where a rare -1 may or may not be drawn, the limit is too low with at most the sum of both probabilities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["upper_limit"]

_BOLDEST = 0.75
"""Largest bet, as a share of the one that a single y = 0 would ruin."""
_HALVINGS = 40


def upper_limit(losses: NDArray[np.float64], level: float, seed: int) -> float:
    """Limit that the mean of the losses' distribution exceeds with probability at most 1 - level.

    Parameters
    ----------
    losses
        float64 [n], independent, in [-1, 1].
    level
        One-sided.
    seed
        Of the order in which they are bet on.
    """
    if np.isin(losses, (0.0, 1.0)).all():
        from scipy.stats import beta

        bad = int(losses.sum())
        return 1.0 if bad == len(losses) else float(beta.ppf(level, bad + 1, len(losses) - bad))
    y = (1.0 - np.random.default_rng(seed).permutation(losses)) / 2.0
    need, bets = -np.log(1.0 - level), _bets(y, level)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        m = (low + high) / 2.0
        wealth = np.cumsum(np.log1p(np.minimum(bets, _BOLDEST / m) * (y - m)))
        low, high = (m, high) if wealth.max() >= need else (low, m)
    return 1.0 - 2.0 * low


def _bets(y: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """From the values before each, float64 [n]."""
    count = np.arange(1, len(y) + 1)
    mean = (0.5 + np.cumsum(y)) / (count + 1)
    spread = (0.25 + np.cumsum(np.square(y - mean))) / (count + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    return np.asarray(np.sqrt(2.0 * -np.log(1.0 - level) / (len(y) * before)))
