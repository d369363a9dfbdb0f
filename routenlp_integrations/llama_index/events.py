"""`RoutingDecisionEvent`: where a query went, told to LlamaIndex's instrumentation."""

from typing import Any, Self

from llama_index.core.instrumentation.events import BaseEvent

from router_core.route import Route, route_metadata

__all__ = ["RoutingDecisionEvent"]


class RoutingDecisionEvent(BaseEvent):
    """One query's route, dispatched once when it is known who answers; in a stream before its last chunk.

    It holds no text of the query or the answer. Its `span_id` is the query's span, and so it reaches handlers where the
    response itself does not get out, as inside query engines and agents. A query that fails has none.

    Attributes
    ----------
    tier
        Who answered.
    attempts
        Every call: ``tier``, ``confidence``, ``cost_usd``, ``accepted``, ``reason``.
    cost_usd
        Of all attempts, US dollars.
    task, bundle
        Which promise was applied.
    certificate
        What was shown of it; None when nothing was.
    reason
        One sentence.
    budget
        What a budget has paid so far; None without one.
    id
        Of the route in the ledger, for feedback; None when it is not kept.
    group
        Of the query engines among which was chosen; None for LLMs.
    """

    tier: str
    attempts: list[dict[str, Any]]
    cost_usd: float
    task: str | None
    bundle: str
    certificate: dict[str, Any] | None
    reason: str
    budget: dict[str, Any] | None = None
    id: str | None = None
    group: str | None = None

    @classmethod
    def class_name(cls) -> str:
        """Class name."""
        return "RoutingDecisionEvent"

    @classmethod
    def of(cls, route: Route, **fields: Any) -> Self:
        """The event of a finished route; `fields` are those of every event."""
        return cls(**route_metadata(route), **fields)
