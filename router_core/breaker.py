"""A circuit breaker per tier: a tier that keeps failing rests before it is tried again."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from router_core.errors import InputError

__all__ = ["Breaker"]


@dataclass(slots=True)
class _Circuit:
    """State of one tier. Every change of state is a new generation, whose calls alone are counted."""

    generation: int = 0
    failures: int = 0
    rests: bool = False
    probing: bool = False
    until: float = -math.inf


class Breaker:
    """Keeps calls from tiers that are down; safe across threads, shared by all queries.

    A tier is *closed* (called as usual) until `failures` calls in a row fail. It is then *open*: it is not called for
    `cooldown_seconds`. After that it is *half-open*: one call at a time probes it, whose success closes it and whose
    failure opens it again. A probe that never reports back is forgotten after another `cooldown_seconds`. Results of
    calls begun before the last change of state are not counted.

    State belongs to one process: a copy or a pickle carries the settings and starts closed.

    Parameters
    ----------
    failures
        Failures in a row that open a tier.
    cooldown_seconds
        How long an open tier rests, in seconds.
    clock
        Monotonic seconds.

    Raises
    ------
    InputError
        When `failures` is below 1 or the cool-down is negative or not finite.
    """

    def __init__(
        self, failures: int = 5, cooldown_seconds: float = 30.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if failures < 1 or failures != int(failures):
            raise InputError(f"failures = {failures!r} must be a whole number, 1 or more")
        if not 0 <= cooldown_seconds < math.inf:
            raise InputError(f"cooldown_seconds = {cooldown_seconds!r} must be finite and not negative")
        self.failures = failures
        self.cooldown_seconds = cooldown_seconds
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Breaker(failures={self.failures}, cooldown_seconds={self.cooldown_seconds})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Breaker, self.failures, self.cooldown_seconds, clock=self._clock), ()

    def state(self, tier: str) -> Literal["closed", "open", "half-open"]:
        """What a tier is now."""
        with self._lock:
            circuit = self._circuits.get(tier)
            if circuit is None or not circuit.rests:
                return "closed"
            return "half-open" if circuit.probing or self._clock() >= circuit.until else "open"

    def enter(self, tier: str) -> int | None:
        """Ask to call a tier.

        Returns
        -------
        int or None
            A ticket to hand to `leave` with the outcome; None when the tier rests and must not be called.
        """
        with self._lock:
            circuit = self._circuits.setdefault(tier, _Circuit())
            if circuit.rests:
                now = self._clock()
                if now < circuit.until:
                    return None
                circuit.generation += 1
                circuit.probing, circuit.until = True, now + self.cooldown_seconds
            return circuit.generation

    def leave(self, tier: str, ticket: int, up: bool | None) -> None:
        """Report how a call went.

        Parameters
        ----------
        tier, ticket
            From `enter`.
        up
            Whether the tier answered; None when the call was abandoned, which says nothing of the tier.
        """
        with self._lock:
            circuit = self._circuits[tier]
            if ticket != circuit.generation:
                return
            if up is None:
                if circuit.rests:
                    circuit.probing, circuit.until = False, -math.inf
            elif up:
                circuit.generation += circuit.rests
                circuit.failures, circuit.rests, circuit.probing = 0, False, False
            else:
                circuit.failures += 1
                if circuit.rests or circuit.failures >= self.failures:
                    circuit.generation += 1
                    circuit.rests, circuit.probing = True, False
                    circuit.until = self._clock() + self.cooldown_seconds
