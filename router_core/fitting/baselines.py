"""Fit the rivals, every choice of theirs by cross-validation on train with groups together.

Those that see hidden vectors come as a pair: `fit_<rival>` makes the model, `<rival>_held_out` scores the rows it was
fitted on by models that saw neither the row nor its group, for laying paths where there is no tune.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from router_core.baselines import Clusters, Factors, Isotonic, Neighbours, unit

__all__ = [
    "Lesson",
    "Tuning",
    "clusters_held_out",
    "factors_held_out",
    "fit_clusters",
    "fit_factors",
    "fit_isotonic",
    "fit_neighbours",
    "neighbours_held_out",
]

_NEIGHBOURS = (10, 20, 40, 80, 160)
_CLUSTERS = (4, 8, 16, 32, 64, 128)
_SHARPNESS = (4.0, 16.0, 64.0)
_PRIOR = 5.0
"""Pseudo-queries of the overall pass rate in every cluster."""
_RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_RANKS = (1, 2, 4, 8)
_CHECKED = 1_500
"""Most rows on which the choices that are slow to check are compared."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What rivals that see hidden vectors learn from.

    Attributes
    ----------
    hidden
        float64 [m, d], train queries.
    passed
        uint8 [m, K-1].
    group, fold
        [m]; rows of one group share a fold.
    seed
        Seed of everything random.
    """

    hidden: Floats
    passed: NDArray[np.uint8]
    group: NDArray[np.intp]
    fold: NDArray[np.intp]
    seed: int

    def order(self) -> NDArray[np.intp]:
        """An order of the rows that depends on what they hold alone, so that the order in a file decides nothing."""
        return np.lexsort((self.fold, *self.passed.T, *self.hidden.T))

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        """The given rows."""
        return replace(
            self, hidden=self.hidden[rows], passed=self.passed[rows], group=self.group[rows], fold=self.fold[rows]
        )

    def units(self) -> NDArray[np.float32]:
        """The vectors at length one, float32 [m, d]."""
        length = np.linalg.norm(self.hidden, axis=1, keepdims=True)
        return np.asarray(self.hidden / np.where(length > 0.0, length, 1.0), np.float32)

    def checked(self) -> Self:
        """At most 1,500 of the rows, drawn by the seed."""
        return self.take(np.random.default_rng(self.seed).permutation(len(self.hidden))[:_CHECKED])

    def error(self, risk: Floats) -> float:
        """Mean squared error of P(bad)."""
        return float(np.mean((1.0 - risk - self.passed) ** 2))


@dataclass(frozen=True, eq=False)
class Tuning:
    """The rows on which paths are laid: tune, or train out of fold.

    Attributes
    ----------
    hidden
        float64 [n, d]; None where they are the rows of the lesson, in the order of the file.
    risk
        By kind of models: the encoder's P(bad), float64 [n, K-1].
    passed
        uint8 [n, K-1].
    """

    hidden: Floats | None
    risk: Mapping[str, Floats]
    passed: NDArray[np.uint8]


def fit_neighbours(lesson: Lesson) -> Neighbours:
    """Take the number of neighbours with the least squared error, leaving the row's group out."""
    # Half precision, as the bundle stores them: what is certified is what is loaded. So below.
    units = lesson.units().astype(np.float16).astype(np.float32)
    checked = lesson.checked()
    sizes = [k for k in _NEIGHBOURS if k == _NEIGHBOURS[0] or k <= len(units) // 4]
    models = [Neighbours(units, lesson.passed, k) for k in sizes]
    return min(models, key=lambda model: checked.error(_without_own_group(model, checked, lesson.group)))


def neighbours_held_out(model: Neighbours, lesson: Lesson) -> Floats:
    """P(bad) of the train rows, float64 [m, K-1]; a row's own group does not vote."""
    return _without_own_group(model, lesson, lesson.group)


def _without_own_group(model: Neighbours, asked: Lesson, voters: NDArray[np.intp]) -> Floats:
    return np.stack([model.vote(vector, voters == own) for vector, own in zip(asked.hidden, asked.group, strict=True)])


Score = Callable[[NDArray[np.float32]], Floats]
"""P(bad), float64 [n, K-1], of vectors at length one."""


def _out_of_fold(lesson: Lesson, refit: Callable[[Lesson], Score], served: Score | None = None) -> Floats:
    """P(bad) of the train rows, float64 [m, K-1], by what the other folds make of them.

    With the score that will be served, each fold's scores are put on its scale, quantile by quantile: thresholds are
    laid over all folds at once, and one that falls between the levels of two folds may cut the served score nowhere.
    """
    units, found = lesson.units(), np.empty(lesson.passed.shape)
    for held in np.unique(lesson.fold):
        mine = lesson.fold == held
        score = refit(lesson.take(~mine))
        if served is None:
            found[mine] = score(units[mine])
            continue
        levels, scale = np.sort(score(units), axis=0), np.sort(served(units), axis=0)
        for tier, risk in enumerate(score(units[mine]).T):
            found[mine, tier] = np.interp(risk, levels[:, tier], scale[:, tier])
    return found


def fit_clusters(lesson: Lesson) -> Clusters:
    """k-means over the vectors at length one; their number and the sharpness of their vote are cross-validated."""
    units = lesson.units()
    sizes = [k for k in _CLUSTERS if k == _CLUSTERS[0] or k <= len(units) // 4]
    models = []
    for size in sizes:
        centres = _centres(units, size, lesson.seed)
        rate = _rates(centres, lesson)
        models += [Clusters(centres, rate, sharpness) for sharpness in _SHARPNESS]
    return min(models, key=lambda model: lesson.error(_out_of_fold(lesson, _refit_clusters(model))))


def clusters_held_out(model: Clusters, lesson: Lesson) -> Floats:
    """P(bad) of the train rows, float64 [m, K-1], by pass rates without the row's fold.

    The centres, which know of no outcome, are those of all rows.
    """
    return _out_of_fold(lesson, _refit_clusters(model), model.score)


def _refit_clusters(model: Clusters) -> Callable[[Lesson], Score]:
    return lambda part: replace(model, rate=_rates(model.centres, part)).score


def _centres(units: NDArray[np.float32], size: int, seed: int) -> NDArray[np.float32]:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    size = min(size, len(np.unique(units, axis=0)))
    # Threads would add up in any order, and the same records must give the same bundle.
    with threadpool_limits(1):
        means = KMeans(size, n_init=1, random_state=seed).fit(units.astype(np.float64)).cluster_centers_
    return np.stack([unit(mean) for mean in means]).astype(np.float16).astype(np.float32)


def _rates(centres: NDArray[np.float32], lesson: Lesson) -> Floats:
    """Smoothed pass rate of each cluster, float64 [c, K-1]."""
    member = np.eye(len(centres))[np.argmax(lesson.units() @ centres.T, axis=1)]
    return np.asarray(
        (member.T @ lesson.passed + _PRIOR * lesson.passed.mean(axis=0)) / (member.sum(axis=0)[:, None] + _PRIOR)
    )


def fit_factors(lesson: Lesson) -> Factors:
    """Low-rank logistic regression of all cheap tiers at once; rank and ridge are cross-validated."""
    checked, cheap = lesson.checked(), lesson.passed.shape[1]
    ranks = [rank for rank in _RANKS if rank <= min(cheap, lesson.hidden.shape[1])]
    tried = [(rank, ridge) for rank in ranks for ridge in _RIDGES]
    return _factors(lesson, *min(tried, key=lambda it: checked.error(_out_of_fold(checked, _refit_factors(*it)))))


def factors_held_out(model: Factors, lesson: Lesson) -> Floats:
    """P(bad) of the train rows, float64 [m, K-1], by factors of the same rank and ridge fitted without their fold."""
    return _out_of_fold(lesson, _refit_factors(model.tiers.shape[1], model.ridge), model.score)


def _refit_factors(rank: int, ridge: float) -> Callable[[Lesson], Score]:
    return lambda part: _factors(part, rank, ridge).score


def _factors(lesson: Lesson, rank: int, ridge: float) -> Factors:
    """Minimise log loss plus ``ridge / 2 * |projection @ tiers.T|^2`` over standardised vectors, by L-BFGS."""
    from scipy.optimize import minimize

    units = lesson.units().astype(np.float64)
    center, spread = units.mean(axis=0), np.maximum(units.std(axis=0), 1e-3)
    seen, m = (units - center) / spread, len(units)
    # Half a pass and half a failure more, so that a tier that always passes keeps a finite bias.
    target = (lesson.passed.astype(np.float64) * m + 0.5) / (m + 1.0)
    width, cheap = seen.shape[1], target.shape[1]
    base = np.log(target.mean(axis=0) / (1.0 - target.mean(axis=0)))

    def split(flat: Floats) -> tuple[Floats, Floats, Floats]:
        projection, tiers, bias = np.split(flat, [width * rank, (width + cheap) * rank])
        return projection.reshape(width, rank), tiers.reshape(cheap, rank), bias

    def loss(flat: Floats) -> tuple[float, Floats]:
        projection, tiers, bias = split(flat)
        weights = projection @ tiers.T
        logit = seen @ weights + bias
        off = 1.0 / (1.0 + np.exp(-logit)) - target
        slope = seen.T @ off + ridge * weights
        value = np.sum(np.logaddexp(0.0, logit) - target * logit) + ridge / 2.0 * np.sum(weights**2)
        return float(value), np.concatenate([(slope @ tiers).ravel(), (slope.T @ projection).ravel(), off.sum(axis=0)])

    # The steepest directions of the loss at the base rates.
    left, strength, right = np.linalg.svd(seen.T @ (target - target.mean(axis=0)), full_matrices=False)
    scale = np.sqrt(strength[:rank] / (0.25 * m + ridge))
    start = np.concatenate([(left[:, :rank] * scale).ravel(), (right[:rank].T * scale).ravel(), base])
    projection, tiers, bias = split(minimize(loss, start, jac=True, method="L-BFGS-B").x)
    projection = projection / spread[:, None]
    bias = bias - center @ projection @ tiers.T
    made = Factors(projection.astype(np.float32), tiers.astype(np.float32), bias.astype(np.float32), ridge)
    return Factors.from_arrays(made.arrays())


def fit_isotonic(tuning: Tuning) -> Isotonic:
    """Recalibrate out-of-fold P(bad), by kind of models, one monotone map per cheap tier.

    Its paths are laid on the same rows: a monotone map keeps the order of the encoder's scores, which saw no row of
    their own, whereas maps of several folds would put steps where the served map has none, and cost the rival dearly.
    """
    return Isotonic({view: _knots(risk, tuning.passed) for view, risk in tuning.risk.items()})


def _knots(risk: Floats, passed: NDArray[np.uint8]) -> tuple[Floats, ...]:
    from sklearn.isotonic import IsotonicRegression

    found = []
    for tier in range(risk.shape[1]):
        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(risk[:, tier], 1 - passed[:, tier])
        found.append(np.stack([model.X_thresholds_, model.y_thresholds_]).astype(np.float64))
    return tuple(found)
