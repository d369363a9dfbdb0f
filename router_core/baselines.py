"""The rivals that a bundle carries, so that every report can put them through the same certificate.

All decide before generating. Isotonic: the encoder's pass probability, recalibrated by isotonic regression and
thresholded (UCCI, arXiv 2605.18796). kNN: share of the nearest train queries on which a tier passed. Cluster: pass
rates of clusters of train queries, the nearer the weightier (Avengers-Pro, arXiv 2508.12631). Matrix factorisation:
tier embeddings times a projection of the query (RouteLLM's ``mf``, arXiv 2406.18665). The last three see the encoder's
hidden vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clusters", "Factors", "Isotonic", "Neighbours", "Rival", "unit"]

_TIE, _SOFT = 1e-3, 4.0
Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]


class Rival(Protocol):
    """Another router's score, ready to be thresholded."""

    def risk(self, hidden: Floats, encoder: Floats, view: str) -> Floats:
        """P(bad) per cheap tier, in [0, 1].

        Parameters
        ----------
        hidden
            float64 [n, d], the encoder's hidden vectors.
        encoder
            float64 [n, K-1], the encoder's own P(bad).
        view
            Kind of the models that made `encoder`.

        Returns
        -------
        ndarray
            float64 [n, K-1]; a row never depends on the others.
        """

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores."""

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Inverse of `arrays`."""


@dataclass(frozen=True, eq=False)
class Isotonic:
    """Monotone maps from the encoder's P(bad) to P(bad).

    Attributes
    ----------
    knots
        By kind of models, per cheap tier: float64 [2, j], risk and what it maps to.
    """

    knots: Mapping[str, tuple[Floats, ...]]

    def risk(self, hidden: Floats, encoder: Floats, view: str) -> Floats:
        """Recalibrated P(bad), float64 [n, K-1].

        The map is a step function; its ties are broken by the uncalibrated risk, which favours the rival: without it
        one large tie can fail the first test.
        """
        del hidden
        columns = [np.interp(encoder[:, tier], *knots) for tier, knots in enumerate(self.knots[view])]
        return np.asarray(np.round((1 - _TIE) * np.stack(columns, axis=1) + _TIE * encoder, 9))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As the knots of each view and tier."""
        return {f"{view}.{tier}": knots for view, tiers in self.knots.items() for tier, knots in enumerate(tiers)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Inverse of `arrays`."""
        tiers: dict[str, dict[int, Floats]] = {}
        for name, knots in arrays.items():
            view, _, tier = name.rpartition(".")
            tiers.setdefault(view, {})[int(tier)] = knots
        return cls({view: tuple(found[tier] for tier in sorted(found)) for view, found in tiers.items()})


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

    def risk(self, hidden: Floats, encoder: Floats | None = None, view: str = "") -> Floats:
        """Share of the neighbours on which a tier failed, float64 [n, K-1]."""
        return _by_row(self.vote, hidden, self.passed.shape[1])

    def vote(self, vector: Floats, exclude: NDArray[np.bool_] | None = None) -> Floats:
        """P(bad) of one query, float64 [K-1]; `exclude` marks train rows that may not vote."""
        likeness = self.hidden @ unit(vector)
        if exclude is not None:
            likeness[exclude] = -np.inf
        k = min(self.k, int(np.isfinite(likeness).sum()))
        nearest = np.argpartition(-likeness, k - 1)[:k]
        passed = self.passed[nearest].astype(np.float64)
        # Shares of k votes tie, above all at "everybody passed"; nearer votes break the ties, as in `Isotonic.risk`.
        near = 1.0 - np.maximum(likeness[nearest], 0.0).astype(np.float64) @ passed / k
        return np.asarray(np.round((1 - _TIE) * (1.0 - passed.mean(axis=0)) + _TIE * near, 9))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Vectors in half precision."""
        return {"hidden": self.hidden.astype(np.float16), "passed": self.passed, "k": np.array(self.k)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Inverse of `arrays`."""
        return cls(arrays["hidden"].astype(np.float32), arrays["passed"], int(arrays["k"]))


