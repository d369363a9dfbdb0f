"""What has happened to one query so far, and the calls that are made for it."""

import math
import time
from collections.abc import Collection, Generator
from dataclasses import dataclass, field

from router_core.budget import Account, Budget
from router_core.driving import Reply, Step
from router_core.errors import BudgetError
from router_core.limits import Limits
from router_core.retries import refused
from router_core.route import Answer, Attempt, Route
from router_core.router import Router, Start

__all__ = ["Outcome", "Trace"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking one tier: an answer, or why there is none."""

    answer: Answer | None
    failed: str = ""
    error: Exception | None = None
    cost_usd: float = 0.0
    latency_ms: float = 0.0
    retries: int = 0
    called: bool = True


@dataclass(slots=True)
class Trace:
    """One query on its way.

    Attributes
    ----------
    router, start, limits, run, prompt_tokens
        As given to `walk`.
    void
        Why no certificate holds any more; empty while one may.
    attempts
        In order.
    tried
        Answers that were not accepted, by tier.
    best
        The best answer not served, however it was paid for: its rank (confidence, or below 0), tier and answer.
    stopped
        Whether the budget changed where the query went.
    beyond
        What exceeded the budget.
    """

    router: Router
    start: Start
    limits: Limits
    run: str | None
    prompt_tokens: int | None
    void: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    tried: dict[str, str] = field(default_factory=dict)
    best: tuple[float, str, Answer] | None = None
    stopped: bool = False
    beyond: str = ""
    _asked: set[int] = field(default_factory=set)
    _account: Account | None = None
    _held: float | None = None

    def __post_init__(self) -> None:
        if self.limits.budget is not None:
            self._account = self.limits.budget.account(self.run)

    def afford(self, tier: int, candidates: Collection[int]) -> int | None:
        """Reserve the expected price of a tier, or of another one that is affordable.

        Another tier is considered only if the budget says ``"stop"`` and there is no answer yet: the reference tier,
        then the cheapest.

        Returns
        -------
        int or None
            The tier to ask; None when the query ends here.
        """
        budget, account = self.limits.budget, self._account
        if budget is None or account is None:
            return tier
        left = account.left_usd
        if self._reserve(tier):
            return tier
        self.stopped = True
        name, price = self.router.portfolio.names[tier], self._price(tier)
        self.beyond = (
            f"{name} is expected to cost {price:.3g} USD, more than the {left:.3g} USD left of the budget of "
            f"{budget.usd:g} USD per {budget.per}"
        )
        self._kept_back(name, budget)
        if budget.on_exceeded == "raise" or self.best is not None:
            return None
        last = len(self.router.portfolio.tiers) - 1
        spare = sorted(set(candidates) - self._asked - {tier}, key=lambda k: (k != last, self._price(k), k))
        return next((k for k in spare if self._reserve(k)), None)

    def _kept_back(self, name: str, budget: Budget) -> None:
        """Note that a budget keeps queries from a tier.

        A window's lets them through again; one per call or run always stops the same kind of query.
        """
        if self.start.forced:
            return
        if budget.per == "window":
            self.router.outages.departed(name, self.beyond)
        else:
            self.router.outages.end(f"a budget per {budget.per} has stopped a query")

    def _price(self, tier: int) -> float:
        return self.router.expected_price(tier, self.start, self.prompt_tokens)

    def _reserve(self, tier: int) -> bool:
        price = self._price(tier)
        if self._account is None or not self._account.reserve(price):
            return False
        self._held = price
        return True

    def ask(self, tier: int, *, able: bool, final: bool, last: bool) -> Generator[Step, Reply, Outcome]:
        """Call a tier until it answers or may not be retried, and settle what it cost.

        The `last` tier may answer nothing at all: there is none to ask instead, and its caller may have meant it.
        """
        name = self.router.portfolio.names[tier]
        self._asked.add(tier)
        if not able:
            return self._departed(name, Outcome(None, f"{name} cannot take this query", called=False))
        began, cost = time.perf_counter(), 0.0
        try:
            reply, retries = yield from self._calls(name, final)
            if isinstance(reply, Answer):
                cost = self.router.price(name, self.start.text, reply)
        except BaseException as error:
            # Abandoned, or broken off with a part of the answer shown: what it will cost is not known.
            cost = self._held or 0.0
            if isinstance(error, Exception):
                self.router.outages.departed(name, f"{name} failed: {type(error).__name__}")
            raise
        finally:
            if self._account is not None and self._held is not None:
                self._account.settle(self._held, cost)
                self._held = None
        elapsed = (time.perf_counter() - began) * 1e3
        if reply is None:
            return self._departed(name, Outcome(None, f"{name} rests after repeated failures", called=False))
        if isinstance(reply, Exception):
            failed = f"{name} failed: {type(reply).__name__}"
            return self._departed(name, Outcome(None, failed, reply, cost, elapsed, retries))
        if not last and not reply.text.strip() and not reply.covered:
            return self._departed(name, Outcome(None, f"{name} returned nothing", None, cost, elapsed, retries))
        outcome = Outcome(reply, "", None, cost, elapsed, retries)
        if reply.covered and not final:
            return self._departed(name, outcome)
        self.router.outages.answered(name)
        return outcome

    def _departed(self, name: str, outcome: Outcome) -> Outcome:
        """Note that the query departs from the policy at this tier."""
        why = outcome.failed if outcome.answer is None else f"{name}: {outcome.answer.covered}"
        self.router.outages.departed(name, why)
        return outcome

    def _calls(self, name: str, final: bool) -> Generator[Step, Reply, tuple[Reply | None, int]]:
        """The last reply of a tier and how often it was retried; no reply when its circuit breaker is open."""
        breaker, seconds = self.limits.breaker, self.limits.seconds(name)
        reply: Reply | None = None
        calls, wait = 0, 0.0
        while True:
            ticket = 0 if breaker is None else breaker.enter(name)
            if ticket is None:
                break
            up = None
            try:
                reply = yield Step(name, wait, seconds, final)
                up = not isinstance(reply, Exception) or refused(reply)
            except Exception as error:
                up = refused(error)
                raise
            finally:
                if breaker is not None:
                    breaker.leave(name, ticket, up)
            calls += 1
            if not isinstance(reply, Exception):
                break
            again = self.limits.retries.wait(reply, calls - 1, f"{name}|{self.start.text}")
            if again is None:
                break
            wait = again
        return reply, max(calls - 1, 0)

    def add(self, tier: int, outcome: Outcome, accepted: bool, why: str, confidence: float | None = None) -> None:
        """Note an attempt; a tier that was not called is none."""
        if outcome.called:
            name = self.router.portfolio.names[tier]
            self.attempts.append(
                Attempt(name, confidence, outcome.cost_usd, accepted, why, outcome.latency_ms, outcome.retries)
            )

    def keep(self, tier: int, answer: Answer, confidence: float | None) -> None:
        """Keep an answer that is not served, in case there is no better one; one of a kind not covered ranks last."""
        rank = -1.0 if answer.invalid or confidence is None or math.isnan(confidence) else confidence
        rank = -2.0 if answer.covered else rank
        if self.best is None or rank > self.best[0]:
            self.best = (rank, self.router.portfolio.names[tier], answer)

    def serve(self, answer: Answer, reason: str, tier: str | None = None) -> Route:
        """The finished route; `tier` is the one asked last unless named."""
        start, router, budget = self.start, self.router, self.limits.budget
        self.void = self.void or router.interrupted(start)
        if self.void and self.void not in reason:
            reason = f"{reason}; uncertified: {self.void}"
        told = None
        if budget is not None and self._account is not None:
            spent = self._account.spent_usd
            told = {"usd": budget.usd, "per": budget.per, "spent_usd": spent, "stopped": self.stopped}
        return Route(
            tier or self.attempts[-1].tier,
            answer,
            tuple(self.attempts),
            sum(attempt.cost_usd for attempt in self.attempts),
            start.task,
            start.scope,
            start.policy_name,
            router.bundle_id,
            None if self.void else router.claim(start),
            reason,
            told,
        )

    def serve_best(self, reason: str) -> Route:
        """The route that serves the best answer so far, uncertified."""
        assert self.best is not None, "nothing to serve"  # noqa: S101
        _, name, answer = self.best
        self.void = reason
        return self.serve(answer, reason, name)

    def stop(self) -> Route:
        """End at the budget.

        Raises
        ------
        BudgetError
            When there is no answer to serve, or the budget says ``"raise"``; it then holds the route.
        """
        route = None if self.best is None else self.serve_best(f"{self.beyond}; best answer so far served uncertified")
        budget = self.limits.budget
        if route is None or budget is None or budget.on_exceeded == "raise":
            raise BudgetError(self.beyond, route)
        return route
