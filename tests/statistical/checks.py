"""How a statistical test decides: limits so far out that a valid rule crosses them once in 10,000 seeds."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

from router_core.certificate import walk

__all__ = ["ALPHA", "DELTA", "holds", "last_steps", "limit", "note"]

ALPHA = 0.05
DELTA = 0.10


def limit(draws: int, level: float) -> int:
    """Most violations among `draws` that a rule with violation probability `level` may show."""
    return int(binom.isf(1e-4, draws, level))


def note(text: str) -> None:
    """Log a measured number; ``pytest --log-cli-level=INFO tests/statistical`` shows them all."""
    logging.getLogger(__name__).info(text)


def holds(what: str, violations: int, draws: int, level: float) -> bool:
    """Whether the claim survives; logs what was measured."""
    most = limit(draws, level)
    note(f"{what}: {violations}/{draws} = {violations / draws:.4f}, limit {most} at level {level:g}")
    return violations <= most


def last_steps(bad_counts: ArrayLike, n: int, alpha: float = ALPHA, delta: float = DELTA) -> np.ndarray:
    """Last certified step of each draw, [R], by the production walk over bad counts [R, G + 1]."""
    return np.array([walk(counts, n, alpha, delta) for counts in np.asarray(bad_counts)])
