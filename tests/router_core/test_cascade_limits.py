"""The cascade under limits: every failure injected, no time slept, and what becomes of the certificate."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from bundles import PORTFOLIO, TIERS
from routers import NOW, RISKS, SURE, UNSURE, Clock, ProviderError, answer, begin, drive, plain_router, retrying

from router_core import (
    Answer,
    Breaker,
    Budget,
    BudgetError,
    Cascade,
    InputError,
    Limits,
    Portfolio,
    Route,
    Router,
    TierError,
)
from router_core.cascade import advance
from router_core.driving import Step, Steps, aperform, perform, walking, within

PRICE = {tier.name: tier.price(10, 5) for tier in PORTFOLIO.tiers}


# Retries


def test_a_retry_is_no_attempt_of_its_own() -> None:
    """Two failures and an answer are one attempt with two retries, billed once, certified as ever."""
    clock, called = Clock(), []
    replies = {"small": [ProviderError(503), TimeoutError(), answer()]}
    route = drive(begin(plain_router(), limits=Limits(retries=retrying())), replies, called, clock)
    assert called == ["small"] * 3
    assert [(a.tier, a.retries, a.cost_usd, a.accepted) for a in route.attempts] == [("small", 2, PRICE["small"], True)]
    assert route.certificate is not None
    assert clock.slept[0] == 0.0
    assert 0.5 <= clock.slept[1] < 1.0 <= clock.slept[2] < 2.0


@pytest.mark.parametrize("value", ["7", formatdate(NOW + 7, usegmt=True)])
def test_retry_after(value: str) -> None:
    """429 is retried when the provider says, in seconds or as a date."""
    clock = Clock()
    replies = {"small": [ProviderError(429, {"retry-after": value}), answer()]}
    route = drive(begin(plain_router(), limits=Limits(retries=retrying())), replies, None, clock)
    assert route.tier == "small"
    assert clock.slept == [0.0, 7.0]


@pytest.mark.parametrize("error", [ProviderError(429, {"retry-after": "11"}), ProviderError(401), ValueError("x")])
def test_what_is_not_retried_goes_to_the_reference(error: Exception) -> None:
    """A wait that is too long, a bad key, an error of a program: the tier is given up at once, certified."""
    called: list[str] = []
    limits = Limits(retries=retrying())
    route = drive(begin(plain_router(), limits=limits), {"small": error}, called)
    assert called == ["small", "large"]
    assert route.attempts[0].retries == 0
    assert type(error).__name__ in route.reason
    assert "sk-secret" not in str(route.to_json())
    assert route.certificate is not None


def test_retries_end() -> None:
    """After the last retry the tier has failed."""
    called: list[str] = []
    limits = Limits(retries=retrying())
    route = drive(begin(plain_router(), limits=limits), {"small": ProviderError(500)}, called)
    assert called == ["small"] * 3 + ["large"]
    assert route.attempts[0].retries == 2
    assert route.attempts[0].cost_usd == 0.0


def test_a_blank_answer_is_not_retried() -> None:
    """It is an answer, if a poor one: paid for, and a failure of the tier."""
    route = drive(begin(plain_router(), limits=Limits(retries=retrying())), {"small": answer(" ")})
    assert [(a.tier, a.cost_usd, a.retries) for a in route.attempts] == [
        ("small", PRICE["small"], 0),
        ("large", PRICE["large"], 0),
    ]


# Time-outs


@pytest.fixture
def stuck() -> Iterator[tuple[Callable[[Any], str], threading.Event]]:
    """A tier that answers only once the test is over."""
    over, began = threading.Event(), threading.Event()

    def call(_: Any) -> str:
        began.set()
        over.wait(60)
        return SURE

    yield call, began
    over.set()


def _tiers(**changed: Any) -> dict[str, Any]:
    return {name: (lambda _: answer()) for name in TIERS} | changed


def test_timeout(stuck: tuple[Callable[[Any], str], threading.Event]) -> None:
    """A plain tier that takes too long has failed; the query goes to the reference, certified."""
    call, began = stuck
    cascade = Cascade(plain_router(), _tiers(small=call), limits=Limits(timeout={"small": 0.02}))
    route = cascade.run("0 query", "t")
    assert began.is_set()
    assert [attempt.tier for attempt in route.attempts] == ["small", "large"]
    assert "TimeoutError" in route.reason
    assert route.certificate is not None


async def test_async_timeout() -> None:
    """An async tier is cancelled, and the query goes on."""
    cancelled = []

    async def stuck(_: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return SURE

    route = await Cascade(plain_router(), _tiers(small=stuck), limits=Limits(timeout=0.02)).arun("0 query", "t")
    assert cancelled == [True]
    assert route.tier == "large"
    assert "TimeoutError" in route.attempts[0].reason


def test_timeout_keeps_context_and_errors() -> None:
    """The thread sees the caller's context variables, and what it raises arrives."""
    variable = contextvars.ContextVar("variable", default="lost")
    variable.set("kept")
    assert within(60.0, variable.get) == "kept"
    assert within(None, variable.get) == "kept"
    reply = perform(Step("small", timeout_seconds=60.0), lambda: 1 / 0)
    assert isinstance(reply, ZeroDivisionError)


