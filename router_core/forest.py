"""Small fitted models served with plain numpy: a forest of trees and a linear model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Forest", "Linear"]


@dataclass(frozen=True, eq=False)
class Forest:
    """Mean of the leaf values of many binary trees, walked all at once.

    Attributes
    ----------
    feature
        int32 [nodes], the feature a node tests.
    threshold
        float64 [nodes], left when ``x <= threshold``.
    children
        int32 [2, nodes], left and right child; a leaf is its own child.
    value
        float64 [nodes], the value of a leaf.
    roots
        int32 [trees].
    depth
        Longest path from a root to a leaf.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    children: NDArray[np.int32]
    value: NDArray[np.float64]
    roots: NDArray[np.int32]
    depth: int

    def predict(self, x: NDArray[np.float32]) -> float:
        """Predict for one vector, float32 [features]; float32 because the trees were grown on float32."""
        feature, threshold, following, at = self._walked
        known = x.astype(np.float64)
        for _ in range(self.depth):
            at = following.take(at + (known.take(feature.take(at)) > threshold.take(at)))
        return float(self.value.take(at // 2).mean())

    @cached_property
    def _walked(self) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
        """The nodes laid out for walking, where every call of numpy counts: node i stands at 2 i and 2 i + 1.

        From its first place a step to the left follows, from its second one to the right; places of the roots last.
        """
        doubled = 2 * self.children.astype(np.intp)
        return (
            np.repeat(self.feature.astype(np.intp), 2),
            np.repeat(self.threshold, 2),
            doubled.T.ravel(),
            2 * self.roots.astype(np.intp),
        )

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Arrays to store, their names starting with the prefix."""
        return {
            f"{prefix}.feature": self.feature,
            f"{prefix}.threshold": self.threshold,
            f"{prefix}.children": self.children,
            f"{prefix}.value": self.value,
            f"{prefix}.roots": self.roots,
            f"{prefix}.depth": np.array(self.depth, np.int32),
        }

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> "Forest":
        """Inverse of `arrays`."""
        part = {name: arrays[f"{prefix}.{name}"] for name in ("feature", "threshold", "children", "value", "roots")}
        return cls(**part, depth=int(arrays[f"{prefix}.depth"]))

    @classmethod
    def constant(cls, value: float) -> "Forest":
        """One leaf: the same value for every vector."""
        zero = np.zeros(1, np.int32)
        return cls(zero, np.zeros(1), np.zeros((2, 1), np.int32), np.array([value]), zero, 0)


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear model on standardised features.

    Attributes
    ----------
    weight
        float64 [features], already divided by the features' scale.
    bias
        Intercept, the features' means folded in.
    """

    weight: NDArray[np.float64]
    bias: float

    def predict(self, x: NDArray[np.float32]) -> float:
        """Predict for one vector, float32 [features]."""
        return float(np.dot(self.weight, x.astype(np.float64))) + self.bias

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Arrays to store, their names starting with the prefix."""
        return {f"{prefix}.weight": self.weight, f"{prefix}.bias": np.array(self.bias)}

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> "Linear":
        """Inverse of `arrays`."""
        return cls(arrays[f"{prefix}.weight"], float(arrays[f"{prefix}.bias"]))
