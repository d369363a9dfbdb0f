"""What a reader must know beside a verdict of the watch, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router_core.audit_risk import Estimate
from router_core.watch_stream import Stream

__all__ = ["watch_notes"]

_UNWATCHED: Final = "retention is a matter of two qualities, and an audit tells only whether the answer was bad"
_LISTED: Final = 50
"""Audits of a joint risk after which it is odd that none was served by the reference tier."""
_SHOWN: Final = 3


def watch_notes(stream: Stream, estimates: Mapping[str, Estimate]) -> tuple[str, ...]:
    """Sentences on failed and repeated audits, on rates, and on what is missing.

    Parameters
    ----------
    stream
        The audits of one certificate.
    estimates
        Its `Stream.estimates`.
    """
    shown = stream.shown
    if shown.risk == "retention":
        return (_UNWATCHED,)
    estimate = estimates["selective" if shown.risk == "selective" else "joint"]
    notes = [_failures(stream, estimate)] if estimate.failed else []
    if stream.repeated:
        notes.append(f"{stream.repeated} audits of a conversation or text that was audited before were left out")
    if shown.risk != "selective" and len(stream.cheap) >= _LISTED and stream.cheap.all():
        notes.append(
            "no query that the reference tier served is listed, so the joint risk cannot be told from the selective "
            "one; list them too"
        )
    if (lowered := stream.lowered_at) is not None:
        notes.append(
            f"audits have different probabilities, and each is weighed by the smallest so far ({stream.alarm.floor:g}, "
            f"first at audit {lowered}): right where at any time all queries have the same; else begin anew and name "
            "the smallest with --floor"
        )
    return tuple(notes)


def _failures(stream: Stream, estimate: Estimate) -> str:
    often = sorted(stream.failures.items(), key=lambda one: (-one[1], one[0]))
    # Reasons come from a ledger or a file, which may have been written by anyone.
    told = ", ".join(f"{''.join(filter(str.isprintable, what))}: {count}" for what, count in often[:_SHOWN]) + (
        ", ..." if often[_SHOWN:] else ""
    )
    begun = f"{estimate.failed} of {int(stream.cheap.sum())} audits of cheap answers failed ({told})"
    if not stream.blind(estimate):
        return f"{begun}; the upper limit and the re-certification count them as bad"
    certified, worst = f"the {100 * stream.shown.alpha:g} % certified", estimate.worst or 0.0
    would = f"would be {100 * worst:.1f} %, above {certified}"
    if worst <= stream.shown.alpha:
        would = f"would have come to exceed {certified}"
    risk = stream.shown.risk
    return f"{begun}, so nothing can be said: were they bad, the {risk} risk {would}; find out why audits fail"
