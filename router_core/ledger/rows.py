"""From finished routes and feedback to the rows of a ledger; `Entry` is what waits in the queue."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from router_core.errors import InputError
from router_core.groups import hash_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from router_core import Answer, Route
    from router_core.audits import AuditDecision

__all__ = [
    "FEEDBACK",
    "GRADED_FEEDBACK",
    "AttemptEntry",
    "AuditEntry",
    "FeedbackEntry",
    "RouteEntry",
    "Rows",
    "check_feedback",
    "key_of",
    "logged_group",
    "route_entry",
    "rows_of",
]

FEEDBACK = ("label", "rating", "preference", "correction", "audit")
"""Kinds of feedback."""
GRADED_FEEDBACK = ("label", "preference", "audit")
"""Those whose value is a grade, from 0 to 1."""

_HEX = 16

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AttemptEntry:
    """One attempt as it will be stored; `answer`, and whether it was `redacted`, are None unless texts are kept."""

    tier: str
    model_name: str | None
    confidence: float | None
    accepted: bool
    cost_usd: float
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_ms: float
    reason: str
    answered: bool
    answer: str | None
    signals: Mapping[str, float]
    retries: int = 0
    redacted: bool | None = None


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """One route as it will be stored.

    `key_text` is what was routed, for its hash only; `text` is what may be kept of it.
    """

    id: str
    at: float
    task: str | None
    scope: str | None
    policy: str
    tier: str
    reference: str | None
    cost_usd: float
    bundle: str
    certificate: dict[str, Any] | None
    reason: str
    audited: bool
    audit_probability: float | None
    key_text: str | None
    conversation: str | None
    text: str | None
    hidden: bytes | None
    attempts: tuple[AttemptEntry, ...]
    budget: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FeedbackEntry:
    """One piece of feedback as it will be stored."""

    id: str
    route: str
    at: float
    kind: str
    value: float | None
    text: str | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What an audit brought: further attempts from `position` on, grades by tier, and the feedback row."""

    position: int
    attempts: tuple[AttemptEntry, ...]
    quality: Mapping[str, float]
    feedback: FeedbackEntry


def route_entry(
    route: Route,
    attempt_of: Callable[..., AttemptEntry],
    kept: Callable[[str | None], str | None],
    *,
    id: str,
    at: float,
    text: str | None,
    answers: Mapping[str, Answer] | None,
    models: Mapping[str, str] | None,
    reference: str | None,
    conversation: str | None,
    hidden: NDArray[np.floating[Any]] | None,
    audit: AuditDecision | None,
) -> RouteEntry:
    """A route as it is stored, by `attempt`, `kept` and what was given to `append` of a `router_core.ledger.Ledger`."""
    served = {route.tier: route.answer} if answers is None else answers
    attempts = tuple(
        attempt_of(
            attempt.tier, served.get(attempt.tier), confidence=attempt.confidence, accepted=attempt.accepted,
            cost_usd=attempt.cost_usd, latency_ms=attempt.latency_ms, reason=attempt.reason,
            model_name=models.get(attempt.tier) if models else None, retries=attempt.retries,
        )
        for attempt in route.attempts
    )  # fmt: skip
    stored = kept(text)
    return RouteEntry(
        id=id,
        at=at,
        task=route.task,
        scope=route.scope,
        policy=route.policy,
        tier=route.tier,
        reference=reference,
        cost_usd=route.cost_usd,
        bundle=route.bundle,
        certificate=route.certificate,
        reason=route.reason,
        audited=audit is not None and audit.chosen,
        audit_probability=None if audit is None else audit.probability,
        key_text=text,
        conversation=conversation,
        text=stored,
        # A vector tells what its text said: it is kept beside the very text it is of, or not at all.
        hidden=None if hidden is None or stored is None or stored != text else hidden.astype("<f4").tobytes(),
        attempts=attempts,
        budget=route.budget,
    )


def check_feedback(kind: str, value: float | None) -> None:
    """Refuse feedback of an unknown kind, a value that is no finite number, and a grade outside [0, 1]."""
    if kind not in FEEDBACK:
        raise InputError(f"feedback of kind {kind!r} is unknown; use {', '.join(FEEDBACK)}")
    if value is None:
        return
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"feedback value {value!r} must be a finite number or None; words belong to text")
    if kind in GRADED_FEEDBACK and not 0 <= value <= 1:
        raise InputError(
            f"feedback value {value!r} of kind {kind!r} must lie between 0 and 1; other scales are ratings"
        )


