"""Selective risk while a tier is away: what is claimed of the other answers is still no worse than alpha."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from routers import ProviderError, answer, drive, plain_router

from router_core.outages import Outages
from router_core.router import Router
from router_core.walk import walk

from .checks import holds, note

pytestmark = pytest.mark.statistical

ALPHA = 0.065
QUERIES = 30_000
SMALL, MEDIUM = 0.10, 0.005
"""How often each tier's answers are bad; small answers 55 %, medium the rest: 5.7 % bad together."""

Claims = Callable[[Router, bool, bool], bool]


def long_outage(_: np.random.Generator, i: int) -> bool:
    """Away for four fifths of the time."""
    return QUERIES // 10 < i < 9 * QUERIES // 10


def flapping(rng: np.random.Generator, _: int) -> bool:
    """Nine calls in ten fail."""
    return bool(rng.random() < 0.9)


class Forgetful(Outages):
    """Broken rule: the query that departs loses its claim, the others keep theirs."""

    def departed(self, tier: str, why: str) -> None:
        """Forget at once."""


def claimed(away: Callable[[np.random.Generator, int], bool], outages: Outages, *, before: bool) -> tuple[int, int]:
    """Bad ones among the cheap answers that a selective certificate was claimed of, and their number.

    With `before`, an answer is claimed by what was known when its query began: the one that ends an outage is not.
    """
    rng, router = np.random.default_rng(701), plain_router("selective")
    router = Router(
        router.bundle_id, router.portfolio, router.scopes, router.scorer, router.policies, router.certificates,
        outages=outages,
    )  # fmt: skip
    bad = number = 0
    for i in range(QUERIES):
        easy, draw, down = rng.random() < 0.55, rng.random(), away(rng, i)
        start = router.start("0 query" if easy else "1 query", "t")
        free = not router.interrupted(start)
        route = drive(walk(router, start), {"medium": ProviderError(500) if down else answer()})
        if route.certificate is not None and (free or not before) and route.tier != "large":
            number += 1
            bad += draw < (SMALL if easy else MEDIUM)
    return bad, number


@pytest.mark.parametrize("away", [long_outage, flapping])
def test_selective_claims_outlast_an_outage(away: Callable[[np.random.Generator, int], bool]) -> None:
    """Claimed answers are bad at most as often as certified, in and after an outage; two weaker rules break it."""
    bad, number = claimed(away, Outages(), before=False)
    note(f"{away.__name__}: {number} of {QUERIES} cheap answers claimed, {bad / number:.4f} bad")
    assert number > QUERIES / 20, "a rule that never claims would pass"
    assert holds(f"selective, {away.__name__}", bad, number, ALPHA)
    assert not holds(f"{away.__name__}, by query", *claimed(away, Forgetful(), before=False), ALPHA)


def test_the_answer_that_ends_an_outage_is_claimed() -> None:
    """Were it not, a tier that comes and goes would lose more claims than the others, and theirs would be false."""
    assert not holds("flapping, as known before", *claimed(flapping, Outages(), before=True), ALPHA)
