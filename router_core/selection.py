"""Which tiers, and which queries: the default of ``--tiers``, and dropping queries without an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from router_core.errors import InputError

if TYPE_CHECKING:
    from router_core.records import Records

__all__ = ["SPLITS", "DropReport", "choose_tiers", "complete"]

SPLITS = ("train", "tune", "calib", "test", "audit")

_MAX_DROPPED = 0.05
_MAX_CHEAP_TIERS = 4


@dataclass(frozen=True)
class DropReport:
    """What `complete` dropped.

    Parameters
    ----------
    total, dropped
        Queries before, and queries dropped, per split (``"all"`` where no split is known).
    lacking
        Per tier the queries that lack its quality or cost.
    """

    total: Mapping[str, int]
    dropped: Mapping[str, int]
    lacking: Mapping[str, int]

    @property
    def count(self) -> int:
        """Queries dropped in all splits together."""
        return sum(self.dropped.values())

    def __str__(self) -> str:
        parts = [f"{split} {self.dropped[split]} of {self.total[split]}" for split in self.total]
        return f"dropped for a missing quality or cost: {', '.join(parts)}"


def choose_tiers(
    records: Records, train_index: npt.NDArray[np.integer] | Sequence[int], names: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Choose the tiers, or check those named: cascade order, the last being the reference.

    Parameters
    ----------
    records
        Records of all models.
    train_index
        Rows of the training split; no other row is looked at.
    names
        Names the user gave, checked and returned; None chooses.

    Returns
    -------
    tuple of str
        By default the model of the highest mean quality on train, and before it the cheaper models on the
        hull of mean cost and mean quality, cheapest first, at most four: where there are more, the ones whose
        loss would lower the hull least are left out. Models that lack more than 5 % of the train queries are
        not considered.

    Raises
    ------
    InputError
        If a name is unknown or given twice, or fewer than two tiers are left.
    """
    known = f"the records have {', '.join(records.models)}"
    if names is not None:
        for name in names:
            if name not in records.models:
                raise InputError(f"{records.source}: unknown tier {name!r}; {known}")
            if list(names).count(name) > 1:
                raise InputError(f"tier {name!r} is named twice; name each tier once")
        if len(names) < 2:
            raise InputError(f"at least two tiers are needed, {len(names)} named; {known}")
        return tuple(names)
    quality, cost = records.quality[train_index], records.cost[train_index]
    if not len(quality):
        raise InputError(f"{records.source}: no train rows to choose tiers on")
    usable = ~np.isnan(quality) & ~np.isnan(cost)
    points = []
    for m in np.flatnonzero(usable.mean(axis=0) >= 1 - _MAX_DROPPED):
        rows = usable[:, m]
        points.append((float(cost[rows, m].mean()), float(quality[rows, m].mean()), int(m)))
    if len(points) < 2:
        raise InputError(
            f"{records.source}: fewer than two models have a quality and a cost for 95 % of train; {known}"
        )
    reference = max(points, key=lambda point: (point[1], -point[0], -point[2]))
    hull = _hull([point for point in points if point[0] < reference[0]], reference)
    if len(hull) < 2:
        raise InputError(
            f"{records.source}: {records.models[reference[2]]!r} is both the best and the cheapest model on "
            f"train, so there is nothing to route; name the tiers yourself ({known})"
        )
    return tuple(records.models[point[2]] for point in hull)


def complete(records: Records, tiers: Sequence[str]) -> tuple[Records, DropReport]:
    """Keep the records of `tiers`, without the queries that lack one's quality or cost.

    Raises
    ------
    InputError
        If more than 5 % of a split would be dropped, or nothing would remain.
    """
    chosen = records.for_models(tiers)
    gaps = np.isnan(chosen.quality) | np.isnan(chosen.cost)
    gone: npt.NDArray[np.bool_] = np.any(gaps, axis=1)
    splits = [split or "all" for split in chosen.split]
    total = dict.fromkeys(sorted(set(splits), key=lambda split: (*SPLITS, split).index(split)), 0)
    dropped = dict(total)
    for split, lost in zip(splits, gone.tolist(), strict=True):
        total[split] += 1
        dropped[split] += lost
    lacking = {name: int(gaps[:, k].sum()) for k, name in enumerate(tiers)}
    worst = max(lacking, key=lambda name: lacking[name])
    for split, count in dropped.items():
        if count > _MAX_DROPPED * total[split] or gone.all():
            raise InputError(
                f"{records.source}: {count} of {total[split]} queries of split {split!r} lack the quality or "
                f"cost of a tier, more than 5 % (most often {worst!r}); leave it out or complete its records"
            )
    report = DropReport(total, dropped, lacking)
    return (chosen.take(np.flatnonzero(~gone)) if gone.any() else chosen), report


_Point = tuple[float, float, int]


def _hull(cheaper: list[_Point], reference: _Point) -> list[_Point]:
    """Upper hull of (cost, quality) from the cheapest model to the reference, thinned to what is allowed."""
    hull: list[_Point] = []
    for point in [*sorted(cheaper, key=lambda p: (p[0], -p[1], p[2])), reference]:
        if hull and hull[-1][0] == point[0]:
            continue
        while len(hull) >= 2 and _area(hull[-2], hull[-1], point) <= 0:
            hull.pop()
        hull.append(point)
    while len(hull) > _MAX_CHEAP_TIERS + 1:
        losses = [_loss(hull, i) for i in range(len(hull) - 1)]
        hull.pop(losses.index(min(losses)))
    return hull


def _area(a: _Point, b: _Point, c: _Point) -> float:
    """Twice the area by which `b` lies above the line from `a` to `c`; negative below it."""
    return (b[1] - a[1]) * (c[0] - a[0]) - (c[1] - a[1]) * (b[0] - a[0])


def _loss(hull: list[_Point], i: int) -> float:
    # The cheapest tier has no neighbour to its left; it stays, so that the cascade starts as cheaply as it
    # can.
    return math.inf if i == 0 else _area(hull[i - 1], hull[i], hull[i + 1])
