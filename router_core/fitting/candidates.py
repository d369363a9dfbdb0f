"""Policy paths that are worth considering over a table of scores, and the choice between them.

A path lays thresholds over a score; which score, which constant, which tiers and how early to give up on cheap
tiers are the choices. All of them are tried on tune (or out-of-fold train) and compared by the cost that a
certificate of the coming size is expected to permit. Source: METHOD.md 2.10, 2.11.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router_core.conformal import acceptance_threshold
from router_core.fitting.score_table import ScoreTable
from router_core.policy import CASCADE, Ordering, Policy
from router_core.risks import Plan, Served, expected_cost, plan_path

__all__ = [
    "Choice",
    "Goal",
    "ScoreTable",
    "best_path",
    "choose_path",
    "coin_path",
    "confidence_paths",
    "subsets",
    "tried_sets",
]

Floats = NDArray[np.float64]

_STEPS = 150
_OFFSETS = (0.01, 0.03, 0.1)
_EARLY = (np.inf, 4.0, 2.0, 1.0)
"""How much riskier than an acceptable answer a query may look before the cascade goes straight to the reference."""
_ALL_SUBSETS_UP_TO = 4


def subsets(cheap: int) -> list[tuple[int, ...]]:
    """Sets of cheap tiers a path may call; all of them up to four cheap tiers, else singles, pairs and the whole."""
    sizes: Sequence[int] = range(1, cheap + 1) if cheap <= _ALL_SUBSETS_UP_TO else (1, 2, cheap)
    return [found for size in sizes for found in itertools.combinations(range(cheap), size)]


def tried_sets(cheap: int) -> dict[int, list[tuple[int, ...]]]:
    """For each cheap tier, what may have been tried before it under any of `subsets`."""
    found: dict[int, set[tuple[int, ...]]] = {tier: {()} for tier in range(cheap)}
    for called in subsets(cheap):
        for first, last in itertools.combinations(range(len(called)), 2):
            found[called[last]].add(called[first:last])
    return {tier: sorted(sets, key=lambda item: (len(item), item)) for tier, sets in found.items()}


@dataclass(frozen=True)
class Goal:
    """What will be certified: kind of risk, its levels, and the seed of the redraws that compare paths."""

    risk: str
    alpha: float
    delta: float
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Choice:
    """A chosen path, what it is expected to cost, the runners-up for the report, and what its test fixes."""

    policy: Policy
    expected_cost: float
    by_scale: dict[str, float]
    plan: Plan


def choose_path(table: ScoreTable, name: str, scope: str, n: int, goal: Goal) -> Choice:
    """Build every candidate path and take the one expected to be cheapest once certified.

    Parameters
    ----------
    table
        Scores on tune, or out-of-fold train.
    name
        ``"cascade"`` or ``"route_only"``.
    scope
        Scope the policy will serve.
    n
        Calibration items there will be (their number only).
    goal
        What will be certified.
    """
    return best_path(table, _candidates(table, name, scope), n, goal)


def best_path(table: ScoreTable, paths: Iterable[Policy], n: int, goal: Goal) -> Choice:
    """The path expected to be cheapest once certified; see `choose_path`."""
    best: tuple[float, Policy, Served, Floats] | None = None
    by_scale: dict[str, float] = {}
    for policy in paths:
        served, cost = table.at_worst(policy).outcomes(policy)
        steps = cost.mean(axis=1)
        expected = expected_cost(goal.risk, served, steps, n, goal.alpha, goal.delta, goal.seed)
        by_scale[policy.scale] = min(expected, by_scale.get(policy.scale, np.inf))
        if best is None or expected < best[0] - 1e-15:
            best = (expected, policy, served, steps)
    if best is None:
        msg = "no path to choose from"
        raise ValueError(msg)
    expected, policy, served, steps = best
    return Choice(policy, expected, by_scale, plan_path(goal.risk, served, steps, n, goal.alpha, goal.delta))


def _candidates(table: ScoreTable, name: str, scope: str) -> Iterator[Policy]:
    cheap = table.risk.shape[1]
    for called in subsets(cheap):
        for ordering, offset in (("confidence", 0.0), *(("risk_per_dollar", c) for c in _OFFSETS)):
            yield from _laid(table, name, scope, ordering, offset, called, by_p_value=False)  # type: ignore[arg-type]
        if len(called) > 1:
            # With one tier p-values are a monotone map of the confidence: the same path.
            yield from _laid(table, name, scope, "confidence", 0.0, called, by_p_value=True)
    for tier in range(cheap):
        yield coin_path(name, scope, cheap, tier)


def confidence_paths(table: ScoreTable, name: str, scope: str) -> Iterator[Policy]:
    """Paths ordered by confidence alone, over every set of tiers: what a plain thresholded score can do."""
    for called in subsets(table.risk.shape[1]):
        yield from _laid(table, name, scope, "confidence", 0.0, called, by_p_value=False)


def coin_path(name: str, scope: str, cheap: int, tier: int) -> Policy:
    """Serve one cheap tier to a share of queries drawn by the hash of their text."""
    start = np.full((_STEPS + 1, cheap), np.inf)
    start[1:, tier] = 1.0 - np.linspace(0.0, 1.0, _STEPS + 1)[1:]
    accept = np.full_like(start, np.inf)
    accept[1:, tier] = -np.inf
    return Policy(name, scope, "coin", 0.0, "coin", start, accept)


def _laid(
    table: ScoreTable,
    name: str,
    scope: str,
    ordering: Ordering,
    offset: float,
    called: tuple[int, ...],
    *,
    by_p_value: bool,
) -> Iterator[Policy]:
    """Paths of one score and one set of tiers: thresholds at its quantiles, one path per early-exit factor."""
    mask = np.full((1, table.risk.shape[1]), np.inf)
    mask[0, list(called)] = 0.0
    scale = "p_value" if by_p_value else ordering
    probe = Policy(name, scope, ordering, offset, scale, mask, mask)
    start_score, accept_score = table.scores(probe)
    judged = name == CASCADE and any(table.judged[tier] for tier in called)
    if judged:
        starts = itertools.combinations_with_replacement(range(len(called)), 2)
        pool = np.stack([accept_score[:, called[first], called[last]] for first, last in starts], axis=1)
    else:
        pool = start_score[:, list(called)]
    if by_p_value:
        levels = {tier: _p_value_levels(accept_score[:, called[0], tier], table.bad[:, tier]) for tier in called}
    else:
        levels = dict.fromkeys(called, _quantile_levels(pool))
    for early in _EARLY if judged else (None,):
        yield _thresholds(probe, called, levels, table.judged, early)


def _thresholds(
    probe: Policy,
    called: tuple[int, ...],
    levels: dict[int, Floats],
    judged: tuple[bool, ...],
    early: float | None,
) -> Policy:
    """Lay the levels as thresholds; `early` None means that the start decides alone."""
    start = np.full((_STEPS + 1, probe.start.shape[1]), np.inf)
    accept = start.copy()
    best = 1.0 if probe.ordering == "confidence" else 0.0
    # A path begins where every tier of its set may serve: the answers tried before a tier are then the same at every
    # step, and so is the evidence.
    begun = ~np.any([np.isposinf(levels[tier]) for tier in called], axis=0)
    for tier in called:
        mine = np.where(begun, levels[tier], np.inf)
        if early is None:
            start[1:, tier], accept[1:, tier] = mine, np.where(begun, -np.inf, np.inf)
            continue
        accept[1:, tier] = mine if judged[tier] else np.where(begun, -np.inf, np.inf)
        # best - score is a risk; a query may look `early` times riskier than an answer that would be served.
        with np.errstate(invalid="ignore"):
            allowed = -np.inf if np.isinf(early) else best - early * (best - mine)
        start[1:, tier] = np.where(begun, allowed, np.inf)
    return replace(probe, start=start, accept=accept)


def _quantile_levels(pool: Floats) -> Floats:
    values = pool[np.isfinite(pool)]
    if not len(values):
        return np.full(_STEPS, np.inf)
    return np.asarray(np.quantile(values, 1.0 - np.linspace(0.0, 1.0, _STEPS), method="higher"))


def _p_value_levels(confidence: Floats, bad: NDArray[np.uint8]) -> Floats:
    """Confidence thresholds that reject "bad" at rising conformal levels, from the bad answers among these."""
    from router_core.fitting.conformal import fit_bad_p_values

    known = np.isfinite(confidence)
    bins = ["scope"] * int(known.sum())
    fitted = fit_bad_p_values(bins, bins, confidence[known], bad[known], probes=8)
    grid = np.linspace(0.0, 1.0, _STEPS + 1)[1:]
    if not fitted.scores:
        return np.full(_STEPS, np.inf)
    return np.asarray([acceptance_threshold(fitted.thresholds(float(eps))["scope", "scope"]) for eps in grid])