def test_timeout_names_are_checked() -> None:
    """A misspelt tier would never time out."""
    with pytest.raises(InputError, match=r"smal.*small, medium, large"):
        Cascade(plain_router(), _tiers(), limits=Limits(timeout={"smal": 1.0}))
    for wrong in (0.0, -1.0, float("nan"), {"small": 0.0}):
        with pytest.raises(InputError, match="timeout"):
            Limits(timeout=wrong)


async def test_drivers_wait() -> None:
    """Both wait as long as a step says, before the call."""
    clock = Clock()
    step = Step("small", wait_seconds=3.0)
    assert perform(step, lambda: clock.now, clock.sleep) == 1003.0

    async def call() -> float:
        return clock.now

    assert await aperform(step, call, clock.asleep) == 1006.0
    assert (copy.deepcopy(step), copy.copy(step).wait_seconds) == ("small", 3.0)


# Circuit breaker


def test_breaker_opens_and_closes() -> None:
    """Failing queries go to the reference; once open, the tier is not called; after the cool-down one probes it."""
    clock = Clock()
    limits = Limits(breaker=Breaker(2, 30.0, clock=clock))
    router = plain_router()

    def query(reply: Answer | Exception) -> tuple[list[str], Route]:
        called: list[str] = []
        return called, drive(begin(router, limits=limits), {"small": reply}, called)

    for _ in range(2):
        assert query(ProviderError(500))[0] == ["small", "large"]
    called, route = query(answer())
    assert called == ["large"]
    assert [attempt.tier for attempt in route.attempts] == ["large"]
    assert "small rests after repeated failures" in route.reason
    assert route.certificate is not None
    clock.now += 30
    assert query(ProviderError(500))[0] == ["small", "large"]
    assert query(answer())[0] == ["large"]
    clock.now += 30
    assert query(answer())[0] == ["small"]
    assert query(answer())[0] == ["small"]


def test_refused_queries_do_not_open_it() -> None:
    """A query too long for a tier is that query's trouble; a bad key is the tier's."""
    for status, state in ((400, "closed"), (401, "open")):
        limits = Limits(breaker=Breaker(2, 30.0, clock=Clock()))
        for _ in range(3):
            drive(begin(plain_router(), limits=limits), {"small": ProviderError(status)})
        assert limits.breaker is not None
        assert limits.breaker.state("small") == state


def test_breaker_stops_retries() -> None:
    """When a tier opens during its retries, no more are made."""
    called: list[str] = []
    limits = Limits(retries=retrying(max_retries=9), breaker=Breaker(3, 30.0, clock=Clock()))
    route = drive(begin(plain_router(), limits=limits), {"small": ProviderError(500)}, called)
    assert called == ["small"] * 3 + ["large"]
    assert route.attempts[0].retries == 2


def test_reference_at_rest() -> None:
    """An open reference tier is not called: an error, or the best cheap answer uncertified, as configured."""
    limits = Limits(breaker=Breaker(1, 30.0, clock=Clock()))
    router = plain_router()
    with pytest.raises(TierError):
        drive(begin(router, 2, limits=limits), {"large": ProviderError(500)})
    called: list[str] = []
    replies = {"small": answer(UNSURE), "medium": answer("0.3 perhaps")}
    with pytest.raises(TierError, match=r"the reference tier failed .* large rests after repeated failures"):
        drive(begin(router, limits=limits), replies, called)
    route = drive(begin(router, limits=limits, on_reference_failure="best"), replies, called)
    assert "large" not in called
    assert (route.tier, route.certificate) == ("medium", None)
    assert "best cheap answer served uncertified" in route.reason


