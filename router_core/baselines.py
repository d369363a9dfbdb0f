"""The rivals that a bundle carries, so that every report can put them through the same certificate.

kNN: share of the nearest train queries on which a tier passed. Isotonic: the encoder's pass probability, recalibrated
by isotonic regression and thresholded (UCCI, arXiv 2605.18796). Both decide before generating.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_arrays, load_arrays

__all__ = ["Baselines", "Isotonic", "Neighbours", "unit"]

_TIE = 1e-3


@dataclass(frozen=True, eq=False)
class Neighbours:
    """k nearest train queries by cosine of hidden vectors.

    Attributes
    ----------
    hidden
        float32 [m, d], rows of length one.
    passed
        uint8 [m, K-1].
    k
        How many neighbours vote.
    """

    hidden: NDArray[np.float32]
    passed: NDArray[np.uint8]
    k: int

    def risk(self, hidden: NDArray[np.float64], exclude: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """P(bad) per cheap tier, float64 [K-1]; `exclude` marks train rows that may not vote."""
        likeness = self.hidden @ unit(hidden)
        if exclude is not None:
            likeness[exclude] = -np.inf
        k = min(self.k, int(np.isfinite(likeness).sum()))
        nearest = np.argpartition(-likeness, k - 1)[:k]
        passed = self.passed[nearest].astype(np.float64)
        # Shares of k votes tie, above all at "everybody passed"; nearer votes break the ties, as in `Isotonic.risk`.
        near = 1.0 - np.maximum(likeness[nearest], 0.0).astype(np.float64) @ passed / k
        return np.asarray(np.round((1 - _TIE) * (1.0 - passed.mean(axis=0)) + _TIE * near, 9))


@dataclass(frozen=True, eq=False)
class Isotonic:
    """Monotone map from the encoder's pass probability to P(bad), per cheap tier.

    Attributes
    ----------
    x, y
        Knots per tier, float64.
    """

    x: tuple[NDArray[np.float64], ...]
    y: tuple[NDArray[np.float64], ...]

    def risk(self, risk: NDArray[np.float64]) -> NDArray[np.float64]:
        """Recalibrated P(bad), float64 [n, K-1].

        The map is a step function; its ties are broken by the uncalibrated risk, which favours the rival: without it
        one large tie can fail the first test.
        """
        columns = [np.interp(risk[:, k], self.x[k], self.y[k]) for k in range(risk.shape[1])]
        return np.asarray(np.round((1 - _TIE) * np.stack(columns, axis=1) + _TIE * risk, 9))


@dataclass(frozen=True, eq=False)
class Baselines:
    """The fitted rivals of a bundle; isotonic maps are kept per view."""

    neighbours: Neighbours
    isotonic: Mapping[str, Isotonic]

    def parts(self) -> dict[str, bytes]:
        """As a bundle part."""
        arrays: dict[str, NDArray[Any]] = {
            "hidden": self.neighbours.hidden.astype(np.float16),
            "passed": self.neighbours.passed,
            "k": np.array(self.neighbours.k),
        }
        for view, model in self.isotonic.items():
            for tier, (x, y) in enumerate(zip(model.x, model.y, strict=True)):
                arrays[f"isotonic.{view}.{tier}"] = np.stack([x, y])
        return {"baselines.npz": dump_arrays(arrays)}

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes]) -> "Baselines":
        """Inverse of `parts`."""
        arrays = load_arrays("baselines.npz", parts["baselines.npz"])
        near = Neighbours(arrays["hidden"].astype(np.float32), arrays["passed"], int(arrays["k"]))
        knots: dict[str, list[NDArray[np.float64]]] = {}
        tiers = arrays["passed"].shape[1]
        for name in arrays:
            if name.startswith("isotonic."):
                view = name.split(".")[1]
                knots.setdefault(view, [arrays[f"isotonic.{view}.{tier}"] for tier in range(tiers)])
        maps = {view: Isotonic(tuple(k[0] for k in found), tuple(k[1] for k in found)) for view, found in knots.items()}
        return cls(near, maps)


def unit(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    """The vector at length one, float32; a zero vector stays zero."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 0 else vector, np.float32)
