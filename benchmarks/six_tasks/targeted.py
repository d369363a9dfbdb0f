"""Targeted against untargeted distillation of T2 at equal examples and prompt tokens, five seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from closed_loop import Known, Stage, test_of
from data import Item, calib_folds, rounds_of
from numpy.typing import NDArray
from prices import tokens
from protocol import ALPHA, BOOTSTRAP, NOMINAL, REFERENCE, SEEDS, TAUGHT, WIDE_TASKS
from recipes import MAX_TOKENS, WIDE
from scoring import raw_score
from tiers import WORK, items_of, learners, start_t2, t2_learners, vectors_of
from traffic import Said, serve, sources_of
from wide import Rows

from exporters.clusters import ClusterOptions, Failure, find_clusters
from router_core.bundle import Bundle
from router_core.own_confidence import log_softmax
from router_core.router import Router
from router_core.text_tokens import TextTokens

__all__ = ["ARMS", "compared", "picks", "taught_by_clusters", "two_tier"]

ARMS = ("targeted", "untargeted")
_WORST, _MOST = 5, 0.25
"""Clusters that are taught, and the share of the stream that both arms may teach at most."""


def picks(
    stream: Sequence[Item], escalated: Sequence[str], gap: Mapping[str, float], embed: Callable[[str], Any], seed: int
) -> tuple[dict[str, list[Item]], dict[str, Any]]:
    """What each arm teaches: as many examples, within the same prompt tokens.

    Parameters
    ----------
    stream
        Queries that were answered.
    escalated
        Ids of those the reference tier answered.
    gap
        By id how far T2 falls short, of those escalated.
    embed
        The router's hidden vector of a text.
    seed
        Of the clusters and of the untargeted draw.
    """
    by_id = {item.query_id: item for item in stream}
    began = time.process_time()
    failures = [
        Failure(query, by_id[query].task, by_id[query].prompt, embed(by_id[query].prompt), gap[query], 0.0)
        for query in escalated
    ]
    found = find_clusters(failures, ClusterOptions(), seed=seed)
    spent = time.process_time() - began
    worst = [by_id[q] for one in found.clusters if one.number <= _WORST for q in one.query_ids]
    chosen = {
        "targeted": worst,
        "untargeted": [stream[i] for i in np.random.default_rng(seed).permutation(len(stream)).tolist()],
    }
    count = min(len(worst), round(_MOST * len(stream)))
    limit = min(sum(tokens(item.prompt) for item in mine[:count]) for mine in chosen.values())
    count = min(_within(mine[:count], limit) for mine in chosen.values())
    bought = sum(tokens(i.prompt) for i in chosen["untargeted"][:count] if i.query_id not in set(escalated))
    told = {
        "examples": count,
        "clusters": len(found.clusters),
        "cluster_cpu_s": spent,
        "tokens": {arm: sum(tokens(item.prompt) for item in mine[:count]) for arm, mine in chosen.items()},
        "teacher_usd": {"targeted": 0.0, "untargeted": bought * NOMINAL[REFERENCE] / 1000},
    }
    return {arm: mine[:count] for arm, mine in chosen.items()}, told


def _within(items: Sequence[Item], limit: int) -> int:
    spent = np.cumsum([tokens(item.prompt) for item in items])
    return int(np.searchsorted(spent, limit, side="right"))


def two_tier(
    sure: NDArray[np.float64], held_right: NDArray[np.bool_], held_sure: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which answers a cascade T2, reference accepts by T2's confidence.

    The threshold is the lowest at which joint risk on the held-out rows is ALPHA at most; ties count whole.
    """
    levels = np.unique(held_sure)[::-1]
    wrong = np.array([np.mean((held_sure >= level) & ~held_right) for level in levels])
    safe = np.flatnonzero(np.maximum.accumulate(wrong) <= ALPHA)
    return np.asarray(sure >= levels[safe[-1]]) if len(safe) else np.zeros(len(sure), bool)


@dataclass(frozen=True, eq=False)
class _Task:
    """All texts of a task, read once, and T2 learned from some of them.

    Attributes
    ----------
    name, labels
        Of the task.
    place
        Row of a query by its id.
    rows
        What T2 starts from, stream, router part, first fold and test.
    """

    name: str
    labels: tuple[str, ...]
    place: Mapping[str, int]
    rows: Rows

    @classmethod
    def of(cls, name: str) -> _Task:
        learned, stream = t2_learners(name), [item for part in rounds_of(items_of(name)) for item in part]
        items = [*learned, *stream, *learners(name, "router"), *calib_folds(items_of(name))[0], *test_of(name)]
        labels = tuple(sorted({item.gold for item in (*learned, *stream)}))
        wanted = np.array([labels.index(item.gold) if item.gold in labels else -1 for item in items])
        reader = TextTokens(start_t2(name).weights["tokenizer.json"], MAX_TOKENS[name])
        ids = [reader.ids(item.prompt) for item in items]
        pieces = WIDE[name].pieces(ids, reader.largest_id + 1)
        place = {item.query_id: row for row, item in enumerate(items)}
        return cls(name, labels, place, Rows.of(pieces, vectors_of(name, items), wanted))

    def taught(self, examples: Sequence[Item], seed: int) -> Callable[[Sequence[Item]], list[tuple[str, float]]]:
        """T2 that learned what it started from and the examples: label and confidence of queries."""
        some = self._at([*t2_learners(self.name), *examples])
        model = WIDE[self.name].fitted(some, len(self.labels), seed)
        sure = start_t2(self.name).spec.calibration.confidence

        def say(items: Sequence[Item]) -> list[tuple[str, float]]:
            log_p = log_softmax(model.logits(self._at(items)))
            best = log_p.argmax(axis=1).tolist()
            return [(self.labels[j], sure(float(np.exp(log_p[i, j])))) for i, j in enumerate(best)]

        return say

    def _at(self, items: Sequence[Item]) -> Rows:
        return self.rows.at(np.array([self.place[item.query_id] for item in items]))