Rows = dict[str, list[Row]]
"""Rows per table, and under ``"graded"`` the grades of attempts that are there already."""


def key_of(text: str) -> str:
    """64-bit hash, in hex, of a text's group key (`router_core.keys.hash_keys` of one key)."""
    return _digest(hash_key(text))


def logged_group(conversation: str | None, text: str | None) -> str:
    """Group of a logged query: a conversation is known by its hash, what has none by its text, as records are."""
    return f"conversation {conversation}" if conversation else hash_key(text or "")


def conversation_group(conversation: str) -> str:
    """Group that queries of a conversation have once they are read from a ledger, which keeps the hash of its id.

    Nothing for no conversation.
    """
    return f"conversation {_digest(conversation)}" if conversation else ""


def rows_of(entries: list[RouteEntry | FeedbackEntry | AuditEntry]) -> Rows:
    """The rows that store these entries."""
    rows: Rows = {"routes": [], "attempts": [], "feedback": [], "graded": []}
    for entry in entries:
        if isinstance(entry, RouteEntry):
            rows["routes"].append(_route(entry))
            rows["attempts"] += [_attempt(entry.id, i, entry.at, a, audit=False) for i, a in enumerate(entry.attempts)]
        elif isinstance(entry, FeedbackEntry):
            rows["feedback"].append(_feedback(entry))
        else:
            told = entry.feedback
            rows["attempts"] += [
                _attempt(told.route, entry.position + i, told.at, a, audit=True, quality=entry.quality.get(a.tier))
                for i, a in enumerate(entry.attempts)
            ]
            rows["graded"] += [
                {"in_route": told.route, "of_tier": tier, "grade": grade} for tier, grade in entry.quality.items()
            ]
            rows["feedback"].append(_feedback(told))
    return rows


def _route(entry: RouteEntry) -> Row:
    task, _, subtask = (entry.task or "").partition("/")
    answered = {attempt.tier for attempt in entry.attempts if attempt.answered}
    return {
        "id": entry.id,
        "at": entry.at,
        "task": task or None,
        "subtask": subtask or None,
        "scope": entry.scope,
        "policy": entry.policy,
        "tier": entry.tier,
        "reference": entry.reference,
        "cost_usd": entry.cost_usd,
        "latency_ms": sum(attempt.latency_ms for attempt in entry.attempts),
        "bundle": entry.bundle,
        "certified": entry.certificate is not None,
        "certificate": entry.certificate,
        "reason": _storable(entry.reason),
        "escalated": entry.reference in answered and len(answered) > 1,
        "audited": entry.audited,
        "audit_probability": entry.audit_probability,
        "key": None if entry.key_text is None else key_of(entry.key_text),
        "conversation": None if entry.conversation is None else _digest(entry.conversation),
        "text": _storable(entry.text),
        "hidden": entry.hidden,
        "budget": entry.budget,
    }


def _attempt(
    route: str, position: int, at: float, entry: AttemptEntry, *, audit: bool, quality: float | None = None
) -> Row:
    return {
        "route": route,
        "position": position,
        "at": at,
        "tier": entry.tier,
        "model_name": entry.model_name,
        "confidence": _finite(entry.confidence),
        "accepted": entry.accepted,
        "audit": audit,
        "cost_usd": entry.cost_usd,
        "prompt_tokens": entry.prompt_tokens,
        "completion_tokens": entry.completion_tokens,
        "latency_ms": entry.latency_ms,
        "reason": _storable(entry.reason),
        "quality": quality,
        "answer": _storable(entry.answer),
        # JSON has no infinities; a signal that is none of a number counts as missing everywhere else too.
        "signals": {name: value for name, value in entry.signals.items() if _finite(value) is not None} or None,
        "retries": entry.retries,
        "redacted": entry.redacted,
    }


def _feedback(entry: FeedbackEntry) -> Row:
    return {
        "id": entry.id,
        "route": entry.route,
        "at": entry.at,
        "kind": entry.kind,
        "value": entry.value,
        "text": _storable(entry.text),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HEX]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _storable(text: str | None) -> str | None:
    """A text as every database takes it: PostgreSQL has no NUL, and neither takes half a character."""
    if text is None:
        return None
    return text.replace("\x00", "").encode("utf-8", "replace").decode()
