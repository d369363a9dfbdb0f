"""What a query may cost, how long it may take, and what is done when a tier fails: settings shared by all queries."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from router_core.breaker import Breaker
from router_core.budget import Budget
from router_core.errors import InputError
from router_core.retries import RetryPolicy

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Retries, time-outs, circuit breaker and budget of a cascade.

    Parameters
    ----------
    retries
        When and how often one tier is called again; never by default.
    timeout
        Seconds that one call of a tier may take, one number or ``{tier: seconds}``; a tier left out may take any time.
    breaker
        Keeps calls from tiers that are down.
    budget
        What queries may cost.

    Raises
    ------
    InputError
        When a time-out is not positive.
    """

    retries: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float | Mapping[str, float] | None = None
    breaker: Breaker | None = None
    budget: Budget | None = None

    def __post_init__(self) -> None:
        given = self.timeout.values() if isinstance(self.timeout, Mapping) else (self.timeout,)
        for seconds in given:
            if seconds is not None and not 0 < seconds < math.inf:
                raise InputError(f"timeout = {self.timeout!r} must be seconds above 0, one number or {{tier: seconds}}")

    def check(self, names: tuple[str, ...]) -> None:
        """Refuse time-outs for tiers that the portfolio does not have.

        Raises
        ------
        InputError
            Listing both sides.
        """
        if isinstance(self.timeout, Mapping) and not set(self.timeout) <= set(names):
            named = ", ".join(sorted(map(str, self.timeout)))
            raise InputError(f"timeout names {named}; the tiers are {', '.join(names)}")

    def seconds(self, tier: str) -> float | None:
        """How long one call of a tier may take, None for any time."""
        return self.timeout.get(tier) if isinstance(self.timeout, Mapping) else self.timeout
