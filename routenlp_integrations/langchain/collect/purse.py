"""The budget: no call starts whose worst price is not there."""

from __future__ import annotations

import asyncio
import math

from router_core.errors import InputError

__all__ = ["Purse"]


class Purse:
    """US dollars that may be spent, some of them set aside for calls in flight.

    Parameters
    ----------
    budget
        US dollars in all, over every run of one journal.
    spent
        Already spent.

    Raises
    ------
    InputError
        For a budget that is no amount.
    """

    def __init__(self, budget: float, spent: float = 0.0) -> None:
        if not math.isfinite(budget) or budget < 0:
            raise InputError(f"--budget must be US dollars, finite and not negative, not {budget:g}")
        self.budget = budget
        self.spent = spent
        self._held = 0.0
        self._calls = 0
        self._changed = asyncio.Condition()

    @property
    def left(self) -> float:
        """US dollars neither spent nor set aside."""
        return self.budget - self.spent - self._held

    async def hold(self, usd: float) -> bool:
        """Set aside the worst price of a call, waiting for calls in flight to return what they do not need.

        Returns
        -------
        bool
            False when it does not fit and no call in flight can change that.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: usd <= self.left or not self._calls)
            if usd > self.left:
                return False
            self._held += usd
            self._calls += 1
            return True

    async def settle(self, held: float, usd: float) -> None:
        """Pay for a call that is over and return the rest of what was set aside."""
        async with self._changed:
            self._held = self._held - held if self._calls > 1 else 0.0
            self._calls -= 1
            self.spent += usd
            self._changed.notify_all()
