"""The cascade: every attempt is paid for, failures go to the reference, and the certificate follows the rules."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import PORTFOLIO, TIERS, small_records

from router_core import Answer, Cascade, InputError, Router, TierError
from router_core.cascade import advance, walk
from router_core.evaluation import evaluate
from router_core.fitting import calibrate
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.splits import prepare

HARD = "Review 3 from the castle: oh sure, who would not want a sofa that breaks. Is the mood 'good' or 'bad'?"
EASY = "Review 12 from the harbour: I love this lamp. Is the mood 'good' or 'bad'?"


def _says(text: str) -> Callable[[Any], Answer]:
    return lambda _: Answer(text, 10, 5)


def _raises(_: Any) -> Answer:
    msg = "connection reset, key sk-secret"
    raise RuntimeError(msg)


def _tiers(**changed: Any) -> dict[str, Any]:
    return {name: _says("The answer is good.") for name in TIERS} | changed


@pytest.fixture(scope="module")
def router(small_bundle: Path) -> Router:
    """The small bundle, loaded once."""
    return Router.load(small_bundle)


@pytest.fixture(scope="module")
def easy(router: Router) -> str:
    """A query whose cheap answer is accepted, so that failures have something to change."""
    route = Cascade(router, _tiers()).run(EASY, "mood")
    assert route.tier == "small", route.reason
    return EASY


def test_accepted_answer_is_certified(router: Router, easy: str) -> None:
    """A served cheap answer carries its certificate, its confidence and one paid attempt."""
    route = Cascade(router, _tiers()).run(easy, "mood")
    assert route.certificate is not None
    assert route.certificate["risk"] == "joint"
    assert [attempt.accepted for attempt in route.attempts] == [True]
    assert route.attempts[0].confidence is not None
    assert route.cost_usd == PORTFOLIO.tiers[0].price(10, 5)
    assert route.bundle == router.bundle_id


def test_cost_is_the_sum_over_tried_tiers(router: Router) -> None:
    """P26: an escalated query pays for every tier it tried; the mutant that bills the last one only is caught."""
    route = Cascade(router, _tiers()).run(HARD, "mood")
    paid = sum(PORTFOLIO.tiers[PORTFOLIO.index(a.tier)].price(10, 5) for a in route.attempts)
    last_only = PORTFOLIO.tiers[PORTFOLIO.index(route.attempts[-1].tier)].price(10, 5)
    assert len(route.attempts) > 1
    assert route.cost_usd == paid
    assert last_only != paid


def test_failing_tier_goes_to_the_reference(router: Router, easy: str) -> None:
    """A tier that raises sends the query straight to the reference, certified, the reason kept, no secret in it."""
    route = Cascade(router, _tiers(small=_raises)).run(easy, "mood")
    assert [attempt.tier for attempt in route.attempts] == ["small", "large"]
    assert route.tier == "large"
    assert route.certificate is not None
    assert "RuntimeError" in route.attempts[0].reason
    assert "sk-secret" not in str(route.to_json())


def test_failing_tier_may_go_one_up_uncertified(router: Router, easy: str) -> None:
    """`on_failure="next"` is another policy, so no certificate covers it."""
    route = Cascade(router, _tiers(small=_raises), on_failure="next").run(easy, "mood")
    assert route.attempts[1].tier == "medium"
    assert route.certificate is None
    assert "RuntimeError" in route.reason


@pytest.mark.parametrize("empty", ["", "  \n", Answer("")])
def test_nothing_returned(router: Router, easy: str, empty: Answer | str) -> None:
    """A tier that returns nothing has failed."""
    route = Cascade(router, _tiers(small=lambda _: empty)).run(easy, "mood")
    assert route.tier == "large"
    assert "returned nothing" in route.attempts[0].reason


def test_tool_calls_are_not_covered(router: Router, easy: str) -> None:
    """An answer of a kind that calib did not have goes to the reference and says why."""
    tools = Answer("", 10, 5, covered="answer has tool calls, which calib did not have")
    route = Cascade(router, _tiers(small=lambda _: tools)).run(easy, "mood")
    assert route.tier == "large"
    assert "tool calls" in route.attempts[0].reason
    assert route.certificate is not None


def test_reference_failure(router: Router, easy: str) -> None:
    """The reference tier down: an error by default, the best answer uncertified when asked for."""
    tiers = _tiers(small=_says("hm"), medium=_says("hm"), large=_raises)
    with pytest.raises(TierError, match="reference tier failed"):
        Cascade(router, tiers).run(HARD, "mood")
    route = Cascade(router, tiers, on_reference_failure="best").run(HARD, "mood")
    assert route.tier in {"small", "medium"}
    assert route.certificate is None
    assert "uncertified" in route.reason
    with pytest.raises(TierError):
        Cascade(router, dict.fromkeys(TIERS, _raises), on_reference_failure="best").run(easy, "mood")


def test_names_must_match(router: Router) -> None:
    """An error lists both sides."""
    with pytest.raises(InputError, match=r"small, medium, large.*given were small, big"):
        Cascade(router, {"small": _says("x"), "big": _says("x")})


@pytest.mark.parametrize("odd", [None, 5, Answer(None), {"text": "x"}])  # type: ignore[arg-type]
def test_odd_returns_are_failures(router: Router, easy: str, odd: Any) -> None:
    """A tier that returns no text has failed; the query goes to the reference."""
    route = Cascade(router, _tiers(small=lambda _: odd)).run(easy, "mood")
    assert route.tier == "large"
    assert not route.attempts[0].accepted


@pytest.mark.parametrize("option", ["policy", "on_failure", "on_reference_failure"])
def test_options_are_checked(router: Router, option: str) -> None:
    """A misspelt option is refused when the cascade is made, not when a tier fails."""
    with pytest.raises(InputError, match=option):
        Cascade(router, _tiers(), **{option: "refernce"})


@pytest.mark.parametrize("policy", [CASCADE, ROUTE_ONLY])
def test_async_equals_sync(router: Router, policy: str) -> None:
    """Both drivers walk the same way, for plain and async tiers."""

    async def said(_: Any) -> Answer:
        await asyncio.sleep(0)
        return Answer("The answer is good.", 10, 5)

    plain = Cascade(router, _tiers(), policy=policy)
    later = Cascade(router, dict.fromkeys(TIERS, said), policy=policy)
    records = small_records()
    for i in range(60):
        one = plain.run(records.prompt[i], records.task[i])
        two = asyncio.run(later.arun(records.prompt[i], records.task[i]))
        assert [(a.tier, a.confidence, a.cost_usd, a.reason) for a in one.attempts] == [
            (a.tier, a.confidence, a.cost_usd, a.reason) for a in two.attempts
        ]


def test_replay_equals_evaluate(router: Router, small_bundle: Path) -> None:
    """Recorded answers through the cascade give evaluate's routes, shares and cost, exactly."""
    records = small_records()
    report = evaluate(small_bundle, records)["overall"]["policies"]["routenlp"]
    settled = prepare(records)
    costs, served = [], []
    for i in settled.test.tolist():
        r = settled.records
        answers = {
            name: Answer(str(r.response[i][k]), int(r.prompt_tokens[i, k]), int(r.completion_tokens[i, k]))
            for k, name in enumerate(TIERS)
        }
        tiers = {name: (lambda _, name=name, answers=answers: answers[name]) for name in TIERS}
        route = Cascade(router, tiers).run(r.prompt[i], r.task[i])
        costs.append(route.cost_usd)
        served.append(route.tier)
    assert sum(costs) / len(costs) == pytest.approx(report["cost"], rel=1e-15)
    assert {name: served.count(name) / len(served) for name in TIERS} == report["share"]


