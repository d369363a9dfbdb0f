"""Failure clusters: what the cheap tiers fail at, in groups that are worth teaching.

Hidden vectors of escalated or failed queries -> principal components -> k-means per task, k by silhouette -> ranked by
size times mean quality gap (arXiv 2604.23577, section 3.3). Which queries a bundle calibrates with never enters.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.fence import NO_KEYS, Keys, item_keys, refuse_calib
from exporters.grouping import best_groups, keywords, principal_components
from router_core.errors import InputError, MissingExtraError

__all__ = ["Cluster", "ClusterOptions", "Clusters", "Failure", "find_clusters"]

Floats = NDArray[np.float64]

_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Failure:
    """One query that a cheap tier failed at, or that was escalated.

    Attributes
    ----------
    query_id, task
        As logged.
    text
        The prompt; ``""`` where the log keeps no text.
    hidden
        The router's hidden vector, ``[d]``.
    gap
        Quality of the reference tier less that of the cheap tier, known or expected; below 0 counts as 0.
    cost_usd
        What answering it cost, US dollars.
    key
        Group key, ``""`` for none.
    """

    query_id: str
    task: str
    text: str
    hidden: NDArray[np.floating[Any]]
    gap: float
    cost_usd: float
    key: str = ""


@dataclass(frozen=True)
class ClusterOptions:
    """How failures are grouped.

    Attributes
    ----------
    components
        Principal components kept, at most.
    most
        Clusters a task, at most; there are as many as give the best silhouette.
    smallest
        Failures per cluster there must be on average.
    sampled
        Failures on which the silhouette is computed, at most.
    limit
        Failures a task that are kept, at most: a fixed sample by the hash of the id, so that memory stays flat.
    keywords, typical
        Words and queries told of each cluster.
    """

    components: int = 128
    most: int = 12
    smallest: int = 5
    sampled: int = 2000
    limit: int = 20_000
    keywords: int = 6
    typical: int = 3

    def __post_init__(self) -> None:
        if min(self.components, self.most, self.smallest, self.keywords, self.typical) < 1:
            raise InputError("components, most, smallest, keywords and typical must be at least 1.")
        if self.sampled < 50 or self.limit < 50:
            raise InputError("sampled and limit must be at least 50.")


@dataclass(frozen=True)
class Cluster:
    """One group of failures.

    Attributes
    ----------
    task, number
        Its task, and its place among the clusters of the task, 1 the worst.
    size
        Failures in it; scaled up where only a sample was kept.
    gap
        Mean quality gap.
    score
        ``size * gap``, by which clusters are ranked.
    cost_usd
        What answering them cost in all, scaled likewise.
    keywords
        Words that set it apart from the task's other clusters.
    typical
        Queries nearest to its centre: their texts, or ids where there is no text.
    query_ids
        All of its failures that were kept, nearest to the centre first.
    """

    task: str
    number: int
    size: int
    gap: float
    score: float
    cost_usd: float
    keywords: tuple[str, ...]
    typical: tuple[str, ...]
    query_ids: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Clusters:
    """All clusters, the worst first.

    Attributes
    ----------
    clusters
        In order of score.
    silhouette
        Per task the silhouette of its grouping; None for a task of one cluster.
    seen
        Per task the failures there were.
    places
        Per task the map: ``[n, 2]`` places on the first two principal components, and ``[n]`` cluster numbers.
    """

    clusters: tuple[Cluster, ...]
    silhouette: dict[str, float | None]
    seen: dict[str, int]
    places: dict[str, tuple[Floats, NDArray[np.intp]]] = field(repr=False)

    def pick(self, per_task: int = 5) -> list[str]:
        """Ids of the failures in the worst clusters of every task."""
        return [one for cluster in self.clusters if cluster.number <= per_task for one in cluster.query_ids]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``typical`` holds texts of queries."""
        told = [
            {
                "task": one.task, "number": one.number, "size": one.size, "gap": one.gap, "score": one.score,
                "cost_usd": one.cost_usd, "keywords": list(one.keywords), "typical": list(one.typical),
                "query_ids": list(one.query_ids),
            }
            for one in self.clusters
        ]  # fmt: skip
        places = {task: [[*place, int(one)] for place, one in zip(at.tolist(), number, strict=True)]
                  for task, (at, number) in self.places.items()}  # fmt: skip
        return {"clusters": told, "silhouette": self.silhouette, "failures": self.seen, "places": places}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Clusters:
        """Read what `to_json` wrote."""
        listed = ("keywords", "typical", "query_ids")
        found = (Cluster(**{**one, **{name: tuple(one[name]) for name in listed}}) for one in data["clusters"])
        places = {task: np.asarray(rows, np.float64).reshape(-1, 3) for task, rows in data["places"].items()}
        return cls(
            tuple(found), dict(data["silhouette"]), dict(data["failures"]),
            {task: (rows[:, :2], rows[:, 2].astype(np.intp)) for task, rows in places.items()},
        )  # fmt: skip

    def _repr_html_(self) -> str:
        from exporters.showing import clusters_html

        return clusters_html(self)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(f"{len(self.clusters)} clusters of {sum(self.seen.values())} failures")


