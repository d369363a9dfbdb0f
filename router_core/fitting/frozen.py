"""A candidate whose every part is frozen before calib is read, and how it scores rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_core.bundle import Bundle
from router_core.fitting.rivals import BASELINES, Baselines
from router_core.fitting.score_table import ScoreTable
from router_core.fitting.tables import Progress, evidence_of, score_table, views_of
from router_core.policy import Policy
from router_core.records import Records
from router_core.risks import Plan
from router_core.scopes import Scopes
from router_core.scoring import Scorer

__all__ = ["Candidate", "candidate_of", "policy_table", "scope_table"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Everything frozen before calib is read.

    Attributes
    ----------
    scopes, scorer, baselines
        What scores a query.
    policies
        Paths by (scope, name); names are ``"cascade"``, ``"route_only"`` and the rivals that `baselines` holds.
    plans
        What the test of each path fixes beforehand, by the same keys.
    risk, alpha, delta, tolerance
        What is to be shown, at the delta of one certificate.
    """

    scopes: Scopes
    scorer: Scorer
    baselines: Baselines
    policies: Mapping[tuple[str, str], Policy]
    plans: Mapping[tuple[str, str], Plan]
    risk: str
    alpha: float
    delta: float
    tolerance: float


def candidate_of(bundle: Bundle) -> Candidate:
    """The frozen candidate inside a bundle, as `certify()` takes it."""
    settings, baselines = bundle.settings, Baselines.from_parts(bundle.baselines)
    plans = {}
    for key, cost in settings["step_cost"].items():
        scope, _, name = key.rpartition("|")
        plans[scope, name] = Plan.from_json(cost, settings.get("plans", {}).get(key, {}))
    return Candidate(
        bundle.scopes,
        bundle.scorer,
        baselines,
        {key: path for key, path in bundle.policies.items() if key[1] not in BASELINES or key[1] in baselines},
        plans,
        settings["risk"],
        settings["alpha"],
        settings.get("delta_each", settings["delta"]),
        settings["tolerance"],
    )


def scope_table(
    candidate: Candidate,
    records: Records,
    rows: NDArray[np.intp],
    scope: str,
    bad: NDArray[np.uint8],
    progress: Progress | None = None,
) -> tuple[NDArray[np.intp], ScoreTable | None]:
    """The rows a scope serves and their scores; None when there are none."""
    views = views_of(records, candidate.scopes, scope, rows)
    mine = np.asarray([r for r, view in enumerate(views) if view is not None], np.intp)
    if not len(mine):
        return rows[mine], None
    known = evidence_of(records, rows[mine], progress)
    told = [view for view in views if view is not None]
    return rows[mine], score_table(candidate.scorer, records, rows[mine], told, bad, known, progress)


def policy_table(
    name: str, table: ScoreTable, baselines: Baselines, view: str, hidden: NDArray[np.float64]
) -> ScoreTable:
    """The same rows as a policy or rival sees them.

    Parameters
    ----------
    name
        A policy's name.
    view
        Name of the models' view.
    hidden
        float64 [n, d], the encoder's hidden vectors.
    """
    if name in baselines.models:
        return table.scored_by(baselines.models[name].risk(hidden, table.risk, view))
    return table
