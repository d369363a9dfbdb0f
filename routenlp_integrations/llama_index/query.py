"""One query of a `RoutingLLM`: how its answers are read, the span it keeps, and how an audit asks its tiers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from routenlp_integrations.llama_index.calls import Call
from routenlp_integrations.llama_index.messages import model_name_of
from routenlp_integrations.llama_index.tiers import TierLLM
from router_core.driving import within
from router_core.logged_query import LoggedQuery
from router_core.route import Answer

__all__ = ["Query", "asking"]


@dataclass(slots=True)
class Query(LoggedQuery):
    """One query on its way; see `LoggedQuery`.

    Attributes
    ----------
    span
        Id of its instrumentation span, None outside of one.
    """

    span: str | None = None

    def model_of(self, raw: Any) -> str | None:
        """Name of the model as an answer gives it, None when it does not."""
        return model_name_of(raw)

    def asked(self) -> Any:
        """The messages of a chat, the prompt of a completion."""
        call: Call = self.plan.call
        return call.prompt if call.messages is None else call.messages


def asking(tier: TierLLM, seconds: float | None) -> Callable[[Call], Any]:
    """A tier as an audit asks it, in a thread of its own: outside of every query's span, and for so many seconds."""

    def ask(call: Call) -> Any:
        found = within(seconds, lambda: tier.ask(call, None))
        return _aask(tier, call) if isinstance(found, NotImplementedError) else _answered(found)

    return ask


async def _aask(tier: TierLLM, call: Call) -> Answer:
    return _answered(await tier.aask(call, None))


def _answered(found: Answer | Exception) -> Answer:
    if isinstance(found, Exception):
        raise found
    return found
