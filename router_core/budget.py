"""Budgets: what one call, one run or one stretch of time may cost, checked before the money is spent."""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

from router_core.errors import InputError

__all__ = ["Account", "Budget", "OnExceeded", "Per"]

Per = Literal["call", "run", "window"]
OnExceeded = Literal["stop", "raise"]

_BUCKETS = 100
"""Spending in a window is remembered in this many parts of it: bounded memory, forgotten at most 1 % late."""
_SLACK = 1.0 + 1e-9
"""Ten calls of 0.1 fit a budget of 1, whatever binary fractions add up to."""


class Account:
    """What was spent, and what calls in flight are expected to spend; safe across threads.

    A call is admitted only if its expected price fits what is left after all that was spent and all that is expected
    of the calls in flight. So what is spent never exceeds the budget by more than the sum, over the calls in flight
    when the last one was admitted (that one included), of what each cost beyond its expected price; by nothing if no
    call costs more than expected.

    Parameters
    ----------
    usd
        The budget, US dollars.
    window_seconds
        How long spending counts, in seconds.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, usd: float = math.inf, window_seconds: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._usd = usd
        self._window = window_seconds
        self._width = window_seconds / _BUCKETS
        self._clock = clock
        self._spent: deque[tuple[int, float]] = deque()
        self._reserved: list[float] = []
        self._lock = threading.Lock()

    def reserve(self, expected_usd: float) -> bool:
        """Admit a call of this expected price, or not; a call that costs nothing always is."""
        with self._lock:
            self._forget()
            total = math.fsum([*(usd for _, usd in self._spent), *self._reserved, expected_usd])
            if expected_usd > 0 and not total <= self._usd * _SLACK:
                return False
            self._reserved.append(expected_usd)
            return True

    def settle(self, expected_usd: float, paid_usd: float) -> None:
        """End an admitted call: its reservation goes, what it cost is spent."""
        with self._lock:
            self._forget()
            self._reserved.remove(expected_usd)
            if not paid_usd:
                return
            bucket = math.floor(self._clock() / self._width)
            if self._spent and self._spent[-1][0] == bucket:
                bucket, before = self._spent.pop()
                paid_usd += before
            self._spent.append((bucket, paid_usd))

    @property
    def spent_usd(self) -> float:
        """Spent so far (within the window), US dollars, calls in flight not included."""
        with self._lock:
            self._forget()
            return math.fsum(usd for _, usd in self._spent)

    @property
    def left_usd(self) -> float:
        """What a next call may be expected to cost, US dollars."""
        with self._lock:
            self._forget()
            return max(self._usd - math.fsum([*(usd for _, usd in self._spent), *self._reserved]), 0.0)

    def _forget(self) -> None:
        while self._spent and (self._spent[0][0] + 1) * self._width + self._window <= self._clock():
            self._spent.popleft()


class Budget:
    """An amount of money per call, run or window of time.

    The *expected* price of a tier is compared with what is left before it is called (see `Account` for how far
    spending can exceed the budget, and `Router.expected_price` for the price). What a failed or timed-out call may have
    cost at the provider is not known and not counted; one that was abandoned, or broke off with a part of its answer
    shown, counts at its expected price. State belongs to one process: a copy or a pickle carries the
    settings and starts with nothing spent.

    Parameters
    ----------
    usd
        The amount, US dollars.
    per
        ``"call"`` (one query with all its attempts), ``"run"`` (all queries with the same run id; a query without an id
        is a run of its own), or ``"window"`` (the last `window_seconds`, all queries together).
    window_seconds
        Length of the window, seconds; for ``per="window"`` only.
    on_exceeded
        ``"stop"``: serve the best answer so far, or without one ask the reference tier if affordable, else the
        cheapest tier that is. ``"raise"``: raise `BudgetError`, which holds the best answer so far.
    max_runs
        Runs remembered; the one used least recently is forgotten first, and would start anew.
    clock
        Monotonic seconds.

    Raises
    ------
    InputError
        For an amount that is negative or not finite, an unknown word, or a window without a length (or the reverse).
    """

    def __init__(
        self,
        usd: float,
        per: Per = "call",
        *,
        window_seconds: float | None = None,
        on_exceeded: OnExceeded = "stop",
        max_runs: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= usd < math.inf:
            raise InputError(f"a budget of {usd!r} US dollars must be finite and not negative")
        if per not in get_args(Per):
            raise InputError(f"per = {per!r} is unknown; use {', '.join(get_args(Per))}")
        if on_exceeded not in get_args(OnExceeded):
            raise InputError(f"on_exceeded = {on_exceeded!r} is unknown; use {' or '.join(get_args(OnExceeded))}")
        length = 1.0 if window_seconds is None else window_seconds
        if (per == "window") != (window_seconds is not None) or not 0 < length < math.inf:
            raise InputError(f"per = {per!r} with window_seconds = {window_seconds!r}; a window, and only it, has one")
        if max_runs < 1:
            raise InputError(f"max_runs = {max_runs!r} must be 1 or more")
        self.usd = float(usd)
        self.per = per
        self.window_seconds = window_seconds
        self.on_exceeded = on_exceeded
        self.max_runs = max_runs
        self._clock = clock
        self._whole = Account(self.usd, window_seconds or math.inf, clock)
        self._runs: OrderedDict[str, Account] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Budget({self.usd}, {self.per!r}, on_exceeded={self.on_exceeded!r})"

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, without its clock."""
        return {name: getattr(self, name) for name in ("usd", "per", "window_seconds", "on_exceeded", "max_runs")}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Budget, **self.settings, clock=self._clock), ()

    def account(self, run: str | None = None) -> Account:
        """The account that one query is paid from.

        Parameters
        ----------
        run
            Id of its run; used with ``per="run"`` only.
        """
        if self.per == "window":
            return self._whole
        if self.per == "call" or run is None:
            return Account(self.usd)
        with self._lock:
            found = self._runs.setdefault(run, Account(self.usd))
            self._runs.move_to_end(run)
            while len(self._runs) > self.max_runs:
                self._runs.popitem(last=False)
            return found
