"""What becomes of the certificate: each departure by each kind of risk, and properties of any walk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bundles import TIERS
from hypothesis import given, settings
from hypothesis import strategies as st
from routers import RISKS, UNSURE, Clock, ProviderError, answer, begin, drive, plain_router, retrying

from router_core import Answer, Breaker, Budget, BudgetError, Limits, TierError
from router_core.cascade import advance, walk
from router_core.driving import Step
from router_core.policy import CASCADE

Reply = Answer | Exception


_OFF = answer("0.9 x")
_CALLS = replace(_OFF, covered="answer has tool calls, which calib did not have")
_DEPARTURES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    # how: replies, options of the walk, the tier that serves, whose certificates survive
    "none": ({}, {}, "small", "all"),
    "escalated": ({"small": answer(UNSURE)}, {}, "medium", "all"),
    "escalated to the reference": ({"small": answer(UNSURE), "medium": answer(UNSURE)}, {}, "large", "all"),
    "retried": ({"small": [TimeoutError(), _OFF]}, {"limits": Limits(retries=retrying())}, "small", "all"),
    "failed": ({"small": ProviderError(500)}, {}, "large", "joint"),
    "failed in the middle": ({"small": answer(UNSURE), "medium": ProviderError(500)}, {}, "large", "joint"),
    "failed, next": ({"small": ProviderError(500)}, {"on_failure": "next"}, "medium", "none"),
    "timed out": ({"small": TimeoutError()}, {}, "large", "joint"),
    "blank": ({"small": answer("")}, {}, "large", "joint"),
    "not covered": ({"small": _CALLS}, {}, "large", "joint"),
    "invalid": ({"small": answer("0.9 x", "no JSON")}, {}, "medium", "none"),
    "invalid, but doubtful anyway": ({"small": answer(UNSURE, "no JSON")}, {}, "medium", "all"),
    "invalid, then the reference": (
        {"small": answer(UNSURE), "medium": answer("0.9 x", "no JSON")},
        {},
        "large",
        "joint",
    ),
    "cannot": ({}, {"able": ["medium", "large"]}, "large", "joint"),
    "cannot, next": ({}, {"able": ["medium", "large"], "on_failure": "next"}, "medium", "none"),
    "reference down": (
        {"small": answer(UNSURE), "medium": ProviderError(500), "large": ProviderError(500)},
        {"on_reference_failure": "best"},
        "small",
        "none",
    ),
    "reference blank": (
        {"small": answer(UNSURE), "medium": answer(UNSURE), "large": answer(" ")},
        {},
        "large",
        "all",
    ),
    "reference cannot": ({"small": answer(UNSURE)}, {"able": ["small", "medium"]}, "medium", "none"),
}


@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize("how", _DEPARTURES)
def test_certificates(how: str, risk: str) -> None:
    """Departures straight to the reference keep a joint certificate; all others none; the policy's own way all."""
    replies, options, tier, survives = _DEPARTURES[how]
    route = drive(begin(plain_router(risk), **options), replies)
    kept = survives == "all" or (survives == "joint" and risk in ("joint", "expectation"))
    assert route.tier == tier
    assert (route.certificate is not None) == kept
    if route.certificate is not None:
        assert route.certificate["risk"] == risk


@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize("on_failure", ["reference", "next"])
def test_certificates_with_an_open_breaker(risk: str, on_failure: str) -> None:
    """A tier at rest is a departure like a failed one."""
    breaker = Breaker(1, 30.0, clock=Clock())
    ticket = breaker.enter("small")
    assert ticket is not None
    breaker.leave("small", ticket, up=False)
    route = drive(begin(plain_router(risk), limits=Limits(breaker=breaker), on_failure=on_failure), {})
    assert route.tier == ("large" if on_failure == "reference" else "medium")
    assert (route.certificate is not None) == (on_failure == "reference" and risk in ("joint", "expectation"))