def find_clusters(
    failures: Iterable[Failure], options: ClusterOptions | None = None, *, calib: Keys = NO_KEYS, seed: int = 0
) -> Clusters:
    """Group failures.

    Parameters
    ----------
    failures
        Read once, so a generator over a long log is fine.
    options
        How.
    calib
        Hashed keys of calibration items (``bundle.keys.calib``).
    seed
        Fixes the sample and the starts of k-means.

    Raises
    ------
    InputError
        When there are no failures, one is a calibration item, or vectors are not finite or of different lengths.
    MissingExtraError
        Without scikit-learn.
    """
    try:
        import sklearn  # noqa: F401 - refused before any work if it is missing
    except ImportError:
        raise MissingExtraError("fit", "cluster failures") from None
    options = options or ClusterOptions()
    kept, seen = _sampled(failures, options, calib, seed)
    if not kept:
        raise InputError("there are no failures to cluster; log escalations with their hidden vectors first")
    clusters: list[Cluster] = []
    silhouette: dict[str, float | None] = {}
    places: dict[str, tuple[Floats, NDArray[np.intp]]] = {}
    for task, items in sorted(kept.items()):
        hidden = np.stack([np.asarray(one.hidden, dtype=np.float64) for one in items])
        z = principal_components(hidden, options.components, seed)
        most = min(options.most, len(items) // options.smallest)
        label, silhouette[task] = best_groups(z, most, options.sampled, seed)
        found, order = _told(task, items, z, label, seen[task] / len(items), options)
        clusters += found
        places[task] = (np.column_stack((z[:, 0], z[:, 1] if z.shape[1] > 1 else 0.0 * z[:, 0])), order[label] + 1)
    ranked = sorted(clusters, key=lambda one: (-one.score, one.task, one.number))
    return Clusters(tuple(ranked), silhouette, dict(sorted(seen.items())), places)


def _sampled(
    failures: Iterable[Failure], options: ClusterOptions, calib: Keys, seed: int
) -> tuple[dict[str, list[Failure]], Counter[str]]:
    """Per task the failures with the smallest hashes, in order of their ids, and how many there were."""
    heaps: dict[str, list[tuple[int, int, Failure]]] = defaultdict(list)
    seen: Counter[str] = Counter()
    stream = iter(failures)
    size = -1
    while chunk := list(islice(stream, _CHUNK)):
        refuse_calib("clusters", (key for one in chunk for key in item_keys(one.query_id, one.key, one.text)), calib)
        for one in chunk:
            size = len(one.hidden) if size < 0 else size
            _check(one, size)
            seen[one.task] += 1
            rank = -int.from_bytes(hashlib.sha256(f"{seed}|{one.query_id}".encode("utf-8", "replace")).digest()[:8])
            heap, item = heaps[one.task], (rank, seen[one.task], one)
            if len(heap) < options.limit:
                heapq.heappush(heap, item)
            elif rank > heap[0][0]:
                heapq.heapreplace(heap, item)
    return {
        task: [one for _, _, one in sorted(heap, key=lambda item: (item[2].query_id, item[1]))]
        for task, heap in heaps.items()
    }, seen


def _check(one: Failure, size: int) -> None:
    if len(one.hidden) != size:
        raise InputError(
            f"failure {one.query_id!r} has a hidden vector of {len(one.hidden)} numbers, others of {size}; cluster the "
            "failures of one router at a time"
        )
    if not np.isfinite(one.hidden).all() or not np.isfinite(one.gap) or not np.isfinite(one.cost_usd):
        raise InputError(f"failure {one.query_id!r} has a hidden vector, gap or cost that is not finite")


def _told(
    task: str, items: Sequence[Failure], z: Floats, label: NDArray[np.intp], scale: float, options: ClusterOptions
) -> tuple[list[Cluster], NDArray[np.intp]]:
    """Clusters of a task in order of score, and the place of every label in that order."""
    gap = np.array([max(one.gap, 0.0) for one in items])
    cost = np.array([one.cost_usd for one in items])
    count = int(label.max()) + 1
    score = np.array([gap[label == j].sum() for j in range(count)])
    ranked = sorted(range(count), key=lambda j: (-score[j], j))
    words = keywords([one.text for one in items], label, options.keywords)
    found = []
    for number, j in enumerate(ranked, start=1):
        at = np.flatnonzero(label == j)
        distance = np.square(z[at] - z[at].mean(axis=0)).sum(axis=1)
        near = [items[i] for i in at[np.argsort(distance, kind="stable")].tolist()]
        # Queries asked over and over would fill the list with one text.
        typical = list(dict.fromkeys(one.text.strip() or one.query_id for one in near))[: options.typical]
        found.append(
            Cluster(
                task, number, round(len(at) * scale), round(float(gap[at].mean()), 6),
                round(float(score[j]) * scale, 6), float(cost[at].sum()) * scale, words[j], tuple(typical),
                tuple(dict.fromkeys(one.query_id for one in near)),
            )
        )  # fmt: skip
    order = np.empty(count, dtype=np.intp)
    order[ranked] = np.arange(count)
    return found, order
