"""The kinds of risk, side by side: what a path freezes before calib, and which of its steps calib certifies.

===========  ==========================================  =====================================================
kind         what is bounded                             test along the path
===========  ==========================================  =====================================================
joint        P(a cheap answer is served and bad)         exact binomial, path order (Learn then Test)
selective    P(bad, given that a cheap one is served)    exact binomial given how many; split fixed sequence
retention    mean served quality / mean reference's      betting, path order
expectation  joint risk, on average over calib draws     conformal risk control on the running maximum
===========  ==========================================  =====================================================

The first three hold with probability 1 - delta over the draw of calib; `expectation` uses no delta. Everything
here is pure: outcomes in, steps out. Source: METHOD.md 2.2, 2.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router_core.betting import bet_moments, expected_growth, retention_p_values
from router_core.certificate import (
    PathResult,
    allowed_among,
    allowed_bad,
    certify_path,
    cheapest,
    crc_allowed,
    crc_minimum_n,
    crc_walk,
    fixed_sequence,
    minimum_n,
    selective_p_values,
)
from router_core.claim import RISKS, check_risk
from router_core.errors import InputError

__all__ = [
    "RISKS",
    "Plan",
    "Served",
    "certify_served",
    "expected_cost",
    "least_n",
    "plan_path",
    "retained",
    "violates",
]

Floats = NDArray[np.float64]
_DRAWS = 200


class Served(NamedTuple):
    """What every step of a path does on n items.

    Attributes
    ----------
    bad
        uint8 [G, n], B of the answer served.
    cheap
        bool [G, n], whether a tier before the reference serves.
    quality
        float64 [G, n], its quality.
    reference
        float64 [n], the reference tier's.
    """

    bad: NDArray[np.uint8]
    cheap: NDArray[np.bool_]
    quality: Floats
    reference: Floats

    def take(self, rows: NDArray[np.intp]) -> Served:
        """The given items."""
        return Served(self.bad[:, rows], self.cheap[:, rows], self.quality[:, rows], self.reference[rows])


@dataclass(frozen=True, eq=False)
class Plan:
    """What is fixed of a path before calib is read, besides its thresholds.

    Attributes
    ----------
    cost
        float64 [G], mean cost of each step on tune; chooses among certified steps.
    order
        Steps in the order they are tested; None is the path's own order. Steps left out are never deployed.
    moments
        float64 [2, G], where the bets of `retention` start; None for other kinds.
    """

    cost: Floats
    order: tuple[int, ...] | None = None
    moments: Floats | None = None

    def to_json(self) -> dict[str, Any]:
        """Order and moments, as far as there are any; the cost is stored beside them."""
        told: dict[str, Any] = {}
        if self.order is not None:
            told["order"] = list(self.order)
        if self.moments is not None:
            told["moments"] = self.moments.tolist()
        return told

    @classmethod
    def from_json(cls, cost: Any, told: Mapping[str, Any]) -> Plan:
        """Inverse of `to_json`, with the cost."""
        order, moments = told.get("order"), told.get("moments")
        return cls(
            np.asarray(cost, np.float64),
            None if order is None else tuple(int(step) for step in order),
            None if moments is None else np.asarray(moments, np.float64),
        )


def retained(alpha: float) -> float:
    """The share of the reference's mean quality that `retention` shows: rho = 1 - alpha, as a decimal."""
    return round(1.0 - alpha, 12)


def least_n(risk: str, alpha: float, delta: float) -> int:
    """Calibration items below which a kind of risk certifies nothing."""
    check_risk(risk)
    return crc_minimum_n(alpha) if risk == "expectation" else minimum_n(alpha, delta)


def plan_path(risk: str, served: Served, cost: Floats, n: int, alpha: float, delta: float) -> Plan:
    """Fix on tune what the test of one path may not decide on calib.

    Parameters
    ----------
    risk
        Kind of risk.
    served
        What the path does on tune, or on out-of-fold train.
    cost
        float64 [G], mean cost of each step there.
    n
        Calibration items there will be.
    alpha, delta
        What will be certified.
    """
    check_risk(risk)
    if risk == "selective":
        return Plan(cost, _predicted_order(served, n, alpha, delta))
    if risk == "retention":
        return Plan(cost, moments=bet_moments(served.quality, served.reference, retained(alpha)))
    return Plan(cost)


