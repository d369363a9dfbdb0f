"""`calibrate()`: a new certificate for the same router, on calibration items nothing was fitted on.

Encoder, evidence models and rivals stay as they are. The paths are laid again from the scores on tune that the bundle
keeps, for the risk that is asked for now; a bundle too large to keep them keeps its frozen paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from router_core.bundle import Bundle, candidate_parts, earlier_keys, parts_id
from router_core.errors import InputError
from router_core.fitting.candidates import Goal
from router_core.fitting.certify import certify
from router_core.fitting.fit_bundle import FitSettings, told_of
from router_core.fitting.frozen import Candidate, candidate_of
from router_core.fitting.incumbent import Comparison, Incumbent
from router_core.fitting.lay import Tuned, calib_sizes, delta_of_each, lay
from router_core.fitting.tables import Progress
from router_core.keys import KeyLedger, hash_keys
from router_core.ledger.logged import Moment
from router_core.ledger.records import records_from_ledger
from router_core.ledger.url import is_ledger_url
from router_core.records import Records, read_records
from router_core.scopes import CertifyBy, Scopes
from router_core.sketches import Sketches
from router_core.splits import Prepared, known_by, prepare, query_keys

__all__ = ["calibrate", "certify_bundle"]


def calibrate(
    bundle: Bundle | str | Path,
    records: Records | str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    risk: str | None = None,
    alpha: float | None = None,
    delta: float | None = None,
    certify_by: CertifyBy | None = None,
    simultaneous: bool | None = None,
    max_age_days: float | None = None,
    max_decisions: int | None = None,
    since: Moment = None,
    until: Moment = None,
    progress: Progress | None = None,
) -> Bundle:
    """Certify the router of a bundle again, and write the result as a bundle.

    Parameters
    ----------
    bundle
        A bundle or its folder.
    records
        Records, or files to read them from: the rows marked calib if there is a ``split`` column, else every row.
        Of a ledger the uniform sample of its traffic that random audits make (`router_core.ledger.fair`), answered by
        the models this bundle names, without queries the bundle was trained or tuned on; never the escalations.
        Near-duplicates of such queries (`router_core.sketches`) are left out of either, with their groups.
    out
        Folder to write; nothing is written when None.
    risk, alpha, delta, certify_by, simultaneous, max_age_days, max_decisions
        As in `FitSettings`; what the bundle was made with when None.
    since, until
        Bounds in time of what is read from a ledger.
    progress
        Called as the work goes on.

    Raises
    ------
    InputError
        When a ledger gives no such sample, when records share keys with what the bundle was trained or tuned on, or
        when the bundle cannot serve what is asked.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.load(bundle)
    earlier = None if out is None else earlier_keys(out)
    given = {
        "risk": risk,
        "alpha": alpha,
        "delta": delta,
        "certify_by": certify_by,
        "simultaneous": simultaneous,
        "max_age_days": max_age_days,
        "max_decisions": max_decisions,
    }
    before = {name: bundle.settings[name] for name in FitSettings.__dataclass_fields__ if name in bundle.settings}
    settings = FitSettings(**{**before, **{name: value for name, value in given.items() if value is not None}})
    if not isinstance(records, Records):
        records = _read(records, bundle, since, until)
    prepared, drops, foreign = _calib(bundle, records)
    _check_fresh(bundle, prepared)
    prepared, near = _without_near_duplicates(bundle, prepared)
    candidate, choices = _candidate(bundle, settings, prepared)
    told = told_of(settings, candidate, bundle.settings["train_means"])
    frozen = candidate_parts(
        bundle.portfolio, candidate.scopes, candidate.scorer, candidate.policies, told, bundle.baselines
    )
    mine = hash_keys(query_keys(prepared.records, prepared.calib_all.tolist()))
    keys = bundle.keys
    if earlier is not None:
        keys = keys.merged(earlier)
    shown = certify(candidate, prepared.records, prepared.calib, keys.used(mine) + 1, progress)
    made = Bundle(
        bundle.portfolio,
        candidate.scopes,
        candidate.scorer,
        {key: path.at(shown[key].step) for key, path in candidate.policies.items()},
        shown,
        told,
        bundle.baselines,
        keys.with_calib(mine),
        {
            **bundle.report,
            "candidate": parts_id(frozen),
            "choices": choices,
            "calibrated": {
                "source": records.source,
                "n": len(prepared.calib),
                "repeats": len(prepared.calib_all) - len(prepared.calib),
                "drops": str(drops),
                "other_tasks": foreign,
                "near_duplicates": near,
                "from": bundle.id,
                "paths": "laid again from the scores on tune" if "tuned.npz" in bundle.baselines else "kept",
            },
        },
        measured=bundle.measured,
    )
    return made if out is None else made.save(out)


