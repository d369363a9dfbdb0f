"""What the cascade of a frozen candidate does with rows that are answered by every tier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from router_core.fitting.frozen import Candidate, scope_table
from router_core.fitting.incumbent import Deployed
from router_core.fitting.tables import Progress, bad_answers
from router_core.policy import CASCADE
from router_core.records import Records
from router_core.scopes import Scopes

__all__ = ["deployed"]


def deployed(
    candidate: Candidate,
    steps: Mapping[tuple[str, str], int],
    records: Records,
    rows: NDArray[np.intp],
    progress: Progress | None = None,
) -> Deployed:
    """What the cascade does with rows whose task is named, every doubt counted against it.

    Parameters
    ----------
    candidate
        Frozen parts.
    steps
        Step in force by (scope, policy name).
    records, rows
        Completed records, and which of them.
    """
    bad = bad_answers(records, candidate.tolerance)
    found = Deployed.always_reference(records.cost[rows], records.quality[rows])
    place = {int(row): at for at, row in enumerate(rows.tolist())}
    for view in candidate.scopes.views:
        path = candidate.policies.get((view.scope, CASCADE))
        mine = np.asarray([i for i in rows.tolist() if _scope_of(candidate.scopes, records, i) == view.scope], np.intp)
        if path is None or not len(mine):
            continue
        kept, table = scope_table(candidate, records, mine, view.scope, bad, progress)
        if table is None:
            continue
        worst = table.at_worst(path)
        served, cost = worst.replay(path)
        step, at = steps[view.scope, CASCADE], np.asarray([place[i] for i in kept.tolist()], np.intp)
        each = np.arange(len(kept))
        found.served[at], found.cost[at] = served[step], cost[step]
        found.quality[at] = worst.quality[each, served[step]]
        found.bad[at] = worst.bad[each, served[step]]
    return found


def _scope_of(scopes: Scopes, records: Records, i: int) -> str | None:
    task, subtask = records.task[i], records.subtask[i]
    view = scopes.resolve(f"{task}/{subtask}" if subtask else task)
    return None if view is None else view.scope
