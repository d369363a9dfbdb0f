"""What an attempt costs when a tier tells nonsense of its usage."""

from __future__ import annotations

import warnings

import pytest
from bundles import PORTFOLIO
from routers import begin, drive, plain_router

from router_core import Answer, Budget, Limits, pricing
from router_core.pricing import attempt_price, estimate_tokens


@pytest.fixture(autouse=True)
def never_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test warns anew."""
    monkeypatch.setattr(pricing, "_WARNED", set())


@pytest.mark.parametrize(
    "told", [{"prompt_tokens": -(10**6)}, {"completion_tokens": -1}, {"cost_usd": -1.0}, {"cost_usd": float("nan")}]
)
def test_a_negative_figure_is_none(told: dict[str, float]) -> None:
    """It is estimated like a missing one, and warned about once."""
    tier = PORTFOLIO.tiers[0]
    known = {"prompt_tokens": 7, "completion_tokens": 3} | told
    left = {name: value for name, value in known.items() if name not in told}
    answer = Answer("The answer.", **known)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="tier 'small' told a .* it is estimated instead"):
        price = attempt_price(tier, "A prompt.", answer)
    assert price == attempt_price(tier, "A prompt.", Answer("The answer.", **left))  # type: ignore[arg-type]
    assert price > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert attempt_price(tier, "A prompt.", answer) == price


def test_a_budget_never_grows() -> None:
    """Negative usage gives no money back."""
    router = plain_router()
    budget = Budget(1.0, "window", window_seconds=60.0)
    with pytest.warns(UserWarning, match="number of prompt tokens"):
        route = drive(begin(router, limits=Limits(budget=budget)), {"small": Answer("0.9 good", -(10**6), 5)})
    assert route.cost_usd == PORTFOLIO.tiers[0].price(estimate_tokens("0 query"), 5)
    assert budget.account().left_usd == pytest.approx(1.0 - route.cost_usd)


def test_without_text_the_reference_answers() -> None:
    """A core caller without any text is sent to the reference tier, where a joint certificate stands."""
    for risk, kept in (("joint", True), ("selective", False)):
        router = plain_router(risk)
        for text in ("", " \n"):
            start = router.start(text, "t")
            assert (start.tier, start.forced) == (2, True)
            assert "nobody asked anything" in start.reason
            assert router.outlives_departure(start) == kept
