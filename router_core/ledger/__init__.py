"""The ledger: the durable log of routes and of the feedback to them.

`log.Ledger` is what an application writes to; `reader`, `records` and `audits` read it back; `schema` says what it
holds; `rows`, `writer`, `store`, `url` and `exit` are how it is kept; `files` is export and import.
"""

from router_core.ledger.log import Ledger, new_id

__all__ = ["Ledger", "new_id"]
