"""The reference population: a score, a probability of being bad given the score, and exact risks.

A query has an uncertainty ``u ~ Beta(1.2, 2.0)`` (score = -u); its cheap answer is bad with probability
``floor + height * sigmoid(slope (u - centre))``. Accepting ``u <= thr`` has a joint risk that is known by
numerical integration, so the risk of a deployed policy can be compared with alpha without test-set noise.
Source: METHOD.md, Part 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["REFERENCE", "Population", "path_bad_counts"]

Floats = NDArray[np.float64]

_SHAPE = (1.2, 2.0)
_NODES = 80


@dataclass(frozen=True)
class Population:
    """Scores and bad answers of one task.

    Parameters
    ----------
    centre
        Uncertainty at which half of the confusable answers are bad; lower is a harder task.
    """

    centre: float = 0.55
    floor: float = 0.015
    height: float = 0.80
    slope: float = 10.0

    def bad_probability(self, u: ArrayLike) -> Floats:
        """P(bad | u)."""
        from scipy.special import expit

        return np.asarray(self.floor + self.height * expit(self.slope * (np.asarray(u) - self.centre)))

    def draw(self, rng: np.random.Generator, *shape: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Uncertainties and bad flags of independent queries, both of the given shape."""
        u = rng.beta(*_SHAPE, size=shape)
        return u, rng.random(shape) < self.bad_probability(u)

    def acceptance(self, thr: ArrayLike) -> Floats:
        """P(u <= thr)."""
        from scipy.stats import beta

        return np.asarray(beta.cdf(thr, *_SHAPE))

    def joint_risk(self, thr: ArrayLike) -> Floats:
        """P(u <= thr and bad), by Gauss-Legendre; thresholds outside [0, 1] count as the nearer end."""
        from scipy.stats import beta

        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        # u = v^5 turns the density's u^0.2 into a polynomial, so 80 nodes reach rounding error.
        top = np.clip(np.asarray(thr, dtype=np.float64), 0.0, 1.0) ** 0.2
        v = top[..., None] * (nodes + 1.0) / 2.0
        u = v**5
        density = beta.pdf(np.maximum(u, 1e-300), *_SHAPE) * 5.0 * v**4
        return np.asarray((density * self.bad_probability(u)) @ weights * top / 2.0)

    def path(self, steps: int = 100) -> Floats:
        """Thresholds [steps] that accept 1/steps, 2/steps, ... of all queries, fixed without calib."""
        from scipy.stats import beta

        return np.asarray(beta.ppf(np.arange(1, steps + 1) / steps, *_SHAPE))


REFERENCE = Population()


def path_bad_counts(u: Floats, bad: NDArray[np.bool_], thr: Floats) -> NDArray[np.int64]:
    """Bad answers accepted at every step of many calibration draws.

    Parameters
    ----------
    u, bad
        [R, n].
    thr
        Ascending thresholds [G].

    Returns
    -------
    numpy.ndarray
        int64 [R, G + 1]; column 0 (everything to the reference) is 0, column g counts bad items with u <=
        thr[g-1].
    """
    draws, steps = len(u), len(thr)
    first = np.searchsorted(thr, u, side="left") + 1
    inside = bad & (first <= steps)
    flat = (np.arange(draws)[:, None] * (steps + 1) + first)[inside]
    return np.bincount(flat, minlength=draws * (steps + 1)).reshape(draws, steps + 1).cumsum(axis=1)
