"""One query of a `RoutingChatModel`: how its answers are read, and how an audit asks its tiers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage

from routenlp_integrations.capabilities import Abilities
from routenlp_integrations.langchain.messages import model_name_of
from routenlp_integrations.langchain.tiers import Call, TierModel
from router_core.driving import within
from router_core.errors import TierError
from router_core.limits import Limits
from router_core.logged_query import LoggedQuery
from router_core.route import Answer
from router_core.route_log import RouteLog

__all__ = ["Parts", "Query", "asking"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What is made of a routing model's parameters.

    Attributes
    ----------
    models
        Tiers by name, in cascade order.
    abilities, told
        What each can do, and its identity.
    limits
        Retries, time-outs, circuit breaker, budget.
    log
        Where routes go; None for nowhere.
    """

    models: Mapping[str, TierModel]
    abilities: Mapping[str, Abilities]
    told: Mapping[str, str]
    limits: Limits
    log: RouteLog | None = None


@dataclass(slots=True)
class Query(LoggedQuery):
    """One query on its way, with the parts that the model had when it came; see `LoggedQuery`."""

    parts: Parts = field(kw_only=True)

    def heard(self, tier: str, reply: Answer | Exception) -> Answer | Exception:
        """Take a tier's reply; a result without a generation is no answer, not even an empty one."""
        if isinstance(reply, Answer) and not reply.raw.generations:
            return TierError(f"{tier} returned no generation")
        return LoggedQuery.heard(self, tier, reply)

    def model_of(self, raw: Any) -> str | None:
        """Name of the model as an answer gives it, None when it does not."""
        return model_name_of(raw)

    def asked(self) -> list[BaseMessage]:
        """The messages."""
        messages: list[BaseMessage] = self.plan.call.messages
        return messages

    def declared(self, tier: str) -> str:
        """The model that the router names for a tier, for answers that do not give one."""
        return self.router.portfolio.tiers[self.router.portfolio.index(tier)].model or tier


def asking(tier: TierModel, seconds: float | None) -> Callable[[Call], Any]:
    """A tier as an audit asks it, in a thread of its own: outside of every run, and for so many seconds."""

    def ask(call: Call) -> Any:
        try:
            return within(seconds, lambda: tier.generate(call, None, None))
        except NotImplementedError:
            return tier.agenerate(call, None, None)

    return ask
