"""One query of a `RoutingLLM`: its plan, and the router and the span it keeps from start to end."""

from dataclasses import dataclass

from routenlp_integrations.llama_index.messages import model_name_of
from router_core.call_plan import Plan, checked_model
from router_core.route import Answer, Route
from router_core.router import Router

__all__ = ["Query"]


@dataclass(frozen=True, slots=True)
class Query:
    """One query on its way.

    Attributes
    ----------
    router
        Decides, judges and prices it from start to end.
    plan
        What happens to it.
    span
        Id of its instrumentation span, None outside of one.
    """

    router: Router
    plan: Plan
    span: str | None

    def heard(self, tier: str, reply: Answer | Exception) -> Answer | Exception:
        """Take a tier's reply; an answer of another model than was certified is covered by nothing."""
        if not isinstance(reply, Answer):
            return reply
        return checked_model(self.router, tier, reply, model_name_of(reply.raw))

    def finish(self, route: Route) -> Route:
        """The route, without its certificate where none holds."""
        return self.plan.finish(route, self.router.lapses.why(route.scope))
