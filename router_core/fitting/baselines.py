"""Fit the rivals: kNN over hidden vectors and isotonic recalibration of the encoder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from router_core.baselines import Isotonic, Neighbours, unit

__all__ = ["fit_isotonic", "fit_neighbours", "neighbour_risk"]

_SIZES = (10, 20, 40, 80, 160)
_CHECKED = 1_500


def fit_neighbours(
    hidden: NDArray[np.float64], bad: NDArray[np.uint8], group: NDArray[np.intp], *, seed: int
) -> Neighbours:
    """Take the k with the least squared error, leaving the row's group out.

    Parameters
    ----------
    hidden
        float64 [m, d], train queries.
    bad
        uint8 [m, K].
    group
        [m], rows of one group never vote for each other.
    seed
        Seed of the rows on which k is compared.
    """
    passed = (1 - bad[:, :-1]).astype(np.uint8)
    rows = np.random.default_rng(seed).permutation(len(hidden))[:_CHECKED]
    # Half precision, as the bundle stores them: what is certified is what is loaded.
    units = np.stack([unit(vector) for vector in hidden]).astype(np.float16).astype(np.float32)
    best: tuple[float, Neighbours] | None = None
    for k in _SIZES:
        if best is not None and k > len(hidden) // 4:
            break
        model = Neighbours(units, passed, k)
        error = float(np.mean((neighbour_risk(model, hidden[rows], group[rows], group) - bad[rows, :-1]) ** 2))
        if best is None or error < best[0]:
            best = (error, model)
    if best is None:
        msg = "no neighbourhood size to choose from"
        raise ValueError(msg)
    return best[1]


def neighbour_risk(
    model: Neighbours,
    hidden: NDArray[np.float64],
    own: NDArray[np.intp] | None,
    group: NDArray[np.intp] | None,
) -> NDArray[np.float64]:
    """P(bad) by kNN, float64 [n, K-1]; with groups, a row's own group does not vote."""
    return np.stack(
        [
            model.risk(vector, None if own is None or group is None else group == own[r])
            for r, vector in enumerate(hidden)
        ]
    )


def fit_isotonic(risk: NDArray[np.float64], bad: NDArray[np.uint8]) -> Isotonic:
    """Recalibrate out-of-fold P(bad), one monotone map per cheap tier."""
    from sklearn.isotonic import IsotonicRegression

    xs, ys = [], []
    for tier in range(risk.shape[1]):
        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(risk[:, tier], bad[:, tier])
        xs.append(np.asarray(model.X_thresholds_, np.float64))
        ys.append(np.asarray(model.y_thresholds_, np.float64))
    return Isotonic(tuple(xs), tuple(ys))
