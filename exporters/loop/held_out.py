"""What a release does with the test split: for the report alone, after the gate has judged; nothing depends on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from router_core.bundle import Bundle
from router_core.fitting.deployment import deployed
from router_core.fitting.frozen import candidate_of
from router_core.fitting.tables import bad_answers
from router_core.outcomes import Outcome, describe_outcome
from router_core.records import Records
from router_core.splits import prepare

__all__ = ["on_test"]


def on_test(bundle: Bundle, records: Records) -> dict[str, Any]:
    """Figures of a release's cascade on test rows whose task is named, every doubt counted against it.

    Parameters
    ----------
    bundle
        Its bundle, each path at its certified step.
    records
        Rows as its students answer them; those of other splits are not looked at.

    Returns
    -------
    dict
        ``"all"`` and each task, with ``n`` and the figures of `router_core.outcomes.describe_outcome`: ratios to the
        reference tier with bootstrap intervals, risks with exact ones, all at 95 %, and tier shares. Empty where there
        are no test rows.
    """
    rows = [i for i, split in enumerate(records.split) if split == "test"]
    if not rows:
        return {}
    found, _ = prepare(records.take(rows), require=("test",)).complete(bundle.portfolio.names)
    records, test, candidate = found.records, found.test, candidate_of(bundle)
    did = deployed(candidate, {key: path.step for key, path in bundle.policies.items()}, records, test)
    quality, bad = records.quality[test].copy(), bad_answers(records, candidate.tolerance)[test]
    at = np.arange(len(test)), did.served.astype(np.intp)
    quality[at], bad[at] = did.quality, did.bad
    tasks = np.asarray([records.task[i] for i in test.tolist()])

    def of(mine: np.ndarray[Any, Any]) -> dict[str, Any]:
        outcome = Outcome(did.served[mine], did.cost[mine])
        names, usd = bundle.portfolio.names, records.cost[test][mine]
        return {"n": len(mine), **describe_outcome(outcome, quality[mine], usd, bad[mine], names)}

    by_task = {task: of(np.flatnonzero(tasks == task)) for task in sorted(set(tasks.tolist()))}
    return {"all": of(np.arange(len(test))), **by_task}
