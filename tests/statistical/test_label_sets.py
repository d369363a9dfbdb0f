"""Calibrated sets of labels over many calibration draws, and the broken rules that the same checks catch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from router_core.label_sets import LabelSets, TakenClaim

from .checks import ALPHA, DELTA, holds
from .population import REFERENCE

pytestmark = pytest.mark.statistical

DRAWS = 20_000
Float = NDArray[np.float64]
Rule = Callable[[Float, NDArray[np.intp], Float], NDArray[np.bool_]]


def queries(rng: np.random.Generator, n: int, levels: int = 0) -> tuple[Float, NDArray[np.intp]]:
    """Strangeness [n, 4] of a calibrated model and right labels [n]; `levels` > 0 rounds, so that ties abound."""
    chance = rng.dirichlet(np.full(4, 0.4), n)
    right = (rng.random((n, 1)) > chance.cumsum(axis=1)).sum(axis=1).clip(max=3)
    return 1.0 - (np.round(chance * levels) / levels if levels else chance), right


def rule(calib: Float, right: NDArray[np.intp], test: Float) -> NDArray[np.bool_]:
    """The production rule."""
    return LabelSets.of(calib, right, ALPHA).members(test)


def without_plus_one(calib: Float, right: NDArray[np.intp], test: Float) -> NDArray[np.bool_]:
    """The plain (1 - alpha) quantile of the calibration scores."""
    own = np.sort(calib[np.arange(len(right)), right])
    return np.asarray(test <= own[int(np.ceil(len(own) * (1 - ALPHA))) - 1])


def ties_split(calib: Float, right: NDArray[np.intp], test: Float) -> NDArray[np.bool_]:
    """A p-value that counts only what is strictly stranger."""
    own = calib[np.arange(len(right)), right]
    stranger = (own[:, None] > test[None, :]).sum(axis=0)
    return np.asarray((stranger + 1) / (len(own) + 1) > ALPHA)


def misses(decide: Rule, n: int, levels: int) -> tuple[int, int]:
    """Draws whose set lacks the right label, and draws whose set is one wrong label."""
    rng = np.random.default_rng(n + levels)
    missed = alone = 0
    for _ in range(DRAWS):
        strange, right = queries(rng, n + 1, levels)
        found = decide(strange[:-1], right[:-1], strange[-1])
        miss = not found[right[-1]]
        missed += miss
        alone += bool(miss and found.sum() == 1)
    return missed, alone


def test_sets_hold_the_right_label_as_often_as_promised() -> None:
    """Over calibration draws of 30 queries misses stay below alpha; the quantile without +1 exceeds it."""
    missed, alone = misses(rule, 30, 0)
    assert holds("set misses", missed, DRAWS, ALPHA)
    assert holds("alone and wrong", alone, DRAWS, ALPHA)
    assert not holds("quantile without +1", misses(without_plus_one, 30, 0)[0], DRAWS, ALPHA)


def test_ties_fall_on_one_side() -> None:
    """Five levels of score: the rule holds, the strict p-value does not (P13)."""
    assert holds("five levels", misses(rule, 60, 4)[0], DRAWS, ALPHA)
    assert not holds("ties split", misses(ties_split, 60, 4)[0], DRAWS, ALPHA)


def test_calibrating_on_training_queries_is_caught() -> None:
    """A model that remembers its training queries looks certain on them, and misses on all others."""
    rng = np.random.default_rng(3)
    known, labels = rng.standard_normal((200, 6)), rng.integers(0, 4, 200)

    def strange(points: Float) -> Float:
        near = ((points[:, None, :] - known) ** 2).sum(axis=-1).argmin(axis=1)
        return np.where(np.arange(4) == labels[near][:, None], 0.03, 0.99)

    def missed(calib: Float, right: NDArray[np.intp]) -> int:
        fresh, truth = rng.standard_normal((500, 6)), rng.integers(0, 4, 500)
        return int((~rule(calib, right, strange(fresh))[np.arange(500), truth]).sum())

    apart = rng.standard_normal((200, 6))
    assert holds("apart", missed(strange(apart), rng.integers(0, 4, 200)), 500, ALPHA)
    assert not holds("on training queries", missed(strange(known), labels), 500, ALPHA)


def test_promise_per_label_survives_another_mixture() -> None:
    """Queries of the rare hard label alone: one list of scores per label holds, one for all does not."""
    rng = np.random.default_rng(5)
    draws, n, hard = 4000, 300, 0.25

    def draw(label: NDArray[np.intp]) -> Float:
        own = np.where(label == 1, rng.beta(4, 2, len(label)), rng.beta(1, 6, len(label)))
        return np.column_stack((np.where(label == 0, own, 1 - own), np.where(label == 1, own, 1 - own)))

    missed = {True: 0, False: 0}
    for _ in range(draws):
        label = (rng.random(n) < hard).astype(np.intp)
        calib, test = draw(label), draw(np.ones(1, dtype=np.intp))[0]
        for per_label in missed:
            missed[per_label] += not LabelSets.of(calib, label, ALPHA, per_label=per_label).members(test)[1]
    assert holds("per label", missed[True], draws, ALPHA)
    assert not holds("one list for all", missed[False], draws, ALPHA)


def test_taken_claim_holds_per_deployment() -> None:
    """P(true risk of what is taken > alpha) <= delta over calibration draws; a plug-in threshold fails (P7)."""
    rng, draws, n = np.random.default_rng(7), 1000, 500
    path = 1.0 - REFERENCE.path(50)

    def plug_in(probability: Float, right: NDArray[np.bool_]) -> float:
        fine = [step for step in path if (~right & (probability >= step)).mean() <= ALPHA]
        return float(min(fine))

    violated = mutant = took = 0
    for _ in range(draws):
        u, bad = REFERENCE.draw(rng, n)
        claim = TakenClaim.of(path, 1.0 - u, ~bad, ALPHA, DELTA)
        took += claim.threshold is not None
        violated += claim.threshold is not None and float(REFERENCE.joint_risk(1.0 - claim.threshold)) > ALPHA
        mutant += float(REFERENCE.joint_risk(1.0 - plug_in(1.0 - u, ~bad))) > ALPHA
    assert took > draws * 0.9
    assert holds("taken", violated, draws, DELTA)
    assert not holds("plug-in threshold", mutant, draws, DELTA)
