"""The registry of rivals: how each is fitted and stored. A new one is a line in `RIVALS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_arrays, load_arrays
from router_core.baselines import Clusters, Factors, Isotonic, Neighbours, Rival
from router_core.fitting.baselines import (
    Lesson,
    Tuning,
    clusters_held_out,
    factors_held_out,
    fit_clusters,
    fit_factors,
    fit_isotonic,
    fit_neighbours,
    neighbours_held_out,
)

__all__ = ["BASELINES", "COIN", "RIVALS", "Baselines", "fit_rivals"]

_PART = "baselines.npz"
Scores = dict[str, NDArray[np.float64]]
Learn = Callable[[Lesson, Tuning], tuple[Rival, Scores]]


class Kind(NamedTuple):
    """What a rival is when fitted, and how it is: its model, and by kind of models P(bad) of the tuning rows."""

    model: type[Rival]
    learn: Learn


def _isotonic(_lesson: Lesson, tuning: Tuning) -> tuple[Rival, Scores]:
    model = fit_isotonic(tuning)
    return model, {view: model.risk(risk, risk, view) for view, risk in tuning.risk.items()}


def _of_vectors(fit: Callable[[Lesson], Any], held_out: Callable[[Any, Lesson], NDArray[np.float64]]) -> Learn:
    """A rival that sees hidden vectors alone; whatever the encoder's models saw, its scores are the same."""

    def learn(lesson: Lesson, tuning: Tuning) -> tuple[Rival, Scores]:
        order = lesson.order()
        ordered = lesson.take(order)
        model = fit(ordered)
        risk = held_out(model, ordered)[np.argsort(order)] if tuning.hidden is None else model.risk(tuning.hidden)
        return model, dict.fromkeys(tuning.risk, risk)

    return learn


RIVALS: dict[str, Kind] = {
    "isotonic": Kind(Isotonic, _isotonic),
    "knn": Kind(Neighbours, _of_vectors(fit_neighbours, neighbours_held_out)),
    "mf": Kind(Factors, _of_vectors(fit_factors, factors_held_out)),
    "cluster": Kind(Clusters, _of_vectors(fit_clusters, clusters_held_out)),
}
"""Rivals with scores, by the name that policies and reports give them."""

COIN = "coin"
BASELINES = (COIN, *RIVALS)
"""Every rival that goes through the certificate."""


@dataclass(frozen=True, eq=False)
class Baselines:
    """The fitted rivals of a bundle, by name; an older bundle may lack some."""

    models: Mapping[str, Rival]

    def __contains__(self, name: str) -> bool:
        return name == COIN or name in self.models

    def parts(self) -> dict[str, bytes]:
        """As a bundle part."""
        return {_PART: dump_arrays({f"{n}.{key}": a for n, m in self.models.items() for key, a in m.arrays().items()})}

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes]) -> Baselines:
        """Inverse of `parts`; what is not of a known rival is left out."""
        found: dict[str, dict[str, NDArray[Any]]] = {}
        for key, array in (load_arrays(_PART, parts[_PART]) if _PART in parts else {}).items():
            name, _, rest = key.partition(".")
            if name in RIVALS:
                found.setdefault(name, {})[rest] = array
        return cls({name: RIVALS[name].model.from_arrays(arrays) for name, arrays in found.items()})


def fit_rivals(lesson: Lesson, tuning: Tuning) -> tuple[Baselines, dict[str, Scores]]:
    """Fit every rival, and score the rows on which its paths are laid.

    Parameters
    ----------
    lesson
        Train.
    tuning
        The rows on which paths are laid.

    Returns
    -------
    tuple
        The rivals, and by rival and kind of models P(bad) of the tuning rows, float64 [n, K-1].
    """
    learned = {name: kind.learn(lesson, tuning) for name, kind in RIVALS.items()}
    return Baselines({name: model for name, (model, _) in learned.items()}), {n: s for n, (_, s) in learned.items()}
