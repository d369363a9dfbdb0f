"""Calibrated sets of labels, and the certified rule for taking the first of them.

The strangeness of label ``y`` for a query is ``a_y = 1 - P(y | query)``. It is compared with the strangeness of the
right labels of n calibration queries, which bore on nothing else (split conformal prediction; Vovk et al., 2005)::

    p_y = (#{i : a_i >= a_y} + 1) / (n + 1),      C = {y : p_y > alpha},      P(Y in C) >= 1 - alpha

The probability is over calibration queries and the query together (marginal). With one list of scores per label
(Mondrian) the same holds for the queries of each label, ``P(Y in C | Y = y) >= 1 - alpha``, whatever their mixture.
Nothing is randomised: the same query gives the same set, and all ties at a value fall on the same side.

Since a set that holds one wrong label misses the right one, ``P(|C| = 1 and it is wrong) <= alpha`` too, in
expectation. `TakenClaim` is the stronger form, which holds with probability 1 - delta over the calibration draw
(METHOD.md 2.1, RCPS on the joint risk).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router_core.conformal import minimum_bin, p_value, thresholds
from router_core.errors import InputError

__all__ = ["LabelSets", "TakenClaim"]

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelSets:
    """Strangeness of the right labels of the calibration queries, and the sets they give.

    Attributes
    ----------
    alpha
        Probability of missing the right label; in (0, 1).
    scores
        Ascending float64 arrays: one for all labels (marginal), or one per label.
    labels
        Number of labels.
    """

    alpha: float
    scores: tuple[Float, ...]
    labels: int

    def __post_init__(self) -> None:
        """Sort and freeze the scores, and find the threshold of every label.

        Raises
        ------
        InputError
            When alpha is not in (0, 1), a score is NaN, or there are not as many lists as labels.
        """
        if not 0.0 < self.alpha < 1.0:
            raise InputError(f"alpha = {self.alpha} must lie between 0 and 1.")
        if len(self.scores) not in {1, self.labels}:
            raise InputError(f"{len(self.scores)} lists of scores were given for {self.labels} labels.")
        kept = tuple(np.sort(np.asarray(one, dtype=np.float64)) for one in self.scores)
        if any(np.isnan(one).any() for one in kept):
            raise InputError("A calibration query has a score that is NaN.")
        object.__setattr__(self, "scores", kept)
        object.__setattr__(self, "_thresholds", np.array([float(thresholds(one, self.alpha)) for one in kept]))

    @classmethod
    def of(cls, strangeness: ArrayLike, right: ArrayLike, alpha: float, *, per_label: bool = False) -> Self:
        """Calibrate.

        Parameters
        ----------
        strangeness
            Of every label for each calibration query, float64 ``[n, m]``.
        right
            Index of the right label, ``[n]``.
        alpha
            Probability of missing it.
        per_label
            One list per label instead of one for all.
        """
        found, at = np.asarray(strangeness, dtype=np.float64), np.asarray(right, dtype=np.intp)
        own = found[np.arange(len(at)), at]
        if per_label:
            return cls(alpha, tuple(own[at == label] for label in range(found.shape[1])), found.shape[1])
        return cls(alpha, (own,), found.shape[1])

    @property
    def per_label(self) -> bool:
        """Whether the promise holds for the queries of each label, and not only over their mixture."""
        return len(self.scores) == self.labels and self.labels > 1

    @property
    def n(self) -> int:
        """Calibration queries."""
        return sum(len(one) for one in self.scores)

    @property
    def too_few(self) -> tuple[int, ...]:
        """Labels that are in every set, because ``1 / alpha - 1`` calibration queries are not there."""
        least = minimum_bin(self.alpha)
        if not self.per_label:
            return tuple(range(self.labels)) if self.n < least else ()
        return tuple(label for label, one in enumerate(self.scores) if len(one) < least)

    def p(self, label: int, strangeness: float) -> float:
        """p-value of one label, bit for bit what crepes gives without smoothing; NaN gives 1."""
        return p_value(self.scores[label if self.per_label else 0], strangeness)

    def members(self, strangeness: Float) -> NDArray[np.bool_]:
        """Which labels are in the set, ``[m]`` (or ``[n, m]``): ``p > alpha``, by thresholds found beforehand."""
        limit: Float = self._thresholds  # type: ignore[attr-defined]
        # NaN is unknown, and an unknown label stays in.
        return np.asarray(~(strangeness > limit))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Give arrays for an npz file without objects."""
        sizes = np.array([len(one) for one in self.scores], dtype=np.int64)
        return {"set_scores": np.concatenate(self.scores), "set_sizes": sizes}

    @classmethod
    def from_arrays(cls, alpha: float, labels: int, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_arrays`.

        Raises
        ------
        InputError
            When the sizes do not add up.
        """
        values, sizes = arrays["set_scores"].astype(np.float64), arrays["set_sizes"].astype(np.int64)
        if (sizes < 0).any() or int(sizes.sum()) != len(values):
            raise InputError("The calibration scores do not fit their sizes.")
        return cls(alpha, tuple(np.split(values, np.cumsum(sizes)[:-1])), labels)


@dataclass(frozen=True)
class TakenClaim:
    """What was shown of "take the most probable label when its probability reaches a threshold".

    ``P(taken and wrong) <= alpha`` with probability 1 - delta over the calibration draw.

    Attributes
    ----------
    alpha, delta
        Risk, and the probability that the claim is false.
    n, taken, wrong
        Calibration queries, how many of them reached the threshold, and how many of these were wrong.
    threshold
        Taken when the probability is ``>=`` this; None when nothing could be shown, so nothing is taken.
    """

    alpha: float
    delta: float
    n: int
    taken: int
    wrong: int
    threshold: float | None

    @classmethod
    def of(cls, path: Sequence[float], probability: ArrayLike, right: ArrayLike, alpha: float, delta: float) -> Self:
        """Walk a path of thresholds, fixed without the calibration queries, from strict to loose.

        Parameters
        ----------
        path
            Thresholds in any order.
        probability, right
            Of the most probable label of each calibration query, and whether it is right, ``[n]``.
        """
        from router_core.certificate import walk

        top, wrong = np.asarray(probability, dtype=np.float64), ~np.asarray(right, dtype=np.bool_)
        steps = sorted({float(step) for step in path}, reverse=True)
        counts = [0, *(int((wrong & (top >= step)).sum()) for step in steps)]
        last = walk(counts, len(top), alpha, delta) if len(top) else 0
        if last == 0:
            return cls(alpha, delta, len(top), 0, 0, None)
        threshold = steps[last - 1]
        return cls(alpha, delta, len(top), int((top >= threshold).sum()), counts[last], threshold)

    def takes(self, probability: float) -> bool:
        """Whether a label of this probability is taken without asking; NaN is not."""
        return self.threshold is not None and probability >= self.threshold
