"""`evaluate()`: every policy and rival of a bundle on logged queries, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.fitting.frozen import candidate_of, policy_table, scope_table
from router_core.fitting.rivals import BASELINES, RIVALS
from router_core.fitting.score_table import ScoreTable
from router_core.fitting.tables import Progress, bad_answers, views_of
from router_core.kernels import sweep
from router_core.outcomes import Outcome, apgr_and_cpt, describe_outcome, describe_path
from router_core.policy import CASCADE, ROUTE_ONLY, Policy, coin
from router_core.promises import claim_json, overall_certificate
from router_core.records import Records, read_records
from router_core.router import Router
from router_core.scopes import ALL
from router_core.show import Report
from router_core.splits import Prepared, known_by, prepare

__all__ = ["evaluate"]

_TIMED = 200
_FRONTIERS = (CASCADE, *RIVALS)
_SPLITS = {"test": "test", "calib": "calib_all", "train": "train", "tune": "tune"}
"""Field of `Prepared` by the name of a split."""
_ABSENT = "the bundle stores no such rival; fit it again with this version"
Rows = NDArray[np.intp]


def evaluate(
    bundle: Bundle | str | Path,
    records: Records | str | Path | Sequence[str | Path],
    *,
    split: str = "test",
    progress: Progress | None = None,
) -> Report:
    """Replay every policy and rival of a bundle on the rows of a split.

    Parameters
    ----------
    bundle
        A bundle or its folder.
    records
        Records, or files to read them from.
    split
        Split to report on: ``"test"``, ``"calib"`` (all of it, repeats included), ``"train"``, ``"tune"``, or ``"all"``
        queries. Without a ``split`` column a hash puts a fifth of them in test, as for `fit`.
    progress
        Called as the work goes on.

    Returns
    -------
    Report
        A dictionary with the structure of ``routenlp evaluate --json``, which shows itself in a notebook.

    Raises
    ------
    InputError
        When the records lack a tier or the split is empty.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.load(bundle)
    if not isinstance(records, Records):
        records = read_records(records, bundle.portfolio)
    rows, prepared = _rows(bundle, records, split)
    settled = prepared.records
    work = _Evaluation(bundle, settled, progress)
    named = work.named(rows)
    tasks, leaves = {}, bundle.scopes.leaves
    for task, parts in named.items():
        tasks[task] = work.report(_join(list(parts.values())), task)
        tasks |= {scope: work.report(part, scope) for scope, part in parts.items() if scope in leaves}
    for view in bundle.scopes.views:
        if view.scope.endswith("*"):
            tasks[view.scope] = work.report(work.masked(rows, view.scope), view.scope)
    overall = work.report(_join([part for parts in named.values() for part in parts.values()]), None)
    return Report(
        {
            "bundle": bundle.id,
            "split": split,
            "n": overall["n"],
            "splits_made": not prepared.supplied,
            "other_splits": 0 if split == "all" else len(settled) - len(getattr(prepared, _SPLITS[split])),
            "learned_from": _learned(bundle, settled, rows),
            "cost_basis": bundle.report.get("cost_basis"),
            "tasks": tasks,
            "overall": overall,
            "absent": {_reported(name): _ABSENT for name in BASELINES if overall["policies"][_reported(name)] is None},
            "router": work.timing(rows),
        }
    )


def _learned(bundle: Bundle, records: Records, rows: Rows) -> int:
    """How many of the rows the bundle was trained or tuned on: figures on them are too good."""
    keys = np.union1d(bundle.keys.train, bundle.keys.tune)
    return int(known_by(records, rows.tolist(), keys).sum())


def _rows(bundle: Bundle, records: Records, split: str) -> tuple[Rows, Prepared]:
    if split not in (*_SPLITS, "all"):
        msg = f"unknown split {split!r}; choose one of {', '.join(_SPLITS)} or all"
        raise InputError(msg)
    prepared = prepare(records, require=())
    prepared, _ = prepared.complete(bundle.portfolio.names)
    named = range(len(prepared.records)) if split == "all" else getattr(prepared, _SPLITS[split]).tolist()
    rows = np.asarray([i for i in named if prepared.records.task[i] in bundle.scopes.subtasks], np.intp)
    if not len(rows):
        msg = (
            f"{records.source}: split {split!r} has no rows of a task this bundle knows "
            f"({', '.join(bundle.scopes.subtasks)}); give records of these tasks or another --split"
        )
        raise InputError(msg)
    return rows, prepared


