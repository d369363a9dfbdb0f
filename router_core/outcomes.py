"""What one policy did on logged queries, in numbers: quality, cost, shares, risks and their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.certificate import clopper_pearson

__all__ = ["Outcome", "apgr_and_cpt", "describe_outcome", "describe_path"]

_RESAMPLES = 1_000
_LEVEL = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Served tier and cost of every query under one policy.

    Attributes
    ----------
    served
        int8 [n], index of the tier whose answer is served.
    cost
        float64 [n], US dollars of every attempt.
    latency_ms
        float64 [n], summed over attempts; None when tiers state none.
    """

    served: NDArray[np.int8]
    cost: Floats
    latency_ms: Floats | None = None


def describe_outcome(
    outcome: Outcome,
    quality: Floats,
    cost: Floats,
    bad: NDArray[np.uint8],
    tiers: tuple[str, ...],
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of one policy; ratios are to the reference tier on the same queries.

    Parameters
    ----------
    outcome
        What the policy did.
    quality, cost
        float64 [n, K], as logged.
    bad
        uint8 [n, K].
    tiers
        Names, the reference last.
    seed
        Seed of the bootstrap behind the intervals of the ratios (95 %, queries resampled in pairs).
    """
    n, reference = len(outcome.served), len(tiers) - 1
    at = np.arange(n), outcome.served.astype(np.intp)
    mine, cheap = quality[at], outcome.served < reference
    wrong = int(bad[at][cheap].sum())
    accepted = int(cheap.sum())
    wins = int((mine >= quality[:, reference])[cheap].sum())
    told: dict[str, Any] = {
        "quality": float(mine.mean()),
        "cost": float(outcome.cost.mean()),
        "quality_ratio": _ratio(mine, quality[:, reference]),
        "cost_ratio": _ratio(outcome.cost, cost[:, reference]),
        "quality_ratio_ci": _ratio_interval(mine, quality[:, reference], seed),
        "cost_ratio_ci": _ratio_interval(outcome.cost, cost[:, reference], seed),
        "share": {name: float(np.mean(outcome.served == k)) for k, name in enumerate(tiers)},
        "joint_risk": wrong / n,
        "joint_risk_ci": list(clopper_pearson(wrong, n, _LEVEL)),
        "selective_risk": wrong / accepted if accepted else None,
        "selective_risk_ci": list(clopper_pearson(wrong, accepted, _LEVEL)) if accepted else None,
        "win_or_tie": wins / accepted if accepted else None,
    }
    if outcome.latency_ms is not None:
        p50, p99 = np.quantile(outcome.latency_ms, [0.5, 0.99])
        told["latency_ms"] = {"p50": float(p50), "p99": float(p99)}
    return told


def describe_path(
    served: NDArray[np.int8], spent: Floats, quality: Floats, cost: Floats, bad: NDArray[np.uint8]
) -> list[dict[str, float | None]]:
    """One point per step of a path; ``lambda`` runs from 0 (always the reference) to 1 (most aggressive).

    Parameters
    ----------
    served, spent
        ``[G, n]``, the tier served and what it cost at every step.
    quality, cost, bad
        As for `describe_outcome`.
    """
    at = np.arange(len(quality))
    best, dear = float(quality[:, -1].sum()), float(cost[:, -1].sum())
    last = max(len(served) - 1, 1)
    return [
        {
            "lambda": g / last,
            "cost_ratio": float(spent[g].sum()) / dear if dear > 0 else None,
            "quality_ratio": float(quality[at, served[g]].sum()) / best if best > 0 else None,
            "joint_risk": float(bad[at, served[g]].mean()),
        }
        for g in range(len(served))
    ]


def _ratio(part: Floats, whole: Floats) -> float | None:
    total = float(whole.sum())
    return float(part.sum()) / total if total > 0 else None


def _ratio_interval(part: Floats, whole: Floats, seed: int) -> list[float] | None:
    if float(whole.sum()) <= 0:
        return None
    n = len(part)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=_RESAMPLES).astype(np.float64)
    below = draws @ whole
    usable = below > 0
    ratios = (draws @ part)[usable] / below[usable]
    return [float(value) for value in np.quantile(ratios, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])]


def apgr_and_cpt(score: Floats, weak: Floats, strong: Floats) -> tuple[float | None, dict[str, float | None]]:
    """Area under the performance-gap-recovered curve and calls needed for 50, 80 and 95 % of the gap.

    RouteLLM's definitions (arXiv 2406.18665): queries go to the strong model in falling order of the score.

    Parameters
    ----------
    score
        float64 [n], how much a query needs the strong model.
    weak, strong
        float64 [n], quality of the two models.

    Returns
    -------
    tuple
        APGR and CPT by percentage, the share of strong calls in [0, 1]; None where the models do not differ.
    """
    gap = float(strong.mean() - weak.mean())
    if gap <= 0:
        return None, {"50": None, "80": None, "95": None}
    order = np.argsort(-score, kind="stable")
    recovered = np.concatenate([[0.0], np.cumsum((strong - weak)[order])]) / (gap * len(score))
    calls = np.linspace(0.0, 1.0, len(recovered))
    area = float(np.sum((recovered[1:] + recovered[:-1]) / 2.0 * np.diff(calls)))
    needed = {}
    for percent in (50, 80, 95):
        reached = np.flatnonzero(recovered >= percent / 100)
        needed[str(percent)] = float(calls[reached[0]]) if len(reached) else None
    return area, needed
