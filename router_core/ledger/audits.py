"""The audits of a ledger as the watch reads them (`router_core.audit_risk`)."""

from __future__ import annotations

from collections.abc import Iterator

from router_core.audit_risk import Audited
from router_core.bad import is_bad
from router_core.ledger.reader import LedgerReader, Moment

__all__ = ["audits_from_ledger"]


def audits_from_ledger(url: str, tolerance: float = 0.0, since: Moment = None) -> Iterator[Audited]:
    """Every audit whose result is known, in the order the queries were answered.

    Queries that the reference tier served are among them, each with the probability with which it was chosen. Left out
    are routes that had no certificate to keep, and audits that failed or are still under way.

    Parameters
    ----------
    url
        Of the ledger; texts are not needed.
    tolerance
        Of the bundle: an answer is bad when the reference's quality, 1, exceeds its own by more.
    since
        Bound in time.

    Raises
    ------
    InputError
        When the ledger cannot be read.
    """
    for route in LedgerReader(url).routes(since, learnable=True):
        probability = route.audit_probability or 0.0
        if not route.audited or probability <= 0.0 or not route.certified or route.scope is None:
            continue
        cheap = route.tier != route.reference
        grades = [told.value for told in route.feedback if told.kind == "audit" and told.value is not None]
        if cheap and not grades:
            continue
        yield Audited(
            at=route.at,
            task=f"{route.task}/{route.subtask}" if route.subtask else route.task,
            scope=route.scope,
            policy=route.policy or "",
            bundle=route.bundle or "",
            tier=route.tier,
            cheap=cheap,
            bad=cheap and bool(is_bad(1.0, grades[-1], tolerance)),
            propensity=probability,
            key=route.id,
        )
