"""One query of a routing model as a ledger keeps it: the router it has to its end, and what the tiers returned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from router_core.call_plan import Plan, checked_model
from router_core.route import BROKEN, LEFT, Answer, Route
from router_core.route_log import RouteLog, left_route
from router_core.router import Router

if TYPE_CHECKING:
    from router_core.audits import AuditDecision

__all__ = ["BROKEN", "LEFT", "LoggedQuery"]


@dataclass(slots=True)
class LoggedQuery:
    """One query on its way; a framework says how its answers and calls are read.

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
        By tier, what it returned and which model that came from.
    """

    router: Router
    plan: Plan
    log: RouteLog | None = None
    decision: AuditDecision | None = None
    conversation: str | None = None
    answers: dict[str, Answer] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)

    def model_of(self, raw: Any) -> str | None:
        """Name of the model as an answer gives it, None when it does not."""
        raise NotImplementedError

    def asked(self) -> Any:
        """What was asked, in the framework's words, for an application's own audits."""
        raise NotImplementedError

    def heard(self, tier: str, reply: Answer | Exception) -> Answer | Exception:
        """Take a tier's reply; an answer of another model than was certified is covered by nothing."""
        if not isinstance(reply, Answer):
            return reply
        name = self.model_of(reply.raw)
        return self._note(tier, checked_model(self.router, tier, reply, name), name)

    def finish(self, route: Route) -> Route:
        """The route, without its certificate where none holds, kept and with its id where there is a log."""
        route = self.plan.finish(route, self.router.lapses.why(route.scope))
        return route if self.log is None else self._kept(self.log, route, self.decision)

    def leave(self, tier: str, answer: Callable[[], Answer], why: str) -> None:
        """Keep what is known of a query whose answer was shown in part; its audit, if chance chose it, asks anew."""
        if self.log is not None:
            self.left(tier, answer, why)

    def left(self, tier: str, answer: Callable[[], Answer], why: str) -> Route | None:
        """As `leave`, and tell the route with or without a log: what was paid, as far as it is known.

        Returns
        -------
        Route or None
            None when nothing was shown.
        """
        with suppress(Exception):
            partial = answer()
            if partial.shown:
                self._note(tier, partial, self.model_of(partial.raw))
                route = left_route(self.router, self.plan.start, self.answers, str(tier), why)
                return route if self.log is None else self._kept(self.log, route, self.decision, partial=str(tier))
        return None

    def _note(self, tier: str, answer: Answer, name: str | None) -> Answer:
        self.answers[str(tier)] = answer
        if name:
            self.models[str(tier)] = name
        return answer

    def _kept(self, log: RouteLog, route: Route, decision: AuditDecision | None, partial: str | None = None) -> Route:
        return log.keep(
            route,
            decision,
            self.plan.start,
            self.router,
            answers=self.answers,
            models=self.models,
            payload=self.plan.call if log.own else self.asked(),
            conversation=self.conversation,
            partial=partial,
        )
