"""The words for bounds in time of what is read from a ledger."""

from __future__ import annotations

__all__ = ["SINCE_HELP", "UNTIL_HELP"]

SINCE_HELP = "Of a ledger only routes from this time on (ISO 8601, UTC), as in 2025-01-31."
UNTIL_HELP = "Of a ledger only routes before this time (ISO 8601, UTC)."
