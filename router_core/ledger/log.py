"""Writing to a ledger: routes and feedback as they come, never in the way of the answer."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from router_core.errors import InputError
from router_core.ledger.exit import EXIT_S, flush_at_exit
from router_core.ledger.rows import AttemptEntry, AuditEntry, FeedbackEntry, check_feedback, route_entry
from router_core.ledger.store import Store
from router_core.ledger.url import Address
from router_core.ledger.writer import Writer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from router_core import Answer, Route
    from router_core.audits import AuditDecision

__all__ = ["Ledger", "new_id"]

_DAY_S = 86_400.0
_RETIRE_EVERY_S = 3_600.0


def new_id() -> str:
    """An id for a route: 32 hex digits, random, and rising with time so that a database files it at the end."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


class Ledger:
    """Keeps routes and feedback; appending neither waits for the database nor fails.

    What is appended waits in a queue in memory for at most a few dozen milliseconds until a thread stores it. When
    the database is away the queue fills, then entries are dropped, counted (`stats`) and warned of once a minute.
    Stored means committed: it survives the death of the process at once, and the loss of power with the database's
    next sync (SQLite in WAL mode, synchronous=NORMAL). Any number of threads and processes may write. The queue is
    flushed at exit and on SIGTERM (`router_core.ledger.exit`; made in the main thread only).

    Parameters
    ----------
    url
        ``sqlite:///file.db``, made when it is not there, or ``postgresql://user:password@host/database``.
    store_text
        Keep prompts, answers, texts of feedback and hidden vectors. Without it nothing can be learned from the
        ledger, but audits, costs and shares can be watched.
    redact
        Applied to every text before it is queued, for example `router_core.personal_data.redact`. A text it fails on
        is not kept, nor is the hidden vector of a text that it fails on or changes; the rest of the row is.
    retention_days
        Texts older than this are taken out by the writer, at most once an hour; the rows stay. None keeps them.
    queue
        Entries that may wait.

    Raises
    ------
    InputError
        When the database cannot be opened now, or was made by a newer version.
    MissingExtraError
        When SQLAlchemy or the PostgreSQL driver is not installed.
    """

    def __init__(
        self,
        url: str = "sqlite:///routenlp.db",
        *,
        store_text: bool = False,
        redact: Callable[[str], str] | None = None,
        retention_days: float | None = None,
        queue: int = 10_000,
    ) -> None:
        if retention_days is not None and not (math.isfinite(retention_days) and retention_days > 0):
            raise InputError(f"retention_days = {retention_days!r} must be a positive number of days, or None")
        if queue < 1:
            raise InputError(f"queue = {queue!r} must be at least 1")
        self._address = Address(url)
        self.store_text = store_text
        self._redact = redact
        self._given: dict[str, Any] = {"url": url, "store_text": store_text, "redact": redact}
        self._given |= {"retention_days": retention_days, "queue": queue}
        self._retention_s = None if retention_days is None else retention_days * _DAY_S
        self._retired_at = -math.inf
        self._unredacted = 0
        self._unfit = ""
        self._store = Store(self._address)
        self._writer = Writer(self._store, queue, self._retire)
        flush_at_exit(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the URL, password included, and the settings; reading it opens the ledger again."""
        return partial(Ledger, **self._given), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Ledger:
        return self

    def __repr__(self) -> str:
        return f"Ledger({self._address.shown!r}, store_text={self.store_text})"

    def append(
        self,
        route: Route,
        *,
        text: str | None = None,
        id: str | None = None,
        answers: Mapping[str, Answer] | None = None,
        models: Mapping[str, str] | None = None,
        reference: str | None = None,
        conversation: str | None = None,
        hidden: NDArray[np.floating[Any]] | None = None,
        audit: AuditDecision | None = None,
        at: float | None = None,
    ) -> str:
        """Queue a route; returns at once, whatever state the database is in.

        Parameters
        ----------
        route
            A finished route.
        text
            What was routed. Its hash is always stored, itself only if texts are kept.
        id
            From `new_id`; drawn when None, or the audit's.
        answers
            By tier what each attempt returned; without it only the served answer is known. Escalations are learned
            from only if the cheap answers are given too.
        models
            By tier the model name the answer came with.
        reference
            Name of the reference tier, ``router.portfolio.reference.name``; without it the route is never harvested.
        conversation
            Id of the conversation; only its hash is stored. Queries of one conversation are one group in records.
        hidden
            Hidden vector [d] of the router, kept only beside the text, as it was routed.
        audit
            From `Auditor.decide`, taken before the route was known.
        at
            Seconds since 1970; now when None.

        Returns
        -------
        str
            The id, for `feedback`.
        """
        name = id or (audit.id if audit is not None else new_id())
        try:
            entry = route_entry(
                route, self.attempt, self.kept, id=name, at=time.time() if at is None else at, text=text,
                answers=answers, models=models, reference=reference, conversation=conversation, audit=audit,
                hidden=hidden if self.store_text else None,
            )  # fmt: skip
        except Exception as error:
            # An answer that is unlike any other must not cost the user the answer.
            self._unfit = type(error).__name__
            self._writer.refuse()
            return name
        self._writer.put(entry)
        return name

    def feedback(self, id: str, kind: str, value: float | None = None, text: str | None = None) -> None:
        """Queue what became known of a route later.

        Parameters
        ----------
        id
            What `append` returned.
        kind
            ``"label"`` (value: quality of the served answer, 0 to 1, or text: the right answer), ``"rating"`` (value
            on the caller's scale), ``"preference"`` (value: 1 the served answer was preferred, 0 another one; text:
            the other), ``"correction"`` (text: the corrected answer), or ``"audit"``.
        value
            A finite number, or None.
        text
            Stored only if texts are kept, redacted like every text.

        Raises
        ------
        InputError
            For an unknown kind, a value that is no finite number, or a label or preference outside [0, 1].
        """
        check_feedback(kind, value)
        told = None if value is None else float(value)
        self._writer.put(FeedbackEntry(new_id(), id, time.time(), kind, told, self.kept(text)))

    def audited(
        self,
        id: str,
        attempts: tuple[AttemptEntry, ...],
        *,
        position: int,
        quality: Mapping[str, float],
        value: float | None,
        text: str | None,
    ) -> None:
        """Queue what an audit brought; see `router_core.audits.Auditor`, which calls this.

        Parameters
        ----------
        id
            Of the route.
        attempts
            Calls the audit made, stored from `position` on.
        position
            How many attempts the route itself had.
        quality
            Grades by tier.
        value
            Grade of the served answer, None when the audit failed.
        text
            The reference tier's answer, or why the audit failed.
        """
        told = FeedbackEntry(f"audit-{id}", id, time.time(), "audit", value, self.kept(text))
        self._writer.put(AuditEntry(position, attempts, quality, told))

    def attempt(
        self,
        tier: str,
        answer: Answer | None,
        *,
        accepted: bool,
        cost_usd: float,
        latency_ms: float,
        reason: str,
        confidence: float | None = None,
        model_name: str | None = None,
        retries: int = 0,
    ) -> AttemptEntry:
        """An attempt as it is stored: without its answer's raw object, and without texts unless they are kept."""
        told = tier, model_name, confidence, accepted, cost_usd
        if answer is None:
            return AttemptEntry(*told, None, None, latency_ms, reason, False, None, {}, retries)
        tokens = answer.prompt_tokens, answer.completion_tokens
        signals = dict(answer.signals) if answer.signals else {}
        kept = self.kept(answer.text)
        redacted = None if kept is None else kept != answer.text
        return AttemptEntry(*told, *tokens, latency_ms, reason, True, kept, signals, retries, redacted)

    def kept(self, text: str | None) -> str | None:
        """What is kept of a text: all, what redaction leaves, or nothing."""
        if text is None or not self.store_text:
            return None
        if self._redact is None:
            return text
        try:
            told: object = self._redact(text)
        except Exception:
            told = None
        if isinstance(told, str):
            return told
        self._unredacted += 1
        return None

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all this thread appended is stored; False when that took longer than `timeout` seconds."""
        return self._writer.flush(timeout)

    def close(self, timeout: float | None = EXIT_S) -> bool:
        """Flush and let the connection go; False when something could not be stored in time and was dropped.

        The ledger may be used again afterwards.
        """
        return self._writer.stop(timeout)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dropped(self) -> int:
        """Entries this process lost: the queue was full, or the database will never take them."""
        return self._writer.dropped

    @property
    def queued(self) -> int:
        """Entries that wait in this process."""
        return self._writer.queued

    def stats(self) -> dict[str, Any]:
        """What the database holds (`ledger_stats`) and, under ``"writer"``, how this process's queue fares.

        ``"writer"``: ``written``, ``queued``, ``dropped``, ``unredacted`` (texts lost to a failing redaction) and
        ``trouble`` (the database's complaint, or the error that a route raised; empty when all is well).

        Raises
        ------
        InputError
            When the database cannot be read now.
        """
        from router_core.ledger.reader import LedgerReader

        told: dict[str, Any] = LedgerReader(self._address).stats()
        told["writer"] = {
            "written": self._writer.written,
            "queued": self._writer.queued,
            "dropped": self._writer.dropped,
            "unredacted": self._unredacted,
            "trouble": self._writer.trouble or self._unfit,
        }
        return told

    def _retire(self) -> None:
        if self._retention_s is not None and time.monotonic() - self._retired_at >= _RETIRE_EVERY_S:
            self._retired_at = time.monotonic()
            self._store.retire(time.time() - self._retention_s)
