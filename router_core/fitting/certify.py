"""`certify()`: the one function that reads calib.

It is handed a candidate whose every part is frozen, reads each scope's calibration rows once, for all policies and
stored baselines together, and returns the certificates. Source: METHOD.md 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

import numpy as np
from numpy.typing import NDArray

from router_core.betting import betting_order
from router_core.certificate import PathResult
from router_core.claim import Certificate
from router_core.fitting.deployment import deployed
from router_core.fitting.frozen import Candidate, candidate_of, policy_table, scope_table
from router_core.fitting.incumbent import Comparison, Incumbent, compare
from router_core.fitting.rivals import BASELINES
from router_core.fitting.score_table import ScoreTable
from router_core.fitting.tables import Progress, bad_answers, scope_rows
from router_core.keys import ids_sha256
from router_core.policy import Policy
from router_core.records import Records
from router_core.risks import Plan, certify_served, least_n, retained
from router_core.scopes import ALL, Scopes
from router_core.splits import one_of_each

__all__ = ["certify", "compared_rows", "in_betting_order", "path_outcome", "unshown"]


def path_outcome(table: ScoreTable, path: Policy, plan: Plan, risk: str, alpha: float, delta: float) -> PathResult:
    """Walk one path over already drawn calibration rows: no grouping, no use count.

    Rows that lack an answer or a signal count as bad (`ScoreTable.at_worst`).
    """
    return certify_served(risk, table.at_worst(path).outcomes(path)[0], plan, alpha, delta)


def in_betting_order(records: Records, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Calibration rows in the one order in which they are read, fixed by their ids."""
    return rows[betting_order([records.query_id[i] for i in rows.tolist()])]


Shown = dict[tuple[str, str], Certificate]


@overload
def certify(
    candidate: Candidate,
    records: Records,
    calib: NDArray[np.intp],
    uses: int,
    progress: Progress | None = None,
    *,
    incumbent: None = None,
) -> Shown: ...


@overload
def certify(
    candidate: Candidate,
    records: Records,
    calib: NDArray[np.intp],
    uses: int,
    progress: Progress | None = None,
    *,
    incumbent: Incumbent,
) -> tuple[Shown, Comparison]: ...


def certify(
    candidate: Candidate,
    records: Records,
    calib: NDArray[np.intp],
    uses: int,
    progress: Progress | None = None,
    *,
    incumbent: Incumbent | None = None,
) -> Shown | tuple[Shown, Comparison]:
    """Certify every policy and stored baseline of a frozen candidate.

    Parameters
    ----------
    candidate
        Frozen parts.
    records
        Completed records.
    calib
        Row numbers, one per group and label (`Prepared.calib`); each scope reads one per group.
    uses
        How many times these rows have been used to certify, this one included.
    incumbent
        The release that serves now, to be measured on the same rows; it keeps its own certificate.

    Returns
    -------
    dict
        One certificate per (scope, policy name); each is a separate claim at its own delta. With an incumbent a pair:
        the certificates, and how the two compare.
    """
    bad, kind = bad_answers(records, candidate.tolerance), candidate.risk
    least = least_n(kind, candidate.alpha, candidate.delta)
    calib = in_betting_order(records, calib)
    shown: dict[tuple[str, str], Certificate] = {}
    for view in candidate.scopes.views:
        served = scope_rows(records, candidate.scopes, view.scope, calib)
        rows, table = scope_table(candidate, records, served, view.scope, bad, progress)
        ids = ids_sha256(records.query_id[i] for i in rows.tolist())
        hidden = _hidden(candidate, records, rows)
        for (scope, name), path in sorted(candidate.policies.items()):
            if scope != view.scope:
                continue
            result = PathResult(0, 0, ())
            if table is not None and len(rows) >= least:
                mine = policy_table(name, table, candidate.baselines, view.models, hidden)
                plan = candidate.plans[scope, name]
                result = path_outcome(mine, path, plan, kind, candidate.alpha, candidate.delta)
            shown[scope, name] = Certificate(
                scope=scope,
                policy=name,
                risk=kind,
                alpha=candidate.alpha,
                delta=None if kind == "expectation" else candidate.delta,
                n=len(rows),
                bad=None if kind == "retention" else result.bad_count if result.step else 0,
                certified=result.step > 0,
                step=result.step,
                lower_bound=retained(candidate.alpha) if kind == "retention" and result.step else None,
                minimum_n=least,
                calib_sha256=ids,
                use_count=uses,
                notes=(*_notes(candidate.scopes, scope, records, rows), *_gaps(table, path)),
            )
    if incumbent is None:
        return shown
    steps = {key: certificate.step for key, certificate in shown.items()}
    return shown, _measured(candidate, steps, records, compared_rows(records, calib), incumbent, progress)


