"""A router without a bundle: the query's text says where the policy starts, each answer's text how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from bundles import PORTFOLIO

from router_core import Answer, RetryPolicy, Route
from router_core.cascade import Steps, advance, walk
from router_core.claim import Certificate
from router_core.driving import Step, walking
from router_core.encoder import Prediction
from router_core.evidence_model import Judgement
from router_core.policy import CASCADE, ROUTE_ONLY, Policy
from router_core.portfolio import Portfolio
from router_core.router import Router
from router_core.scopes import Scopes
from router_core.scoring import Before, View

SURE, UNSURE = "0.9 good", "0.1 hm"
"""Answers whose confidence is their first word; 0.5 is accepted."""


NOW = 1_700_000_000.0
"""Seconds since the epoch, for Retry-After dates."""
RISKS = ("joint", "expectation", "selective", "retention")


class Clock:
    """Seconds that pass only when told to; also a `sleep` that does not sleep."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        """Let time pass, asynchronously."""
        self.sleep(seconds)


class ProviderError(Exception):
    """An error in the shape that providers' clients give it."""

    def __init__(self, status: int | None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"status {status}, key sk-secret")
        if status is not None:
            self.status_code = status
        self.response = type("Response", (), {"headers": headers or {}, "status_code": status})()


class _Scorer:
    """Starts where the text says ("1 ..." is the second tier) and believes what an answer says of itself."""

    encoder: Any = None

    def before(self, text: str, view: View, *, priced: bool = True) -> Before:
        at = int(text.split(maxsplit=1)[0])
        judged = tuple(Judgement(0.1 if k >= at else 0.9, 1.0) for k in range(len(PORTFOLIO.tiers) - 1))
        return Before(text, view, Prediction(np.ones(3), 0.0, np.zeros(1), np.zeros(3)), [], judged, 0.5)

    def judges(self, tier: int, view: View) -> bool:
        return True

    def after(
        self,
        before: Before,
        tier: int,
        answer: str,
        tried: Mapping[str, str],
        signals: Mapping[str, float],
        *,
        priced: bool = True,
    ) -> Judgement:
        return Judgement(1.0 - float(answer.split(maxsplit=1)[0]), 1.0)


def plain_router(risk: str = "joint", portfolio: Portfolio = PORTFOLIO) -> Router:
    """A router over small, medium and large, certified for the task "t" under both policies."""
    delta = None if risk == "expectation" else 0.1
    policies, certificates = {}, {}
    for name, accept in ((CASCADE, 0.5), (ROUTE_ONLY, -np.inf)):
        start = np.array([[np.inf, np.inf], [0.5, 0.5]])
        accepts = np.array([[np.inf, np.inf], [accept, accept]])
        policies["t", name] = Policy(name, "t", "confidence", 0.0, "confidence", start, accepts, step=1)
        lower = 0.95 if risk == "retention" else None
        bad = None if risk == "retention" else 1
        certificates["t", name] = Certificate(
            "t", name, risk, 0.05, delta, 100, bad, True, 1, lower, 45, "0" * 64, use_count=1
        )
    scorer: Any = _Scorer()
    return Router("b" * 64, portfolio, Scopes({"t": ()}), scorer, policies, certificates)


def answer(text: str = SURE, invalid: str = "") -> Answer:
    """What a tier returned, at 10 prompt and 5 completion tokens."""
    return Answer(text, 10, 5, invalid=invalid)


def retrying(**changed: Any) -> RetryPolicy:
    """Two retries, one second at first and ten at most."""
    return RetryPolicy(**{"max_retries": 2, "base_seconds": 1.0, "max_seconds": 10.0, "now": lambda: NOW} | changed)


def drive(steps: Steps, replies: dict[str, Any], called: list[str] | None = None, clock: Clock | None = None) -> Route:
    """Walk with scripted replies: one reply, a list of them in turn, or a function."""
    calls = 0
    left = {name: iter(reply) for name, reply in replies.items() if isinstance(reply, list)}
    with walking(steps):
        step = advance(steps)
        while isinstance(step, Step):
            calls += 1
            assert calls < 100, "a walk without end"
            if called is not None:
                called.append(str(step))
            if clock is not None:
                clock.sleep(step.wait_seconds)
            reply = next(left[step]) if step in left else replies.get(step, answer())
            step = advance(steps, reply() if callable(reply) else reply)
    return step


def begin(router: Router, at: int = 0, **options: Any) -> Steps:
    """Walk a query that the policy starts at a tier."""
    return walk(router, router.start(f"{at} query", "t"), **options)