def test_an_abandoned_probe_is_given_back() -> None:
    """A query that is dropped while it probes leaves the circuit free for the next."""
    clock = Clock()
    breaker = Breaker(1, 30.0, clock=clock)
    limits = Limits(breaker=breaker)
    drive(begin(plain_router(), limits=limits), {"small": ProviderError(500)})
    clock.now += 30
    with walking(begin(plain_router(), limits=limits)) as steps:
        assert advance(steps) == "small"
        assert breaker.enter("small") is None
    assert breaker.enter("small") is not None


# Budgets


def _expected(router: Router, at: int = 0) -> dict[str, float]:
    start = router.start(f"{at} query", "t")
    return {name: router.expected_price(k, start) for k, name in enumerate(TIERS)}


def test_expected_price() -> None:
    """The assumed length if there is one, else the mean cost on train, but never less than the prompt alone."""
    router = plain_router()
    start = router.start("0 query", "t")
    assert router.expected_price(0, start) == PORTFOLIO.tiers[0].price(2, 0)
    assert router.expected_price(0, start, 1_000) == PORTFOLIO.tiers[0].price(1_000, 0)
    known = replace(router, mean_costs={"t": (0.5, 0.6, 0.7), "overall": (1.0, 1.0, 1.0)})
    assert known.expected_price(1, start) == 0.6
    assert known.expected_price(1, replace(start, scope=None)) == 1.0
    assert known.expected_price(0, start, 10**9) == PORTFOLIO.tiers[0].price(10**9, 0)
    assumed = Portfolio(tuple(replace(tier, assumed_completion_tokens=100) for tier in PORTFOLIO.tiers))
    told = replace(plain_router(portfolio=assumed), mean_costs=known.mean_costs)
    assert told.expected_price(2, start, 10) == PORTFOLIO.tiers[2].price(10, 100)


def test_budget_stops_an_escalation() -> None:
    """The answer already paid for is served, uncertified, and the route says why and what was spent."""
    router = plain_router()
    budget = Budget(PRICE["small"] + _expected(router)["medium"] / 2)
    route = drive(begin(router, limits=Limits(budget=budget)), {"small": answer(UNSURE)})
    assert (route.tier, route.certificate) == ("small", None)
    assert "medium is expected to cost" in route.reason
    assert "best answer so far served uncertified" in route.reason
    told = {"usd": budget.usd, "per": "call", "spent_usd": PRICE["small"], "stopped": True}
    assert route.to_json()["budget"] == told


def test_budget_that_suffices_changes_nothing() -> None:
    """It is recorded, and the certificate stays."""
    route = drive(begin(plain_router(), limits=Limits(budget=Budget(1.0))), {"small": answer(UNSURE)})
    assert route.tier == "medium"
    assert route.certificate is not None
    assert route.budget == {"usd": 1.0, "per": "call", "spent_usd": route.cost_usd, "stopped": False}


def test_budget_raises() -> None:
    """With the amounts, and with the answer already paid for."""
    router = plain_router()
    budget = Budget(PRICE["small"], on_exceeded="raise")
    with pytest.raises(BudgetError, match=r"medium is expected to cost .* USD left of the budget of .* per call") as it:
        drive(begin(router, limits=Limits(budget=budget)), {"small": answer(UNSURE)})
    assert it.value.route is not None
    assert (it.value.route.tier, it.value.route.answer.text) == ("small", UNSURE)
    assert it.value.route.certificate is None


def test_no_paid_answer_is_lost() -> None:
    """One that no certificate covers is served when the budget allows no other, or the reference tier is down."""
    router = plain_router()
    calls = Answer("", 10, 5, covered="answer has tool calls, which calib did not have")
    for options, replies in (
        ({"limits": Limits(budget=Budget(PRICE["small"]))}, {"small": calls}),
        ({"on_reference_failure": "best"}, {"small": calls, "large": ProviderError(500)}),
    ):
        route = drive(begin(router, **options), replies)
        assert route.answer is calls
        assert (route.tier, route.certificate) == ("small", None)
    # A doubtful answer of the usual kind goes before it.
    both = {"small": answer(UNSURE), "medium": calls, "large": ProviderError(500)}
    assert drive(begin(router, on_reference_failure="best"), both).tier == "small"