@pytest.mark.parametrize(("risk", "outlives"), [("joint", True), ("expectation", True), ("selective", False),
                                                ("retention", False)])  # fmt: skip
def test_departures_by_kind_of_risk(risk: str, outlives: bool, small_bundle: Path) -> None:
    """Straight to the reference tier: joint risk and its expectation survive; selective and retention do not."""
    router = Router.from_bundle(calibrate(small_bundle, small_records(), risk=risk))
    text = next(
        text
        for text, task in zip(small_records().prompt, small_records().task, strict=True)
        if task == "mood" and Cascade(router, _tiers()).run(text, "mood").tier != "large"
    )
    normal = Cascade(router, _tiers()).run(text, "mood")
    assert normal.certificate is not None
    assert normal.certificate["risk"] == risk
    tools = Answer("", 10, 5, covered="answer has tool calls, which calib did not have")
    for small in (_raises, lambda _: tools, lambda _: ""):
        route = Cascade(router, _tiers(small=small, medium=small)).run(text, "mood")
        assert route.tier == "large"
        assert (route.certificate is not None) == outlives
        assert outlives or "outlives" in route.reason
    start = router.force(text, "mood", CASCADE, "large", "tools are bound")
    steps = walk(router, start)
    assert advance(steps) == "large"
    route = advance(steps, Answer("good", 10, 5))
    assert not isinstance(route, str)
    assert (route.certificate is not None) == outlives
    # A query that the policy itself escalates, or starts at the reference, has not departed from it.
    router = Router.from_bundle(calibrate(small_bundle, small_records(), risk=risk))
    doubt = _tiers(small=_says("However, I am not sure"), medium=_says("Perhaps it might be mixed"))
    routes = [Cascade(router, doubt).run(text, "mood") for text in small_records().prompt[::2]]
    assert all(route.certificate is not None for route in routes)