def certify_bundle(
    bundle: Bundle,
    records: Records,
    incumbent: Incumbent,
    *,
    earlier: KeyLedger | None = None,
    progress: Progress | None = None,
) -> tuple[Bundle, Comparison]:
    """Certify the frozen candidate of a bundle as it is, and measure the release that serves now beside it.

    Parameters
    ----------
    bundle
        Made by ``fit(..., certified=False)``.
    records
        With calib rows; rows of the other splits only settle groups and straddlers, as when it was fitted.
    incumbent
        The release that serves now.
    earlier
        Keys that were used before, whose counts are carried forward.
    progress
        Called as the work goes on.

    Returns
    -------
    tuple
        The certified bundle, not written, and the comparison.

    Raises
    ------
    InputError
        When calibration rows share keys with what the bundle was trained or tuned on, or the incumbent lacks answers.
    """
    prepared, _, _ = _calib(bundle, records)
    _check_fresh(bundle, prepared)
    mine = hash_keys(query_keys(prepared.records, prepared.calib_all.tolist()))
    keys = bundle.keys if earlier is None else bundle.keys.merged(earlier)
    candidate, uses = candidate_of(bundle), keys.used(mine) + 1
    shown, compared = certify(candidate, prepared.records, prepared.calib, uses, progress, incumbent=incumbent)
    policies = {key: path.at(shown[key].step) for key, path in candidate.policies.items()}
    return replace(bundle, policies=policies, certificates=shown, keys=keys.with_calib(mine)), compared


def _read(records: str | Path | Sequence[str | Path], bundle: Bundle, since: Moment, until: Moment) -> Records:
    files = [records] if isinstance(records, (str, Path)) else list(records)
    if len(files) == 1 and isinstance(files[0], str) and is_ledger_url(files[0]):
        found = records_from_ledger(files[0], bundle=bundle, split="calib", since=since, until=until)
        # Escalations lack the answers of tiers that a certificate needs, and certify nothing.
        rows = [i for i, split in enumerate(found.split) if split == "calib"]
        if not rows:
            raise InputError(f"{found.source}: no audit that may certify; serve with audits and texts, and come back")
        return found.take(rows)
    if since is not None or until is not None:
        raise InputError("since and until are bounds in time of a ledger; records have none, so leave them out")
    return read_records(files, bundle.portfolio)


def _calib(bundle: Bundle, records: Records) -> tuple[Prepared, Any, int]:
    """The calibration rows of the bundle's tasks, how many were dropped, and how many were of other tasks."""
    if not any(records.split):
        records = replace(records, split=["calib"] * len(records))
    known = [i for i in range(len(records)) if records.task[i] in bundle.scopes.subtasks]
    foreign = sum(records.split[i] == "calib" for i in range(len(records))) - sum(
        records.split[i] == "calib" for i in known
    )
    if not known:
        msg = (
            f"{records.source}: no row is of a task this bundle knows ({', '.join(bundle.scopes.subtasks)}); "
            "give records of these tasks, or fit a bundle on yours"
        )
        raise InputError(msg)
    prepared, drops = prepare(records.take(known), require=("calib",)).complete(bundle.portfolio.names)
    return prepared, drops, foreign


