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
        laid = self._laid
        # Testing every node in a few passes through memory costs less than looking up those on the way, level by level.
        passed = x.astype(np.float64)[: len(laid.tests)].repeat(laid.tests) > laid.threshold
        following = np.concatenate((laid.left + laid.aside * passed, laid.leaves), dtype=np.intp)
        at = laid.roots
        for _ in range(self.depth):
            at = following[at]
        leaves = laid.value[at]
        return float(np.add.reduce(leaves)) / len(leaves)

    @cached_property
    def _laid(self) -> "_Laid":
        """The trees laid out for `predict`."""
        places = np.arange(len(self.feature))
        leaf = self.children[0] == places
        inner = np.flatnonzero(~leaf)
        inner = inner[np.argsort(self.feature[inner], kind="stable")]
        order = np.concatenate((inner, np.flatnonzero(leaf)))
        renamed = np.empty(len(order), np.int32)
        renamed[order] = places
        left, right = renamed[self.children[:, inner]]
        return _Laid(
            np.bincount(self.feature[inner]),
            self.threshold[inner],
            left,
            right - left,
            renamed[order[len(inner) :]],
            renamed[self.roots].astype(np.intp),
            self.value[order],
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
class _Laid:
    """A forest's nodes in the order of what they test, the leaves last.

    `tests` [features] says how many nodes test each feature; per testing node there are its `threshold`, its `left`
    child and how far `aside` of that the right one is. `leaves` are their own children.
    """

    tests: NDArray[np.intp]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    aside: NDArray[np.int32]
    leaves: NDArray[np.int32]
    roots: NDArray[np.intp]
    value: NDArray[np.float64]


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