def certify_served(risk: str, served: Served, plan: Plan, alpha: float, delta: float) -> PathResult:
    """Which steps of a path the calib outcomes certify, and the one to deploy.

    Parameters
    ----------
    risk
        Kind of risk.
    served
        What the path does on calib, one item per group, in an order chosen without looking at outcomes.
    plan
        From `plan_path`, frozen before.
    alpha, delta
        What is to be shown; `expectation` does not use delta.

    Raises
    ------
    InputError
        When shapes disagree, outcomes are not 0/1, or step 0 is not the reference tier.
    """
    check_risk(risk)
    if risk == "joint":
        return certify_path(served.bad, plan.cost, alpha, delta)
    if served.cheap[0].any() or served.bad[0].any():
        raise InputError("Step 0 of the path served a cheap answer; it must send all queries to the reference.")
    if risk == "expectation":
        steps = tuple(range(1, crc_walk(np.maximum.accumulate(served.bad, axis=0), alpha) + 1))
    elif risk == "selective":
        if plan.order is None:
            raise InputError("The selective test needs an order of the steps that was fixed before calib; fit again.")
        at = np.asarray(plan.order, np.intp)
        bad, accepted = served.bad[at].sum(axis=1, dtype=np.int64), served.cheap[at].sum(axis=1, dtype=np.int64)
        steps = plan.order[: fixed_sequence(selective_p_values(bad, accepted, alpha), delta)]
    else:
        if plan.moments is None:
            raise InputError("The retention test needs bets that were fixed before calib; fit again.")
        p = retention_p_values(served.quality, served.reference, retained(alpha), plan.moments)
        steps = tuple(range(1, fixed_sequence(p[1:], delta) + 1))
    step = cheapest(steps, plan.cost)
    return PathResult(step, int(served.bad[step].sum()), steps)


def violates(risk: str, population: Served, alpha: float) -> NDArray[np.bool_]:
    """Whether each step breaks the bound on a whole population, bool [G]."""
    check_risk(risk)
    bad, cheap = population.bad.mean(axis=1), population.cheap.mean(axis=1)
    if risk == "selective":
        return np.asarray(bad > alpha * cheap)
    if risk == "retention":
        return np.asarray(population.quality.mean(axis=1) < retained(alpha) * population.reference.mean())
    return np.asarray(bad > alpha)


def expected_cost(risk: str, served: Served, cost: Floats, n: int, alpha: float, delta: float, seed: int) -> float:
    """Mean cost of the step that a certificate on n fresh items would deploy, by redraws of these rows.

    The rows are those of tune, and each redraw goes through the same test as calib will. Only the bets of
    `retention` are held at their starting fraction, which lets all redraws be one matrix product.
    """
    n = max(n, least_n(risk, alpha, delta))
    rows = served.bad.shape[1]
    draws = np.random.default_rng(seed).multinomial(n, np.full(rows, 1.0 / rows), size=_DRAWS).astype(np.float32)
    steps = np.arange(1, len(cost))
    if risk == "selective":
        steps = np.asarray(_predicted_order(served, n, alpha, delta), np.intp)
        counts = draws @ served.bad[steps].T.astype(np.float32)
        accepted = np.rint(draws @ served.cheap[steps].T.astype(np.float32)).astype(np.intp)
        passes = counts <= allowed_among(n, alpha, delta)[accepted]
    elif risk == "retention":
        growth = expected_growth(served.quality[1:], served.reference, retained(alpha)).astype(np.float32)
        passes = draws @ growth.T >= -np.log(delta)
    elif risk == "expectation":
        worst = np.maximum.accumulate(served.bad[1:], axis=0)
        passes = draws @ worst.T.astype(np.float32) <= crc_allowed(n, alpha)
    else:
        passes = draws @ served.bad[1:].T.astype(np.float32) <= allowed_bad(n, alpha, delta)
    passed = np.logical_and.accumulate(passes, axis=1)
    found = np.where(passed, cost[steps], np.inf).min(axis=1, initial=np.inf)
    return float(np.minimum(found, cost[0]).mean())


def _predicted_order(served: Served, n: int, alpha: float, delta: float) -> tuple[int, ...]:
    """Steps by the p-value that tune predicts for n calib items, without those predicted to fail."""
    k, accepted = (n * part[1:].mean(axis=1) for part in (served.bad, served.cheap))
    p = selective_p_values(k, accepted, alpha)
    order = np.argsort(p, kind="stable")
    return tuple(int(step) + 1 for step in order[p[order] <= delta])
