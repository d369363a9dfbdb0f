"""Training of the static encoder: deterministic, calibrated at every level of masking, sane on small data."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from router_core.encoder import Examples
from router_core.errors import InputError
from router_core.fitting.ridge import smooth_ridge, sparse_ridge, stack
from router_core.fitting.static import StaticTrainer

TIERS = ("small", "large")


def make_examples(n: int, seed: int, *, signal: float = 1.0) -> tuple[Examples, NDArray[np.float64]]:
    """Two tasks, three subtasks each; returns examples and the true pass probability of the small tier.

    The small tier fails where the text says "prove" and in odd subtasks; the large tier is always right.
    """
    rng = np.random.default_rng(seed)
    text, task, subtask, truth = [], [], [], []
    for _ in range(n):
        t, s, hard = int(rng.integers(2)), int(rng.integers(3)), bool(rng.integers(2))
        filler = " ".join(f"w{rng.integers(60)}" for _ in range(6))
        text.append(f"{'prove' if hard else 'state'} {filler}")
        task.append(f"task{t}")
        subtask.append(f"sub{s}")
        truth.append(0.85 - signal * (0.35 * hard + 0.25 * (s == 1)))
    chance = np.array(truth)
    quality = np.column_stack((rng.random(n) < chance, np.ones(n))).astype(float)
    return Examples(text, task, subtask, quality, np.ones_like(quality), 0.0, TIERS), chance


def log_loss(chance: NDArray[np.float64], passed: NDArray[np.bool_]) -> float:
    """Mean negative log-likelihood."""
    return float(-np.where(passed, np.log(chance), np.log1p(-chance)).mean())


def predictions(trainer: StaticTrainer, train: Examples, test: Examples, level: int) -> NDArray[np.float64]:
    """Pass probability of the small tier with nothing (0), the task (1) or the subtask (2) named."""
    encoder = trainer.train(train, seed=0)
    out = []
    for text, task, subtask in zip(test.text, test.task, test.subtask, strict=True):
        found = encoder.predict(text, task if level > 0 else None, subtask if level > 1 else None)
        out.append(found.pass_probability[0])
    return np.array(out)


def test_same_input_gives_the_same_bytes() -> None:
    """Parts are byte-identical for the same examples and seed, and differ for another seed."""
    some, _ = make_examples(150, 1)
    first = StaticTrainer().train(some, seed=5).parts()
    assert first == StaticTrainer().train(some, seed=5).parts()
    assert first != StaticTrainer().train(some, seed=6).parts()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_of_masking_learns_and_is_calibrated(level: int) -> None:
    """Half of the log-loss that can be saved is saved; in every fifth, mean prediction is mean outcome."""
    train, _ = make_examples(2000, 2)
    test, truth = make_examples(1500, 3)
    found = predictions(StaticTrainer(), train, test, level)
    passed = test.passes()[:, 0]
    constant = np.full(len(test), train.passes()[:, 0].mean())
    third = (np.array(test.subtask) == "sub1") * 0.25
    best = truth if level == 2 else truth + third - third.mean()
    possible = log_loss(constant, passed) - log_loss(best, passed)
    assert log_loss(constant, passed) - log_loss(found, passed) > 0.5 * possible
    for block in np.array_split(np.argsort(found), 5):
        assert abs(found[block].mean() - passed[block].mean()) < 0.1


def test_naming_the_subtask_helps_and_is_what_the_stack_uses() -> None:
    """Naming improves the log-loss; shuffled subtask names (the mutant) do not."""
    train, _ = make_examples(2000, 4)
    test, _ = make_examples(1500, 5)
    passed = test.passes()[:, 0]
    masked = log_loss(predictions(StaticTrainer(), train, test, 0), passed)
    named = log_loss(predictions(StaticTrainer(), train, test, 2), passed)
    assert named < masked - 0.01
    rng = np.random.default_rng(0)
    shuffled = Examples(
        train.text, train.task, list(rng.permutation(train.subtask)), train.quality, train.cost, 0.0, TIERS
    )
    assert not log_loss(predictions(StaticTrainer(), shuffled, test, 2), passed) < masked - 0.01


def test_no_signal_falls_back_to_the_base_rate() -> None:
    """On 250 queries without signal the log-loss stays within 3 % of the constant's (no overfitting)."""
    train, _ = make_examples(250, 6, signal=0.0)
    test, _ = make_examples(1500, 7, signal=0.0)
    passed = test.passes()[:, 0]
    constant = np.full(len(test), train.passes()[:, 0].mean())
    for level in range(3):
        found = predictions(StaticTrainer(), train, test, level)
        assert log_loss(found, passed) < 1.03 * log_loss(constant, passed)


