"""What a new candidate is compared with on the fold that certifies it: the release that serves now.

`certify()` measures both on the same rows and hands out these figures, never the rows. The incumbent keeps its own
certificate and is only measured, so the fold certifies one candidate: P(promoted and bad) <= P(certified and bad) <=
delta for each stored certificate (METHOD.md 2.6). Intervals of cost are percentile bootstraps over the rows, one of
each group; the limit of lost quality is exact (`router_core.fitting.mean_limit`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from router_core.bundle import Bundle
from router_core.certificate import clopper_pearson
from router_core.errors import InputError
from router_core.fitting.mean_limit import upper_limit
from router_core.records import Records

__all__ = ["Compared", "Comparison", "Deployed", "Incumbent", "compare"]

Floats = NDArray[np.float64]

_RESAMPLES = 2_000
_CHUNK = 2**22
"""Numbers drawn at a time."""


@dataclass(frozen=True, eq=False)
class Incumbent:
    """The release that serves now, on the queries that certify the new one.

    Attributes
    ----------
    bundle
        Its bundle, each path at its certified step.
    records
        The same queries with the answers of its own tiers; others may be among them.
    """

    bundle: Bundle
    records: Records

    def rows_of(self, ids: list[str]) -> NDArray[np.intp]:
        """Its rows of these queries.

        Raises
        ------
        InputError
            When it lacks one.
        """
        place = {query: i for i, query in enumerate(self.records.query_id)}
        if missing := [query for query in ids if query not in place]:
            msg = f"the incumbent has no answers to {len(missing)} queries of the fold, {missing[0]!r} among them"
            raise InputError(msg)
        return np.asarray([place[query] for query in ids], np.intp)


@dataclass(frozen=True, eq=False)
class Deployed:
    """What one bundle does with n rows whose task is named.

    Attributes
    ----------
    served
        int8 [n], the tier whose answer is served.
    cost, quality, reference
        float64 [n]: US dollars of every attempt, quality of the answer served, and of the reference tier's.
    bad
        uint8 [n].
    """

    served: NDArray[np.int8]
    cost: Floats
    quality: Floats
    reference: Floats
    bad: NDArray[np.uint8]

    @classmethod
    def always_reference(cls, cost: Floats, quality: Floats) -> Self:
        """Every row goes to the reference tier; `cost` and `quality` are float64 [n, K]."""
        n, tiers = cost.shape
        last = quality[:, -1].copy()
        return cls(np.full(n, tiers - 1, np.int8), cost[:, -1].copy(), last, last.copy(), np.zeros(n, np.uint8))


@dataclass(frozen=True)
class Compared:
    """The new candidate and the incumbent on the rows of one task, or of all.

    Attributes
    ----------
    n
        Rows, one of each group.
    reference_usd, old_usd, new_usd
        Mean US dollars a query: always the reference tier, the incumbent, the candidate.
    difference_usd
        Interval of the mean of candidate less incumbent, row by row; two-sided at the level.
    reference_quality, old_quality, new_quality
        Mean quality of the reference tier's and of the served answers.
    old_quality_ratio, new_quality_ratio
        Interval of served quality over the reference's, in pairs, two-sided at the level; None where the reference's
        is 0.
    shortfall_upper
        Upper limit, one-sided at the level, of the mean of the reference's quality less the candidate's.
    old_bad, new_bad
        Bad answers served.
    old_bad_share, new_bad_share
        Exact interval of their share (Clopper and Pearson), two-sided at the level.
    old_share, new_share
        Share of the rows that each tier served, cheapest first.
    """

    n: int
    reference_usd: float
    old_usd: float
    new_usd: float
    difference_usd: tuple[float, float]
    reference_quality: float
    old_quality: float
    new_quality: float
    old_quality_ratio: tuple[float, float] | None
    new_quality_ratio: tuple[float, float] | None
    shortfall_upper: float
    old_bad: int
    new_bad: int
    old_bad_share: tuple[float, float]
    new_bad_share: tuple[float, float]
    old_share: tuple[float, ...]
    new_share: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        told: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in data.items()}
        return cls(**told)


@dataclass(frozen=True)
class Comparison:
    """Candidate against incumbent on one fold.

    Attributes
    ----------
    incumbent
        Id of its bundle.
    calib_sha256
        `ids_sha256` of the rows.
    level
        Of the intervals, 1 - delta.
    overall, tasks
        The figures.
    """

    incumbent: str
    calib_sha256: str
    level: float
    overall: Compared
    tasks: Mapping[str, Compared]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "incumbent": self.incumbent,
            "calib_sha256": self.calib_sha256,
            "level": self.level,
            "overall": self.overall.to_json(),
            "tasks": {task: found.to_json() for task, found in self.tasks.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        tasks = {task: Compared.from_json(found) for task, found in data["tasks"].items()}
        return cls(data["incumbent"], data["calib_sha256"], data["level"], Compared.from_json(data["overall"]), tasks)


def compare(
    new: Deployed,
    old: Deployed,
    reference_usd: Floats,
    tasks: list[str],
    *,
    tiers: int,
    level: float,
    seed: int,
) -> tuple[Compared, dict[str, Compared]]:
    """Compare row by row, over all rows and by task.

    Parameters
    ----------
    new, old
        On the same n rows.
    reference_usd
        float64 [n].
    tasks
        Task of each row.
    tiers
        How many there are.
    level
        Of the intervals.
    seed
        Of the resamples.
    """

    def of(rows: NDArray[np.intp]) -> Compared:
        difference = (new.cost - old.cost)[rows]
        shortfall = (new.reference - new.quality)[rows]
        edge = (1.0 - level) / 2.0
        drawn = _bootstrap(difference, seed)

        reference = _bootstrap(new.reference[rows], seed)

        def ratio(quality: Floats) -> tuple[float, float] | None:
            # The same seed draws the same rows, so quality and reference are resampled in pairs.
            found = _bootstrap(quality[rows], seed)[reference > 0] / reference[reference > 0]
            return None if not len(found) else (float(np.quantile(found, edge)), float(np.quantile(found, 1.0 - edge)))

        def exact(bad: NDArray[np.uint8]) -> tuple[float, float]:
            return clopper_pearson(int(bad[rows].sum()), len(rows), level)

        def shares(served: NDArray[np.int8]) -> tuple[float, ...]:
            return tuple((np.bincount(served[rows], minlength=tiers) / len(rows)).tolist())

        return Compared(
            n=len(rows),
            reference_usd=float(reference_usd[rows].mean()),
            old_usd=float(old.cost[rows].mean()),
            new_usd=float(new.cost[rows].mean()),
            difference_usd=(float(np.quantile(drawn, edge)), float(np.quantile(drawn, 1.0 - edge))),
            reference_quality=float(new.reference[rows].mean()),
            old_quality=float(old.quality[rows].mean()),
            new_quality=float(new.quality[rows].mean()),
            old_quality_ratio=ratio(old.quality),
            new_quality_ratio=ratio(new.quality),
            shortfall_upper=upper_limit(shortfall, level, seed),
            old_bad=int(old.bad[rows].sum()),
            new_bad=int(new.bad[rows].sum()),
            old_bad_share=exact(old.bad),
            new_bad_share=exact(new.bad),
            old_share=shares(old.served),
            new_share=shares(new.served),
        )

    label = np.asarray(tasks)
    by_task = {task: of(np.flatnonzero(label == task)) for task in sorted(set(tasks))}
    return of(np.arange(len(tasks))), by_task


def _bootstrap(values: Floats, seed: int) -> Floats:
    """Means of resamples with replacement, float64 [2000]."""
    draw = np.random.default_rng(seed)
    size = max(1, _CHUNK // len(values))
    means: list[Floats] = []
    for first in range(0, _RESAMPLES, size):
        at = draw.integers(len(values), size=(min(size, _RESAMPLES - first), len(values)))
        means.append(values[at].mean(axis=1))
    return np.concatenate(means)
