"""From what a student says of its answers to P(the answer is right), fitted on TUNE."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from router_core.own_confidence import Calibration, log_softmax

__all__ = ["calibration_error", "fit_platt", "fit_temperature"]

Floats = NDArray[np.float64]

_EDGE = 1e-12
_HEATS = (0.05, 20.0)


def fit_temperature(logits: Floats, wanted: NDArray[np.intp]) -> float:
    """Temperature with the lowest cross-entropy (Guo et al. 2017, section 4.2), between .05 and 20.

    Parameters
    ----------
    logits
        ``[n, L]``.
    wanted
        ``[n]`` right labels.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(wanted))

    def loss(log_heat: float) -> float:
        return -float(log_softmax(logits / math.exp(log_heat))[rows, wanted].mean())

    found = minimize_scalar(loss, bounds=tuple(map(math.log, _HEATS)), method="bounded")
    return math.exp(float(found.x))


def fit_platt(probability: Floats, right: NDArray[np.bool_], temperature: float = 1.0) -> Calibration:
    """Calibration by Platt's sigmoid on log-odds (Platt 1999), with his targets, so that it is defined for any data.

    Parameters
    ----------
    probability
        What the student said, ``[n]``.
    right
        Whether its answers were right, ``[n]``.
    temperature
        Under which `probability` was said; kept.
    """
    from scipy.optimize import minimize

    p = np.clip(probability, _EDGE, 1.0 - _EDGE)
    odds = np.log(p) - np.log1p(-p)
    good = int(right.sum())
    target = np.where(right, (good + 1.0) / (good + 2.0), 1.0 / (len(right) - good + 2.0))

    def loss(x: Floats) -> tuple[float, Floats]:
        z = x[0] * odds + x[1]
        value = np.logaddexp(0.0, z) - target * z
        slope = 1.0 / (1.0 + np.exp(-np.clip(z, -700, 700))) - target
        return float(value.sum()), np.array([float((slope * odds).sum()), float(slope.sum())])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)])
    return Calibration(temperature, (float(found.x[0]), float(found.x[1])))


def calibration_error(confidence: Floats, right: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error over bins with equally many answers each (Guo et al. 2017, eq. 5)."""
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [len(part) * abs(float(confidence[part].mean()) - float(right[part].mean())) for part in parts]
    return sum(gaps) / max(1, len(order))
