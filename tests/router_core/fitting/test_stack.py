"""Training of the stack: weights come from unseen predictions, and no row votes for itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from bundles import PORTFOLIO, TIERS, small_records
from numpy.typing import NDArray
from stacks import RuleTrainer, parrot

from router_core.bundle import Bundle
from router_core.encoder import Encoder, Examples, load_encoder
from router_core.errors import InputError
from router_core.fitting.baselines import Lesson, fit_neighbours, neighbours_held_out
from router_core.fitting.fit_bundle import FitSettings, fit
from router_core.fitting.ridge import linear_stack, stack
from router_core.fitting.stack import StackTrainer
from router_core.fitting.static import StaticTrainer
from router_core.router import Router
from router_core.stack_encoder import StackEncoder, log_odds, vote_odds


def coin_examples(n: int, copies: int = 1, seed: int = 0) -> Examples:
    """Texts that say nothing of their outcome, each of them `copies` times with the same outcome."""
    passed = np.repeat(np.random.default_rng(seed).integers(0, 2, n // copies), copies).astype(float)
    text = [f"item {i // copies}" + "!" * (i % copies) for i in range(n)]
    quality = np.column_stack((passed, np.ones(n)))
    return Examples(text, ["t"] * n, [""] * n, quality, np.ones_like(quality), 0.0, ("small", "large"))


def hinted(examples: Examples) -> Examples:
    """The same examples with a word that gives the outcome away four times out of five."""
    rng = np.random.default_rng(9)
    shown = np.where(rng.random(len(examples)) < 0.8, examples.quality[:, 0], 1 - examples.quality[:, 0])
    text = [f"{one} {'easy' if hint else 'hard'}" for one, hint in zip(examples.text, shown, strict=True)]
    return Examples(text, examples.task, examples.subtask, examples.quality, examples.cost, 0.0, examples.tiers)


def by_word(_: Examples) -> Callable[[str], float]:
    """The rule that reads the hint."""
    return lambda text: 0.8 if "easy" in text else 0.2


def test_the_useful_base_gets_the_weight_and_the_useless_one_none() -> None:
    """A rule that reads the hint keeps weight 1 and its calibration; one that says the opposite gets 0."""
    examples = hinted(coin_examples(600))
    wrong = RuleTrainer("wrong", lambda _: lambda text: 0.2 if "easy" in text else 0.8)
    made = StackTrainer([wrong, RuleTrainer("right", by_word)], neighbours=False).train(examples, seed=0)
    assert made.weights.pass_weight[0, 0, 0] == 0.0
    assert made.weights.pass_weight[0, 0, 1] == pytest.approx(1.0, abs=0.2)
    found = made.predict("item 3 easy", "t", None)
    assert found.pass_probability[0] == pytest.approx(0.8, abs=0.05)
    assert found.pass_probability[1] == 1.0
    assert found.difficulty == pytest.approx(0.2, abs=0.05)
    assert found.gap[0] == pytest.approx(0.2, abs=0.05)
    assert made.predict("item 3 hard", None, None).gap[0] == pytest.approx(0.8, abs=0.05)


def weight_of_parrot(examples: Examples, odds: Callable[[StackTrainer], NDArray[np.float64]]) -> float:
    """Weight that predictions of a base that only repeats what it was told would get."""
    trainer = StackTrainer([RuleTrainer("parrot", parrot)], neighbours=False)
    weights, _ = stack(odds(trainer), examples.passes()[:, 0].astype(float), trainer.strength)
    return float(weights[0])


def test_a_base_is_weighed_by_what_it_says_of_unseen_queries() -> None:
    """A base that learns by heart gets weight 0; weighed on what it was fitted on (the mutant) it would get much."""
    examples = coin_examples(400)
    made = StackTrainer([RuleTrainer("parrot", parrot)], neighbours=False).train(examples, seed=0)
    assert made.weights.pass_weight[0, 0, 0] == 0.0

    def in_sample(trainer: StackTrainer) -> NDArray[np.float64]:
        base = trainer.trainers[0].train(examples, seed=0)
        return log_odds(np.array([[base.predict(text, None, None).pass_probability[0]] for text in examples.text]))

    assert weight_of_parrot(examples, in_sample) > 0.5


@pytest.mark.parametrize("named", [False, True])
def test_queries_of_one_group_share_a_fold(named: bool) -> None:
    """Copies of a text, and texts that the caller calls one group, are never on both sides of a fold."""
    examples = coin_examples(200, copies=4)
    if named:
        group = [f"g{i // 4}" for i in range(200)]
        text = [f"quite different words {i}" for i in range(200)]
        examples = Examples(
            text, examples.task, examples.subtask, examples.quality, examples.cost, 0.0, examples.tiers, group
        )
    base = RuleTrainer("parrot", parrot)
    StackTrainer([base], neighbours=False).train(examples, seed=0)
    group_of = dict(zip(examples.text, examples.groups().tolist(), strict=True))
    for part in base.trained[:-1]:
        inside = {group_of[text] for text in part.text}
        outside = {group_of[text] for text in set(examples.text) - set(part.text)}
        assert outside
        assert not inside & outside
    assert len(base.trained[-1]) == len(examples)


def test_a_row_and_its_copies_do_not_vote_for_it() -> None:
    """Where only copies know the outcome, votes say nothing; where copies may vote (the mutant), they seem to know."""
    examples = coin_examples(1200, copies=12)
    encoder = RuleTrainer("parrot", parrot).train(examples, seed=0)
    hidden = np.stack([encoder.embed(text.rstrip("!")) for text in examples.text])
    passed = examples.passes()[:, 0].astype(float)

    def likeness(group: NDArray[np.intp]) -> float:
        lesson = Lesson(hidden, examples.passes()[:, :-1].astype(np.uint8), group, group, 0)
        near = fit_neighbours(lesson)
        return float(np.corrcoef(vote_odds(near, neighbours_held_out(near, lesson))[:, 0], passed)[0, 1])

    assert abs(likeness(examples.groups())) < 0.4
    assert likeness(np.arange(len(examples))) > 0.9


def test_the_vote_of_the_trained_stack_leaves_the_group_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer itself: copies bring the vote no weight; a trainer that forgets the groups (the mutant) trusts it."""
    examples = coin_examples(1200, copies=12)

    class Blind(RuleTrainer):
        def train(self, examples: Examples, *, seed: int) -> Encoder:
            made = super().train(examples, seed=seed)
            embed = made.embed
            made.embed = lambda text: embed(text.rstrip("!"))  # type: ignore[method-assign]
            return made

    def vote_weight() -> float:
        made = StackTrainer([Blind("half", lambda _: lambda _: 0.5)]).train(examples, seed=0)
        return float(made.weights.pass_weight[0, 0, 1])

    assert vote_weight() < 0.4
    monkeypatch.setattr(Examples, "groups", lambda self: np.arange(len(self)))
    assert vote_weight() > 0.9


