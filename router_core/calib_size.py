"""How many calib rows a certificate takes: the least with which anything can be shown, and what is realistic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from router_core.bad import is_bad
from router_core.certificate import allowed_bad
from router_core.records import Records
from router_core.risks import least_n
from router_core.splits import one_of_each, prepare

__all__ = ["ALPHAS", "CalibSize", "calib_sizes", "realistic_n"]

ALPHAS = (0.01, 0.02, 0.05, 0.1)
"""Risks that are looked at."""


@dataclass(frozen=True)
class CalibSize:
    """What one task has, and needs at every alpha.

    Attributes
    ----------
    rows
        Calib queries with an answer of every tier, one per group.
    tier, bad_rate, train_rows
        The tier before the reference that is bad least often if it always serves, how often, on how many train
        queries; calib is not looked at. None without a complete train query.
    least
        Per alpha the least number of rows that can certify anything, with no bad answer among them.
    realistic
        Per alpha `realistic_n` of the bad rate, which few rows are not allowed to make nothing: (bad + 1) / (rows + 2).
    """

    rows: int
    tier: str | None
    bad_rate: float | None
    train_rows: int
    least: Mapping[float, int]
    realistic: Mapping[float, int]


def realistic_n(rate: float, alpha: float, delta: float) -> int:
    """Smallest n at which ``n * min(rate, alpha / 2)`` bad answers still certify a joint risk of alpha.

    A router serves only the answers it trusts, so its risk is below that of always serving a cheap tier; half of
    alpha leaves the test room.
    """
    risk = min(rate, alpha / 2.0)
    n = least_n("joint", alpha, delta)
    while allowed_bad(n, alpha, delta) < n * risk:
        n += 1
    return n


def calib_sizes(records: Records, delta: float = 0.1) -> dict[str, CalibSize]:
    """Per task what calib holds and what it would need; the last of the records' models is the reference."""
    prepared = prepare(records, require=())
    settled = prepared.records
    whole = np.isfinite(settled.quality).all(axis=1) & np.isfinite(settled.cost).all(axis=1)
    tasks = np.array(settled.task)
    told = {}
    for task in dict.fromkeys(settled.task):
        here = whole & (tasks == task)
        learned = np.concatenate([prepared.train, prepared.tune])
        quality = settled.quality[learned[here[learned]]]
        rates = is_bad(quality[:, -1:], quality[:, :-1], 0.0).mean(axis=0) if len(quality) else np.empty(0)
        best = int(rates.argmin()) if rates.size else None
        rate = None if best is None else float(rates[best])
        shrunk = ((rate or 0.0) * len(quality) + 1.0) / (len(quality) + 2.0)
        told[task] = CalibSize(
            rows=len(one_of_each(settled, prepared.calib[here[prepared.calib]].tolist())),
            tier=None if best is None else settled.models[best],
            bad_rate=rate,
            train_rows=len(quality),
            least={alpha: least_n("joint", alpha, delta) for alpha in ALPHAS},
            realistic={alpha: realistic_n(shrunk, alpha, delta) for alpha in ALPHAS},
        )
    return told
