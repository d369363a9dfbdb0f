"""Policies: thresholds, the coin, and the order of a path."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router_core.policy import CASCADE, Policy, coin


def _path(levels: list[float], ordering: str = "confidence") -> Policy:
    """Two cheap tiers, one threshold per step for both."""
    thresholds = np.array([[math.inf, math.inf], *([level, level] for level in levels)])
    return Policy(CASCADE, "t", ordering, 0.03, ordering, np.where(np.isinf(thresholds), np.inf, -np.inf), thresholds)  # type: ignore[arg-type]


def test_step_zero_is_the_reference() -> None:
    """No score, not even a perfect one, starts or accepts a cheap tier at step 0."""
    policy = _path([0.9, 0.5])
    assert policy.first([1.0, 1.0]) == 2
    assert not policy.accepts(0, 1.0)
    assert policy.following(0) == 2


def test_ties_are_accepted_and_nan_never() -> None:
    """Accepted when `>=` the threshold, everywhere; NaN escalates."""
    policy = _path([0.9]).at(1)
    assert policy.accepts(0, 0.9)
    assert not policy.accepts(0, float(np.nextafter(0.9, 0)))
    assert not policy.accepts(0, math.nan)
    assert _path([-math.inf]).at(1).accepts(0, math.nan) is False


@given(
    st.floats(0, 1),
    st.floats(0.05, 20),
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.sampled_from([0, 1]),
)
def test_more_aggressive_never_rejects(risk: float, saving: float, levels: list[float], tier: int) -> None:
    """For a fixed query, tier and answers, a more aggressive step never turns accept into reject."""
    path = _path(sorted(levels, reverse=True))
    score = path.score(risk, saving, 0.5)
    accepted = [path.at(step).accepts(tier, score) for step in range(len(levels) + 1)]
    assert accepted == sorted(accepted)


@given(st.text())
def test_coin_is_a_function_of_the_text(text: str) -> None:
    """The same text always draws the same number in [0, 1)."""
    assert coin(text) == coin(text)
    assert 0.0 <= coin(text) < 1.0


def test_coin_is_uniform() -> None:
    """The hash spreads over [0, 1): a Kolmogorov-Smirnov test does not reject."""
    from scipy.stats import kstest

    assert kstest([coin(f"query {i}") for i in range(2_000)], "uniform").pvalue > 1e-4


def test_risk_per_dollar_prefers_dear_queries() -> None:
    """At equal risk the query that saves more scores higher."""
    policy = _path([-0.1], "risk_per_dollar")
    assert policy.score(0.1, 2.0, 0.0) > policy.score(0.1, 1.0, 0.0)
