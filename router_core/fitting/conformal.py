"""Fit the conformal p-values of "bad" with crepes, and check that serving will compute the same numbers.

crepes is the fitter and the judge here and never at run time: it imports scikit-learn, scipy and pandas, and
takes time linear in the calibration size for one score. Its classifier is fitted on the bad answers only,
Mondrian by task and tier, so a p-value speaks of the class "bad" in that bin.

Give out-of-fold train or tune answers. Answers of calib are forbidden: a scale fitted on calib knows where
its bad answers are, so a path over it passes the certificate on the rows it was made from
(tests/statistical).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router_core.conformal import BadPValues, p_value, thresholds
from router_core.errors import InputError, MissingExtraError, RouteNLPError

__all__ = ["check_against_crepes", "fit_bad_p_values"]

# Levels at which the precomputed thresholds are compared with crepes' own decisions.
_LEVELS = (0.01, 0.05, 0.1, 0.2, 0.5)


def fit_bad_p_values(
    task: Sequence[str], tier: Sequence[str], score: ArrayLike, bad: ArrayLike, *, probes: int = 64
) -> BadPValues:
    """Fit crepes on the bad answers, Mondrian by task and tier, and keep what serving needs.

    Parameters
    ----------
    task, tier
        Task and tier of each answer, m names each. For a scope that masks the task, give its name (``"*"``).
    score
        Nonconformity of each answer to the class "bad", float64 [m], higher = less like a bad answer (its
        confidence); out of fold.
    bad
        B of each answer, [m] of 0 or 1.
    probes
        Scores per bin at which crepes is asked to confirm our numbers.

    Returns
    -------
    BadPValues
        Sorted scores of the bad answers. A (task, tier) without a bad answer has no bin, and so p = 1.

    Raises
    ------
    InputError
        When lengths differ, or a bad answer has a NaN score.
    RouteNLPError
        When crepes disagrees with our p-values or thresholds.
    """
    try:
        from crepes import ConformalClassifier
    except ImportError as error:
        raise MissingExtraError("fit", "fit conformal p-values") from error

    scores = np.asarray(score, dtype=np.float64)
    is_bad = np.asarray(bad).astype(bool)
    if not len(task) == len(tier) == len(scores) == len(is_bad):
        raise InputError(
            f"Conformal fit needs columns of one length; task has {len(task)}, tier {len(tier)}, "
            f"score {len(scores)}, bad {len(is_bad)}."
        )
    rows = np.flatnonzero(is_bad).tolist()
    if np.isnan(scores[rows]).any():
        raise InputError("The score of a bad answer is NaN; drop answers without a score before the conformal fit.")
    keys = sorted({(task[i], tier[i]) for i in rows})
    number = {key: b for b, key in enumerate(keys)}
    bins = np.array([number[task[i], tier[i]] for i in rows], dtype=np.int64)

    classifier = ConformalClassifier().fit(scores[rows], bins=bins)
    fitted = BadPValues({key: np.asarray(classifier.alphas)[classifier.bins == b] for key, b in number.items()})
    check_against_crepes(fitted, probes=probes)
    return fitted


def check_against_crepes(fitted: BadPValues, *, probes: int = 64) -> None:
    """Compare our p-values and threshold decisions with a crepes classifier holding the same scores.

    Parameters
    ----------
    fitted
        What serving would use.
    probes
        Scores tried per bin: calibration scores themselves (ties), their float64 neighbours, and the two
        infinities.

    Raises
    ------
    RouteNLPError
        On the first difference in any bit or decision, or when an unseen bin does not give p = 1.
    """
    from crepes import ConformalClassifier

    values, offsets = fitted.pack()
    bins = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    classifier = ConformalClassifier().fit(values, bins=bins)
    for b, (key, cal) in enumerate(fitted.scores.items()):
        probe = _probes(cal, probes)
        theirs = classifier.predict_p(probe[:, None], bins=np.full(len(probe), b), smoothing=False)[:, 0]
        ours = np.array([p_value(cal, a) for a in probe])
        same = np.array_equal(ours, theirs)
        for eps, thr in zip(_LEVELS, thresholds(cal, _LEVELS), strict=True):
            same = same and np.array_equal(theirs > eps, probe <= thr)
        if not same:
            raise RouteNLPError(f"crepes and RouteNLP give different p-values in bin {key!r}; do not use this fit.")
    unseen = classifier.predict_p(np.zeros((1, 1)), bins=np.array([-1]), smoothing=False)
    if unseen[0, 0] != 1.0:
        raise RouteNLPError(f"crepes gives p = {unseen[0, 0]} in a bin never seen; RouteNLP relies on 1.")


def _probes(cal: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Evenly spaced calibration scores, their neighbours in float64, and both infinities."""
    some = cal[np.unique(np.linspace(0, len(cal) - 1, min(count, len(cal))).astype(np.int64))]
    return np.concatenate((some, np.nextafter(some, -np.inf), np.nextafter(some, np.inf), [-np.inf, np.inf]))
