"""The cascade: call a tier, judge its answer, serve it or escalate, and keep the whole trace.

The way of a query is one generator, `walk`, that yields the tier to call and is sent its answer or its failure. The
synchronous and asynchronous drivers and the framework integrations only carry answers to it.
"""

import inspect
import math
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from router_core.errors import InputError, TierError
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.router import Router, Start

__all__ = ["Answer", "Attempt", "Cascade", "Route", "Steps", "advance", "match_tiers", "walk"]

OnFailure = Literal["reference", "next"]
OnReferenceFailure = Literal["raise", "best"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tier returned.

    Attributes
    ----------
    text
        The answer's text.
    prompt_tokens, completion_tokens
        Billed tokens, None when the tier does not say.
    cost_usd
        Its price in US dollars when the caller knows it better than the portfolio.
    signals
        Numbers that came with it (``mean_logprob``, ...).
    covered
        Empty, or why no certificate covers an answer of this kind (tool calls, structured output).
    invalid
        Empty, or why it is not what was asked for (it does not fit the schema): a cheap answer is then escalated.
    raw
        Whatever the caller wants back.
    shown
        The user has seen it already (it was streamed), so it is served; if nothing covers it, uncertified.
    """

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    signals: Mapping[str, float] = field(default_factory=dict)
    covered: str = ""
    invalid: str = ""
    raw: Any = None
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of one tier; cost in US dollars, latency in milliseconds."""

    tier: str
    confidence: float | None
    cost_usd: float
    accepted: bool
    reason: str
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """The whole trace of one query.

    Attributes
    ----------
    tier
        The tier whose answer is served.
    answer
        What it returned.
    attempts
        Every call, in order; each is paid for.
    cost_usd
        The sum over all attempts, US dollars.
    task, scope, policy, bundle
        Which promise was applied.
    certificate
        What was shown of it, or None with the reason.
    reason
        One sentence on why this tier.
    """

    tier: str
    answer: Answer
    attempts: tuple[Attempt, ...]
    cost_usd: float
    task: str | None
    scope: str | None
    policy: str
    bundle: str
    certificate: dict[str, Any] | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The route as plain JSON values, without the answer."""
        return {
            "tier": self.tier,
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "cost_usd": self.cost_usd,
            "task": self.task,
            "scope": self.scope,
            "policy": self.policy,
            "bundle": self.bundle,
            "certificate": self.certificate,
            "reason": self.reason,
        }


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


Steps = Generator[str, Answer | Exception, "Route"]


def advance(steps: Steps, reply: Answer | Exception | None = None) -> str | Route:
    """Take one step of a `walk`: the next tier to call, or the finished route.

    Parameters
    ----------
    steps
        From `walk`.
    reply
        What the tier called last returned or raised; None to begin.
    """
    try:
        return next(steps) if reply is None else steps.send(reply)
    except StopIteration as stop:
        route: Route = stop.value
        return route


def walk(  # noqa: PLR0912, PLR0915 - one query read from top to bottom is clearer than its pieces
    router: Router,
    start: Start,
    on_failure: OnFailure = "reference",
    on_reference_failure: OnReferenceFailure = "raise",
) -> Steps:
    """Walk one query through the tiers.

    Yields the name of the tier to call and expects its `Answer`, or the exception it raised, to be sent.

    Parameters
    ----------
    router
        A loaded router.
    start
        From `Router.start`.
    on_failure
        Where a query goes when a cheap tier fails or answers in a way calib did not have: the reference tier, which
        keeps a certificate of the joint risk (also one in expectation) and voids any other, or the next tier up,
        which voids them all.
    on_reference_failure
        Raise `TierError`, or serve the best answer so far uncertified.

    Returns
    -------
    Route

    Raises
    ------
    TierError
        When the reference tier fails and no answer may be served instead.
    """
    names, last = router.portfolio.names, len(router.portfolio.tiers) - 1
    attempts: list[Attempt] = []
    tried: dict[str, str] = {}
    best: tuple[float, str, Answer] | None = None
    reason, tier = start.reason, start.tier
    kept = router.outlives_departure(start)
    void = reason if start.forced and not (tier == last and kept) else ""
    while True:
        began = time.perf_counter()
        reply = yield names[tier]
        elapsed = (time.perf_counter() - began) * 1e3
        failed = ""
        if isinstance(reply, Exception):
            failed = f"{names[tier]} failed: {type(reply).__name__}"
            cost = 0.0
        else:
            cost = router.price(names[tier], start.text, reply)
            if not reply.text.strip() and not reply.covered:
                failed = f"{names[tier]} returned nothing"
        if tier == last:
            if not failed and not isinstance(reply, Exception):
                attempts.append(Attempt(names[tier], None, cost, True, reason, elapsed))
                return _route(router, start, attempts, reply, reason, void)
            attempts.append(Attempt(names[tier], None, cost, False, failed, elapsed))
            if on_reference_failure == "best" and best is not None:
                _, name, answer = best
                reason = f"{failed}; best cheap answer served uncertified"
                return _route(router, start, attempts, answer, reason, reason, name)
            msg = f"the reference tier failed and no other answer may be served: {failed}"
            raise TierError(msg) from (reply if isinstance(reply, Exception) else None)
        served = not isinstance(reply, Exception) and (reply.shown or start.forced)
        if isinstance(reply, Exception) or failed or (reply.covered and not served):
            why = failed or reply.covered  # type: ignore[union-attr]
            attempts.append(Attempt(names[tier], None, cost, False, why, elapsed))
            if on_failure == "next":
                void = f"{why}; went one tier up"
                tier = start.policy.following(tier) if start.policy is not None else last
            else:
                tier = last
                if not kept:
                    void = f"{why}; only a joint risk outlives a departure from the policy"
            reason = f"{why}; sent to {names[tier]}"
            continue
        if start.forced:
            accepted, confidence, why = True, None, reason
        else:
            accepted, confidence, why = router.accept(start, tier, reply.text, tried, reply.signals)
            following = start.policy.following(tier) if start.policy is not None else last
            if reply.invalid:
                if accepted and not served and not (following == last and kept):
                    void = void or f"{reply.invalid}; escalated against the policy"
                accepted, why = False, reply.invalid if served else f"{reply.invalid}; escalated"
        if served and (reply.covered or not accepted):
            void = void or f"{reply.covered or why}, after it was shown"
            accepted = True
        attempts.append(Attempt(names[tier], confidence, cost, accepted, why, elapsed))
        if accepted:
            return _route(router, start, attempts, reply, why, void)
        tried[names[tier]] = reply.text
        rank = -1.0 if reply.invalid or confidence is None or math.isnan(confidence) else confidence
        if best is None or rank > best[0]:
            best = (rank, names[tier], reply)
        reason, tier = why, following


def _route(
    router: Router,
    start: Start,
    attempts: list[Attempt],
    answer: Answer,
    reason: str,
    void: str,
    tier: str | None = None,
) -> Route:
    certificate = None if void else router.claim(start)
    if void and void not in reason:
        reason = f"{reason}; uncertified: {void}"
    return Route(
        tier or attempts[-1].tier,
        answer,
        tuple(attempts),
        sum(attempt.cost_usd for attempt in attempts),
        start.task,
        start.scope,
        start.policy_name,
        router.bundle_id,
        certificate,
        reason,
    )


TierCall = Callable[[Any], Answer | str]
AsyncTierCall = Callable[[Any], Awaitable[Answer | str]]


class Cascade:
    """A router with something to call behind every tier.

    Parameters
    ----------
    router
        A loaded router.
    tiers
        One callable per tier of the portfolio: query in, `Answer` or text out; plain or async.
    policy
        ``"cascade"`` or ``"route_only"``.
    on_failure, on_reference_failure
        See `walk`.

    Raises
    ------
    InputError
        When the names of the tiers are not the portfolio's.
    """

    def __init__(
        self,
        router: Router,
        tiers: Mapping[str, TierCall | AsyncTierCall],
        *,
        policy: str = CASCADE,
        on_failure: OnFailure = "reference",
        on_reference_failure: OnReferenceFailure = "raise",
    ) -> None:
        match_tiers(tiers, router.portfolio.names)
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

    def _walk(self, text: str, task: str | None) -> Steps:
        start = self.router.start(text, task, self.policy)
        return walk(self.router, start, self.on_failure, self.on_reference_failure)

    def run(self, text: str, task: str | None = None, payload: Any = None) -> Route:
        """Answer one query.

        Parameters
        ----------
        text
            What is routed.
        task
            ``"task"`` or ``"task/subtask"``; see `Router.start`.
        payload
            What the tiers are called with; the text itself when None.
        """
        steps = self._walk(text, task)
        step = advance(steps)
        while isinstance(step, str):
            step = advance(steps, self._call(step, text if payload is None else payload))
        return step

    async def arun(self, text: str, task: str | None = None, payload: Any = None) -> Route:
        """Answer one query without blocking the event loop while a tier answers."""
        steps = self._walk(text, task)
        step = advance(steps)
        while isinstance(step, str):
            step = advance(steps, await self._acall(step, text if payload is None else payload))
        return step

    def _call(self, tier: str, payload: Any) -> Answer | Exception:
        try:
            reply = self.tiers[tier](payload)
        except Exception as error:
            return error
        if inspect.isawaitable(reply):
            msg = f"tier {tier} is asynchronous; use arun()"
            raise InputError(msg)
        return _answer(reply)

    async def _acall(self, tier: str, payload: Any) -> Answer | Exception:
        try:
            reply = self.tiers[tier](payload)
            return _answer(await reply if inspect.isawaitable(reply) else reply)
        except Exception as error:
            return error


def _answer(reply: Any) -> Answer | Exception:
    """What a tier returned, as an answer; something else is a failure of the tier, None an empty answer."""
    if isinstance(reply, Answer) and isinstance(reply.text, str):
        return reply
    if reply is None or isinstance(reply, str):
        return Answer(reply or "")
    return TypeError(f"a tier must return text or an Answer with a text, not {type(reply).__name__}")
