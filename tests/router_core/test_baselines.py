"""The rivals: each behaves as its name says, sees no row of its own, and comes back from storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router_core.baselines import Clusters, Factors, Neighbours, Rival, unit
from router_core.fitting import baselines
from router_core.fitting.baselines import (
    Lesson,
    Tuning,
    clusters_held_out,
    factors_held_out,
    fit_clusters,
    fit_factors,
    fit_isotonic,
    fit_neighbours,
    neighbours_held_out,
)
from router_core.fitting.rivals import RIVALS, Baselines, fit_rivals

VECTORS: dict[str, tuple[Callable[[Lesson], Any], Callable[[Any, Lesson], np.ndarray]]] = {
    "knn": (fit_neighbours, neighbours_held_out),
    "mf": (fit_factors, factors_held_out),
    "cluster": (fit_clusters, clusters_held_out),
}


def _lesson(hidden: np.ndarray, bad: np.ndarray, group: np.ndarray | None = None) -> Lesson:
    group = np.arange(len(hidden)) if group is None else group
    return Lesson(hidden, (1 - bad).astype(np.uint8), group, group % 5, 0)


def _two_clouds(n: int = 160) -> Lesson:
    """Queries near two directions; the first tier fails near the second, the second tier near the first."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, n)
    hidden = np.eye(4)[side] + rng.normal(0, 0.1, (n, 4))
    return _lesson(hidden, np.stack([side, 1 - side], axis=1))


