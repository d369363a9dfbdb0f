"""Audits: what is known of traffic already answered, and what it says of the risk.

A cheap answer that was accepted has no label. An audit gives it one: with a probability that is known, its
*propensity*, the reference tier answers the same query too and B is recorded. A query that the reference tier served
has loss 0 without any audit, so it may be listed with propensity 1, or thinned at whatever rate is recorded.

With listed losses L_i and propensities p_i, every risk r over the queries that could have been listed obeys

    E[(L - r) / p | listed] = 0,

because listing tilts their law by p and the division undoes it. `estimate_risk` solves this (Hajek), and where all
propensities are the same it is the plain share.

An audit may *fail*: the reference tier did not answer, or the answer could not be graded. Audits do not fail at random
(long or hard queries time out), so a failed one is never just left out: the lower limit of an interval takes its loss
as 0, the upper one as 1, and what lies between is known to be unknown. Source: METHOD.md 2.7.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router_core.certificate import clopper_pearson
from router_core.errors import InputError

__all__ = [
    "Audited",
    "Estimate",
    "betting_interval",
    "effective_n",
    "estimate_risk",
    "horvitz_thompson",
    "losses_of",
]

Floats = NDArray[np.float64]

_BOLDEST: Final = 0.9
"""Largest bet of an interval, as a share of the one that a single item could ruin."""
_BISECTIONS: Final = 36


@dataclass(frozen=True, slots=True)
class Audited:
    """One query whose loss is known.

    Parameters
    ----------
    at
        When it was answered, seconds since 1970 (UTC).
    task
        The label it came with, None for none.
    scope, policy
        Whose promise it fell under.
    bundle
        Id of the bundle that routed it.
    tier
        The tier that served.
    cheap
        Whether that is a tier before the reference.
    bad
        B of the answer served, by the metric and tolerance of the bundle; False where the reference tier served, and
        where it is not known.
    propensity
        Probability, in (0, 1], with which this query was to be listed, known before its label was; 1 for a query
        that the reference tier served and that is always listed.
    key
        Names the query; the same key is counted once.
    groups
        Names of what it shares with other queries: its conversation, its text.
    failed
        Why B of a cheap answer is not known: what failed, in a few words; empty where it is known.

    Raises
    ------
    InputError
        When the propensity is outside (0, 1], the reference tier's own answer is called bad or unknown, or an unknown
        one bad.
    """

    at: float
    task: str | None
    scope: str
    policy: str
    bundle: str
    tier: str
    cheap: bool
    bad: bool
    propensity: float
    key: str
    groups: tuple[str, ...] = ()
    failed: str = ""

    def __post_init__(self) -> None:
        """Refuse a record that no audit can have made."""
        if not 0.0 < self.propensity <= 1.0:
            raise InputError(f"Audit {self.key!r} has propensity {self.propensity}; it must lie in (0, 1].")
        if self.bad and not self.cheap:
            raise InputError(f"Audit {self.key!r} calls the reference tier's own answer bad, which it never is.")
        if self.failed and (self.bad or not self.cheap):
            raise InputError(
                f"Audit {self.key!r} failed; only a cheap answer's can, and then it is not known to be bad."
            )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Audited:
        """Rebuild from a mapping; raises InputError on a missing, unknown or misshapen field."""
        names = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not isinstance(data, Mapping) or not needed <= set(data) <= names:
            optional = ", ".join(sorted(names - needed))
            raise InputError(f"An audit needs the fields {', '.join(sorted(needed))}, and may have {optional}.")
        data = {"groups": [], "failed": "", **data}
        strings = ("scope", "policy", "bundle", "tier", "key", "failed")
        if not all(isinstance(data[name], str) for name in strings) or not isinstance(data["task"], str | None):
            raise InputError(f"The audit's {', '.join(strings)} must be texts, and its task a text or null.")
        if not isinstance(data["groups"], list) or not all(isinstance(name, str) for name in data["groups"]):
            raise InputError("The audit's groups must be a list of texts.")
        if any(data[name] not in (True, False) for name in ("cheap", "bad")):
            raise InputError("The audit's cheap and bad must be true or false.")
        try:
            numbers = {name: float(data[name]) for name in ("at", "propensity")}
        except (TypeError, ValueError):
            raise InputError("The audit's at and propensity must be numbers.") from None
        flags = {name: bool(data[name]) for name in ("cheap", "bad")}
        return cls(**{**data, **numbers, **flags, "groups": tuple(data["groups"])})


def effective_n(weights: ArrayLike) -> float:
    """How many equally weighted items these weights are worth: (sum w)^2 / sum w^2, 0 for none."""
    w = np.asarray(weights, np.float64)
    squares = float(np.square(w).sum())
    return float(w.sum()) ** 2 / squares if squares > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A risk as the audits show it.

    Attributes
    ----------
    value, low, high
        Estimate, and its interval at `level`; value is None without graded audits, the interval without any (0, 1).
        The interval is for one look; what is looked at again and again is the alarm (`router_core.alarms`). It holds
        however audits fail: low takes every failed one as good, high as bad. The value takes them to be like the
        graded audits of cheap answers, which nothing vouches for.
    n, bad
        Audits, and answers known to be bad among them, unweighted.
    effective_n
        See `effective_n`, of the weights 1 / propensity.
    method
        ``"proportion"`` (all propensities alike) or ``"hajek"`` (weighted, self-normalised).
    interval
        ``"clopper_pearson"`` (exact) or ``"betting"`` (valid at every n, not exact: it covers at least `level`).
    level
        Coverage of the interval.
    failed
        Audits that failed, among the n.
    worst
        The estimate if all of these were bad; None without audits.
    """

    value: float | None
    low: float
    high: float
    n: int
    bad: int
    effective_n: float
    method: str
    interval: str
    level: float
    failed: int = 0
    worst: float | None = None