def test_no_answer_yet() -> None:
    """The cheapest affordable tier is asked and served unjudged; without one it is an error in both modes."""
    router = plain_router()
    prices = _expected(router, 2)
    called: list[str] = []
    limits = Limits(budget=Budget(prices["medium"]))
    route = drive(begin(router, 2, limits=limits), {"small": answer(UNSURE)}, called)
    assert called == ["small"]
    assert (route.tier, route.certificate) == ("small", None)
    assert route.budget is not None
    assert route.budget["stopped"]
    for budget in (Budget(prices["small"] / 2), Budget(prices["medium"], on_exceeded="raise")):
        with pytest.raises(BudgetError) as it:
            drive(begin(router, 2, limits=Limits(budget=budget)), {})
        assert it.value.route is None


def test_affordable_reference_is_preferred() -> None:
    """A reference tier cheaper than the policy's tier keeps a joint certificate, so it comes first."""
    dear = Portfolio((PORTFOLIO.tiers[0], replace(PORTFOLIO.tiers[1], usd_per_call=1.0), PORTFOLIO.tiers[2]))
    for risk in RISKS:
        limits = Limits(budget=Budget(0.5))
        route = drive(begin(plain_router(risk, dear), 1, limits=limits), {})
        assert route.tier == "large"
        assert (route.certificate is not None) == (risk in ("joint", "expectation"))


def test_affordable_tiers_that_fail() -> None:
    """One after the other is tried, each once; then it is an error."""
    router = plain_router()
    called: list[str] = []
    limits = Limits(budget=Budget(_expected(router, 2)["medium"] * 1.5))
    replies = dict.fromkeys(TIERS, ProviderError(500))
    with pytest.raises(BudgetError):
        drive(begin(router, 2, limits=limits, on_failure="next"), replies, called)
    assert called == ["small", "medium"]


def test_budget_per_run() -> None:
    """Queries of one run share it; another run has its own."""
    budget = Budget(PRICE["large"], "run")
    cascade = Cascade(plain_router(), _tiers(), limits=Limits(budget=budget))
    assert cascade.run("2 query", "t", run="a").tier == "large"
    stopped = cascade.run("0 query", "t", run="b")
    assert stopped.tier == "small"
    assert stopped.certificate is not None
    with pytest.raises(BudgetError):
        cascade.run("2 query", "t", run="a")
    assert cascade.run("2 query", "t", run="c").tier == "large"


def test_budget_per_window() -> None:
    """When the window has passed, there is money again."""
    clock = Clock(0.0)
    budget = Budget(PRICE["large"], "window", window_seconds=60.0, clock=clock)
    cascade = Cascade(plain_router(), _tiers(), limits=Limits(budget=budget))
    assert cascade.run("2 query", "t").tier == "large"
    with pytest.raises(BudgetError):
        cascade.run("2 query", "t")
    clock.now += 61
    assert cascade.run("2 query", "t").tier == "large"


def test_nothing_stays_reserved() -> None:
    """Of a query that fails, is closed or merely collected; one dropped during a call counts at its expected price."""
    budget = Budget(1.0, "window", window_seconds=60.0)
    router, limits = plain_router(), Limits(budget=budget)
    with pytest.raises(TierError):
        drive(begin(router, limits=limits), dict.fromkeys(TIERS, ProviderError(500)))
    with walking(begin(router, limits=limits)) as steps:
        advance(steps)
        expected = 1.0 - budget.account().left_usd
        assert expected > 0.0
    assert budget.account().spent_usd == pytest.approx(expected)
    steps = begin(router, limits=limits)
    advance(steps)
    del steps
    gc.collect()
    assert budget.account().spent_usd == pytest.approx(2 * expected)
    assert budget.account().left_usd == pytest.approx(1.0 - 2 * expected)


