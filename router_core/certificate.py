"""What was shown of a policy on calib: exact tests along a policy path, and the record of the result.

A certificate is made in three moves, each a function, so that another kind of risk changes the first one
only:

1. p-values of the path's steps, ``H_g: risk(pi_g) > alpha`` (here the joint and the selective risk; retained
   quality is in `router_core.betting`, and `router_core.risks` holds all kinds side by side);
2. a fixed sequence: test the steps in an order chosen without calib, stop at the first that is not rejected
   (`fixed_sequence`); every step rejected before is certified, with no price for the number of steps;
3. deploy the certified step with the lowest cost on tune (`cheapest`).

The joint risk is P(a cheap answer was served and it is bad). The k bad answers served at step g on n calib
items are Binomial(n, risk), so ``P(Binomial(n, alpha) <= k)`` is an exact p-value, whatever made the policy
(Angelopoulos et al., Learn then Test, arXiv 2110.01052). scipy is imported inside functions: serving reads
certificates and never makes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router_core.claim import Certificate, check_levels
from router_core.errors import InputError

__all__ = [
    "Certificate",
    "PathResult",
    "allowed_among",
    "allowed_bad",
    "binom_cdf",
    "certify_path",
    "cheapest",
    "clopper_pearson",
    "crc_allowed",
    "crc_minimum_n",
    "crc_walk",
    "fixed_sequence",
    "joint_p_values",
    "minimum_n",
    "selective_p_values",
    "walk",
]


def binom_cdf(k: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= k); 0 below k = 0 and 1 from k = n on."""
    from scipy.stats import binom

    return float(binom.cdf(k, n, p))


@lru_cache(maxsize=4096)
def allowed_bad(n: int, alpha: float, delta: float) -> int:
    """Largest number of bad answers among n items that still certifies joint risk <= alpha.

    Parameters
    ----------
    n
        Calibration items.
    alpha, delta
        Risk, and the probability that the claim is false; both in (0, 1).

    Returns
    -------
    int
        Largest k with ``P(Binomial(n, alpha) <= k) <= delta``; -1 when even k = 0 fails.
    """
    from scipy.stats import binom

    check_levels(alpha, delta)
    if n < 1:
        return -1
    # The median of Binomial(n, alpha) is at most ceil(n alpha), so below delta = .5 the answer lies under it.
    top = n if delta >= 0.5 else math.ceil(n * alpha)
    return int(np.searchsorted(binom.cdf(np.arange(top + 1), n, alpha), delta, side="right")) - 1


def minimum_n(alpha: float, delta: float) -> int:
    """Least number of calibration items that can certify anything: ``(1 - alpha)^n <= delta``."""
    check_levels(alpha, delta)
    n = max(math.ceil(math.log(delta) / math.log1p(-alpha)) - 1, 1)
    while allowed_bad(n, alpha, delta) < 0:
        n += 1
    return n


def clopper_pearson(k: int, n: int, level: float) -> tuple[float, float]:
    """Exact two-sided confidence interval of a proportion.

    Parameters
    ----------
    k, n
        Successes and trials; ``n = 0`` gives (0, 1).
    level
        Coverage in (0, 1), such as 0.95; half of the rest on each side.

    Returns
    -------
    tuple of float
        Lower and upper limit (Clopper and Pearson, 1934).
    """
    from scipy.stats import beta

    if not (0 <= k <= n and 0.0 < level < 1.0):
        raise InputError(f"No interval for {k} of {n} at level {level}; need 0 <= k <= n, level in (0, 1).")
    tail = (1.0 - level) / 2.0
    low = 0.0 if k == 0 else float(beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(1.0 - tail, k + 1, n - k))
    return low, high


def crc_allowed(n: int, alpha: float) -> int:
    """Largest bad count that conformal risk control permits: ``k + 1 <= alpha (n + 1)``; -1 for none.

    It bounds the mean of the risk over calibration sets, not the risk of the policy at hand
    (Angelopoulos et al., Conformal Risk Control, arXiv 2208.02814).
    """
    # alpha is meant as the decimal that was typed: .15 * 20 in float is just below 3.
    return math.floor(Fraction(repr(float(alpha))) * (n + 1)) - 1


def crc_minimum_n(alpha: float) -> int:
    """Least number of calibration items at which conformal risk control permits anything: 1/alpha - 1."""
    n = max(math.ceil(1.0 / alpha) - 2, 1)
    while crc_allowed(n, alpha) < 0:
        n += 1
    return n


def crc_walk(losses: ArrayLike, alpha: float) -> int:
    """Last step of a path that conformal risk control permits.

    Parameters
    ----------
    losses
        0/1 loss of each step on each calib item, [G, n]; it must not fall along the path for any item. A
        cascade's loss does, so its running maximum is what belongs here.
    alpha
        Bound on the mean loss, over the draw of calib and of the next item.

    Raises
    ------
    InputError
        When a loss falls along the path, as the selective risk's does: the rule then bounds nothing.
    """
    values = np.asarray(losses)
    if (values[1:] < values[:-1]).any():
        raise InputError(
            "Conformal risk control needs losses that never fall along the path; give the running maximum of a "
            "joint loss, and certify selective risk with the selective test."
        )
    return int((values[1:].sum(axis=1, dtype=np.int64) <= crc_allowed(values.shape[1], alpha)).sum())


