"""What random audits say about all traffic: an estimate weighted by how likely each audit was, and an exact interval.

Audits made at different rates, or chosen by a score, show their own mix of queries and not the traffic's (METHOD.md
2.7, P16). Weighting each by 1 / probability corrects the estimate (Horvitz and Thompson, 1952). For an interval that
is exact at any size, audits are thinned to the lowest probability, after which they are a plain random sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from router_core.errors import InputError
from router_core.groups import unit_interval

__all__ = ["AuditEstimate", "estimate_risk", "fair"]

_SALT = "routenlp-thin-v1"


@dataclass(frozen=True, slots=True)
class AuditEstimate:
    """Share of bad answers among all queries that could have been audited.

    Attributes
    ----------
    risk
        Weighted estimate; unbiased, so that it may exceed 1 by chance.
    interval
        Exact interval (Clopper-Pearson) from the thinned audits.
    audited, thinned, total
        Audits, audits left after thinning, and queries with a probability above 0.
    """

    risk: float
    interval: tuple[float, float]
    audited: int
    thinned: int
    total: int


def fair(id: str, probability: float, lowest: float) -> bool:
    """Whether an audit is kept when all are thinned to the `lowest` probability; decided by the hash of the id."""
    return unit_interval(_SALT, id) < lowest / probability


def estimate_risk(
    ids: Sequence[str], bad: ArrayLike, probability: ArrayLike, total: int, level: float = 0.95
) -> AuditEstimate:
    """Estimate the risk of all traffic from its audits.

    Parameters
    ----------
    ids
        Of the audited routes, [n].
    bad
        1 where the served answer was bad, else 0, [n].
    probability
        With which each was chosen, [n], above 0.
    total
        Queries whose probability was above 0, audited or not.
    level
        Of the interval.

    Raises
    ------
    InputError
        When there are no audits, a probability is outside (0, 1], a label is neither 0 nor 1, or there are more audits
        than queries.
    """
    from router_core.certificate import clopper_pearson

    labels, chances = np.asarray(bad, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    if not len(ids) or not len(ids) == len(labels) == len(chances) or total < len(ids):
        raise InputError(f"{len(ids)} audits of {total} queries cannot be: give one label and probability an audit")
    if not ((chances > 0) & (chances <= 1)).all() or not np.isin(labels, (0.0, 1.0)).all():
        raise InputError("audits need probabilities above 0 and at most 1, and labels 0 or 1")
    lowest = float(chances.min())
    kept = np.array([fair(name, chance, lowest) for name, chance in zip(ids, chances.tolist(), strict=True)])
    low, high = clopper_pearson(int(labels[kept].sum()), int(kept.sum()), level)
    return AuditEstimate(
        float((labels / chances).sum() / total), (float(low), float(high)), len(ids), int(kept.sum()), total
    )