def estimate_risk(
    losses: ArrayLike,
    propensities: ArrayLike,
    level: float = 0.95,
    *,
    failed: ArrayLike | None = None,
    cheap: ArrayLike | None = None,
) -> Estimate:
    """Estimate a risk from the listed queries.

    Parameters
    ----------
    losses
        0/1 [n] in the order listed: for the joint risk those of all queries listed, for the selective risk those of
        the queries that a cheap tier served.
    propensities
        [n], in (0, 1].
    level
        Coverage of the interval.
    failed
        bool [n], audits that failed, their losses 0; none when None.
    cheap
        bool [n], queries that a cheap tier served; all when None.
    """
    loss, p = np.asarray(losses, np.float64), np.asarray(propensities, np.float64)
    unknown = np.zeros(len(loss), bool) if failed is None else np.asarray(failed, bool)
    best = _estimate(loss, p, level)
    if not unknown.any():
        return best
    worst = _estimate(np.maximum(loss, unknown), p, level)
    served = np.ones(len(loss), bool) if cheap is None else np.asarray(cheap, bool)
    all_of_them, graded = float((1.0 / p[served]).sum()), float((1.0 / p[served & ~unknown]).sum())
    value = (best.value or 0.0) * all_of_them / graded if graded else None
    return replace(best, value=value, high=worst.high, failed=int(unknown.sum()), worst=worst.value)


def _estimate(loss: Floats, p: Floats, level: float) -> Estimate:
    n, bad = len(loss), int(loss.sum())
    if not n or (p == p[0]).all():
        low, high = clopper_pearson(bad, n, level)
        value = bad / n if n else None
        return Estimate(value, low, high, n, bad, float(n), "proportion", "clopper_pearson", level, worst=value)
    weights = p.min() / p
    ends = betting_interval(loss, weights, level)
    value = float(weights @ loss / weights.sum())
    low, high = min(float(ends[0]), value), max(float(ends[1]), value)
    return Estimate(value, low, high, n, bad, effective_n(weights), "hajek", "betting", level, worst=value)