def test_order_follows_the_truth() -> None:
    """Named predictions rank queries like the true probability, which the trainer never sees."""
    train, _ = make_examples(2000, 8)
    test, truth = make_examples(800, 9)
    found = predictions(StaticTrainer(), train, test, 2)
    assert np.corrcoef(found, truth)[0, 1] > 0.8


@pytest.mark.parametrize("case", ["always", "never", "empty", "equal", "one", "many"])
def test_degenerate_data_trains_and_predicts(case: str) -> None:
    """A tier that always or never passes, empty or equal texts, ten queries, five tiers."""
    n = 10 if case == "one" else 60
    rng = np.random.default_rng(0)
    text = {"empty": [""] * n, "equal": ["the same prompt"] * n}.get(case, [f"query {i % 9} {i}" for i in range(n)])
    tiers = ("a", "b", "c", "d", "e") if case == "many" else ("a", "b")
    quality = rng.random((n, len(tiers))).round(1)
    if case == "always":
        quality[:, 0] = 1.0
    if case == "never":
        quality[:, 0], quality[:, -1] = 0.0, 1.0
    some = Examples(text, ["t"] * n, [""] * n, quality, np.ones_like(quality), 0.0, tiers)
    found = StaticTrainer().train(some, seed=0).predict("query 3 other", "t", None)
    assert ((found.pass_probability > 0) & (found.pass_probability <= 1)).all()
    if case == "always":
        assert found.pass_probability[0] > 0.95
        assert found.difficulty < 0.05
    if case == "never":
        assert found.pass_probability[0] < 0.05
        assert found.difficulty > 0.95


def test_two_tiers_have_difficulty_one_minus_pass_probability() -> None:
    """With one cheap tier both say the same, which ties the two outputs together."""
    train, _ = make_examples(400, 10)
    encoder = StaticTrainer().train(train, seed=0)
    for text in train.text[:20]:
        found = encoder.predict(text, "task0", "sub1")
        assert found.difficulty == pytest.approx(1.0 - found.pass_probability[0], abs=1e-6)


def test_too_few_queries_and_missing_quality_are_input_errors() -> None:
    """Both are refused with one sentence."""
    some, _ = make_examples(30, 11)
    with pytest.raises(InputError, match="at least 10"):
        StaticTrainer().train(some.take(range(9)), seed=0)
    some.quality[3, 0] = np.nan
    with pytest.raises(InputError, match="without quality"):
        StaticTrainer().train(some, seed=0)


def test_sparse_ridge_solves_the_normal_equations() -> None:
    """Conjugate gradients agree with the closed form."""
    from scipy.sparse import random as random_sparse

    matrix = random_sparse(60, 90, density=0.1, random_state=0, format="csr")
    target = np.random.default_rng(0).standard_normal((60, 3))
    dense = matrix.toarray()
    expected = np.linalg.solve(dense.T @ dense + 2.0 * np.eye(90), dense.T @ target)
    assert np.allclose(sparse_ridge(matrix, target, 2.0, iterations=200), expected, atol=1e-3)


def test_smooth_scores_are_out_of_fold() -> None:
    """A fold's own outcomes do not move its scores; in-fold scores (the mutant) would."""
    rng = np.random.default_rng(0)
    design, target, fold = rng.standard_normal((50, 8)), rng.standard_normal((50, 1)), np.arange(50) % 5
    weights, (before,) = smooth_ridge([design], target - target.mean(), fold, 1.0)
    moved = target.copy()
    moved[fold == 2] = rng.permutation(moved[fold == 2])
    mutant, (after,) = smooth_ridge([design], moved - moved.mean(), fold, 1.0)
    assert np.allclose(before[fold == 2], after[fold == 2])
    assert not np.allclose((design @ weights)[fold == 2], (design @ mutant)[fold == 2])


def test_stack_drops_columns_that_point_the_wrong_way() -> None:
    """Weights are never negative, and a useful column keeps its weight."""
    rng = np.random.default_rng(0)
    good = rng.standard_normal(3000)
    target = (rng.random(3000) < 1.0 / (1.0 + np.exp(-good))).astype(float)
    weights, intercept = stack(np.column_stack((good, -good)), target, 1.0)
    assert weights[1] == 0.0
    assert weights[0] == pytest.approx(1.0, abs=0.15)
    assert intercept == pytest.approx(0.0, abs=0.15)
