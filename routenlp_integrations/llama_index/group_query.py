"""One query of a group of engines: what is asked, what may be shown of a reply, and what a failure means."""

from dataclasses import dataclass
from typing import Any

from llama_index.core.schema import QueryBundle

from routenlp_integrations.llama_index.node_evidence import model_name_of
from router_core.driving import Step, Steps, break_off
from router_core.errors import InputError, TierError
from router_core.logged_query import LoggedQuery
from router_core.policy import ROUTE_ONLY
from router_core.router import Start

__all__ = ["GroupQuery", "broken", "checked", "may_show"]


@dataclass(slots=True)
class GroupQuery(LoggedQuery):
    """One query of a group; `span` is the router's."""

    span: str | None = None

    @property
    def bundle(self) -> QueryBundle:
        """The query as it was asked."""
        found: QueryBundle = self.plan.call
        return found

    @property
    def start(self) -> Start:
        """Where it starts."""
        return self.plan.start

    def model_of(self, raw: Any) -> str | None:
        """Name of the model as a response gives it."""
        return model_name_of(raw)

    def asked(self) -> str:
        """Its text."""
        return self.bundle.query_str


def may_show(start: Start, step: Step) -> bool:
    """Whether an answer may be shown before it is whole: nothing will judge it."""
    return step.final or start.policy_name == ROUTE_ONLY


def checked(reply: Any) -> Any:
    """A reply to the walk; a mistake of the caller is no failure of the engine.

    Raises
    ------
    InputError
        As the engine's call did.
    """
    if isinstance(reply, InputError):
        raise reply
    return reply


def broken(steps: Steps, step: Step, said: str, told: dict[str, Any], error: Exception) -> TierError:
    """What is raised when an engine fails after something was shown: another answer cannot be put behind it."""
    break_off(steps, error)
    failed = (
        f"{step} failed in the middle of its answer, after {len(said)} characters of it were shown: "
        f"{type(error).__name__}"
    )
    told["reason"] = failed
    return TierError(failed)
