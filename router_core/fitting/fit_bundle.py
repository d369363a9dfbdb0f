"""`fit()`: records in, certified bundle out.

records -> splits -> encoder -> evidence models -> policy paths on tune -> certify on calib, once -> bundle
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from router_core.bundle import Bundle, candidate_parts, earlier_keys, parts_id
from router_core.claim import check_levels, check_risk
from router_core.encoder import EncoderTrainer
from router_core.errors import InputError
from router_core.fitting.certify import certify, unshown
from router_core.fitting.choice import choose_encoder
from router_core.fitting.frozen import Candidate
from router_core.fitting.static import StaticTrainer
from router_core.fitting.tables import Progress
from router_core.keys import KeyLedger, check_disjoint, hash_keys
from router_core.lapse import Validity
from router_core.portfolio import Portfolio, Tier, derive_prices
from router_core.records import Records, choose_tiers, read_records
from router_core.scopes import ALL, CERTIFY_BY, CertifyBy, Scopes
from router_core.sketches import SKETCHES, Sketches
from router_core.splits import Prepared, prepare, query_keys

__all__ = ["FitSettings", "fit", "told_of"]


_FEWEST_TRAIN, _FEWEST_GROUPS = 20, 10


@dataclass(frozen=True)
class FitSettings:
    """What to show, and from which seed.

    Attributes
    ----------
    alpha
        The risk to certify; for retention 1 - alpha is the share of quality to keep.
    delta
        Probability, over the draw of calib, that the claim is false.
    tolerance
        How far below the reference tier's quality an answer may lie without being bad.
    seed
        Seed of everything random.
    risk
        Kind of risk: ``"joint"``, ``"selective"``, ``"retention"`` or ``"expectation"``.
    certify_by
        What one certificate is about: a ``"task"``, a ``"leaf"`` (each subtask), or ``"all"`` tasks at once.
    simultaneous
        Divide delta by the number of certificates, so that all hold at once.
    encoder_saving
        Share of the expected cost that a slower encoder must save over a faster one to be taken.
    max_age_days, max_decisions
        How long the certificates are used (`router_core.lapse.Validity`); None for no limit.
    """

    alpha: float = 0.05
    delta: float = 0.1
    tolerance: float = 0.0
    seed: int = 0
    risk: str = "joint"
    certify_by: CertifyBy = "task"
    simultaneous: bool = False
    encoder_saving: float = 0.01
    max_age_days: float | None = None
    max_decisions: int | None = None

    def __post_init__(self) -> None:
        """Refuse levels outside (0, 1), a tolerance outside [0, 1), and kinds of claim that do not exist."""
        Validity(self.max_age_days, self.max_decisions)
        check_levels(self.alpha, self.delta)
        check_risk(self.risk)
        if self.certify_by not in CERTIFY_BY:
            msg = f"certify_by = {self.certify_by!r} is unknown; use {', '.join(CERTIFY_BY[:-1])} or {CERTIFY_BY[-1]}"
            raise InputError(msg)
        if self.simultaneous and self.risk == "expectation":
            msg = "a claim in expectation has no delta to divide, so simultaneous does not apply; leave one of them out"
            raise InputError(msg)
        if not 0 <= self.seed < 2**32:
            msg = f"seed = {self.seed} must lie between 0 and {2**32 - 1}"
            raise InputError(msg)
        if not 0.0 <= self.encoder_saving < 1.0:
            msg = f"encoder_saving = {self.encoder_saving} must lie in [0, 1)"
            raise InputError(msg)
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
    certified: bool = True,
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
        Encoder trainers; the static one when empty. With several the encoder is chosen (`choose_encoder`), and only
        the chosen candidate reads calib.
    certified
        False leaves calib unread: the bundle sends every query to the reference tier until `certify_bundle` shows more.
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
    earlier = None if out is None else earlier_keys(out)
    if not isinstance(records, Records):
        records = read_records(records, portfolio)
    prepared, drops = _prepare(records, tiers)
    _check_train(prepared)
    chosen = choose_encoder(prepared, settings, trainers or [StaticTrainer()], progress)
    work, candidate = chosen.fitter, chosen.candidate
    learned = np.union1d(prepared.train, prepared.tune)
    priced, basis = _portfolio(prepared.records.take(learned), portfolio)
    keys = _keys(prepared, earlier)
    uses = keys.used(_calib_keys(prepared)) + 1
    told = told_of(settings, candidate, _train_means(prepared, candidate.scopes))
    opaque = {**candidate.baselines.parts(), **work.tuned.parts(), SKETCHES: _sketches(prepared, learned).part()}
    frozen = candidate_parts(priced, candidate.scopes, candidate.scorer, candidate.policies, told, opaque)
    shown = certify(candidate, prepared.records, prepared.calib, uses, progress) if certified else unshown(candidate)
    bundle = Bundle(
        priced,
        candidate.scopes,
        candidate.scorer,
        {key: path.at(shown[key].step) for key, path in candidate.policies.items()},
        shown,
        told,
        opaque,
        keys.with_calib(_calib_keys(prepared)) if certified else keys,
        {
            "source": records.source,
            "drops": str(drops),
            "splits": str(prepared),
            "cost_basis": records.cost_basis,
            "price_basis": basis,
            "candidate": parts_id(frozen),
            "choices": work.choices,
            "encoder": candidate.scorer.encoder.kind,
            "encoders": chosen.report,
        },
        measured={"latency_ms": chosen.measured} if chosen.measured else {},
    )
    return bundle if out is None else bundle.save(out)


def told_of(settings: FitSettings, candidate: Candidate, train_means: Any) -> dict[str, Any]:
    """The settings part of a bundle: what was asked for, and what every path fixed before calib."""
    plans = {"|".join(key): plan.to_json() for key, plan in sorted(candidate.plans.items())}
    return {
        # A limit that was not asked for is not told: the id of such a bundle stays what it was.
        **{name: value for name, value in asdict(settings).items() if value is not None},
        "delta_each": candidate.delta,
        "train_means": train_means,
        "step_cost": {"|".join(key): plan.cost.tolist() for key, plan in sorted(candidate.plans.items())},
        "plans": {key: plan for key, plan in plans.items() if plan},
    }


def _prepare(records: Records, tiers: Sequence[str] | None) -> tuple[Prepared, Any]:
    prepared = prepare(records)
    chosen = choose_tiers(prepared.records, np.union1d(prepared.train, prepared.tune), tiers)
    return prepared.complete(chosen)


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


def _check_train(prepared: Prepared) -> None:
    groups = len(np.unique(prepared.group_id[prepared.train]))
    if len(prepared.train) < _FEWEST_TRAIN or groups < _FEWEST_GROUPS:
        msg = (
            f"{prepared.records.source}: train has {len(prepared.train)} queries in {groups} groups; fitting needs at "
            f"least {_FEWEST_TRAIN} queries in {_FEWEST_GROUPS} groups, so give more records"
        )
        raise InputError(msg)


def _keys(prepared: Prepared, earlier: KeyLedger | None) -> KeyLedger:
    records = prepared.records
    train, tune = (hash_keys(query_keys(records, rows.tolist())) for rows in (prepared.train, prepared.tune))
    # Two groups may hold the same few words ("yes, please") and still be two conversations.
    check_disjoint(train=train, tune=tune, calib=hash_keys(records.group[i] for i in prepared.calib_all.tolist()))
    if earlier is not None:
        return KeyLedger(train, tune, earlier.calib, earlier.uses)
    return KeyLedger(train, tune, np.zeros(0, np.uint64), np.zeros(0, np.int64))


def _sketches(prepared: Prepared, learned: NDArray[np.intp]) -> Sketches:
    records, rows = prepared.records, learned.tolist()
    return Sketches.of([records.prompt[i] for i in rows], [records.task[i] for i in rows])


def _calib_keys(prepared: Prepared) -> NDArray[np.uint64]:
    return hash_keys(query_keys(prepared.records, prepared.calib_all.tolist()))


def _train_means(prepared: Prepared, scopes: Scopes) -> dict[str, list[list[float]]]:
    """Mean quality and cost per tier on train: overall, and for each task, leaf and masked scope of any cut."""
    records, rows = prepared.records, np.union1d(prepared.train, prepared.tune)
    cuts = [Scopes(scopes.subtasks, by) for by in get_args(CertifyBy)]
    names = dict.fromkeys(("overall", *scopes.subtasks, *(view.scope for cut in cuts for view in cut.views)))
    found = {}
    for scope in names:
        mine = [i for i in rows.tolist() if _belongs(records.task[i], records.subtask[i], scope)]
        found[scope] = np.stack([records.quality[mine].mean(axis=0), records.cost[mine].mean(axis=0)], axis=1).tolist()
    return found


def _belongs(task: str, subtask: str, scope: str) -> bool:
    return scope in ("overall", "*", ALL, task, f"{task}/*", f"{task}/{subtask}")