def _check_fresh(bundle: Bundle, prepared: Prepared) -> None:
    """Refuse calibration rows that the bundle was trained or tuned on, by any of their keys."""
    records, learned = prepared.records, np.union1d(bundle.keys.train, bundle.keys.tune)
    seen = known_by(records, prepared.calib_all.tolist(), learned)
    if seen.any():
        msg = (
            f"{records.source}: {seen.sum()} of {len(seen)} calibration queries share a key with what the bundle was "
            "trained or tuned on; a certificate needs queries that nothing was fitted on, so leave these out"
        )
        raise InputError(msg)


def _without_near_duplicates(bundle: Bundle, prepared: Prepared) -> tuple[Prepared, int | None]:
    """Leave out groups with a near-duplicate of what was learned; how many queries went, None if nobody can tell."""
    sketches, records, rows = Sketches.from_parts(bundle.baselines), prepared.records, prepared.calib_all
    if sketches is None:
        return prepared, None
    at = rows.tolist()
    near = rows[sketches.near([records.prompt[i] for i in at], [records.task[i] for i in at])]
    if not len(near):
        return prepared, 0
    left = prepared.without(near)
    if not len(left.calib):
        msg = (
            f"{records.source}: all {len(rows)} calibration queries are near-duplicates of what the bundle was trained "
            "or tuned on; a certificate needs queries that nothing was fitted on, so give others"
        )
        raise InputError(msg)
    return left, len(rows) - len(left.calib_all)


def _candidate(bundle: Bundle, settings: FitSettings, prepared: Prepared) -> tuple[Candidate, Any]:
    """The same router with paths for the risk that is asked for."""
    old, scopes = candidate_of(bundle), Scopes(bundle.scopes.subtasks, settings.certify_by)
    goal = Goal(
        settings.risk,
        settings.alpha,
        delta_of_each(settings.delta, scopes, simultaneous=settings.simultaneous),
        settings.seed,
    )
    tuned = Tuned.from_parts(bundle.baselines)
    if tuned is None:
        return replace(old, delta=goal.delta, alpha=goal.alpha, **_kept(bundle, settings)), bundle.report.get("choices")
    if missing := {view.models for view in scopes.views} - set(old.scorer.models):
        msg = (
            f"the bundle has no models for --certify-by {settings.certify_by} ({', '.join(sorted(missing))} labels); "
            "fit it again with this option"
        )
        raise InputError(msg)
    sizes = calib_sizes(prepared.records, scopes, prepared.calib)
    laid = lay(tuned, scopes, sizes, goal, bundle.portfolio.names)
    made = Candidate(
        scopes,
        old.scorer,
        old.baselines,
        laid.policies,
        laid.plans,
        settings.risk,
        goal.alpha,
        goal.delta,
        old.tolerance,
    )
    return made, laid.choices


def _kept(bundle: Bundle, settings: FitSettings) -> dict[str, Any]:
    """What changes on frozen paths: the levels, and the risk as far as its test fixed nothing more than the path."""
    plain = ("joint", "expectation")
    if settings.certify_by != bundle.scopes.by:
        msg = "the bundle keeps no scores on tune to lay other paths from; fit it again with this --certify-by"
        raise InputError(msg)
    if settings.risk != bundle.settings["risk"] and settings.risk not in plain:
        msg = (
            f"the bundle keeps no scores on tune to plan a test of {settings.risk} from; fit it again with this --risk"
        )
        raise InputError(msg)
    if settings.risk not in plain and settings.alpha != bundle.settings["alpha"]:
        msg = f"the bundle planned its test of {settings.risk} for alpha {bundle.settings['alpha']:g}; fit it again"
        raise InputError(msg)
    return {"risk": settings.risk}