def compared_rows(records: Records, calib: NDArray[np.intp]) -> NDArray[np.intp]:
    """The calibration rows on which a candidate is compared with what serves: of each group one for every task."""
    return np.asarray(one_of_each(records, calib.tolist(), lambda i: records.task[i]), np.intp)


def unshown(candidate: Candidate) -> Shown:
    """Certificates of a candidate for which calib was not read yet: nothing is shown of any policy."""
    return {
        (scope, name): Certificate(
            scope=scope,
            policy=name,
            risk=candidate.risk,
            alpha=candidate.alpha,
            delta=None if candidate.risk == "expectation" else candidate.delta,
            n=0,
            bad=None if candidate.risk == "retention" else 0,
            certified=False,
            step=0,
            lower_bound=None,
            minimum_n=least_n(candidate.risk, candidate.alpha, candidate.delta),
            calib_sha256=ids_sha256([]),
            use_count=0,
        )
        for scope, name in sorted(candidate.policies)
    }


def _measured(
    candidate: Candidate,
    steps: Mapping[tuple[str, str], int],
    records: Records,
    calib: NDArray[np.intp],
    incumbent: Incumbent,
    progress: Progress | None,
) -> Comparison:
    """Candidate and incumbent on the same rows; neither is changed by it."""
    ids = [records.query_id[i] for i in calib.tolist()]
    rows, bundle = incumbent.rows_of(ids), incumbent.bundle
    now = {key: path.step for key, path in bundle.policies.items()}
    level = 1.0 - candidate.delta
    overall, tasks = compare(
        deployed(candidate, steps, records, calib, progress),
        deployed(candidate_of(bundle), now, incumbent.records, rows, progress),
        records.cost[calib, -1],
        [records.task[i] for i in calib.tolist()],
        tiers=records.cost.shape[1],
        level=level,
        seed=0,
    )
    return Comparison(bundle.id, ids_sha256(ids), level, overall, tasks)


def _hidden(candidate: Candidate, records: Records, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    embed = candidate.scorer.encoder.embed
    vectors = [embed(records.prompt[i]) for i in rows.tolist()]
    return np.stack(vectors) if vectors else np.zeros((0, candidate.scorer.encoder.hidden_size))


def _gaps(table: ScoreTable | None, path: Policy) -> tuple[str, ...]:
    if table is None or path.name in BASELINES:
        return ()
    called = [tier for tier in path.called if table.judged[tier]]
    unknown = int(table.missing[:, called].any(axis=1).sum())
    return (f"{unknown} items lack an answer or a signal that serving has, and count as bad",) if unknown else ()


def _notes(scopes: Scopes, scope: str, records: Records, rows: NDArray[np.intp]) -> tuple[str, ...]:
    """What mix the claim is about: that of the scope's calibration items, which need not be that of train."""
    at = rows.tolist()
    if scope in ("*", ALL) and scope not in scopes.subtasks:
        if len(scopes.subtasks) > 1:
            return _mix("task", {records.task[i] for i in at})
        scope = next(iter(scopes.subtasks))
    if not scopes.subtasks.get(scope.removesuffix("/*")):
        return ()
    return _mix("subtask", {records.subtask[i] for i in at} - {""})


def _mix(kind: str, names: set[str]) -> tuple[str, ...]:
    if len(names) == 1:
        return (f"holds for {kind} {next(iter(names))!r}, the only one among the calibration items",)
    return (f"holds for the calibration mix of {len(names)} {kind}s, not for each",) if names else ()
