"""The cascade: a router with something to call behind every tier.

The way of a query is `router_core.walk.walk`; this module carries answers to it, synchronously or not.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from router_core.driving import Step, Steps, advance, aperform, perform, walking
from router_core.errors import InputError
from router_core.limits import Limits
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.route import Answer, Attempt, Route
from router_core.route_log import RouteLog
from router_core.router import Router, Start
from router_core.sources import RouterSource, StudentSource, ask_student
from router_core.sticky import Sticky
from router_core.walk import OnFailure, OnReferenceFailure, walk

if TYPE_CHECKING:
    from router_core.audits import AuditDecision, Auditor, AuditPlan
    from router_core.ledger import Ledger

__all__ = [
    "Answer",
    "Attempt",
    "Cascade",
    "OnFailure",
    "OnReferenceFailure",
    "Route",
    "Steps",
    "advance",
    "match_tiers",
    "walk",
]


def match_tiers(given: Mapping[str, Any], needed: tuple[str, ...]) -> None:
    """Check that the given tiers are exactly the portfolio's.

    Raises
    ------
    InputError
        Listing both sides.
    """
    if set(given) != set(needed):
        have = ", ".join(map(str, given)) or "none"
        msg = f"tiers must be named {', '.join(needed)} (the bundle's portfolio); given were {have}"
        raise InputError(msg)


TierCall = Callable[[Any], Answer | str]
AsyncTierCall = Callable[[Any], Awaitable[Answer | str]]


class Cascade:
    """A router with something to call behind every tier.

    Parameters
    ----------
    router
        A loaded router, or a `RouterSource` (`Router.watch`), of which every query takes the router once.
    tiers
        One callable per tier of the portfolio: query in, `Answer` or text out; plain or async. A time-out interrupts
        an async tier under `arun`; under `run` a plain tier is left to finish in the background. Under `arun` a plain
        tier blocks the event loop and no time-out reaches it. A `StudentSource` is called with the query's task, and
        answers with the students its router was certified with; their payload must be text.
    policy
        ``"cascade"`` or ``"route_only"``.
    on_failure, on_reference_failure
        See `walk`.
    limits
        Retries, time-outs, circuit breaker, budget.
    sticky
        Keeps a conversation on its tier.
    ledger
        A `Ledger` or the URL of one: every finished route is appended, its id is `Route.id`. A query that raises has
        no route.
    audits
        An `AuditPlan`, run with these tiers, or an `Auditor`.

    Raises
    ------
    InputError
        When the names of the tiers, or of the time-outs, are not the portfolio's, or the ledger cannot be opened.
    """

    def __init__(
        self,
        router: Router | RouterSource,
        tiers: Mapping[str, TierCall | AsyncTierCall | StudentSource],
        *,
        policy: str = CASCADE,
        on_failure: OnFailure = "reference",
        on_reference_failure: OnReferenceFailure = "raise",
        limits: Limits | None = None,
        sticky: Sticky | None = None,
        ledger: "Ledger | str | None" = None,
        audits: "AuditPlan | Auditor | None" = None,
    ) -> None:
        self._source = router
        match_tiers(tiers, self.router.portfolio.names)
        if limits is not None:
            limits.check(self.router.portfolio.names)
        for value, known, what in (
            (policy, (CASCADE, ROUTE_ONLY), "policy"),
            (on_failure, ("reference", "next"), "on_failure"),
            (on_reference_failure, ("raise", "best"), "on_reference_failure"),
        ):
            if value not in known:
                msg = f"{what} = {value!r} is unknown; use {known[0]} or {known[1]}"
                raise InputError(msg)
        self.tiers = dict(tiers)
        self.policy = policy
        self.on_failure: OnFailure = on_failure
        self.on_reference_failure: OnReferenceFailure = on_reference_failure
        self.limits = limits
        self.sticky = sticky
        callables = {name: _asked(name, self.tiers[name], self) for name in self.router.portfolio.names}
        self.log = RouteLog.of(ledger, audits, callables, self._price)

    @property
    def router(self) -> Router:
        """The router that the next query takes."""
        return self._source if isinstance(self._source, Router) else self._source.get()

    def _price(self, tier: str, prompt: str, answer: Answer) -> float:
        return self.router.price(tier, prompt, answer)

    def _begin(self, text: str, task: str | None, run: str | None, conversation: str | None) -> "_Query":
        router, decision = self.router, None if self.log is None else self.log.begin()
        start = router.start(text, task, self.policy)
        if self.sticky is not None:
            start = self.sticky.start(router, start, conversation)
        steps = walk(router, start, self.on_failure, self.on_reference_failure, limits=self.limits, run=run)
        return _Query(router, start, steps, decision)

    def _done(self, query: "_Query", route: Route, payload: Any, conversation: str | None) -> Route:
        if self.sticky is not None and conversation is not None:
            self.sticky.served(conversation, route.tier)
        if self.log is None:
            return route
        return self.log.keep(
            route,
            query.decision,
            query.start,
            query.router,
            answers=query.answers,
            models=query.models,
            payload=_Sent(payload, query.start.task) if self.log.own else payload,
            conversation=conversation,
        )

    def run(
        self,
        text: str,
        task: str | None = None,
        payload: Any = None,
        *,
        run: str | None = None,
        conversation: str | None = None,
    ) -> Route:
        """Answer one query.

        Parameters
        ----------
        text
            What is routed.
        task
            ``"task"`` or ``"task/subtask"``; see `Router.start`.
        payload
            What the tiers are called with; the text itself when None.
        run
            Id of the run that a budget per run counts for.
        conversation
            Id of the conversation that stickiness is about; see `conversation_key`.
        """
        query, sent = self._begin(text, task, run, conversation), text if payload is None else payload
        with walking(query.steps) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                step = advance(steps, query.heard(step, self._call(query, step, sent)))
        return self._done(query, step, sent, conversation)

    async def arun(
        self,
        text: str,
        task: str | None = None,
        payload: Any = None,
        *,
        run: str | None = None,
        conversation: str | None = None,
    ) -> Route:
        """Answer one query without blocking the event loop while a tier answers; parameters as for `run`."""
        query, sent = self._begin(text, task, run, conversation), text if payload is None else payload
        with walking(query.steps) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                step = advance(steps, query.heard(step, await self._acall(query, step, sent)))
        return self._done(query, step, sent, conversation)

    def _call(self, query: "_Query", step: Step, payload: Any) -> Answer | Exception:
        reply = perform(step, lambda: self._ask(query, step, payload))
        if inspect.isawaitable(reply):
            msg = f"tier {step} is asynchronous; use arun()"
            raise InputError(msg)
        return _answer(reply)

    async def _acall(self, query: "_Query", step: Step, payload: Any) -> Answer | Exception:
        async def call() -> Any:
            reply = self._ask(query, step, payload)
            return await reply if inspect.isawaitable(reply) else reply

        return _answer(await aperform(step, call))

    def _ask(self, query: "_Query", tier: str, payload: Any) -> Any:
        called = self.tiers[tier]
        if callable(called):
            return called(payload)
        return query.student(tier, called, payload)


@dataclass(slots=True)
class _Query:
    """One query: its router from start to end, and what the tiers returned."""

    router: Router
    start: Start
    steps: Steps
    decision: "AuditDecision | None"
    answers: dict[str, Answer] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)

    def heard(self, tier: str, reply: Answer | Exception) -> Answer | Exception:
        if isinstance(reply, Answer):
            self.answers[str(tier)] = reply
        return reply

    def student(self, tier: str, source: StudentSource, payload: Any) -> Answer:
        answer, name = ask_student(self.router, tier, source, payload, self.start.task)
        self.models[str(tier)] = name
        if self.router.saw(tier, name):
            return replace(answer, covered=f"{tier} answered with another model than was certified")
        return answer


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the tiers of one query were called with, for its audit."""

    payload: Any
    task: str | None


def _asked(tier: str, called: Any, cascade: Cascade) -> Callable[[Any], Any]:
    """A tier as an audit calls it."""
    if not callable(called):
        return lambda sent: ask_student(cascade.router, tier, called, sent.payload, sent.task)[0]
    if inspect.iscoroutinefunction(called):

        async def ask(sent: Any) -> Any:
            return await called(sent.payload)

        return ask
    return lambda sent: called(sent.payload)


def _answer(reply: Any) -> Answer | Exception:
    """What a tier returned, as an answer; something else is a failure of the tier, None an empty answer."""
    if isinstance(reply, Exception) or (isinstance(reply, Answer) and isinstance(reply.text, str)):
        return reply
    if reply is None or isinstance(reply, str):
        return Answer(reply or "")
    return TypeError(f"a tier must return text or an Answer with a text, not {type(reply).__name__}")
