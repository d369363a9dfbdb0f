"""What audits may cost in a window of time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["AuditBudget"]


@dataclass(slots=True)
class AuditBudget:
    """What audits have cost in this window; an audit under way is expected to cost as much as the dearest so far."""

    budget_usd: float
    window_s: float
    clock: Callable[[], float]
    window: int = -1
    spent: float = 0.0
    dearest: float = 0.0
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def affords(self) -> bool:
        """Whether one more audit may begin."""
        with self.lock:
            self._roll()
            return self.spent + (self.under_way + 1) * self.dearest < self.budget_usd

    def begin(self) -> None:
        """Count an audit as under way."""
        with self.lock:
            self.under_way += 1

    def end(self, cost: float) -> None:
        """Count what an audit cost, US dollars."""
        with self.lock:
            self._roll()
            self.under_way -= 1
            self.spent += cost
            self.dearest = max(self.dearest, cost)

    def _roll(self) -> None:
        window = int(self.clock() // self.window_s)
        if window != self.window:
            self.window, self.spent = window, 0.0
