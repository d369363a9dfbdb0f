"""A group of engines without a bundle: nothing is certified, and nothing cheap is served unless a rule is asked for."""

from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np

from router_core.errors import InputError
from router_core.policy import CASCADE, Policy
from router_core.portfolio import Portfolio, Tier
from router_core.router import Router, Scopes, Start

__all__ = ["AnswerRule", "UnfittedRouter"]


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """When a cheap engine's answer is served without any certificate.

    An answer is served when it says something and every signal named here reaches its value; one whose signal is
    missing is escalated. Nothing is known of the risk: record both engines and fit a bundle for that.

    Parameters
    ----------
    retrieval_score
        Least score of the best retrieved node, in the retriever's own unit.
    groundedness
        Least share of the answer's words that stand in the retrieved nodes, in [0, 1].
    signals
        Further signals and their least values, as ``((name, value), ...)``.

    Raises
    ------
    InputError
        When it asks for nothing.
    """

    retrieval_score: float | None = None
    groundedness: float | None = None
    signals: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.least:
            raise InputError("an AnswerRule needs a least value of one signal, such as groundedness=0.8")

    @property
    def least(self) -> dict[str, float]:
        """Least value by signal."""
        own = {"retrieval_score": self.retrieval_score, "groundedness": self.groundedness}
        return {**{name: value for name, value in own.items() if value is not None}, **dict(self.signals)}


@dataclass(frozen=True, eq=False, repr=False)
class UnfittedRouter(Router):
    """A router of a group that has no bundle: always the reference engine, or a rule, and no certificate."""

    rule: AnswerRule | None = None

    @classmethod
    def of(cls, names: tuple[str, ...], rule: AnswerRule | None) -> Self:
        """Make one for the engines of these names."""
        portfolio = Portfolio(tuple(Tier(name) for name in names))
        return cls("", portfolio, Scopes({}), cast("Any", None), {}, {}, rule=rule)

    @property
    def quick(self) -> bool:
        """A few comparisons."""
        return True

    def start(self, text: str, task: str | None = None, policy: str = CASCADE) -> Start:
        """The cheapest engine under a rule, else the reference."""
        last = len(self.portfolio.tiers) - 1
        if self.rule is None:
            reason = f"this group has no bundle; sent to {self.portfolio.reference.name}"
            return Start(text, task, None, CASCADE, last, reason, None, None)
        thresholds = np.zeros((1, last))
        path = Policy(CASCADE, "", "confidence", 0.0, "confidence", thresholds, thresholds)
        reason = f"uncertified rule: the cascade starts at {self.portfolio.names[0]}"
        return Start(text, task, None, CASCADE, 0, reason, path, None)

    def force(self, text: str, task: str | None, policy: str, tier: str, why: str) -> Start:
        """Start at an engine whatever the rule says."""
        reason = f"{why}; sent to {tier}"
        return Start(text, task, None, policy, self.portfolio.index(tier), reason, None, None, True, reason)

    def accept(self, start: Start, tier: int, answer: str, tried: Any, signals: Any) -> tuple[bool, float | None, str]:
        """Accept by the rule; it knows no confidence."""
        name = self.portfolio.names[tier]
        for signal, least in (self.rule.least if self.rule else {}).items():
            value = signals.get(signal)
            if value is None:
                return False, None, f"{name}: {signal} is missing; escalated by an uncertified rule"
            if not value >= least:
                return False, None, f"{name}: {signal} {value:.3f} < {least:g}; escalated by an uncertified rule"
        return True, None, f"{name}: served by an uncertified rule"
