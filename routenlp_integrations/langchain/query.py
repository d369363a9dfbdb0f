"""One query of a `RoutingChatModel`: its plan, the router it takes from start to end, and what the tiers returned."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from routenlp_integrations.langchain.messages import model_name_of
from routenlp_integrations.langchain.planning import Plan, checked
from routenlp_integrations.langchain.tiers import Call, TierModel
from router_core.cascade import Answer, Route
from router_core.driving import within
from router_core.route_log import RouteLog, left_route
from router_core.router import Router

if TYPE_CHECKING:
    from router_core.audits import AuditDecision

__all__ = ["BROKEN", "LEFT", "Query", "asking"]

LEFT = "the stream was left before its end"
BROKEN = "the stream broke before its end"


@dataclass(slots=True)
class Query:
    """One query on its way.

    Attributes
    ----------
    router
        Decides, judges and prices it from start to end, whatever is promoted meanwhile.
    plan
        What happens to it.
    log
        Where its route goes; None for nowhere.
    decision
        Whether it is audited.
    conversation
        Id of the conversation.
    answers, models
        By tier, what it returned and which model that came from, as far as a log asks for it.
    """

    router: Router
    plan: Plan
    log: RouteLog | None = None
    decision: "AuditDecision | None" = None
    conversation: str | None = None
    answers: dict[str, Answer] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)

    def heard(self, tier: str, reply: Answer | Exception) -> Answer | Exception:
        """Take a tier's reply; an answer of another model than was certified is covered by nothing."""
        if not isinstance(reply, Answer):
            return reply
        answer = checked(self.router, tier, reply)
        if self.log is not None:
            self._note(tier, answer)
        return answer

    def declared(self, tier: str) -> str:
        """The model that the router names for a tier, for answers that do not give one."""
        return self.router.portfolio.tiers[self.router.portfolio.index(tier)].model or tier

    def finish(self, route: Route) -> Route:
        """The route, without its certificate where none holds, kept and with its id where there is a log."""
        route = self.plan.finish(route, self.router.lapses.why(route.scope))
        return route if self.log is None else self._kept(self.log, route, self.decision)

    def leave(self, tier: str, answer: Callable[[], Answer], why: str) -> None:
        """Keep what is known of a query whose answer was shown in part; it is not audited."""
        if self.log is None:
            return
        with suppress(Exception):
            partial = answer()
            if not partial.shown:
                return
            self._note(tier, partial)
            route = left_route(self.router, self.plan.start, self.answers, str(tier), why)
            self._kept(self.log, route, None)

    def _note(self, tier: str, answer: Answer) -> None:
        self.answers[str(tier)] = answer
        if name := model_name_of(answer.raw):
            self.models[str(tier)] = name

    def _kept(self, log: RouteLog, route: Route, decision: "AuditDecision | None") -> Route:
        call = self.plan.call
        return log.keep(
            route,
            decision,
            self.plan.start,
            self.router,
            answers=self.answers,
            models=self.models,
            payload=call if log.own else call.messages,
            conversation=self.conversation,
        )


def asking(tier: TierModel, seconds: float | None) -> Callable[[Call], Any]:
    """A tier as an audit asks it, in a thread of its own: outside of every run, and for so many seconds."""

    def ask(call: Call) -> Any:
        try:
            return within(seconds, lambda: tier.generate(call, None, None))
        except NotImplementedError:
            return tier.agenerate(call, None, None)

    return ask