def test_steps_say_whose_answer_is_final() -> None:
    """The reference tier's, a forced tier's, and one that a budget fell back on."""
    router = plain_router()
    for steps, final in (
        (begin(router, 0), False),
        (begin(router, 2), True),
        (walk(router, router.force("0 query", "t", CASCADE, "small", "asked for")), True),
        (begin(router, 2, able=["small", "medium"]), True),
        (begin(router, 2, limits=Limits(budget=Budget(router.expected_price(1, router.start("2 query", "t"))))), True),
    ):
        step = advance(steps)
        assert isinstance(step, Step)
        assert step.final == final
        steps.close()


# Properties

_REPLY = st.sampled_from(
    [answer(), answer(UNSURE), answer("0.4 x"), answer(""), _CALLS, TimeoutError(), ProviderError(500),
     ProviderError(401), ProviderError(429, {"retry-after": "99"}), ValueError("x"), answer("0.9 x", "no JSON"),
     replace(_OFF, shown=True)]
)  # fmt: skip
_PREFERENCE = st.sampled_from([None, *({"able": able} for able in (TIERS, ["large"], ["small"], ["small", "medium"]))])


def _seen(seen: list[tuple[str, Reply]], name: str, reply: Reply) -> Reply:
    seen.append((name, reply))
    return reply


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_failures(data: st.DataObject) -> None:
    """Whatever happens: few enough calls, honest books, and no certificate where a departure served a cheap answer."""
    draw = data.draw
    risk, retries = draw(st.sampled_from(RISKS)), draw(st.integers(0, 3))
    clock = Clock()
    usd = draw(st.sampled_from([None, 0.0, 1e-6, 5e-6, 3e-5, 1e-3]))
    limits = Limits(
        retries=retrying(max_retries=retries),
        breaker=draw(st.sampled_from([None, Breaker(2, 30.0, clock=clock)])),
        budget=None if usd is None else Budget(usd, on_exceeded=draw(st.sampled_from(["stop", "raise"]))),
    )
    router = plain_router(risk)
    options = draw(_PREFERENCE) or {}
    on_failure = draw(st.sampled_from(["reference", "next"]))
    best = draw(st.sampled_from(["raise", "best"]))
    for _ in range(draw(st.integers(1, 4))):
        called: list[str] = []
        seen: list[tuple[str, Reply]] = []

        def reply_of(name: str, seen: list[tuple[str, Reply]] = seen) -> Callable[[], Reply]:
            return lambda: _seen(seen, name, draw(_REPLY))

        steps = begin(
            router, draw(st.integers(0, 2)), limits=limits, on_failure=on_failure, on_reference_failure=best, **options
        )
        try:
            route = drive(steps, {name: reply_of(name) for name in TIERS}, called)
        except TierError:
            route = None
        except BudgetError as error:
            route = error.route
        assert len(called) <= len(TIERS) * (1 + retries)
        assert set(called) <= set(options.get("able", TIERS))
        if route is None:
            continue
        answers = [(name, reply) for name, reply in seen if isinstance(reply, Answer)]
        paid = [router.price(name, "", reply) for name, reply in answers]
        assert route.cost_usd == sum(attempt.cost_usd for attempt in route.attempts)
        assert route.cost_usd == pytest.approx(sum(paid))
        assert len(called) == len(route.attempts) + sum(attempt.retries for attempt in route.attempts)
        assert len({attempt.tier for attempt in route.attempts}) == len(route.attempts)
        assert any(reply is route.answer and name == route.tier for name, reply in answers)
        departed = (
            any("failed" in a.reason or "nothing" in a.reason or "tool calls" in a.reason for a in route.attempts)
            or any(word in route.reason for word in ("rests", "cannot", "expected to cost", "uncertified"))
            or bool(route.budget and route.budget["stopped"])
        )
        if departed and route.tier != "large":
            assert route.certificate is None
        if departed and risk in ("selective", "retention"):
            assert route.certificate is None
