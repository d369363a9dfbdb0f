"""The audits of a ledger as the watch reads them (`router_core.audit_risk`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from router_core.audit_risk import Audited
from router_core.bad import is_bad
from router_core.errors import InputError
from router_core.ledger.reader import LedgerReader, LoggedRoute, Moment

__all__ = ["UNDER_WAY_S", "audits_from_ledger"]

UNDER_WAY_S: Final = 900.0
"""How long an audit is waited for after its query was answered, seconds; one without a result by then has failed."""
_FAILED: Final = "audit failed: "


def audits_from_ledger(
    url: str, tolerance: float = 0.0, since: Moment = None, now: float | None = None
) -> Iterator[Audited]:
    """Every audit up to the first that is still under way, in the order the queries were answered.

    Queries that the reference tier served are among them, each with the probability with which it was chosen, and so
    are audits that failed: the reference tier did not answer, what it answered could not be graded, or no result came
    within `UNDER_WAY_S` (the process ended, say). Those after an audit under way wait with it, so that slow audits,
    which may be those of hard queries, are not counted out of turn. Left out are routes that had no
    certificate to keep. The groups of an audit are its conversation and its text, as the ledger hashes them.

    Parameters
    ----------
    url
        Of the ledger; texts are not needed.
    tolerance
        Of the bundle: an answer is bad when the reference's quality, 1, exceeds its own by more.
    since
        Bound in time.
    now
        Seconds since 1970; the clock's when None.

    Raises
    ------
    InputError
        When the ledger cannot be read, or a route of it holds what no audit can have written.
    """
    moment, reader = time.time() if now is None else now, LedgerReader(url)
    for route in reader.routes(since, learnable=True):
        probability = 0.0 if route.audit_probability is None else route.audit_probability
        if not route.audited or not route.certified or route.scope is None or probability == 0.0:
            continue
        if not 0.0 < probability <= 1.0:
            raise InputError(
                f"{reader.address.shown}: route {route.id!r} has the audit probability {probability}, outside (0, 1]; "
                "no audit wrote that, so delete or correct this row"
            )
        told = [one for one in route.feedback if one.kind == "audit"]
        if not told and route.at > moment - UNDER_WAY_S:
            return
        cheap = route.tier != route.reference
        grade = next((one.value for one in reversed(told) if one.value is not None and 0.0 <= one.value <= 1.0), None)
        yield Audited(
            at=route.at,
            task=f"{route.task}/{route.subtask}" if route.subtask else route.task,
            scope=route.scope,
            policy=route.policy or "",
            bundle=route.bundle or "",
            tier=route.tier,
            cheap=cheap,
            bad=cheap and grade is not None and bool(is_bad(1.0, grade, tolerance)),
            propensity=probability,
            key=route.id,
            groups=tuple(
                f"{kind} {name}" for kind, name in (("conversation", route.conversation), ("text", route.key)) if name
            ),
            failed=_why(route, answered=bool(told)) if cheap and grade is None else "",
        )


def _why(route: LoggedRoute, *, answered: bool) -> str:
    """What failed, by tier; never a text that was answered."""
    if not answered:
        return f"no result within {UNDER_WAY_S / 60:.0f} minutes"
    for attempt in route.attempts:
        if attempt.audit and attempt.tier == route.reference and (attempt.reason or "").startswith(_FAILED):
            return f"{attempt.tier}: {(attempt.reason or '').removeprefix(_FAILED)[:80]}"
    return "no grade"
