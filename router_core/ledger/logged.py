"""What a ledger holds of one query: its route, attempts and feedback; and the points in time it is read by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from router_core.errors import InputError
from router_core.route import BROKEN, LEFT

__all__ = ["LoggedAttempt", "LoggedFeedback", "LoggedRoute", "Moment", "iso", "seconds"]

Moment = datetime | date | float | str | None
"""A point in time: aware or naive UTC, seconds since 1970, or ISO 8601 text."""


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """One row of the attempts; see `router_core.ledger`."""

    position: int
    at: float
    tier: str
    model_name: str | None
    confidence: float | None
    accepted: bool
    audit: bool
    cost_usd: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_ms: float | None
    reason: str | None
    quality: float | None
    answer: str | None
    signals: Mapping[str, float] | None
    retries: int | None = None
    redacted: bool | None = None

    @property
    def whole(self) -> bool:
        """Whether there is an answer, and it was kept to its end."""
        return self.answer is not None and self.reason not in (LEFT, BROKEN)


@dataclass(frozen=True, slots=True)
class LoggedFeedback:
    """One row of the feedback; see `router_core.ledger`."""

    id: str
    route: str
    at: float
    kind: str
    value: float | None
    text: str | None


@dataclass(frozen=True, slots=True)
class LoggedRoute:
    """One route with its attempts, in order, and its feedback, oldest first; see `router_core.ledger`."""

    id: str
    at: float
    task: str | None
    subtask: str | None
    scope: str | None
    policy: str | None
    tier: str
    reference: str | None
    cost_usd: float | None
    latency_ms: float | None
    bundle: str | None
    certified: bool
    certificate: Mapping[str, Any] | None
    reason: str | None
    escalated: bool
    audited: bool
    audit_probability: float | None
    key: str | None
    conversation: str | None
    text: str | None
    hidden: bytes | None
    budget: Mapping[str, Any] | None = None
    attempts: tuple[LoggedAttempt, ...] = ()
    feedback: tuple[LoggedFeedback, ...] = ()


def seconds(moment: Moment) -> float | None:
    """A point in time as seconds since 1970-01-01 UTC; without a time zone it is taken as UTC.

    Raises
    ------
    InputError
        For text that is no ISO 8601 date or time.
    """
    if moment is None or isinstance(moment, (int, float)):
        return moment
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise InputError(f"{moment!r} is no date or time; write it as 2025-01-31 or 2025-01-31T18:00:00Z") from None
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def iso(at: float, precision: str = "seconds") -> str:
    """Seconds since 1970 as ISO 8601 text, UTC; a number that lies in no year as it is."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec=precision)
    except (ValueError, OverflowError, OSError):
        return f"{at:.17g} s since 1970, which is no time: the row is wrong"
