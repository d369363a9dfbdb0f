"""What each part earns, on test. These policies are not certified: nothing is promised of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from closed_loop import SETTINGS, Known, Stage, test_of
from data import calib_folds
from prices import nominal_portfolio
from protocol import ALPHA, TAUGHT, TOLERANCE, WIDE_TASKS, tiers_of
from scoring import raw_score
from served import Served
from sheet import records_of
from targeted import taught_by_clusters
from tiers import WORK, Answers, items_of, learners
from traffic import Said, serve, sources_of

from router_core.bundle import Bundle
from router_core.fitting import fit
from router_core.fitting.frozen import candidate_of, scope_table
from router_core.fitting.lay import Tuned
from router_core.fitting.tables import bad_answers
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.router import Router

__all__ = ["ABLATIONS", "ablated", "cheapest_at", "plugged_in"]

ABLATIONS = ("all parts", "no cascade", "no conformal step", "clusters instead of traffic", "no retraining")


def plugged_in(bundle: Bundle, task: str) -> int:
    """The cheapest step of a task's cascade whose joint risk on tune is ALPHA at most, taken at its word."""
    tuned = Tuned.from_parts(bundle.baselines)
    assert tuned is not None
    path = bundle.policies[task, CASCADE]
    view = next(view for view in bundle.scopes.views if view.scope == task)
    table = tuned.tables[view.models].take(tuned.rows_of(bundle.scopes, task))
    served, cost = table.replay(path)
    last = table.bad.shape[1] - 1
    bad = np.array([table.bad[np.arange(len(row)), row][row < last].sum() / len(row) for row in served.astype(int)])
    spent = np.where(bad <= ALPHA, cost.sum(axis=1), np.inf)
    return int(spent.argmin())


def cheapest_at(stage: Stage, known: Known, risk: float) -> float:
    """Cost ratio on test of the cheapest step of a stage's path whose joint risk there is `risk` at most.

    It tells stages apart without the luck of the fold that chose their step; it is read off test and promises nothing.
    """
    task, bundle = stage.task, Bundle.load(stage.bundle)
    answers = {**known[task], TAUGHT: Answers(dict(stage.said), (), ())}
    records = records_of(test_of(task), {task: answers}, {}, tiers_of(task))
    bad = bad_answers(records, TOLERANCE)
    _, table = scope_table(candidate_of(bundle), records, np.arange(len(records)), task, bad)
    assert table is not None
    served, cost = table.outcomes(bundle.policies[task, CASCADE])
    ratio = cost.sum(axis=1) / table.cost[:, -1].sum()
    return float(ratio[served.bad.mean(axis=1) <= risk].min())


def ablated(serving: Mapping[str, Stage], start: Mapping[str, Bundle], known: Known) -> dict[str, dict[str, Served]]:
    """By ablation and task what was served on test.

    Parameters
    ----------
    serving, start
        By task the stage that serves in the end, and the bundle of the start.
    known
        What the other tiers answer.
    """
    found: dict[str, dict[str, Served]] = {name: {} for name in ABLATIONS}
    for task, stage in serving.items():
        test, grade, sources = test_of(task), raw_score[task], sources_of(known, {task: stage.said})
        full = Router.from_bundle(Bundle.load(stage.bundle))
        found["all parts"][task] = serve(full, test, sources, grade)
        found["no cascade"][task] = serve(full, test, sources, grade, policy=ROUTE_ONLY)
        plain = serve(_at_plug_in(Bundle.load(stage.bundle), task), test, sources, grade)
        found["no conformal step"][task] = found["clusters instead of traffic"][task] = plain
        found["no retraining"][task] = serve(Router.from_bundle(start[task]), test, sources, grade)
        if task in WIDE_TASKS:
            said = taught_by_clusters(task, start[task], known)
            router = _at_plug_in(_fitted(task, said, known), task)
            other = serve(router, test, sources_of(known, {task: said}), grade)
            found["clusters instead of traffic"][task] = other
    return found


def _at_plug_in(bundle: Bundle, task: str) -> Router:
    step = plugged_in(bundle, task)
    return replace(Router.from_bundle(bundle), policies={
        key: path.at(step if key == (task, CASCADE) else path.step) for key, path in bundle.policies.items()
    })  # fmt: skip


def _fitted(task: str, said: Said, known: Known) -> Bundle:
    """A router for another T2; never certified."""
    out = WORK / "clusters" / task
    if not out.exists():
        items = [*learners(task, "router"), *calib_folds(items_of(task))[0], *test_of(task)]
        tiers, answers = tiers_of(task), {**known[task], TAUGHT: Answers(dict(said), (), ())}
        fit(
            records_of(items, {task: answers}, {}, tiers), out=out, tiers=tiers, portfolio=nominal_portfolio(tiers),
            settings=SETTINGS, certified=False,
        )  # fmt: skip
    return Bundle.load(out)
