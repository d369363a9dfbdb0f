"""Stickiness: a conversation stays on its tier, because switching throws away the provider's prompt cache.

Going up is always allowed. Going down takes several decisions in a row for a cheaper tier.
"""

import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

from router_core.errors import InputError
from router_core.router import Router, Start

__all__ = ["Sticky", "conversation_key"]

_SALT = "routenlp-conversation-v1|"


def conversation_key(turns: Sequence[tuple[str, str]], given: str | None = None) -> str:
    """Name a conversation without keeping its text.

    Parameters
    ----------
    turns
        (role, text) in order, as for `route_text`.
    given
        The caller's own id, which wins.

    Returns
    -------
    str
        SHA-256 of the id, else of the system turns before the first human turn and that turn: two conversations that
        begin alike share a key, and so a tier.
    """
    begins: list[str] = []
    for role, text in turns:
        if role in ("system", "human"):
            begins.append(text)
        if role == "human":
            break
    named = ["id", given] if given is not None else ["turns", *begins]
    return sha256((_SALT + json.dumps(named)).encode("ascii")).hexdigest()


@dataclass(slots=True)
class _Memory:
    """What is known of one conversation: the tier that served last, and decisions in a row for a cheaper one."""

    tier: str
    seen: float
    cheaper: int = 0


class Sticky:
    """Remembers which tier serves each conversation; safe across threads.

    While the policy decides for the remembered tier or one above it, nothing changes and no certificate is touched.
    While it decides for a cheaper one, the conversation stays until `patience` such decisions have come in a row. To
    stay is a departure: on the reference tier it keeps a certificate of the joint risk (also one in expectation), on
    any other tier it voids the certificate. Certificates of other risks claim nothing of any query while conversations
    may stay: what the departures leave is not what was calibrated.

    Memory is bounded: conversations untouched for `ttl_seconds` are forgotten (a provider's prompt cache is gone by
    then), and beyond `max_conversations` the one used least recently. State belongs to one process: a copy or a pickle
    carries the settings and starts empty.

    Parameters
    ----------
    patience
        Decisions in a row for a cheaper tier before it is taken; 1 is no stickiness.
    margin
        How far P(bad) must lie below what the start threshold allows for a decision to count as cheaper, in [0, 1].
    ttl_seconds
        How long a conversation is remembered, seconds.
    max_conversations
        How many are.
    clock
        Monotonic seconds.

    Raises
    ------
    InputError
        For numbers outside their range.
    """

    def __init__(
        self,
        patience: int = 3,
        *,
        margin: float = 0.0,
        ttl_seconds: float = 3600.0,
        max_conversations: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if patience < 1 or max_conversations < 1 or not 0 <= margin <= 1 or not ttl_seconds > 0:
            raise InputError(
                f"sticky with patience {patience!r}, margin {margin!r}, ttl_seconds {ttl_seconds!r}, max_conversations "
                f"{max_conversations!r}: counts must be 1 or more, the margin in [0, 1], the time positive"
            )
        self.patience = patience
        self.margin = margin
        self.ttl_seconds = ttl_seconds
        self.max_conversations = max_conversations
        self._clock = clock
        self._known: OrderedDict[str, _Memory] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Sticky({self.patience}, margin={self.margin}, ttl_seconds={self.ttl_seconds})"

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, without its clock."""
        return {name: getattr(self, name) for name in ("patience", "margin", "ttl_seconds", "max_conversations")}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Sticky, **self.settings, clock=self._clock), ()

    def __len__(self) -> int:
        with self._lock:
            return len(self._known)

    def start(self, router: Router, start: Start, key: str | None) -> Start:
        """Where the next query of a conversation starts.

        Parameters
        ----------
        router
            The router that decided.
        start
            Its decision. A forced start, or one for which no policy applies, is left as it is.
        key
            From `conversation_key`, or any id; None for a query of no conversation.
        """
        if start.forced:
            return start
        start = self._unclaimed(router, start)
        if key is None:
            return start
        names = router.portfolio.names
        with self._lock:
            self._forget()
            memory = self._known.get(key)
            if memory is None or memory.tier not in names:
                return start
            tier = names.index(memory.tier)
            if start.tier >= tier:
                memory.cheaper = 0
                return start
            count = memory.cheaper + 1 if _slack(start) >= self.margin else 0
            down = count >= self.patience
            # A cheaper tier that then escalates must earn the next try anew.
            memory.cheaper = 0 if down else count
            if down:
                return start
        why = (
            f"the conversation stays on {names[tier]} (decision {count} of {self.patience} in a row for a cheaper "
            f"tier, {names[start.tier]})"
        )
        return replace(start, tier=tier, reason=why, departure=why)

    def _unclaimed(self, router: Router, start: Start) -> Start:
        """The start without a claim that the departures of other conversations void."""
        if self.patience == 1 or router.outlives_departure(start):
            return start
        return replace(start, departure="conversations stay on tiers that the policy would not choose")

    def served(self, key: str, tier: str) -> None:
        """Remember which tier served a query of a conversation."""
        with self._lock:
            memory = self._known.pop(key, None)
            now = self._clock()
            if memory is None or memory.tier != tier:
                memory = _Memory(tier, now)
            memory.seen = now
            self._known[key] = memory
            self._forget()

    def _forget(self) -> None:
        """Drop what is too old or too much; the order is that of last use."""
        limit = self._clock() - self.ttl_seconds
        while self._known:
            oldest = next(iter(self._known))
            if len(self._known) <= self.max_conversations and self._known[oldest].seen > limit:
                return
            del self._known[oldest]


def _slack(start: Start) -> float:
    """How far P(bad) of the tier that the policy starts at lies below what its start threshold allows."""
    policy, before = start.policy, start.before
    if policy is None or before is None or start.tier >= len(before.judgements):
        return math.inf
    judged = before.judgements[start.tier]
    score = policy.score(judged.risk, judged.saving, before.toss)
    slack = score - policy.thresholds[start.tier][0]
    return slack * judged.saving if policy.priced else slack
