"""Figures of what a policy did: ratios with paired bootstrap intervals, risks with exact ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from protocol import ALPHA, BOOTSTRAP, COST_TARGET, QUALITY_TARGET, SAVING_TARGET, TIERS
from served import Served

from router_core.certificate import clopper_pearson

__all__ = ["bounds", "figures", "ratio_interval", "together", "verdict", "weighted"]

_LEVEL = 0.95


def ratio_interval(part: NDArray[np.float64], whole: NDArray[np.float64], seed: int = 0) -> list[float]:
    """95 % interval of a ratio of sums, queries resampled in pairs."""
    n = len(part)
    rng, ratios = np.random.default_rng(seed), []
    for _ in range(BOOTSTRAP):
        at = rng.integers(0, n, n)
        ratios.append(part[at].sum() / whole[at].sum())
    return [float(value) for value in np.quantile(ratios, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])]


def figures(served: Served) -> dict[str, Any]:
    """Figures of one task under one policy."""
    n, last = len(served.tier), len(TIERS) - 1
    cheap = served.tier < last
    wrong, accepted = int(served.bad[cheap].sum()), int(cheap.sum())
    return {
        "n": n,
        "cost_ratio": float(served.cost.sum() / served.always.sum()),
        "cost_ratio_ci": ratio_interval(served.cost, served.always),
        "quality_ratio": float(served.quality.sum() / served.reference.sum()),
        "quality_ratio_ci": ratio_interval(served.quality, served.reference),
        "joint_risk": wrong / n,
        "joint_risk_ci": list(clopper_pearson(wrong, n, _LEVEL)),
        "selective_risk": wrong / accepted if accepted else None,
        "selective_risk_ci": list(clopper_pearson(wrong, accepted, _LEVEL)) if accepted else None,
        "share": {name: float(np.mean(served.tier == k)) for k, name in enumerate(TIERS)},
        "tried": {name: float(served.tried[:, k].mean()) for k, name in enumerate(TIERS)},
    }


def bounds(right: NDArray[np.bool_], usd: NDArray[np.float64]) -> dict[str, float]:
    """Cost ratios that no policy could undercut.

    Parameters
    ----------
    right
        bool [n, K - 1], whether the tiers' answers are right, the last of them being the one that serves.
    usd
        float64 [n, K], the reference's last.

    Returns
    -------
    dict
        ``right`` is the share that the last tier, ``any`` that any has right. ``oracle`` pays for the cheapest right
        tier alone, and leaves no or (``oracle_alpha``) a share ALPHA bad, where that saves most; ``perfect`` and
        ``perfect_alpha`` call the last tier always, whose confidence is perfect.
    """
    n, always = len(right), usd[:, -1].sum()
    most = int(ALPHA * n)
    paid = np.where(np.column_stack([right, np.ones(n, bool)]), usd, np.inf).min(axis=1)
    spared = np.sort(paid - usd[:, 0])[::-1][:most].sum()
    called = usd[:, -2] + np.where(right[:, -1], 0.0, usd[:, -1])
    dearest = np.sort(np.where(right[:, -1], 0.0, usd[:, -1]))[::-1][:most].sum()
    return {
        "right": float(right[:, -1].mean()), "any": float(right.any(axis=1).mean()),
        "oracle": float(paid.sum() / always), "oracle_alpha": float((paid.sum() - spared) / always),
        "perfect": float(called.sum() / always), "perfect_alpha": float((called.sum() - dearest) / always),
    }  # fmt: skip


def weighted(parts: Mapping[str, Served]) -> dict[str, float]:
    """Mean of the tasks' ratios, each weighing as many as its test queries."""
    n = np.array([len(one.tier) for one in parts.values()], dtype=np.float64)
    cost = np.array([one.cost.sum() / one.always.sum() for one in parts.values()])
    quality = np.array([one.quality.sum() / one.reference.sum() for one in parts.values()])
    return {"cost_ratio": float(cost @ n / n.sum()), "quality_ratio": float(quality @ n / n.sum())}


def together(parts: Mapping[str, Served], seed: int = 0) -> dict[str, Any]:
    """`weighted` with 95 % intervals, queries resampled within tasks."""
    rng, draws = np.random.default_rng(seed), []
    for _ in range(BOOTSTRAP // 4):
        drawn = {task: one.take(rng.integers(0, len(one.tier), len(one.tier))) for task, one in parts.items()}
        draws.append(weighted(drawn))
    found: dict[str, Any] = weighted(parts)
    for name in ("cost_ratio", "quality_ratio"):
        values = np.quantile([one[name] for one in draws], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        found[f"{name}_ci"] = [float(value) for value in values]
    return found


def verdict(overall: Mapping[str, Any], by_task: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which targets are met or missed, and by how much."""
    said = [
        _against("quality ratio", overall["quality_ratio"], QUALITY_TARGET, above=True),
        _against("cost ratio", overall["cost_ratio"], COST_TARGET, above=False),
    ]
    said += [
        _against(f"saving on {task}", 1 - told["cost_ratio"], SAVING_TARGET, above=True)
        for task, told in by_task.items()
    ]
    return said


def _against(what: str, value: float, target: float, *, above: bool) -> str:
    met = value >= target if above else value < target
    return f"{what} {value:.3f}, target {'>=' if above else '<'} {target:g}: " + (
        "met" if met else f"missed by {abs(value - target):.3f}"
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first row its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])