def test_a_walk_that_still_runs_elsewhere() -> None:
    """Leaving it while another thread advances it is no error; it is closed when it is collected."""
    inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def steps() -> Steps:
        try:
            inside.set()
            go_on.wait(60)
            yield Step("small")
        finally:
            closed.set()
        raise AssertionError

    running = steps()
    thread = threading.Thread(target=advance, args=(running,))
    with walking(running):
        thread.start()
        assert inside.wait(60)
    assert not closed.is_set()
    go_on.set()
    thread.join()
    del running, thread
    gc.collect()
    assert closed.is_set()


async def test_cancelled_query_frees_what_it_held() -> None:
    """A task that is cancelled while a tier answers leaves no reservation; the call counts at its expected price."""
    budget = Budget(1.0, "window", window_seconds=60.0)
    began = asyncio.Event()

    async def stuck(_: Any) -> str:
        began.set()
        await asyncio.Event().wait()
        return SURE

    cascade = Cascade(plain_router(), _tiers(small=stuck), limits=Limits(budget=budget))
    task = asyncio.create_task(cascade.arun("0 query", "t"))
    await began.wait()
    held = 1.0 - budget.account().left_usd
    assert held > 0.0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.account().spent_usd == pytest.approx(held)
    assert budget.account().left_usd == pytest.approx(1.0 - held)


def test_64_threads_share_a_budget() -> None:
    """No route is lost, every one is either paid within the budget or refused, and the books agree."""
    assumed = Portfolio(tuple(replace(tier, assumed_completion_tokens=5) for tier in PORTFOLIO.tiers))
    router = plain_router(portfolio=assumed)
    price = assumed.tiers[2].price(2, 5)
    budget = Budget(20 * price, "window", window_seconds=600.0, on_exceeded="raise")
    cascade = Cascade(router, _tiers(large=lambda _: Answer(SURE, 2, 5)), limits=Limits(budget=budget))
    barrier, routes, refused = threading.Barrier(64), [], []

    def ask() -> None:
        barrier.wait()
        try:
            routes.append(cascade.run("2 query", "t"))
        except BudgetError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(routes), len(refused)) == (20, 44)
    assert budget.account().spent_usd == pytest.approx(sum(route.cost_usd for route in routes))


# Tiers that cannot take a query


def test_unable_tiers_are_no_candidates() -> None:
    """The start tier: to the reference; a later one: likewise; with "next", one up."""
    router = plain_router()
    for able, at, on_failure, tiers, certified in (
        (("medium", "large"), 0, "reference", ["large"], True),
        (("medium", "large"), 0, "next", ["medium"], False),
        (("small", "large"), 0, "reference", ["small", "large"], True),
        (("small", "large"), 0, "next", ["small", "large"], False),
        (("small", "medium", "large"), 0, "reference", ["small", "medium", "large"], True),
        (("large",), 2, "reference", ["large"], True),
    ):
        doubt = {"small": answer(UNSURE), "medium": answer(UNSURE if len(able) == 3 else SURE)}
        route = drive(begin(router, at, able=able, on_failure=on_failure), doubt)
        assert [attempt.tier for attempt in route.attempts] == tiers, able
        assert (route.certificate is not None) == certified, able


def test_unable_reference() -> None:
    """The last tier that can take a query stands in for it, served unjudged and uncertified."""
    router = plain_router()
    route = drive(begin(router, 2, able={"small", "medium"}), {"medium": answer(UNSURE)})
    assert (route.tier, route.certificate) == ("medium", None)
    assert "large cannot take this query" in route.reason
    route = drive(begin(router, 0, able={"small", "medium"}), {})
    assert route.tier == "small"
    assert route.certificate is not None
    route = drive(begin(router, 0, able=["small"]), {"small": answer(UNSURE)})
    assert (route.tier, route.certificate) == ("small", None)
    with pytest.raises(TierError, match="last tier that can take this query failed"):
        drive(begin(router, 2, able=["medium"]), {"medium": ProviderError(500)})


@pytest.mark.parametrize("able", [[], ["huge"], ["small", "huge"]])
def test_no_tier_is_able(able: list[str]) -> None:
    """An error names the tiers and what was given."""
    with pytest.raises(InputError, match=r"small, medium, large"):
        drive(begin(plain_router(), able=able), {})
