"""Which tiers are away just now: queries that depart to the reference tier take their answers out of some claims.

The selective risk and the retained quality are shares of what the whole policy serves. While a tier fails, the queries
it would have answered leave, and what is left is no longer what was calibrated: with its good answers gone, the bad
share of the others rises. So nothing is claimed under these risks from the first query that departs at a tier until
that tier answers again. An answer that ends an outage is claimed and one that begins it is not, so that each tier keeps
its share of what is claimed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

__all__ = ["Outages"]


class Outages:
    """Tiers at which a query departed from the policy and that have not answered since; safe across threads.

    Belongs to one process: a copy or a pickle knows of none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._away: Mapping[str, str] = {}
        self._ended = ""

    def departed(self, tier: str, why: str) -> None:
        """Note that a query departed at a tier."""
        with self._lock:
            self._away = {**self._away, tier: why}

    def answered(self, tier: str) -> None:
        """Note that a tier has answered in a way that the policy judges."""
        if tier in self._away:
            with self._lock:
                self._away = {name: why for name, why in self._away.items() if name != tier}

    def end(self, why: str) -> None:
        """Note a cause of departures that no answer undoes, for as long as the process lives."""
        with self._lock:
            self._ended = self._ended or why

    def why(self, tiers: Iterable[str]) -> str:
        """Why nothing is claimed of a policy that calls these tiers; empty while all of them answer."""
        if self._ended:
            return self._ended
        away = self._away
        if not away:
            return ""
        return next((f"{away[name]}, and {name} has not answered since" for name in tiers if name in away), "")

    def __reduce__(self) -> tuple[type[Outages], tuple[()]]:
        return Outages, ()
