"""What a tier returned, one attempt, and the whole trace of one query."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from router_core.errors import InputError
from router_core.show import route_html

__all__ = ["BROKEN", "LEFT", "Answer", "Attempt", "Route", "route_metadata"]

LEFT = "the stream was left before its end"
BROKEN = "the stream broke before its end"
"""Reasons of an attempt whose answer is known in part only."""


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
    """One tier asked once, retries included.

    Cost in US dollars, of the call that answered: calls that failed are not billed. Latency in milliseconds, over
    all calls and the waits between them.
    """

    tier: str
    confidence: float | None
    cost_usd: float
    accepted: bool
    reason: str
    latency_ms: float = 0.0
    retries: int = 0


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
        Every attempt, in order; each is paid for. A tier that was passed over without a call is none; the reason
        names it.
    cost_usd
        The sum over all attempts, US dollars.
    task, scope, policy, bundle
        Which promise was applied.
    certificate
        What was shown of it, or None with the reason.
    reason
        One sentence on why this tier.
    budget
        ``{"usd", "per", "spent_usd", "stopped"}``: the budget, what it has paid so far with this query, and whether
        it changed where the query went; None without a budget.
    id
        Its id in the ledger, for feedback; None when it is not kept.
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
    budget: dict[str, Any] | None = None
    id: str | None = None

    def _repr_html_(self) -> str:
        return route_html(self)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        asked = " -> ".join(attempt.tier for attempt in self.attempts)
        printer.text(f"Route to {self.tier} ({asked}), {self.cost_usd:.6g} US dollars: {self.reason}")

    @classmethod
    def from_json(cls, told: Mapping[str, Any], text: str = "") -> Self:
        """A route from `to_json`, or from what a framework's answer carries under ``"routenlp"``.

        Parameters
        ----------
        told
            For example ``answer.response_metadata["routenlp"]``.
        text
            The answer's text, which neither of the two holds.

        Raises
        ------
        InputError
            When it is no route.
        """
        try:
            return cls(
                told["tier"],
                Answer(text),
                tuple(Attempt(**attempt) for attempt in told["attempts"]),
                told["cost_usd"],
                told["task"],
                told.get("scope"),
                told.get("policy", ""),
                told["bundle"],
                told["certificate"],
                told["reason"],
                told.get("budget"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"This is no route ({error!r}); give what Route.to_json returns, or what stands in an answer's "
                'response_metadata["routenlp"].'
            ) from None

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
            "budget": self.budget,
            **({"id": self.id} if self.id else {}),
        }


def route_metadata(route: Route) -> dict[str, Any]:
    """What an answer tells of its route in every framework: plain JSON values, a budget only where there is one."""
    return {
        "tier": route.tier,
        "attempts": [
            {
                "tier": attempt.tier,
                "confidence": _finite(attempt.confidence),
                "cost_usd": attempt.cost_usd,
                "accepted": attempt.accepted,
                "reason": attempt.reason,
                **({"retries": attempt.retries} if attempt.retries else {}),
            }
            for attempt in route.attempts
        ],
        "cost_usd": route.cost_usd,
        "task": route.task,
        "bundle": route.bundle,
        "certificate": route.certificate,
        "reason": route.reason,
        **({"budget": route.budget} if route.budget else {}),
        **({"id": route.id} if route.id else {}),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
