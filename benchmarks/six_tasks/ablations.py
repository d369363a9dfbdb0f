"""What each part earns, on test. These policies are not certified: nothing is promised of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from closed_loop import test_of
from protocol import ALPHA
from scoring import Grade
from served import Served
from traffic import Sources, serve

from router_core.bundle import Bundle
from router_core.fitting.lay import Tuned
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.router import Router

__all__ = ["ABLATIONS", "ablated", "plugged_in"]

ABLATIONS = ("all parts", "no cascade", "no conformal step", "no clustering", "no retraining")


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


def ablated(
    bundle: Bundle, before: Bundle, untargeted: Bundle | None, sources: Mapping[str, Sources],
    grades: Mapping[str, Grade], tasks: tuple[str, ...],
) -> dict[str, dict[str, Served]]:  # fmt: skip
    """By ablation and task what was served on test.

    Parameters
    ----------
    bundle, before, untargeted
        Of the release in force, of the start, and one whose T1 the untargeted arm taught, at its plug-in step.
    sources
        Answers with the T1 of the release in force (``"taught"``) and of the untargeted arm (``"untargeted"``).
    grades, tasks
        By task.
    """
    found: dict[str, dict[str, Served]] = {name: {} for name in ABLATIONS}
    full, start = Router.from_bundle(bundle), Router.from_bundle(before)
    for task in tasks:
        test, grade, taught = test_of(task), grades[task], sources["taught"]
        plain = {key: path.at(plugged_in(bundle, task) if key == (task, CASCADE) else path.step)
                 for key, path in bundle.policies.items()}  # fmt: skip
        found["all parts"][task] = serve(full, test, taught, grade)
        found["no cascade"][task] = serve(full, test, taught, grade, policy=ROUTE_ONLY)
        found["no conformal step"][task] = serve(replace(full, policies=plain), test, taught, grade)
        found["no retraining"][task] = serve(start, test, taught, grade)
        if untargeted is not None:
            step = {key: path.at(plugged_in(untargeted, task) if key == (task, CASCADE) else path.step)
                    for key, path in untargeted.policies.items()}  # fmt: skip
            other = replace(Router.from_bundle(untargeted), policies=step)
            found["no clustering"][task] = serve(other, test, sources["untargeted"], grade)
    return {name: parts for name, parts in found.items() if parts}