@dataclass(frozen=True, eq=False)
class Clusters:
    """Pass rates of clusters of train queries, each weighted by how like it the query is.

    Attributes
    ----------
    centres
        float32 [c, d], rows of length one.
    rate
        float64 [c, K-1], smoothed share of the cluster's train queries on which a tier passed.
    sharpness
        Factor of the cosine in the exponent of the weights: the higher, the more the nearest cluster alone decides.
    """

    centres: NDArray[np.float32]
    rate: Floats
    sharpness: float

    def risk(self, hidden: Floats, encoder: Floats | None = None, view: str = "") -> Floats:
        """One minus the pass rate near the query, float64 [n, K-1]."""
        return _by_row(lambda vector: self.score(unit(vector)[None]), hidden, self.rate.shape[1])

    def score(self, units: NDArray[np.float32]) -> Floats:
        """P(bad) of vectors of length one, float64 [n, K-1]."""
        likeness = (units @ self.centres.T).astype(np.float64)
        # Queries of one far cluster tie; a softer vote of all clusters breaks the ties, as in `Isotonic.risk`.
        sharp, soft = (self._passed(likeness, sharpness) for sharpness in (self.sharpness, _SOFT))
        return np.asarray(np.round(1.0 - (1 - _TIE) * sharp - _TIE * soft, 9))

    def _passed(self, likeness: Floats, sharpness: float) -> Floats:
        weight = np.exp(sharpness * (likeness - likeness.max(axis=1, keepdims=True)))
        return np.asarray(weight @ self.rate / weight.sum(axis=1, keepdims=True))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Centres in half precision."""
        return {
            "centres": self.centres.astype(np.float16), "rate": self.rate, "sharpness": np.array(self.sharpness)
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Inverse of `arrays`."""
        return cls(arrays["centres"].astype(np.float32), arrays["rate"], float(arrays["sharpness"]))


@dataclass(frozen=True, eq=False)
class Factors:
    """Tier embeddings times a projection of the query, through the logistic function.

    Attributes
    ----------
    projection
        float32 [d, r].
    tiers
        float32 [K-1, r].
    bias
        float32 [K-1].
    ridge
        What shrank them.
    """

    projection: NDArray[np.float32]
    tiers: NDArray[np.float32]
    bias: NDArray[np.float32]
    ridge: float

    def risk(self, hidden: Floats, encoder: Floats | None = None, view: str = "") -> Floats:
        """P(bad), float64 [n, K-1]."""
        return _by_row(lambda vector: self.score(unit(vector)[None]), hidden, len(self.bias))

    def score(self, units: NDArray[np.float32]) -> Floats:
        """P(bad) of vectors of length one, float64 [n, K-1]."""
        logit = units @ self.projection @ self.tiers.T + self.bias
        return np.asarray(np.round(1.0 / (1.0 + np.exp(np.clip(logit.astype(np.float64), -30.0, 30.0))), 9))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Factors in half precision."""
        stored = {"projection": self.projection, "tiers": self.tiers, "bias": self.bias}
        return {"ridge": np.array(self.ridge), **{name: array.astype(np.float16) for name, array in stored.items()}}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Inverse of `arrays`."""
        projection, tiers, bias = (arrays[name].astype(np.float32) for name in ("projection", "tiers", "bias"))
        return cls(projection, tiers, bias, float(arrays["ridge"]))


def unit(vector: Floats) -> NDArray[np.float32]:
    """The vector at length one, float32; a zero vector stays zero."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 0 else vector, np.float32)


def _by_row(score: Any, hidden: Floats, cheap: int) -> Floats:
    # One query at a time: a matrix product may round a row differently in another batch.
    return np.asarray([score(vector) for vector in hidden], np.float64).reshape(len(hidden), cheap)
