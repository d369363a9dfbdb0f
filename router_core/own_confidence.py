"""What a student thinks of its own answer: from the outputs of its graph to P(the answer is right).

A temperature bears on the outputs (Guo et al. 2017, "On calibration of modern neural networks"), a map on the
probability they give: Platt's ``sigmoid(scale * logit(p) + offset)``, or straight lines between isotonic knots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration", "log_sigmoid", "log_softmax"]

_EDGE = 1e-12


@dataclass(frozen=True, slots=True)
class Calibration:
    """How raw outputs become ``own_confidence``.

    Attributes
    ----------
    temperature
        Divides the outputs; above 1 the student is less sure.
    platt
        ``(scale, offset)`` on log-odds, the scale not negative; or None.
    knots
        ``((p, confidence), ...)`` in [0, 1], p increasing, confidence not decreasing; or None. At most one of both.
    """

    temperature: float = 1.0
    platt: tuple[float, float] | None = None
    knots: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"the temperature {self.temperature} is not above 0")
        if self.platt is not None and self.knots is not None:
            raise ValueError("of platt and knots only one can be given")
        if self.platt is not None and not (all(map(math.isfinite, self.platt)) and self.platt[0] >= 0):
            raise ValueError(f"platt {self.platt} is no scale of 0 or more with an offset")
        if self.knots is not None:
            x, y = np.array(self.knots, dtype=np.float64).reshape(-1, 2).T
            within = len(x) > 0 and bool(((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).all())
            if not within or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
                raise ValueError("knots are not increasing pairs in [0, 1]")

    def confidence(self, probability: float) -> float:
        """Map a probability that came from outputs over the temperature; float64 in [0, 1]."""
        if self.platt is not None:
            p = min(max(probability, _EDGE), 1.0 - _EDGE)
            scale, offset = self.platt
            odds = scale * (math.log(p) - math.log1p(-p)) + offset
            near = math.exp(-abs(odds))
            return (1.0 if odds >= 0 else near) / (1.0 + near)
        if self.knots is not None:
            x, y = zip(*self.knots, strict=True)
            return float(np.interp(probability, x, y))
        return min(max(probability, 0.0), 1.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"temperature": self.temperature, "platt": self.platt, "knots": self.knots}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read `to_json` back.

        Raises
        ------
        ValueError, TypeError, KeyError
            When it is malformed.
        """
        platt, knots = data["platt"], data["knots"]
        return cls(
            float(data["temperature"]),
            None if platt is None else (float(platt[0]), float(platt[1])),
            None if knots is None else tuple((float(x), float(y)) for x, y in knots),
        )


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)


def log_sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the sigmoid."""
    return np.asarray(-np.logaddexp(0.0, -logits), dtype=np.float64)
