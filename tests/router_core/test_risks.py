"""The kinds of risk side by side: plans, tests by hand, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.betting import bet_moments, betting_order, expected_growth, retention_p_values
from router_core.certificate import (
    PathResult,
    allowed_among,
    allowed_bad,
    binom_cdf,
    certify_path,
    crc_allowed,
    crc_minimum_n,
    selective_p_values,
)
from router_core.claim import RISKS
from router_core.errors import InputError
from router_core.risks import Plan, Served, certify_served, expected_cost, least_n, plan_path, retained, violates


def served(bad: list[list[int]], cheap: list[list[int]]) -> Served:
    """Outcomes with a reference that is always right."""
    wrong, early = np.array(bad, np.uint8), np.array(cheap, bool)
    return Served(wrong, early, 1.0 - wrong, np.ones(wrong.shape[1]))


def path(n: int, rates: tuple[float, ...], seed: int = 0) -> Served:
    """Steps that serve everything cheaply, each with its own share of bad answers; step 0 is the reference."""
    draw = np.random.default_rng(seed).random(n)
    bad = np.array([draw < rate for rate in (0.0, *rates)])
    return served(bad.tolist(), [[0] * n] + [[1] * n] * len(rates))


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.01, 0.9))
def test_selective_p_values_are_binomial(k: int, more: int, alpha: float) -> None:
    """P(Binomial(accepted, alpha) <= k); 1 where all are bad or nothing is served."""
    expected = binom_cdf(k, k + more, alpha) if more else 1.0
    assert selective_p_values([k], [k + more], alpha)[0] == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.floats(0.01, 0.6), st.floats(0.01, 0.6))
def test_allowed_among_is_allowed_bad(n: int, alpha: float, delta: float) -> None:
    """The table holds `allowed_bad` of every size up to n."""
    table = allowed_among(n, alpha, delta)
    assert table[0] == -1
    for size in {1, n // 2, n} - {0}:
        assert table[size] == allowed_bad(size, alpha, delta)


def test_selective_walks_the_frozen_order_and_stops() -> None:
    """Steps are tested in the plan's order up to the first failure; steps left out are never deployed."""
    calib = path(200, (0.0, 0.5, 0.0, 0.01))
    cost = np.array([1.0, 0.5, 0.1, 0.2, 0.3])
    assert certify_served("selective", calib, Plan(cost, (4, 1, 2, 3)), 0.05, 0.1) == PathResult(4, 3, (4, 1))
    assert certify_served("selective", calib, Plan(cost, (2, 1, 3)), 0.05, 0.1) == PathResult(0, 0, ())
    assert certify_served("selective", calib, Plan(cost, (1, 3)), 0.05, 0.1) == PathResult(3, 0, (1, 3))
    assert certify_served("selective", calib, Plan(cost, ()), 0.05, 0.1) == PathResult(0, 0, ())


def test_selective_order_comes_from_tune() -> None:
    """Smallest predicted p-value first; steps predicted above delta are dropped; calib has no say."""
    tune = path(1000, (0.04, 0.01, 0.2, 0.02))
    plan = plan_path("selective", tune, np.zeros(5), 400, 0.05, 0.1)
    assert plan.order == (2, 4)
    assert Plan.from_json(plan.cost, plan.to_json()).order == plan.order
    with pytest.raises(InputError, match="fixed before calib"):
        certify_served("selective", tune, Plan(plan.cost), 0.05, 0.1)


def test_expectation_takes_the_running_maximum() -> None:
    """A step that is bad where an earlier one was not, and the other way round, counts both."""
    bad = np.zeros((4, 40), np.uint8)
    bad[1, 0] = bad[2, 1] = bad[3, 0] = 1
    calib = served(bad.tolist(), [[0] * 40] + [[1] * 40] * 3)
    plan = Plan(np.array([1.0, 0.5, 0.4, 0.3]))
    assert crc_allowed(40, 0.05) == 1
    assert certify_served("expectation", calib, plan, 0.05, 0.1) == PathResult(1, 1, (1,))
    assert certify_served("expectation", calib, plan, 0.08, 0.1) == PathResult(3, 1, (1, 2, 3))
    assert certify_served("expectation", calib, plan, 0.08, 1e-9).step == 3, "delta is not used"