def _noise(n: int = 300, copies: int = 1) -> Lesson:
    """Outcomes that the vectors say nothing about; a group is several copies of one query with one outcome."""
    rng = np.random.default_rng(3)
    hidden = np.repeat(rng.normal(size=(n // copies, 24)), copies, axis=0)
    bad = np.repeat(rng.integers(0, 2, (n // copies, 2)), copies, axis=0)
    return _lesson(hidden, bad, np.repeat(np.arange(n // copies), copies))


def _tuning(lesson: Lesson, *, held_out: bool = True) -> Tuning:
    risk = np.random.default_rng(5).random(lesson.passed.shape)
    return Tuning(None if held_out else lesson.hidden, {"named": risk, "masked": risk**2}, lesson.passed)


def _self_knowledge(risk: np.ndarray, lesson: Lesson) -> float:
    """Correlation of scores with the outcomes of the very rows, which for honest scores on noise is at most luck."""
    if np.ptp(risk) == 0.0:
        return 0.0
    return float(np.corrcoef(risk.ravel(), 1.0 - lesson.passed.ravel())[0, 1])


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rivals that follow single rows: cross-validation on noise would smooth away what a leak would show."""
    settings = {"_NEIGHBOURS": (10,), "_CLUSTERS": (64,), "_SHARPNESS": (64.0,), "_RIDGES": (3.0,)}
    for name, value in settings.items():
        monkeypatch.setattr(f"router_core.fitting.baselines.{name}", value)


@pytest.mark.parametrize("name", VECTORS)
def test_it_finds_the_clouds(name: str) -> None:
    """Risk is low where a tier passed and high where it failed, for each tier its own, and within [0, 1]."""
    model = VECTORS[name][0](_two_clouds())
    risk = model.risk(np.eye(4)[:2])
    assert (risk.diagonal() < 0.15).all()
    assert (risk[::-1].diagonal() > 0.85).all()
    wild = np.random.default_rng(1).normal(size=(200, 4)) * 50
    for hidden in (wild, np.zeros((1, 4))):
        found = model.risk(hidden)
        assert ((found >= 0.0) & (found <= 1.0)).all()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("copies", [1, 5])
def test_held_out_scores_know_nothing_of_their_own_row(name: str, copies: int) -> None:
    """On noise the held-out score is unrelated to the row's outcome, also when its group repeats the row."""
    fit, held_out = VECTORS[name]
    lesson = _noise(copies=copies)
    model = fit(lesson)
    # 600 outcomes in groups of five are 120 draws: four standard deviations are .37, and of 600 draws .16.
    assert _self_knowledge(held_out(model, lesson), lesson) < (0.16 if copies == 1 else 0.37)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", VECTORS)
def test_a_rival_that_sees_its_own_row_is_too_good(name: str) -> None:
    """Mutant of the check above: scored by the model that its group voted in, a row knows its own outcome."""
    fit, _ = VECTORS[name]
    lesson = _noise(copies=5)
    assert _self_knowledge(fit(lesson).risk(lesson.hidden), lesson) > 0.37


@pytest.mark.usefixtures("eager")
def test_folds_that_part_a_group_leak() -> None:
    """Mutant: with copies of a row in other folds the held-out score of the factors and clusters knows the outcome."""
    lesson = _noise(copies=5)
    parted = replace(lesson, fold=np.arange(len(lesson.fold)) % 5)
    for name in ("mf", "cluster"):
        fit, held_out = VECTORS[name]
        assert _self_knowledge(held_out(fit(parted), parted), parted) > 0.37


@pytest.mark.usefixtures("eager")
def test_paths_are_laid_on_held_out_scores() -> None:
    """Without tune the registry gives held-out scores in the order of the rows; with tune the models' own."""
    lesson = _noise(copies=5)
    models, scores = fit_rivals(lesson, _tuning(lesson))
    seen, own = fit_rivals(lesson, _tuning(lesson, held_out=False))
    assert models.parts() == seen.parts()
    for name in VECTORS:
        assert _self_knowledge(scores[name]["named"], lesson) < 0.37
        assert _self_knowledge(own[name]["named"], lesson) > 0.37


def test_the_order_of_train_rows_decides_nothing() -> None:
    """Permuted rows give the same stored bytes and the same scores."""
    lesson = _two_clouds()
    tuning = _tuning(lesson)
    order = np.random.default_rng(9).permutation(len(lesson.hidden))
    moved = Tuning(None, {k: v[order] for k, v in tuning.risk.items()}, tuning.passed[order])
    one, scores = fit_rivals(lesson, tuning)
    other, again = fit_rivals(lesson.take(order), moved)
    assert one.parts() == other.parts()
    for name in RIVALS:
        np.testing.assert_allclose(again[name]["named"], scores[name]["named"][order], atol=1e-9)


@pytest.mark.parametrize("name", VECTORS)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    """Bit for bit: what is certified in one batch is what is evaluated in another."""
    lesson = _two_clouds()
    model = VECTORS[name][0](lesson)
    whole = model.risk(lesson.hidden)
    for row in (0, 7, 100):
        np.testing.assert_array_equal(model.risk(lesson.hidden[row : row + 1])[0], whole[row])


def test_held_out_scores_lie_on_the_scale_that_is_served() -> None:
    """A threshold at a quantile of the held-out scores lets as many pass of the served ones, also between two folds.

    The mutant, raw scores of folds whose pass rates differ, has steps at which the served score has none.
    """
    rng = np.random.default_rng(4)
    n = 400
    side = rng.integers(0, 2, n)
    hidden = np.eye(3)[side] + rng.normal(0, 0.05, (n, 3))
    lesson = _lesson(hidden, (rng.random((n, 1)) < np.where(side, 0.6, 0.2)[:, None]).astype(int))
    centres = np.eye(3, dtype=np.float32)[:2]
    model = Clusters(centres, baselines._rates(centres, lesson), 64.0)
    raw = baselines._out_of_fold(lesson, baselines._refit_clusters(model))
    served, shares = model.risk(hidden), np.linspace(0.05, 0.95, 19)
    gaps = {
        name: np.abs([np.mean(served <= np.quantile(risk, share)) - share for share in shares]).max()
        for name, risk in {"scaled": clusters_held_out(model, lesson), "raw": raw}.items()
    }
    assert gaps["scaled"] < 0.1 < gaps["raw"]


def test_own_group_does_not_vote() -> None:
    """Leave-group-out: a row whose group is everything alike cannot vote for itself."""
    hidden = np.repeat(np.eye(2), 20, axis=0)
    lesson = _lesson(hidden, np.repeat([0, 1], 20)[:, None], np.repeat([0, 1], 20))
    model = Neighbours(np.stack([unit(v) for v in hidden]), lesson.passed, 10)
    assert model.risk(hidden[:1])[0, 0] < 0.05
    assert neighbours_held_out(model, lesson)[0, 0] > 0.95


def test_ties_are_broken_by_distance() -> None:
    """Queries of one cluster, and of as many passing neighbours, still have an order: the nearer is the safer."""
    centres = np.eye(2, dtype=np.float32)
    clusters = Clusters(centres, np.array([[0.9], [0.1]]), 16.0)
    near, far = clusters.risk(np.array([[1.0, 0.0], [0.9, 0.5]]))[:, 0]
    assert near < far < near + 5e-3
    voters = Neighbours(np.tile(centres[:1], (10, 1)), np.ones((10, 1), np.uint8), 10)
    near, far = voters.risk(np.array([[1.0, 0.0], [0.9, 0.5]]))[:, 0]
    assert near < far < near + 2e-3


def test_clusters_vote_by_likeness() -> None:
    """A cluster's weight is the exponential of its cosine; very sharp, the nearest decides but for ties."""
    hidden = np.array([[3.0, 1.0]])
    rate, cosines = np.array([[1.0], [0.0]]), np.array([3.0, 1.0]) / np.sqrt(10.0)
    even, sharp = (Clusters(np.eye(2, dtype=np.float32), rate, s).risk(hidden)[0, 0] for s in (2.0, 1e3))
    assert even == pytest.approx(1.0 / (1.0 + np.exp(2.0 * (cosines[0] - cosines[1]))), abs=1e-3)
    assert sharp < 1e-3


def test_factors_share_what_tiers_have_in_common() -> None:
    """Tiers that fail on the same queries are one factor, and beat the base rate on fresh queries."""
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(1_200, 8))
    hard = 1.0 / (1.0 + np.exp(-6.0 * hidden[:, :1] / np.linalg.norm(hidden, axis=1, keepdims=True)))
    bad = (rng.random((1_200, 4)) < np.repeat(hard, 4, axis=1)).astype(np.uint8)
    model = fit_factors(_lesson(hidden[:800], bad[:800]))
    assert model.tiers.shape[1] == 1
    fresh = model.risk(hidden[800:])
    assert np.mean((fresh - bad[800:]) ** 2) < 0.9 * np.mean((bad[:800].mean(axis=0) - bad[800:]) ** 2)


def test_a_tier_that_always_passes_stays_finite() -> None:
    """One outcome alone gives a score near it, never an infinite bias or a warning."""
    lesson = replace(_two_clouds(), passed=np.ones((160, 2), np.uint8))
    for fit, held_out in VECTORS.values():
        model = fit(lesson)
        assert (model.risk(lesson.hidden) < 0.02).all()
        assert (held_out(model, lesson) < 0.02).all()


def test_isotonic_is_monotone_and_calibrated() -> None:
    """The map never falls with the risk, and its mean is the share of bad answers."""
    rng = np.random.default_rng(1)
    risk = rng.random((500, 1))
    passed = (rng.random((500, 1)) >= risk**2).astype(np.uint8)
    model = fit_isotonic(Tuning(None, {"named": risk}, passed))
    mapped = model.risk(risk, np.sort(risk, axis=0), "named")[:, 0]
    assert (np.diff(mapped) >= 0).all()
    assert model.risk(risk, risk, "named").mean() == pytest.approx(1 - passed.mean(), abs=5e-3)


def test_round_trip() -> None:
    """Stored rivals score bit for bit as the fitted ones."""
    lesson = _two_clouds()
    fitted, _ = fit_rivals(lesson, _tuning(lesson))
    again = Baselines.from_parts(fitted.parts())
    assert again.parts() == fitted.parts()
    assert set(again.models) == set(RIVALS)
    risk = np.random.default_rng(0).random((20, 2))
    for name, model in fitted.models.items():
        stored: Rival = again.models[name]
        for view in ("named", "masked"):
            np.testing.assert_array_equal(
                stored.risk(lesson.hidden[:20], risk, view), model.risk(lesson.hidden[:20], risk, view)
            )


def test_parts_without_rivals() -> None:
    """A bundle may store none, or some of them, or one that is not known here."""
    lesson = _two_clouds()
    fitted, _ = fit_rivals(lesson, _tuning(lesson))
    assert Baselines.from_parts({}).models == {}
    some = Baselines({"knn": fitted.models["knn"], "later": Factors(*(np.ones((1, 1), np.float32),) * 3, 1.0)})
    found = Baselines.from_parts(some.parts())
    assert set(found.models) == {"knn"}
    assert "coin" in found
    assert "mf" not in found
