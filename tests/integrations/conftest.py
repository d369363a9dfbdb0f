"""Fixtures that the tests of both frameworks share: a router of the small bundle, queries that start where told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bundles import DOUBTFUL, SURE, TIERS, small_records

from router_core.lapse import LapseWatch
from router_core.outages import Outages
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.router import Router


@pytest.fixture(scope="session")
def loaded_router(small_bundle: Path) -> Router:
    """The small bundle, loaded once."""
    return Router.load(small_bundle)


@pytest.fixture
def small_router(loaded_router: Router) -> Router:
    """A router of the small bundle whose certificates no other test has made lapse."""
    return replace(loaded_router, lapses=LapseWatch(), outages=Outages())


@pytest.fixture(scope="session")
def queries(loaded_router: Router) -> dict[str, str]:
    """A mood query for every tier that the policy sends there."""
    found: dict[str, str] = {}
    records = small_records()
    for prompt, task in zip(records.prompt, records.task, strict=True):
        if task == "mood":
            found.setdefault(loaded_router.decide(prompt, "mood").tier, prompt)
    assert set(found) == set(TIERS)
    return found


@pytest.fixture(scope="session")
def easy(loaded_router: Router) -> str:
    """A mood query that starts at the small tier and on which doubtful answers of both cheap tiers are rejected."""
    records = small_records()
    for prompt, task in zip(records.prompt, records.task, strict=True):
        if task != "mood":
            continue
        cascade, direct = (loaded_router.start(prompt, "mood", policy) for policy in (CASCADE, ROUTE_ONLY))
        if cascade.tier or direct.tier or cascade.before is None:
            continue
        answers = (SURE.format("good"), DOUBTFUL)
        accepted = [loaded_router.accept(cascade, k, answer, {}, {})[0] for k in (0, 1) for answer in answers]
        if accepted == [True, False, True, False]:
            return prompt
    pytest.fail("no query of the population serves")