def joint_p_values(bad_counts: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """Exact p-values of "joint risk > alpha" for bad counts [G] among n items (see the module)."""
    from scipy.stats import binom

    counts = np.asarray(bad_counts)
    if n < 1:
        return np.ones(counts.shape)
    return np.asarray(binom.cdf(counts, n, alpha), dtype=np.float64)


def selective_p_values(bad_counts: ArrayLike, accepted: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Exact p-values of "selective risk > alpha" for bad counts [G] among the cheap answers served [G].

    Given how many cheap answers are served, the bad ones among them are Binomial(accepted, selective risk).
    Counts may be fractions (a prediction): the binomial distribution function is continued by the regularised
    incomplete beta function. Where nothing is served the p-value is 1.
    """
    from scipy.special import betainc

    k, n = np.broadcast_arrays(np.asarray(bad_counts, np.float64), np.asarray(accepted, np.float64))
    inside = k < n
    p = betainc(np.where(inside, n - k, 1.0), np.where(inside, k + 1.0, 1.0), 1.0 - alpha)
    return np.asarray(np.where(inside, p, 1.0), dtype=np.float64)


@lru_cache(maxsize=64)
def allowed_among(n: int, alpha: float, delta: float) -> NDArray[np.int64]:
    """`allowed_bad` of 0, 1, ..., n items, int64 [n + 1], read-only; -1 for none."""
    from scipy.stats import binom

    items = np.arange(n + 1)
    low, high = np.full(n + 1, -1), items.copy()
    # Bisection for the largest k with P(Binomial(items, alpha) <= k) <= delta; it is below `items` itself.
    while (high - low > 1).any():
        middle = (low + high) // 2
        fits = binom.cdf(middle, items, alpha) <= delta
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    low[0] = -1
    low.setflags(write=False)
    return low


def fixed_sequence(p_values: ArrayLike, delta: float) -> int:
    """How many hypotheses are rejected, in the given order, before the first with ``p > delta`` or NaN.

    The order must not depend on the data behind the p-values. The probability that any true hypothesis is
    rejected is then at most delta.
    """
    rejected = np.asarray(p_values, dtype=np.float64) <= delta
    return int(len(rejected) if rejected.all() else rejected.argmin())


def walk(bad_counts: ArrayLike, n: int, alpha: float, delta: float) -> int:
    """Walk a policy path from its strict end and return the last certified step.

    Parameters
    ----------
    bad_counts
        Bad answers served at each step, [G]; step 0 sends everything to the reference tier and is not tested.
    n
        Calibration items.
    alpha, delta
        Risk, and the probability that the claim is false.

    Returns
    -------
    int
        Index of the last step before the first failure; 0 when step 1 fails.
    """
    check_levels(alpha, delta)
    return fixed_sequence(joint_p_values(np.asarray(bad_counts)[1:], n, alpha), delta)


class PathResult(NamedTuple):
    """Outcome of certifying a policy path.

    Parameters
    ----------
    step
        Step to deploy; 0 is the reference tier for every query.
    bad_count
        Bad answers this step served on calib.
    certified_steps
        Every step that was certified, in the order tested, without step 0.
    """

    step: int
    bad_count: int
    certified_steps: tuple[int, ...]


def cheapest(certified_steps: Iterable[int], tune_cost: ArrayLike) -> int:
    """Certified step, or step 0, with the lowest cost on tune; ties go to the less aggressive."""
    cost = np.asarray(tune_cost, dtype=np.float64)
    if not np.isfinite(cost).all():
        raise InputError("The tune cost of a path step is not finite; the path cannot be ordered by cost.")
    return min(sorted({0, *certified_steps}), key=lambda step: cost[step])


def certify_path(bad: ArrayLike, tune_cost: ArrayLike, alpha: float, delta: float) -> PathResult:
    """Certify the joint risk of a policy path and choose the step to deploy.

    With probability at least ``1 - delta`` over the n calibration items every certified step has joint risk
    <= alpha, so the choice among them is free. It is made on tune costs; the path and its order were fixed
    before calib was read.

    Parameters
    ----------
    bad
        B of the answer that each step serves on each calib item, [G, n] of 0 or 1, one item per group. Row 0
        is the reference tier for every query and holds zeros.
    tune_cost
        Cost of each step on tune (or out-of-fold train), [G].
    alpha, delta
        Risk, and the probability that the claim is false.

    Returns
    -------
    PathResult
        ``(step, bad_count, certified_steps)``. Step 0 needs no test: it serves no cheap answer.

    Raises
    ------
    InputError
        When shapes disagree, `bad` holds anything but 0 and 1, or row 0 is not the reference.
    """
    outcomes = np.asarray(bad)
    if outcomes.ndim != 2 or len(outcomes) < 1 or np.shape(tune_cost) != outcomes.shape[:1]:
        raise InputError(f"bad {outcomes.shape} and tune_cost {np.shape(tune_cost)} must be [G, n] and [G].")
    if not ((outcomes == 0) | (outcomes == 1)).all():
        raise InputError("bad holds values other than 0 and 1; the joint test needs a 0/1 outcome per item.")
    if outcomes[0].any():
        raise InputError("Step 0 of the path served a bad answer; it must send all queries to the reference.")
    counts = outcomes.sum(axis=1, dtype=np.int64)
    certified = tuple(range(1, walk(counts, outcomes.shape[1], alpha, delta) + 1))
    step = cheapest(certified, tune_cost)
    return PathResult(step, int(counts[step]), certified)