@dataclass(frozen=True, eq=False)
class _Replayed:
    """Rows and what every policy did on them, with the certified paths' whole frontiers."""

    rows: Rows
    outcomes: dict[str, Outcome]
    frontiers: dict[str, tuple[NDArray[np.int8], NDArray[np.float64]]]
    gap: NDArray[np.float64]


class _Evaluation:
    def __init__(self, bundle: Bundle, records: Records, progress: Progress | None) -> None:
        self.bundle, self.records, self.progress = bundle, records, progress
        self.candidate = candidate_of(bundle)
        self.bad = bad_answers(records, self.candidate.tolerance)
        self.tiers = bundle.portfolio.names
        latency = [tier.latency_ms for tier in bundle.portfolio.tiers]
        self.latency = None if None in latency else np.asarray(latency, np.float64)

    def named(self, rows: Rows) -> dict[str, dict[str, _Replayed]]:
        """Per task and scope, its queries routed with their label named; never-seen subtasks fall to a masked scope."""
        found: dict[str, dict[str, list[int]]] = {}
        for i in rows.tolist():
            task, subtask = self.records.task[i], self.records.subtask[i]
            view = self.bundle.scopes.resolve(f"{task}/{subtask}" if subtask else task)
            if view is not None:
                found.setdefault(task, {}).setdefault(view.scope, []).append(i)
        order = [task for task in self.bundle.scopes.subtasks if task in found]
        return {
            task: {scope: self._replay(np.asarray(mine, np.intp), scope) for scope, mine in found[task].items()}
            for task in order
        }

    def masked(self, rows: Rows, scope: str) -> _Replayed:
        """The same queries under a scope that hides a part of the label."""
        mine = rows if scope == "*" else rows[[self.records.task[i] == scope[:-2] for i in rows.tolist()]]
        return self._replay(mine, scope)

    def _replay(self, rows: Rows, scope: str) -> _Replayed:
        rows, table = scope_table(self.candidate, self.records, rows, scope, self.bad, self.progress)
        if table is None:
            msg = f"scope {scope!r} serves none of these rows; evaluate on records of its task"
            raise InputError(msg)
        view = next(view for view in self.bundle.scopes.views if view.scope == scope)
        encoder = self.bundle.scorer.encoder
        labels = [v for v in views_of(self.records, self.bundle.scopes, scope, rows) if v is not None]
        seen = [
            encoder.predict(self.records.prompt[i], label.task, label.subtask)
            for i, label in zip(rows.tolist(), labels, strict=True)
        ]
        hidden = np.stack([prediction.hidden for prediction in seen])
        outcomes, frontiers = {}, {}
        for name in (CASCADE, ROUTE_ONLY, *BASELINES):
            path = self.candidate.policies.get((scope, name))
            if path is None:
                continue
            mine = policy_table(name, table, self.candidate.baselines, view.models, hidden)
            served, cost = mine.replay(path)
            outcomes[name] = Outcome(served[path.step], cost[path.step], self._latency(mine, path))
            if name in _FRONTIERS:
                frontiers[name] = (served, cost)
        return _Replayed(rows, outcomes, frontiers, np.asarray([prediction.gap[0] for prediction in seen]))

    def _latency(self, table: ScoreTable, path: Policy) -> NDArray[np.float64] | None:
        if self.latency is None:
            return None
        every = np.broadcast_to(self.latency, table.cost.shape)
        at = slice(path.step, path.step + 1)
        return np.asarray(sweep(*table.scores(path), path.start[at], path.accept[at], every, table.failed)[1][0])

    def report(self, found: _Replayed, scope: str | None) -> dict[str, Any]:
        """The figures of one scope; None is all named tasks together."""
        rows = found.rows
        quality, cost, bad = self.records.quality[rows], self.records.cost[rows], self.bad[rows]
        outcomes = {_reported(name): outcome for name, outcome in found.outcomes.items()}
        for tier, name in enumerate(self.tiers):
            outcomes[f"always:{name}"] = self._fixed(np.full(len(rows), tier, np.int8), cost)
        outcomes["random_same_cost"] = self._random_mix(found, scope, cost)
        price = np.where(bad > 0, np.inf, cost)
        outcomes["oracle"] = self._fixed(price.argmin(axis=1).astype(np.int8), cost)
        policies: dict[str, Any] = {
            name: describe_outcome(outcome, quality, cost, bad, self.tiers) for name, outcome in outcomes.items()
        }
        frontier = {
            "routenlp" if name == CASCADE else name: describe_path(*path, quality, cost, bad)
            for name, path in found.frontiers.items()
        }
        told: dict[str, Any] = {
            "n": len(rows),
            "policies": {**policies, **{_reported(n): None for n in BASELINES if n not in found.outcomes}},
            "frontier": {**frontier, **{n: None for n in RIVALS if n not in found.frontiers}},
            "certificate": self._certificate(scope),
        }
        if len(self.tiers) == 2:
            told["apgr"], told["cpt"] = apgr_and_cpt(found.gap, quality[:, 0], quality[:, 1])
        return told

    def _fixed(self, served: NDArray[np.int8], cost: NDArray[np.float64]) -> Outcome:
        at = served.astype(np.intp)
        latency = None if self.latency is None else self.latency[at]
        return Outcome(served, cost[np.arange(len(at)), at], latency)

    def _random_mix(self, found: _Replayed, scope: str | None, cost: NDArray[np.float64]) -> Outcome:
        """The coin mix of at most two tiers with the best train mean that costs no more than routenlp."""
        known = self.bundle.settings["train_means"]
        means = known.get(scope or "overall", known["overall"])
        target = float(found.outcomes[CASCADE].cost.sum() / max(cost[:, -1].sum(), 1e-300)) * means[-1][1]
        target = max(target, min(spent for _, spent in means))
        best = (-1.0, 0, 0, 0.0)
        for low, (quality_low, cost_low) in enumerate(means):
            for high, (quality_high, cost_high) in enumerate(means):
                if cost_low <= target and cost_low <= cost_high:
                    share = min((target - cost_low) / (cost_high - cost_low), 1.0) if cost_high > cost_low else 0.0
                    best = max(best, ((1 - share) * quality_low + share * quality_high, low, high, share))
        _, low, high, share = best
        toss = np.asarray([coin(f"mix|{self.records.prompt[i]}") for i in found.rows.tolist()])
        return self._fixed(np.where(toss < share, high, low).astype(np.int8), cost)

    def _certificate(self, scope: str | None) -> dict[str, Any] | None:
        if scope is None:
            return overall_certificate(self.bundle)
        shown = self.bundle.certificates.get((scope, CASCADE))
        return None if shown is None or (scope == ALL and self.bundle.scopes.by == "all") else claim_json(shown)

    def timing(self, rows: Rows) -> dict[str, float]:
        """Median and 99th percentile of `Router.decide`, milliseconds, on this machine as it is now."""
        router = Router.from_bundle(self.bundle)
        walls = []
        for i in rows[:_TIMED].tolist():
            began = time.perf_counter()
            router.decide(self.records.prompt[i], self.records.task[i])
            walls.append((time.perf_counter() - began) * 1e3)
        p50, p99 = np.quantile(walls, [0.5, 0.99])
        return {"p50_ms": float(p50), "p99_ms": float(p99)}


