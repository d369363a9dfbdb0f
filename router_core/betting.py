"""Retained quality by betting: "the served answers keep a share rho of the reference tier's mean quality".

With ``z_i = q_served,i - rho * q_ref,i`` in [-rho, 1] the hypothesis is ``E[z] < 0``. A gambler who bets the
share ``b_i`` of a wealth that starts at 1 holds ``K_t = prod (1 + b_i z_i)``; as long as b_i is fixed before z_i is
seen, the wealth is a supermartingale under the hypothesis, so ``P(max_t K_t >= 1/delta) <= delta`` (Ville), for any
distribution of the qualities. ``1 / max_t K_t`` is therefore a valid p-value; a z-test is not, because z is skewed.
In the scaling of Waudby-Smith and Ramdas (arXiv 2010.09686), x = (z + rho) / (1 + rho), m0 = rho / (1 + rho) and
lambda = b (1 + rho).

The bets here are the Kelly fraction ``E[z] / E[z^2]``, from moments expected on tune and updated with the items
already seen. Source: METHOD.md 2.9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bet_moments", "betting_order", "expected_growth", "retention_p_values"]

Floats = NDArray[np.float64]

_PRIOR_ITEMS = 50.0
"""How many calib items the moments from tune count for."""
_BOLDEST = 0.98
"""Largest bet, as a share of the one that a single z = -rho would ruin."""
_SALT = "routenlp-bets-v1|0|"


def betting_order(ids: Sequence[str]) -> NDArray[np.intp]:
    """A fixed order of the items that depends on their ids alone: by salted SHA-256."""
    digests = [hashlib.sha256((_SALT + item).encode("utf-8", "surrogatepass")).digest() for item in ids]
    return np.asarray(sorted(range(len(ids)), key=digests.__getitem__), np.intp)


def bet_moments(quality: Floats, reference: Floats, rho: float) -> Floats:
    """Mean of z and of z squared on tune, float64 [2, G]; where the bets start.

    Parameters
    ----------
    quality
        float64 [G, n], quality of the answer each step serves.
    reference
        float64 [n], quality of the reference tier's.
    rho
        Share of the mean quality that is to be retained.
    """
    z = quality - rho * reference
    return np.stack([z.mean(axis=1), np.square(z).mean(axis=1)])


def retention_p_values(quality: Floats, reference: Floats, rho: float, moments: Floats) -> Floats:
    """p-values of "mean served quality < rho times mean reference quality", float64 [G].

    Parameters
    ----------
    quality, reference, rho
        As for `bet_moments`; items in an order chosen without looking at them.
    moments
        float64 [2, G] from tune.
    """
    z = quality - rho * reference
    if not z.shape[1]:
        return np.ones(len(z))
    # Sums over the items before each one, so that a bet never sees the item it is placed on.
    before = np.cumsum(z, axis=1) - z
    squares = np.square(z)
    spread = np.cumsum(squares, axis=1) - squares
    mean, square = (_PRIOR_ITEMS * moments[k][:, None] for k in (0, 1))
    wealth = np.cumsum(np.log1p(_bets(mean + before, square + spread, rho) * z), axis=1)
    return np.asarray(np.exp(-np.maximum(wealth.max(axis=1), 0.0)))


def expected_growth(quality: Floats, reference: Floats, rho: float) -> Floats:
    """Logarithm of the wealth one item adds when the bets stay at the Kelly fraction of these very items, [G, n]."""
    z = quality - rho * reference
    bets = _bets(z.mean(axis=1), np.square(z).mean(axis=1), rho)
    return np.asarray(np.log1p(bets[:, None] * z))


def _bets(mean: Floats, square: Floats, rho: float) -> Floats:
    kelly = np.divide(mean, square, out=np.zeros_like(mean), where=square > 0)
    return np.clip(kelly, 0.0, _BOLDEST / rho)
