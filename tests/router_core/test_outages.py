"""Outages: while a tier is away nothing is claimed of what the others serve, but of a joint risk."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from routers import RISKS, UNSURE, Clock, ProviderError, answer, begin, drive, plain_router

from router_core import Breaker, Budget, BudgetError, Limits, Route, Router, TierError
from router_core.cascade import advance, walk
from router_core.driving import break_off
from router_core.policy import CASCADE, ROUTE_ONLY

KEPT = ("joint", "expectation")


def _cheap(router: Router) -> Route:
    """A query that the small tier alone serves."""
    return drive(begin(router), {})


def _fails(router: Router) -> None:
    route = drive(begin(router, 1), {"medium": ProviderError(500)})
    assert route.tier == "large"


def _blank(router: Router) -> None:
    drive(begin(router, 1), {"medium": answer("")})


def _uncovered(router: Router) -> None:
    drive(begin(router, 1), {"medium": answer("0.9 x", "no JSON")})


def _rests(router: Router) -> None:
    breaker = Breaker(1, 30.0, clock=Clock())
    ticket = breaker.enter("medium")
    assert ticket is not None
    breaker.leave("medium", ticket, up=False)
    drive(begin(router, 1, limits=Limits(breaker=breaker)), {})


def _unable(router: Router) -> None:
    drive(begin(router, 1, able=["small", "large"]), {})


def _breaks(router: Router) -> None:
    steps = begin(router, 1)
    advance(steps)
    break_off(steps, ProviderError(500))


def _window(router: Router) -> None:
    budget = Budget(router.expected_price(0, router.start("0 query", "t")), "window", window_seconds=60.0)
    drive(begin(router, limits=Limits(budget=budget)), {"small": answer(UNSURE)})


@pytest.mark.parametrize("depart", [_fails, _blank, _uncovered, _rests, _unable, _breaks, _window])
@pytest.mark.parametrize("risk", RISKS)
def test_others_claim_nothing_until_the_tier_answers(risk: str, depart: Callable[[Router], None]) -> None:
    """One departure at a tier: answers of the others claim nothing, and say why, until it answers again."""
    router = plain_router(risk)
    assert _cheap(router).certificate is not None
    depart(router)
    away = _cheap(router)
    assert away.tier == "small"
    assert (away.certificate is not None) == (risk in KEPT)
    assert (router.decide("0 query", "t").certificate is not None) == (risk in KEPT)
    if risk not in KEPT:
        assert f"medium has not answered since; a {risk} certificate then claims nothing" in away.reason
    back = drive(begin(router, 1), {})
    assert back.tier == "medium"
    assert back.certificate is not None
    assert _cheap(router).certificate is not None


@pytest.mark.parametrize("per", ["call", "run"])
def test_a_budget_that_always_stops_ends_the_claims(per: Any) -> None:
    """A budget per call or run stops the same kind of query for ever, so that no answer brings the claims back."""
    router = plain_router("selective")
    budget = Budget(router.expected_price(0, router.start("0 query", "t")), per, on_exceeded="raise")
    with pytest.raises(BudgetError):
        drive(begin(router, limits=Limits(budget=budget)), {"small": answer(UNSURE)})
    drive(begin(router, 1), {})
    assert f"a budget per {per} has stopped a query" in _cheap(router).reason
    assert _cheap(router).certificate is None


def test_the_reference_tier() -> None:
    """A reference tier that fails is away like any other."""
    router = plain_router("retention")
    with pytest.raises(TierError):
        drive(begin(router, 2), {"large": ProviderError(500)})
    assert _cheap(router).certificate is None
    assert drive(begin(router, 2), {}).certificate is not None
    assert _cheap(router).certificate is not None


def test_a_tier_that_the_policy_never_calls() -> None:
    """Its failure when it is forced takes nothing away."""
    router = plain_router("selective")
    path = router.policies["t", CASCADE]
    start, accept = path.start.copy(), path.accept.copy()
    start[:, 1] = accept[:, 1] = float("inf")
    policies = {**router.policies, ("t", CASCADE): type(path)(**{**vars(path), "start": start, "accept": accept})}
    router = Router(router.bundle_id, router.portfolio, router.scopes, router.scorer, policies, router.certificates)
    forced = walk(router, router.force("0 query", "t", CASCADE, "medium", "asked for"), on_reference_failure="best")
    drive(forced, {"medium": ProviderError(500)})
    assert _cheap(router).certificate is not None
    assert router.decide("0 query", "t", ROUTE_ONLY).certificate is None


def test_a_copy_begins_anew() -> None:
    """State belongs to one process and to one router."""
    router = plain_router("selective")
    _fails(router)
    for made in (copy.deepcopy(router.outages), pickle.loads(pickle.dumps(router.outages))):  # noqa: S301
        assert made.why(["medium"]) == ""
    assert router.outages.why(["small", "medium"])
    assert router.outages.why(["small"]) == ""