def _reported(name: str) -> str:
    """What reports call a policy."""
    if name in BASELINES:
        return f"{name}_certified"
    return "routenlp" if name == CASCADE else name


def _join(parts: Sequence[_Replayed]) -> _Replayed:
    if len(parts) == 1:
        return parts[0]
    outcomes = {}
    for name in parts[0].outcomes:
        mine = [part.outcomes[name] for part in parts]
        latency = [outcome.latency_ms for outcome in mine if outcome.latency_ms is not None]
        outcomes[name] = Outcome(
            np.concatenate([outcome.served for outcome in mine]),
            np.concatenate([outcome.cost for outcome in mine]),
            np.concatenate(latency) if latency else None,
        )
    frontiers: dict[str, Any] = {
        name: tuple(_stack([part.frontiers[name][which] for part in parts]) for which in (0, 1))
        for name in parts[0].frontiers
    }
    return _Replayed(
        np.concatenate([part.rows for part in parts]),
        outcomes,
        frontiers,
        np.concatenate([part.gap for part in parts]),
    )


def _stack(paths: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Paths of several scopes side by side; a shorter one stays at its last step."""
    steps = max(len(path) for path in paths)
    return np.concatenate([path[np.minimum(np.arange(steps), len(path) - 1)] for path in paths], axis=1)
