"""Pilot replay: eight weeks of customer-service queries through the deployed release, against always-reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from protocol import DECLARED, PILOT, REFERENCE, TIERS
from scipy.stats import norm
from served import Served

__all__ = ["Latency", "declared_latency", "replay"]


@dataclass(frozen=True, eq=False)
class Latency:
    """Milliseconds of single calls.

    Attributes
    ----------
    router
        Of one decision.
    tiers
        By real tier, measured; a tier that is not there is never tried.
    """

    router: Sequence[float]
    tiers: Mapping[str, Sequence[float]]


def declared_latency(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Milliseconds of the reference at quantiles `u`: log-normal with the declared median and 99th percentile."""
    median, high = DECLARED["latency_p50_ms"], DECLARED["latency_p99_ms"]
    sigma = np.log(high / median) / norm.ppf(0.99)
    return np.asarray(median * np.exp(sigma * norm.ppf(u)))


def replay(parts: Mapping[str, Served], latency: Mapping[str, Latency], seed: int = 0) -> dict[str, Any]:
    """Figures of the pilot.

    Parameters
    ----------
    parts
        By task what the release did with the test queries that traffic is drawn from.
    latency
        By task.
    seed
        Of the draws.
    """
    rng, total = np.random.default_rng(seed), PILOT["queries_a_day"] * PILOT["days"]
    cost, usd, good, waited, alone = [], [], [], [], []
    for task, one in parts.items():
        at = rng.integers(0, len(one.tier), total // len(parts))
        cost.append(one.cost[at])
        usd.append(one.always[at])
        good.append(~one.bad[at])
        spent = rng.choice(np.asarray(latency[task].router), len(at))
        for k, tier in enumerate(TIERS):
            took = (
                declared_latency(rng.random(len(at)))
                if tier == REFERENCE
                else rng.choice(np.asarray(latency[task].tiers.get(tier, (0.0,))), len(at))
            )
            spent = spent + took * one.tried[at, k]
        waited.append(spent)
        alone.append(declared_latency(rng.random(len(at))))
    flat = {name: np.concatenate(v) for name, v in (("wait", waited), ("alone", alone), ("cost", cost), ("usd", usd))}
    return {
        "queries": len(flat["cost"]),
        "days": PILOT["days"],
        "cost_ratio": float(flat["cost"].sum() / flat["usd"].sum()),
        "usd_a_day": float(flat["cost"].sum() / PILOT["days"]),
        "always_usd_a_day": float(flat["usd"].sum() / PILOT["days"]),
        "acceptance": float(np.concatenate(good).mean()),
        "p50_ms": float(np.quantile(flat["wait"], 0.5)),
        "p99_ms": float(np.quantile(flat["wait"], 0.99)),
        "always_p50_ms": float(np.quantile(flat["alone"], 0.5)),
        "always_p99_ms": float(np.quantile(flat["alone"], 0.99)),
    }