def test_retention_by_hand() -> None:
    """The wealth is the product of 1 + b z with bets that see only what came before."""
    quality = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    reference, rho = np.ones(3), 0.9
    moments = np.array([[0.1, 0.02], [0.01, 0.02]])
    z = quality - rho
    for g, p in enumerate(retention_p_values(quality, reference, rho, moments)):
        wealth, best, mean, square = 1.0, 1.0, 50 * moments[0, g], 50 * moments[1, g]
        for value in z[g]:
            wealth *= 1 + min(max(mean / square, 0.0), 0.98 / rho) * value
            best, mean, square = max(best, wealth), mean + value, square + value**2
        assert p == pytest.approx(1 / best)


def test_retention_bets_are_predictable() -> None:
    """Changing an item changes no bet before it: wealth up to there is the same."""
    rng = np.random.default_rng(0)
    quality, reference = rng.random((3, 60)), rng.random(60)
    moments = bet_moments(quality, reference, 0.9)
    for cut in (10, 30, 59):
        changed = quality.copy()
        changed[:, cut:] = rng.random((3, 60 - cut))
        head = [retention_p_values(q[:, :cut], reference[:cut], 0.9, moments) for q in (quality, changed)]
        np.testing.assert_array_equal(*head)


def test_retention_needs_what_joint_needs_at_least() -> None:
    """Without a single loss, slightly more items than the joint minimum; the order of items is that of their ids."""
    moments = np.array([[0.0, 0.05], [0.0, 0.0025]])
    needed = next(n for n in range(1, 99) if retention_p_values(np.ones((2, n)), np.ones(n), 0.95, moments)[1] <= 0.1)
    assert 45 <= needed <= 48
    ids = [f"q{i}" for i in range(20)]
    order = betting_order(ids)
    assert [ids[i] for i in order] == [ids[::-1][i] for i in betting_order(ids[::-1])]
    assert order.tolist() != list(range(20))
    growth = expected_growth(np.ones((1, 5)), np.ones(5), 0.95)
    assert growth.sum() == pytest.approx(5 * math.log1p(0.98 / 0.95 * 0.05))


@pytest.mark.parametrize("risk", RISKS)
def test_every_kind_has_the_same_shape(risk: str) -> None:
    """Plan, certify, truth and expectation work for every kind; a faultless step passes, a bad one does not."""
    tune, calib = path(600, (0.0, 0.3), 1), path(300, (0.0, 0.3), 2)
    cost = np.array([1.0, 0.5, 0.1])
    plan = plan_path(risk, tune, cost, 300, 0.05, 0.1)
    result = certify_served(risk, calib, Plan.from_json(cost, plan.to_json()), 0.05, 0.1)
    assert result == PathResult(1, 0, (1,))
    assert violates(risk, calib, 0.05).tolist() == [False, False, True]
    assert expected_cost(risk, tune, cost, 300, 0.05, 0.1, 0) == pytest.approx(0.5)
    few = path(10, (0.0, 0.3), 3)
    assert certify_served(risk, few, plan, 0.05, 0.1).step == 0
    assert least_n(risk, 0.05, 0.1) == (19 if risk == "expectation" else 45)


def test_joint_is_certify_path() -> None:
    """The joint kind is the path walk of `certificate`, unchanged."""
    calib, cost = path(200, (0.01, 0.02, 0.2), 4), np.array([1.0, 0.6, 0.4, 0.1])
    assert certify_served("joint", calib, Plan(cost), 0.05, 0.1) == certify_path(calib.bad, cost, 0.05, 0.1)


def test_refusals() -> None:
    """Unknown kinds, a step 0 that serves cheap answers, and missing plans are refused with a sentence."""
    calib = path(50, (0.0,))
    with pytest.raises(InputError, match="'average' is unknown"):
        certify_served("average", calib, Plan(np.zeros(2)), 0.05, 0.1)
    with pytest.raises(InputError, match="bets that were fixed"):
        certify_served("retention", calib, Plan(np.zeros(2)), 0.05, 0.1)
    eager = Served(calib.bad[1:], calib.cheap[1:], calib.quality[1:], calib.reference)
    for risk in ("selective", "retention", "expectation"):
        with pytest.raises(InputError, match="Step 0"):
            certify_served(risk, eager, Plan(np.zeros(1), (), np.ones((2, 1))), 0.05, 0.1)


def test_retained_is_the_decimal() -> None:
    """1 - .05 is .95, not the float below it."""
    assert (retained(0.05), retained(0.03), retained(0.1)) == (0.95, 0.97, 0.9)
    assert [crc_minimum_n(alpha) for alpha in (0.05, 0.01, 0.5)] == [19, 99, 1]
