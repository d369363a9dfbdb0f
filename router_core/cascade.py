"""The cascade: a router with something to call behind every tier.

The way of a query is `router_core.walk.walk`; this module carries answers to it, synchronously or not.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from router_core.driving import Step, Steps, advance, aperform, perform, walking
from router_core.errors import InputError
from router_core.limits import Limits
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.route import Answer, Attempt, Route
from router_core.router import Router
from router_core.sticky import Sticky
from router_core.walk import OnFailure, OnReferenceFailure, walk

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
        A loaded router.
    tiers
        One callable per tier of the portfolio: query in, `Answer` or text out; plain or async. A time-out interrupts
        an async tier under `arun`; under `run` a plain tier is left to finish in the background. Under `arun` a plain
        tier blocks the event loop and no time-out reaches it.
    policy
        ``"cascade"`` or ``"route_only"``.
    on_failure, on_reference_failure
        See `walk`.
    limits
        Retries, time-outs, circuit breaker, budget.
    sticky
        Keeps a conversation on its tier.

    Raises
    ------
    InputError
        When the names of the tiers, or of the time-outs, are not the portfolio's.
    """

    def __init__(
        self,
        router: Router,
        tiers: Mapping[str, TierCall | AsyncTierCall],
        *,
        policy: str = CASCADE,
        on_failure: OnFailure = "reference",
        on_reference_failure: OnReferenceFailure = "raise",
        limits: Limits | None = None,
        sticky: Sticky | None = None,
    ) -> None:
        match_tiers(tiers, router.portfolio.names)
        if limits is not None:
            limits.check(router.portfolio.names)
        for value, known, what in (
            (policy, (CASCADE, ROUTE_ONLY), "policy"),
            (on_failure, ("reference", "next"), "on_failure"),
            (on_reference_failure, ("raise", "best"), "on_reference_failure"),
        ):
            if value not in known:
                msg = f"{what} = {value!r} is unknown; use {known[0]} or {known[1]}"
                raise InputError(msg)
        self.router = router
        self.tiers = dict(tiers)
        self.policy = policy
        self.on_failure: OnFailure = on_failure
        self.on_reference_failure: OnReferenceFailure = on_reference_failure
        self.limits = limits
        self.sticky = sticky

    def _walk(self, text: str, task: str | None, run: str | None, conversation: str | None) -> Steps:
        start = self.router.start(text, task, self.policy)
        if self.sticky is not None and conversation is not None:
            start = self.sticky.start(self.router, start, conversation)
        return walk(self.router, start, self.on_failure, self.on_reference_failure, limits=self.limits, run=run)

    def _done(self, route: Route, conversation: str | None) -> Route:
        if self.sticky is not None and conversation is not None:
            self.sticky.served(conversation, route.tier)
        return route

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
        with walking(self._walk(text, task, run, conversation)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                step = advance(steps, self._call(step, text if payload is None else payload))
        return self._done(step, conversation)

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
        with walking(self._walk(text, task, run, conversation)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                step = advance(steps, await self._acall(step, text if payload is None else payload))
        return self._done(step, conversation)

    def _call(self, step: Step, payload: Any) -> Answer | Exception:
        reply = perform(step, lambda: self.tiers[step](payload))
        if inspect.isawaitable(reply):
            msg = f"tier {step} is asynchronous; use arun()"
            raise InputError(msg)
        return _answer(reply)

    async def _acall(self, step: Step, payload: Any) -> Answer | Exception:
        async def call() -> Any:
            reply = self.tiers[step](payload)
            return await reply if inspect.isawaitable(reply) else reply

        return _answer(await aperform(step, call))


def _answer(reply: Any) -> Answer | Exception:
    """What a tier returned, as an answer; something else is a failure of the tier, None an empty answer."""
    if isinstance(reply, Exception) or (isinstance(reply, Answer) and isinstance(reply.text, str)):
        return reply
    if reply is None or isinstance(reply, str):
        return Answer(reply or "")
    return TypeError(f"a tier must return text or an Answer with a text, not {type(reply).__name__}")