_task_of = cache(_Task.of)
Starts = Mapping[str, tuple[Stage, Bundle]]


def compared(starts: Starts, known: Known) -> dict[str, Any]:
    """Both arms on every task with a wide T2; kept task by task.

    Parameters
    ----------
    starts
        By task the stage and the bundle of the start.
    known
        What the other tiers answer.
    """
    found = {}
    for task in WIDE_TASKS:
        path = WORK / "targeted" / f"{task}.json"
        if not path.exists():
            told = _compared(task, starts[task][1], known)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(told))
        found[task] = json.loads(path.read_text())
    return found


def taught_by_clusters(task: str, start: Bundle, known: Known) -> Said:
    """What T2 says that the targeted arm of seed 0 taught, of router part, first fold and test."""
    made = _task_of(task)
    chosen, _ = picks(*_failed(made, start, known), 0)
    items = [*learners(task, "router"), *calib_folds(items_of(task))[0], *test_of(task)]
    said = made.taught(chosen["targeted"], 0)(items)
    return {item.query_id: (text, {"own_confidence": sure}) for item, (text, sure) in zip(items, said, strict=True)}


def _failed(
    made: _Task, start: Bundle, known: Known
) -> tuple[list[Item], list[str], dict[str, float], Callable[[str], Any]]:
    """The first two thirds of the stream, what of it the reference answered, and how far T2 fell short there."""
    grade, parts, router = raw_score[made.name], rounds_of(items_of(made.name)), Router.from_bundle(start)
    stream = [item for part in parts[: len(parts) * 2 // 3] for item in part]
    said = {
        item.query_id: (text, {"own_confidence": sure, "template_matched": 1.0})
        for item, (text, sure) in zip(stream, made.taught([], 0)(stream), strict=True)
    }
    served = serve(router, stream, sources_of(known, {made.name: said}), grade)
    last = served.tried.shape[1] - 1
    failed = [item for item, tier in zip(stream, served.tier.tolist(), strict=True) if tier == last]
    gap = {item.query_id: 1.0 - grade(said[item.query_id][0], item.gold) for item in failed}
    return stream, list(gap), gap, router.scorer.encoder.embed


def _compared(task: str, start: Bundle, known: Known) -> dict[str, Any]:
    made, test, held = _task_of(task), test_of(task), learners(task, "router")
    stream, escalated, gap, embed = _failed(made, start, known)
    before = _read(made, made.taught([], 0), test, held)
    right: dict[str, list[Any]] = {arm: [] for arm in ARMS}
    kept: dict[str, list[Any]] = {arm: [] for arm in ARMS}
    notes = []
    for seed in SEEDS:
        chosen, told = picks(stream, escalated, gap, embed, seed)
        notes.append(told)
        for arm in ARMS:
            one = _read(made, made.taught(chosen[arm], seed), test, held)
            right[arm].append(one[0])
            kept[arm].append(one[1])
    mean = {arm: (np.mean(right[arm], axis=0), 1 - np.mean(kept[arm], axis=0)) for arm in ARMS}
    return {
        "stream": len(stream),
        "escalated": len(escalated),
        "picks": notes,
        "start": {"accuracy": float(before[0].mean()), "cost_ratio": _cost(1 - before[1].astype(float))},
        **{
            arm: {
                "accuracy": float(mean[arm][0].mean()),
                "accuracy_by_seed": [float(np.mean(one)) for one in right[arm]],
                "cost_ratio": _cost(mean[arm][1]),
            }
            for arm in ARMS
        },
        "accuracy_gain": _paired(mean["targeted"][0] - mean["untargeted"][0]),
        "cost_gain": _paired(mean["untargeted"][1] - mean["targeted"][1]),
    }


def _cost(escalates: NDArray[np.float64]) -> float:
    return float(np.mean(escalates) + NOMINAL[TAUGHT] / NOMINAL[REFERENCE])


def _paired(difference: NDArray[np.float64]) -> list[float]:
    """Mean and 95 % interval of a difference, query by query."""
    rng, n = np.random.default_rng(0), len(difference)
    means = [float(difference[rng.integers(0, n, n)].mean()) for _ in range(BOOTSTRAP)]
    return [float(difference.mean()), *(float(value) for value in np.quantile(means, [0.025, 0.975]))]


def _read(made: _Task, say: Any, test: Sequence[Item], held: Sequence[Item]) -> tuple[Any, Any]:
    grade, told = raw_score[made.name], {}
    for name, items in (("test", test), ("held", held)):
        said = say(items)
        told[name] = (
            np.array([grade(text, i.gold) >= 1.0 for (text, _), i in zip(said, items, strict=True)]),
            np.array([sure for _, sure in said]),
        )
    return told["test"][0], two_tier(told["test"][1], *told["held"])
