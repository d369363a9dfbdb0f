"""Targeted against untargeted distillation of T1 at equal examples and prompt tokens, five seeds, structured tasks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from closed_loop import test_of
from data import Item, calib_folds, rounds_of
from numpy.typing import NDArray
from prices import tokens
from protocol import ALPHA, BOOTSTRAP, NOMINAL, REFERENCE, SEEDS, STRUCTURED
from recipes import KIND, T1
from scoring import raw_score
from tiers import WORK, Answers, items_of, learners, pair_of, start_student, vectors_of
from traffic import Sources, serve, sources_of

from exporters.clusters import ClusterOptions, Failure, find_clusters
from exporters.students import distil
from exporters.students.heads import Targets, fit_head
from router_core.own_confidence import log_softmax
from router_core.router import Router
from router_core.student import make_student

__all__ = ["ARMS", "compared", "picks", "two_tier", "untargeted_t1"]

ARMS = ("targeted", "untargeted")
_WORST, _MOST = 5, 0.25
"""Clusters that are taught, as in the loop, and the share of the stream that both arms may teach at most."""

Say = Callable[[Sequence[Item]], list[tuple[str, float]]]


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
        By id how far T1 falls short, of those escalated.
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
    """Which answers a cascade T1, reference accepts by T1's confidence.

    The threshold is the lowest at which joint risk on the held-out rows is ALPHA at most; ties count whole.
    """
    levels = np.unique(held_sure)[::-1]
    wrong = np.array([np.mean((held_sure >= level) & ~held_right) for level in levels])
    safe = np.flatnonzero(np.maximum.accumulate(wrong) <= ALPHA)
    return np.asarray(sure >= levels[safe[-1]]) if len(safe) else np.zeros(len(sure), bool)


def compared(known: Mapping[str, Mapping[str, Answers]], router: Router) -> dict[str, Any]:
    """Both arms on every structured task; kept task by task."""
    found = {}
    for task in STRUCTURED:
        path = WORK / "targeted" / f"{task}.json"
        if not path.exists():
            told = _task(task, sources_of(known), router)
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(told))
        found[task] = json.loads(path.read_text())
    return found


def untargeted_t1(known: Mapping[str, Mapping[str, Answers]], router: Router) -> dict[str, dict[str, Answers]]:
    """The answers with the untargeted arm's T1 of seed 0, for router, first fold's and test queries."""
    found = {}
    for task in STRUCTURED:
        chosen, _ = picks(*_failed(task, sources_of(known), router), router.scorer.encoder.embed, 0)
        say = _taught(task, chosen["untargeted"], 0)
        items = [*learners(task, "router"), *calib_folds(items_of(task))[0], *test_of(task)]
        said = {
            item.query_id: (text, {"own_confidence": sure})
            for item, (text, sure) in zip(items, say(items), strict=True)
        }
        found[task] = {**known[task], "t1": replace(known[task]["t1"], said=said)}
    return found


def _failed(task: str, sources: Sources, router: Router) -> tuple[list[Item], list[str], dict[str, float]]:
    """The first two thirds of the stream, what of it the reference answered, and how far T1 fell short there."""
    grade, parts = raw_score[task], rounds_of(items_of(task))
    stream = [item for part in parts[: len(parts) * 2 // 3] for item in part]
    served = serve(router, stream, sources, grade)
    last = served.tried.shape[1] - 1
    failed = [item for item, tier in zip(stream, served.tier.tolist(), strict=True) if tier == last]
    gap = {item.query_id: 1.0 - grade(sources[task]["t1"][item.query_id][0], item.gold) for item in failed}
    return stream, list(gap), gap


def _task(task: str, sources: Sources, router: Router) -> dict[str, Any]:
    stream, escalated, gap = _failed(task, sources, router)
    test, held = test_of(task), learners(task, "router")
    start = _read(task, _start(task, sources), test, held)
    right: dict[str, list[Any]] = {arm: [] for arm in ARMS}
    kept: dict[str, list[Any]] = {arm: [] for arm in ARMS}
    notes = []
    for seed in SEEDS:
        chosen, told = picks(stream, escalated, gap, router.scorer.encoder.embed, seed)
        notes.append(told)
        for arm in ARMS:
            one = _read(task, _taught(task, chosen[arm], seed), test, held)
            right[arm].append(one[0])
            kept[arm].append(one[1])
    mean = {arm: (np.mean(right[arm], axis=0), 1 - np.mean(kept[arm], axis=0)) for arm in ARMS}
    return {
        "stream": len(stream),
        "escalated": len(escalated),
        "picks": notes,
        "start": {"accuracy": float(start[0].mean()), "cost_ratio": _cost(1 - start[1].astype(float))},
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
    return float(np.mean(escalates) + NOMINAL["t1"] / NOMINAL[REFERENCE])


def _paired(difference: NDArray[np.float64]) -> list[float]:
    """Mean and 95 % interval of a difference, query by query."""
    rng, n = np.random.default_rng(0), len(difference)
    means = [float(difference[rng.integers(0, n, n)].mean()) for _ in range(BOOTSTRAP)]
    return [float(difference.mean()), *(float(value) for value in np.quantile(means, [0.025, 0.975]))]


def _read(task: str, say: Say, test: Sequence[Item], held: Sequence[Item]) -> tuple[Any, Any]:
    grade, told = raw_score[task], {}
    for name, items in (("test", test), ("held", held)):
        said = say(items)
        told[name] = (
            np.array([grade(text, i.gold) >= 1.0 for (text, _), i in zip(said, items, strict=True)]),
            np.array([sure for _, sure in said]),
        )
    return told["test"][0], two_tier(told["test"][1], *told["held"])


def _start(task: str, sources: Sources) -> Say:
    said = sources[task]["t1"]
    return lambda items: [(said[i.query_id][0], said[i.query_id][1]["own_confidence"]) for i in items]


def _taught(task: str, examples: Sequence[Item], seed: int) -> Say:
    """T1 trained on *seed* and the examples, as long as T1 at the start was."""
    items = [*learners(task, "seed"), *examples]
    if task == "finance_ner":
        student = make_student(distil(KIND[task], [pair_of(i) for i in items], T1[task], tier="t1", seed=seed))

        def tag(some: Sequence[Item]) -> list[tuple[str, float]]:
            found = student.answer_many([i.prompt for i in some])
            return [(one.text, one.signals["own_confidence"]) for one in found]

        return tag
    labels = sorted({i.gold for i in items})
    hard = np.eye(len(labels), dtype=np.float32)[np.searchsorted(np.asarray(labels), [i.gold for i in items])]
    targets = Targets(hard, np.zeros_like(hard), np.ones(len(hard), np.float32))
    passes = int(start_student(task).metrics["epochs"])
    head = fit_head(vectors_of(task, items), targets, passes, T1[task], seed=seed).head
    return partial(_labelled, task, head, labels)


def _labelled(task: str, head: Any, labels: Sequence[str], items: Sequence[Item]) -> list[tuple[str, float]]:
    import torch

    with torch.no_grad():
        logits = head(torch.from_numpy(vectors_of(task, items))).numpy().astype(np.float64)
    log_p = log_softmax(logits)
    return [(labels[j], float(np.exp(log_p[i, j]))) for i, j in enumerate(log_p.argmax(axis=1).tolist())]
