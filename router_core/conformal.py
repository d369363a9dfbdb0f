"""Conformal p-values of the hypothesis "this answer is bad", and the thresholds that decide the same.

The nonconformity score ``a`` of an answer grows with the evidence *against* "bad" (for instance the
confidence ``1 - P(bad | evidence)``). It is compared with the scores of answers that are known to be bad,
within one Mondrian bin (task, tier). The unsmoothed p-value of Vovk's conformal classifier is::

    p(a) = (#{i : a_i >= a} + 1) / (q + 1)          q = number of bad answers in the bin

"bad" is rejected, and so the answer may be accepted, when ``p <= eps``; it stands while ``p > eps``.
A bin that was never seen, and a score that is NaN, give ``p = 1``: never rejected, so the query escalates.
Nothing here is random: smoothed p-values would decide the same query differently on two calls.

The scores are fitted by ``router_core.fitting.conformal`` with crepes, on out-of-fold train or tune answers
and never on calib. This module needs numpy only, because it lies on the way of a query.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isinf, isnan, nextafter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router_core.errors import InputError

__all__ = [
    "BadPValues",
    "acceptance_threshold",
    "minimum_bin",
    "mondrian_thresholds",
    "p_value",
    "thresholds",
]

Bin = TypeVar("Bin", bound=Hashable)


def p_value(sorted_cal: Sequence[float] | NDArray[np.float64], a: float) -> float:
    """Unsmoothed conformal p-value of one score.

    Parameters
    ----------
    sorted_cal
        Nonconformity scores of the bin, ascending, shape [q]; may be empty.
    a
        Score of the answer at hand. NaN gives 1.

    Returns
    -------
    float
        ``(#{sorted_cal >= a} + 1) / (q + 1)``, bit for bit what crepes gives with ``smoothing=False``.
    """
    # crepes counts no calibration score as >= NaN, which would make an unknown score the least "bad" of all.
    score = float(a)
    if isnan(score):
        return 1.0
    q = len(sorted_cal)
    return (q - bisect_left(sorted_cal, score) + 1) / (q + 1)


def thresholds(sorted_cal: Sequence[float] | NDArray[np.float64], eps: ArrayLike) -> NDArray[np.float64]:
    """Thresholds ``thr`` of one bin with ``p(a) > eps  <=>  a <= thr`` for finite ``a``, ties included.

    Parameters
    ----------
    sorted_cal
        Nonconformity scores of the bin, ascending, shape [q].
    eps
        One level or an array of levels.

    Returns
    -------
    numpy.ndarray
        Shape of ``eps``. ``+inf``: "bad" is never rejected, since the bin is too small for this level
        (``1 / (q + 1) > eps``). ``-inf``: always rejected (``eps >= 1``).
    """
    cal = np.asarray(sorted_cal, dtype=np.float64)
    levels = np.asarray(eps, dtype=np.float64)
    if np.isnan(levels).any():
        raise InputError("The conformal level eps is NaN; give a number in [0, 1].")
    q = len(cal)
    # The q + 1 possible p-values in crepes' own float arithmetic, so that `> eps` falls on the same side.
    attainable = np.arange(1, q + 2) / (q + 1)
    k = np.searchsorted(attainable, levels, side="right")
    # k = 0: the bin is too small. k = q + 1: no p-value exceeds eps. Else thr is the k-th largest score.
    ladder = np.concatenate(([np.inf], cal[::-1], [-np.inf]))
    return np.asarray(ladder[k], dtype=np.float64)


def mondrian_thresholds(scores: Mapping[Bin, Sequence[float] | NDArray[np.float64]], eps: float) -> dict[Bin, float]:
    """Thresholds of several bins at one level; see `thresholds`.

    Parameters
    ----------
    scores
        Nonconformity scores of the bad answers per bin, in any order, without NaN.
    eps
        Level of the test of "bad".

    Returns
    -------
    dict
        One threshold per bin. A bin that is missing here was never seen: treat it as ``+inf`` (escalate).
    """
    return {key: float(thresholds(_sorted(values, key), eps)) for key, values in scores.items()}


def acceptance_threshold(thr: float) -> float:
    """Turn ``a > thr`` ("bad" is rejected) into the house's comparison ``a >= threshold``, for finite ``a``.

    Parameters
    ----------
    thr
        A threshold of `thresholds`.

    Returns
    -------
    float
        The next float64 above ``thr``; infinities stay as they are.
    """
    return thr if isinf(thr) else nextafter(thr, inf)


def minimum_bin(eps: float) -> int:
    """Smallest bin size at which "bad" can be rejected at level ``eps``: ``1 / (q + 1) <= eps``."""
    if not eps > 0.0:
        raise InputError(f"The conformal level eps is {eps}; it must be above 0.")
    q = max(int(1.0 / eps) - 2, 0)
    while 1 / (q + 1) > eps:
        q += 1
    return q


def _sorted(values: Sequence[float] | NDArray[np.float64], key: object) -> NDArray[np.float64]:
    """Ascending read-only float64 copy; refuses NaN and anything not one-dimensional."""
    array = np.sort(np.asarray(values, dtype=np.float64))
    if array.ndim != 1:
        raise InputError(f"Conformal scores of bin {key!r} have shape {array.shape}; give one per answer.")
    if np.isnan(array).any():
        raise InputError(f"Conformal scores of bin {key!r} contain NaN; drop answers without a score.")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class BadPValues:
    """Scores of known bad answers per (task, tier), and the p-values they give.

    Parameters
    ----------
    scores
        ``(task, tier) -> `` nonconformity scores, shape [q] each; sorted and frozen on construction.

    Raises
    ------
    InputError
        When scores contain NaN or are not one-dimensional.
    """

    scores: Mapping[tuple[str, str], NDArray[np.float64]]

    def __post_init__(self) -> None:
        """Sort, check and freeze the scores, in the order of their keys."""
        object.__setattr__(self, "scores", {key: _sorted(self.scores[key], key) for key in sorted(self.scores)})

    def p(self, task: str, tier: str, score: float) -> float:
        """p-value of "this answer is bad"; 1 for a bin never seen and for a score that is NaN."""
        cal = self.scores.get((task, tier))
        return 1.0 if cal is None else p_value(cal, score)

    def thresholds(self, eps: float) -> dict[tuple[str, str], float]:
        """Thresholds ``thr`` per (task, tier) with ``p > eps  <=>  score <= thr``."""
        return mondrian_thresholds(self.scores, eps)

    def bins(self, tasks: Iterable[str], tiers: Iterable[str]) -> NDArray[np.int64]:
        """Bin numbers for `pack` and `router_core.kernels.mondrian_p_values`.

        Parameters
        ----------
        tasks, tiers
            n tasks and K tiers.

        Returns
        -------
        numpy.ndarray
            int64 [n, K]; -1 where the (task, tier) was never seen.
        """
        number = {key: b for b, key in enumerate(self.scores)}
        columns = list(tiers)
        rows = {}
        found = []
        for task in tasks:
            if task not in rows:
                rows[task] = [number.get((task, tier), -1) for tier in columns]
            found.append(rows[task])
        return np.array(found, dtype=np.int64).reshape(-1, len(columns))

    def pack(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """All scores in one float64 array and the int64 [bins + 1] offsets between them."""
        sizes = [len(values) for values in self.scores.values()]
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        values = np.concatenate([np.empty(0), *self.scores.values()])
        return values, offsets

    def to_json(self) -> dict[str, Any]:
        """Give bins and sizes, ``{"bins": [[task, tier, q], ...]}``; the scores are in `to_arrays`."""
        return {"bins": [[task, tier, len(values)] for (task, tier), values in self.scores.items()]}

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Give the scores as arrays for an npz file without objects."""
        return {"bad_scores": self.pack()[0]}

    @classmethod
    def from_parts(cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float64]]) -> BadPValues:
        """Rebuild from `to_json` and `to_arrays`.

        Raises
        ------
        InputError
            When the sizes in the header do not add up to the array.
        """
        values = np.asarray(arrays["bad_scores"], dtype=np.float64)
        scores: dict[tuple[str, str], NDArray[np.float64]] = {}
        end = 0
        for task, tier, size in header["bins"]:
            scores[str(task), str(tier)] = values[end : end + int(size)]
            end += int(size)
        if end != len(values):
            raise InputError(f"Conformal header counts {end}, the array holds {len(values)}; fit again.")
        return cls(scores)