def test_same_input_gives_the_same_bytes_and_the_parts_give_the_encoder_back() -> None:
    """Two trainings agree byte for byte, and the loaded stack predicts as the fitted one, at every level of masking."""
    rng = np.random.default_rng(0)
    n = 90
    text = [f"{('prove', 'name')[i % 2]} the item {i % 40}" for i in range(n)]
    quality = np.column_stack(((rng.random(n) < 0.3 + 0.4 * (np.arange(n) % 2)), rng.random(n) < 0.7, np.ones(n)))
    task = [("sums", "letters")[i % 3 == 0] for i in range(n)]
    subtask = [("short", "long")[i % 5 == 0] for i in range(n)]
    examples = Examples(text, task, subtask, quality.astype(float), np.ones((n, 3)), 0.0, TIERS)
    trainer = StackTrainer([StaticTrainer(), StaticTrainer(bandwidth=0.8)])
    made = trainer.train(examples, seed=1)
    assert isinstance(made, Encoder)
    assert made.parts() == trainer.train(examples, seed=1).parts()
    served = load_encoder(made.parts())
    assert isinstance(served, StackEncoder)
    assert served.parts() == made.parts()
    for label in ((None, None), ("sums", None), ("sums", "long"), ("never", "seen")):
        one, two = made.predict("prove the item 77", *label), served.predict("prove the item 77", *label)
        assert np.array_equal(one.pass_probability, two.pass_probability)
        assert np.array_equal(one.gap, two.gap)
        assert np.array_equal(one.hidden, made.embed("prove the item 77"))
        assert one.difficulty == two.difficulty
    assert not np.array_equal(made.weights.pass_weight[0], made.weights.pass_weight[-1])


def test_a_stack_is_fitted_served_and_routed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`fit` with this trainer writes a bundle that loads and routes."""
    folder = tmp_path_factory.mktemp("stack") / "b"
    records = small_records()
    silent = records.take(range(len(records)))
    silent.response[:] = [[None] * len(TIERS) for _ in range(len(records))]
    trainer = StackTrainer([StaticTrainer(), StaticTrainer(bandwidth=0.8)])
    fit(silent, out=folder, portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1), trainers=[trainer])
    assert Bundle.load(folder).report["encoder"] == "stack"
    assert Router.load(folder).decide(records.prompt[0], task="mood").tier in TIERS


def test_too_few_different_queries_are_an_input_error() -> None:
    """Many copies of a few texts are as few as these texts."""
    with pytest.raises(InputError, match="at least 6 different train queries, not 5"):
        StackTrainer([RuleTrainer("right", by_word)]).train(coin_examples(20, copies=4), seed=0)


def test_linear_stack_drops_columns_that_point_the_wrong_way() -> None:
    """As `stack`: no weight is negative, a useful column keeps its own, a constant one gets none."""
    good = np.random.default_rng(0).standard_normal(500)
    weights, offset = linear_stack(np.column_stack((good, -good, np.ones(500))), 0.5 * good + 2.0, 1e-6)
    assert weights.tolist() == [pytest.approx(0.5), 0.0, 0.0]
    assert offset == pytest.approx(2.0)


def test_the_last_base_is_the_faster_unless_the_slower_saves() -> None:
    """By the costs of those fitted alone; one that could not be fitted does not join, and none leaves the default."""
    first, fast, slow = (RuleTrainer(name, by_word) for name in ("first", "fast", "slow"))
    trainer = StackTrainer([first], one_of=[fast, slow], folds=4)
    assert trainer.trainers == (first, fast)
    assert trainer.settled({"fast": 0.50, "slow": 0.496}, 0.01).trainers == (first, fast)
    better = trainer.settled({"fast": 0.50, "slow": 0.49}, 0.01)
    assert better.trainers == (first, slow)
    assert better.folds == 4
    assert better.name == "stack of first and slow"
    assert trainer.settled({"slow": 0.9}, 0.01).trainers == (first, slow)
    assert trainer.settled({}, 0.01) is trainer
