"""`fit()`: records in, certified bundle out.

records -> splits -> encoder -> evidence models -> policy paths on tune -> certify on calib, once -> bundle
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.bundle import Bundle, KeyLedger, candidate_parts, check_output, parts_id
from router_core.claim import check_levels
from router_core.encoder import EncoderTrainer
from router_core.errors import InputError
from router_core.fitting.certify import certify
from router_core.fitting.fitter import Fitter
from router_core.fitting.static import StaticTrainer
from router_core.fitting.tables import Progress
from router_core.keys import check_disjoint, hash_keys
from router_core.portfolio import Portfolio, Tier, derive_prices
from router_core.records import Records, choose_tiers, read_records
from router_core.router import Scopes
from router_core.splits import Prepared, prepare

__all__ = ["FitSettings", "fit"]


@dataclass(frozen=True)
class FitSettings:
    """What to show, and from which seed.

    Attributes
    ----------
    alpha
        The joint risk to certify.
    delta
        Probability, over the draw of calib, that the claim is false.
    tolerance
        How far below the reference tier's quality an answer may lie without being bad.
    seed
        Seed of everything random.
    """

    alpha: float = 0.05
    delta: float = 0.1
    tolerance: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse levels outside (0, 1) and a tolerance outside [0, 1)."""
        check_levels(self.alpha, self.delta)
        if not 0.0 <= self.tolerance < 1.0:
            msg = f"tolerance = {self.tolerance} must lie in [0, 1)"
            raise InputError(msg)


def fit(
    records: Records | str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    portfolio: Portfolio | None = None,
    tiers: Sequence[str] | None = None,
    settings: FitSettings | None = None,
    trainers: Sequence[EncoderTrainer] = (),
    progress: Progress | None = None,
) -> Bundle:
    """Fit a router on logged records, certify it, and write the bundle.

    Parameters
    ----------
    records
        Records, or files to read them from.
    out
        Folder to write; nothing is written when None.
    portfolio
        Prices; derived from the records when None.
    tiers
        Model names in cascade order, the reference last; chosen from train when None (`choose_tiers`).
    settings
        What to show.
    trainers
        Encoder trainers; the static one when empty. The first is used.
    progress
        Called as the work goes on.

    Returns
    -------
    Bundle
        Loaded back from `out` when that is given.

    Raises
    ------
    InputError
        When records, portfolio or settings are wrong.
    """
    settings = settings or FitSettings()
    if out is not None:
        check_output(Path(out))
    if not isinstance(records, Records):
        records = read_records(records, portfolio)
    prepared, drops, chosen = _prepare(records, tiers)
    work = Fitter(prepared, settings, (trainers or [StaticTrainer()])[0], progress)
    candidate = work.candidate()
    priced, basis = _portfolio(records.for_models(chosen), portfolio)
    keys = _keys(prepared, Path(out) if out is not None else None)
    uses = keys.used(_calib_keys(prepared)) + 1
    told: dict[str, Any] = {
        "alpha": settings.alpha,
        "delta": settings.delta,
        "tolerance": settings.tolerance,
        "seed": settings.seed,
        "risk": "joint",
        "train_means": _train_means(prepared, candidate.scopes),
        "step_cost": {"|".join(key): cost.tolist() for key, cost in sorted(candidate.step_cost.items())},
    }
    frozen = candidate_parts(
        priced, candidate.scopes, candidate.scorer, candidate.policies, told, candidate.baselines.parts()
    )
    shown = certify(candidate, prepared.records, prepared.calib, uses, progress)
    bundle = Bundle(
        priced,
        candidate.scopes,
        candidate.scorer,
        {key: path.at(shown[key].step) for key, path in candidate.policies.items()},
        shown,
        told,
        candidate.baselines.parts(),
        keys.with_calib(_calib_keys(prepared)),
        {
            "source": records.source,
            "drops": str(drops),
            "splits": str(prepared),
            "cost_basis": records.cost_basis,
            "price_basis": basis,
            "candidate": parts_id(frozen),
            "choices": work.choices,
            "encoder": candidate.scorer.encoder.kind,
        },
    )
    return bundle if out is None else bundle.save(out)


def _prepare(records: Records, tiers: Sequence[str] | None) -> tuple[Prepared, Any, tuple[str, ...]]:
    prepared = prepare(records)
    chosen = choose_tiers(prepared.records, np.union1d(prepared.train, prepared.tune), tiers)
    prepared, drops = prepared.complete(chosen)
    return prepared, drops, chosen


def _portfolio(records: Records, given: Portfolio | None) -> tuple[Portfolio, dict[str, str]]:
    derived, basis = derive_prices(records)
    if given is None:
        return derived, basis
    tiers: list[Tier] = []
    for tier in derived.tiers:
        if tier.name in given.names and given.tiers[given.index(tier.name)].priced:
            tiers.append(given.tiers[given.index(tier.name)])
            basis[tier.name] = "portfolio file"
        else:
            tiers.append(tier)
    return Portfolio(tuple(tiers)), basis


def _keys(prepared: Prepared, out: Path | None) -> KeyLedger:
    groups = prepared.records.group
    train, tune = (np.unique(hash_keys([groups[i] for i in rows.tolist()])) for rows in (prepared.train, prepared.tune))
    check_disjoint(train=train, tune=tune, calib=_calib_keys(prepared))
    if out is not None and out.exists() and any(out.iterdir()):
        earlier = Bundle.load(out).keys
        return KeyLedger(train, tune, earlier.calib, earlier.uses)
    return KeyLedger(train, tune, np.zeros(0, np.uint64), np.zeros(0, np.int64))


def _calib_keys(prepared: Prepared) -> NDArray[np.uint64]:
    return np.unique(hash_keys([prepared.records.group[i] for i in prepared.calib_all.tolist()]))


def _train_means(prepared: Prepared, scopes: Scopes) -> dict[str, list[list[float]]]:
    """Mean quality and cost per tier on train, for each scope and overall."""
    records, rows = prepared.records, np.union1d(prepared.train, prepared.tune)
    found = {}
    for scope in ("overall", *(view.scope for view in scopes.views)):
        task = scope.removesuffix("/*")
        mine = [i for i in rows.tolist() if scope in ("overall", "*") or records.task[i] == task]
        found[scope] = np.stack([records.quality[mine].mean(axis=0), records.cost[mine].mean(axis=0)], axis=1).tolist()
    return found
