"""Training of the stacked encoder: predictions of every base on queries it has not seen, then a few weights.

1. Every base is fitted without each fold in turn and predicts it, at every level of masking; queries of one group
   share a fold.
2. The nearest train queries vote, those of the row's own group left out. Hidden vectors are made of text alone, so
   the final base's serve all folds.
3. Per level and tier a ridge logistic regression without negative weights: a base that adds nothing gets 0.
4. The bases are fitted again on everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router_core.baselines import Neighbours
from router_core.encoder import Encoder, EncoderTrainer, Examples
from router_core.errors import InputError
from router_core.fitting.baselines import Lesson, fit_neighbours, neighbours_held_out
from router_core.fitting.ridge import linear_stack, stack
from router_core.fitting.static import label_levels
from router_core.stack_encoder import StackEncoder, StackWeights, log_odds, vote_odds

__all__ = ["StackTrainer"]

Float = NDArray[np.float64]
Rows = NDArray[np.intp]
Labels = list[tuple[str, str]]


class StackTrainer:
    """Fits a `StackEncoder`; an `EncoderTrainer`.

    Parameters
    ----------
    trainers
        Of the bases, cheapest first; the last one's hidden vector is handed on.
    one_of
        Trainers of which one joins as the last base: the first of them, unless `settled` finds a better one.
    neighbours
        Let the nearest train queries vote.
    folds
        Folds of the out-of-fold predictions.
    strength
        Pseudo-observations that pull weights to zero.
    name
        Name in reports.
    """

    def __init__(
        self,
        trainers: Sequence[EncoderTrainer],
        *,
        one_of: Sequence[EncoderTrainer] = (),
        neighbours: bool = True,
        folds: int = 3,
        strength: float = 10.0,
        name: str = "stack",
    ) -> None:
        self.first, self.one_of = tuple(trainers), tuple(one_of)
        self.trainers = (*self.first, *self.one_of[:1])
        self.neighbours, self.folds, self.strength, self._name = neighbours, folds, strength, name

    @property
    def name(self) -> str:
        """``"stack"``, or as it was named."""
        return self._name

    def settled(self, costs: Mapping[str, float], saving: float) -> StackTrainer:
        """Settle on one of `one_of`, by the costs of those that were fitted alone: a later one must save more.

        Parameters
        ----------
        costs
            Expected cost by the name of a trainer; one that is not there does not join.
        saving
            Share of the cost that a later one, which is slower, must save to be taken.
        """
        known = [trainer for trainer in self.one_of if trainer.name in costs]
        if not known:
            return self
        best = known[0]
        for trainer in known[1:]:
            if costs[trainer.name] < (1.0 - saving) * costs[best.name]:
                best = trainer
        made = [*self.first, best]
        name = f"{self.name} of {' and '.join(trainer.name for trainer in made)}"
        return StackTrainer(made, neighbours=self.neighbours, folds=self.folds, strength=self.strength, name=name)

    def train(self, examples: Examples, *, seed: int) -> StackEncoder:
        """Fit bases and weights; the same examples and seed give the same parts.

        Raises
        ------
        InputError
            If there are too few different queries, or a base cannot be fitted.
        """
        group, least = examples.groups(), 2 * self.folds
        different = int(group.max(initial=-1)) + 1
        if different < least:
            raise InputError(f"The stacked encoder needs at least {least} different train queries, not {different}.")
        labels, levels = label_levels(examples)
        fold = (np.random.default_rng(seed).permutation(different) % self.folds)[group]
        scores = [_Scores.blank(len(examples), len(examples.tiers) - 1, len(self.trainers)) for _ in levels]
        for held in range(self.folds):
            train, mine = examples.take(np.flatnonzero(fold != held)), np.flatnonzero(fold == held)
            for number, trainer in enumerate(self.trainers):
                base = trainer.train(train, seed=seed)
                for rows, found in zip(levels, scores, strict=True):
                    found.read(base, number, examples, mine, rows, labels)
        bases = [trainer.train(examples, seed=seed) for trainer in self.trainers]
        near, votes = None, None
        if self.neighbours:
            near, votes = _votes(bases[-1], examples, group, seed)
        weights = StackWeights.blank(len(labels) + 1, len(examples.tiers) - 1, len(bases), voting=near is not None)
        for rows, found in zip(levels, scores, strict=True):
            _weigh(weights, np.unique(rows), found, votes, examples, self.strength)
        return StackEncoder(bases, len(bases) - 1, labels, weights, near)


class _Scores:
    """What ``B`` bases say of ``n`` queries that they have not seen, at one level of masking."""

    def __init__(self, odds: Float, gap: Float, difficulty: Float) -> None:
        self.odds, self.gap, self.difficulty = odds, gap, difficulty

    @classmethod
    def blank(cls, n: int, cheap: int, bases: int) -> _Scores:
        """Nothing yet: ``[n, K - 1, B]`` twice and ``[n, B]``."""
        return cls(np.zeros((n, cheap, bases)), np.zeros((n, cheap, bases)), np.zeros((n, bases)))

    def read(self, base: Encoder, number: int, examples: Examples, mine: Rows, rows: Rows, labels: Labels) -> None:
        """Fill in what one base says of some queries."""
        for i in mine.tolist():
            task, subtask = labels[rows[i] - 1] if rows[i] else (None, None)
            found = base.predict(examples.text[i], task, subtask or None)
            self.odds[i, :, number] = log_odds(found.pass_probability[:-1])
            self.gap[i, :, number] = found.gap[:-1]
            self.difficulty[i, number] = log_odds(np.array([found.difficulty]))[0]


def _votes(base: Encoder, examples: Examples, group: Rows, seed: int) -> tuple[Neighbours, Float]:
    """The voters, and the log odds ``[n, K - 1]`` of their votes on rows of other groups."""
    hidden = np.stack([base.embed(text) for text in examples.text])
    lesson = Lesson(hidden, examples.passes()[:, :-1].astype(np.uint8), group, group, seed)
    near = fit_neighbours(lesson)
    return near, vote_odds(near, neighbours_held_out(near, lesson))


def _weigh(
    weights: StackWeights, members: Rows, scores: _Scores, votes: Float | None, examples: Examples, strength: float
) -> None:
    """Fit the weights of one level of masking and write them to its label rows."""
    passes = examples.passes()[:, :-1].astype(np.float64)
    gap = examples.quality[:, -1:] - examples.quality[:, :-1]
    for tier in range(passes.shape[1]):
        columns = scores.odds[:, tier]
        if votes is not None:
            columns = np.column_stack((columns, votes[:, tier]))
        found, offset = stack(columns, passes[:, tier], strength)
        weights.pass_weight[members, tier], weights.pass_offset[members, tier] = found, offset
        bad = 0.5 - 0.5 * np.tanh(0.5 * (columns @ found + offset))
        found, offset = linear_stack(np.column_stack((scores.gap[:, tier], bad)), gap[:, tier], strength)
        weights.gap_weight[members, tier], weights.gap_offset[members, tier] = found, offset
    found, offset = stack(scores.difficulty, examples.difficulty(), strength)
    weights.difficulty_weight[members], weights.difficulty_offset[members] = found, offset