def horvitz_thompson(losses: ArrayLike, propensities: ArrayLike, total: int) -> float:
    """The sum of L / p over the listed queries, divided by all `total` that could have been listed; unbiased.

    `estimate_risk` needs no total and is steadier; this one is exactly unbiased at any n, and may exceed 1.
    """
    if total < 1:
        raise InputError(f"A mean over {total} queries does not exist; give the number that could have been listed.")
    return float((np.asarray(losses, np.float64) / np.asarray(propensities, np.float64)).sum(axis=-1) / total)


def betting_interval(losses: ArrayLike, weights: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Confidence interval of the r that solves E[w (L - r)] = 0, for weights in (0, 1].

    Against each candidate r two gamblers bet, one that r is too low, one that it is too high:
    ``prod (1 +- b_t w_t (L_t - r))`` with bets b_t fixed before item t is seen. For the true r both are
    martingales that start at 1 and stay positive (w (L - r) lies in [-r, 1 - r], and b_t is held below the
    reciprocal of the end it may lose), so either ever reaches 2 / (1 - level) with probability at most
    (1 - level) / 2 (Ville). The r against which neither does form an interval. Bets follow Waudby-Smith and Ramdas
    (arXiv 2010.09686), 3.2.

    Parameters
    ----------
    losses
        In [0, 1], [..., n], in an order chosen without looking at them.
    weights
        In (0, 1], [..., n]; for audits the smallest propensity divided by each.
    level
        Coverage.

    Returns
    -------
    tuple
        Lower and upper limits, float64 [...].
    """
    loss, weight = np.broadcast_arrays(np.asarray(losses, np.float64), np.asarray(weights, np.float64))
    n, goal = loss.shape[-1], math.log(2.0 / (1.0 - level))
    if not n:
        return np.zeros(loss.shape[:-1]), np.ones(loss.shape[:-1])
    # One imagined item, half lost, so that the first bets do not hang on the first items.
    gained, staked = (np.cumsum(part, axis=-1) - part for part in (weight * loss, weight))
    mean = (0.5 * weight[..., :1] + gained) / (weight[..., :1] + staked)
    squares = np.square(weight * (loss - mean))
    before = np.cumsum(squares, axis=-1) - squares
    variance = (0.25 * np.square(weight[..., :1]) + before) / np.arange(1.0, n + 1.0)
    bets = np.sqrt(2.0 * goal / (n * variance))

    def refuted(r: Floats, sign: float) -> NDArray[np.bool_]:
        edge = r if sign > 0 else 1.0 - r
        most = np.divide(_BOLDEST, edge, out=np.full_like(edge, np.inf), where=edge > 0)[..., None]
        # The bet stops growing on an item that can lose nothing.
        wealth = np.cumsum(
            np.log1p(sign * np.minimum(np.minimum(bets, most), 1e6) * weight * (loss - r[..., None])), -1
        )
        return np.asarray(wealth.max(axis=-1) >= goal)

    limits = []
    for sign in (1.0, -1.0):
        # Wealth against r falls (rises) with r, so the refuted ones lie below (above) one point.
        refused, held = np.full(loss.shape[:-1], 0.0 if sign > 0 else 1.0), np.full(loss.shape[:-1], sign > 0, float)
        for _ in range(_BISECTIONS):
            middle = (refused + held) / 2.0
            out = refuted(middle, sign)
            refused, held = np.where(out, middle, refused), np.where(out, held, middle)
        limits.append(refused)
    return limits[0], limits[1]


def losses_of(audits: Iterable[Audited], risk: str) -> tuple[Floats, Floats]:
    """Losses and propensities that a kind of risk is about: for ``"selective"`` those of cheap answers alone."""
    kept = [(a.bad, a.propensity) for a in audits if a.cheap or risk != "selective"]
    table = np.asarray(kept, np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
