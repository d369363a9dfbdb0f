"""Conformal risk control under a covariate shift whose weights are known.

Calibration items were drawn from one law of queries, traffic comes from another; w = dP_traffic / dP_calib is known
and P(bad | query) is unchanged. A step is permitted for a query of weight w_new when

    (sum w_i L_i + w_new) / (sum w_i + w_new) <= alpha

(Tibshirani et al., arXiv 1904.06019; Angelopoulos et al., 2208.02814): the mean loss over calibration sets and the next
query is then at most alpha. Estimated weights lose the exactness, weights are never clipped here, and a shift of
P(bad | query) itself is out of reach of any weighting: only audits find it. Source: METHOD.md 2.7, P20.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router_core.audit_risk import effective_n
from router_core.certificate import crc_minimum_n
from router_core.errors import InputError

__all__ = ["WeightedSteps", "permitted_loss", "weighted_crc"]


class WeightedSteps(NamedTuple):
    """What weighted calibration items permit.

    Parameters
    ----------
    steps
        int64 [m], last permitted step for each new query; 0 is the reference tier.
    effective_n
        How many unweighted items the calibration items are worth.
    """

    steps: NDArray[np.int64]
    effective_n: float


def permitted_loss(total: ArrayLike, new: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Largest weighted loss of the calibration items that is permitted; negative where nothing is."""
    weight = np.asarray(new, np.float64)
    return np.asarray(alpha * (np.asarray(total, np.float64) + weight) - weight, np.float64)


def weighted_crc(
    losses: ArrayLike, weights: ArrayLike, new_weights: ArrayLike, alpha: float, minimum_n: float | None = None
) -> WeightedSteps:
    """Last step of a path that weighted conformal risk control permits for each new query.

    Parameters
    ----------
    losses
        0/1 loss of each step on each calib item, [G, n], not falling along the path (the running maximum); row 0 is
        the reference tier.
    weights
        [n], known density ratios, above 0.
    new_weights
        [m], those of the queries to serve.
    alpha
        Bound on the mean loss.
    minimum_n
        Least effective n; that of conformal risk control (`crc_minimum_n`) when None.

    Raises
    ------
    InputError
        When the weights are worth fewer items than the minimum, are not positive, or a loss falls along the path.
    """
    table, w = np.asarray(losses), np.asarray(weights, np.float64)
    new = np.atleast_1d(np.asarray(new_weights, np.float64))
    if table.ndim != 2 or w.shape != table.shape[1:]:
        raise InputError(f"losses {table.shape} and weights {w.shape} must be [G, n] and [n].")
    if not (np.isfinite(w).all() and np.isfinite(new).all() and (w > 0).all() and (new > 0).all()):
        raise InputError("Weights of a covariate shift must be positive and finite.")
    if (table[1:] < table[:-1]).any():
        raise InputError(
            "Conformal risk control needs losses that never fall along the path; give the running maximum."
        )
    worth, least = effective_n(w), float(crc_minimum_n(alpha)) if minimum_n is None else minimum_n
    logging.getLogger(__name__).info("weighted calibration: %d items, effective n %.1f", len(w), worth)
    if worth < least:
        raise InputError(
            f"{len(w)} weighted calibration items are worth {worth:.1f} unweighted ones, fewer than the {least:g} "
            "needed; collect calibration items that look like the traffic."
        )
    lost = table[1:] @ w
    allowed = permitted_loss(w.sum(), new, alpha)
    return WeightedSteps((lost <= allowed[:, None]).sum(axis=1), worth)
