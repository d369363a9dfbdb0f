"""Heads of the transformer router: label embeddings, a shared trunk, and what is told of every tier.

An ensemble of small networks on pooled features, trained side by side: member ``e`` never sees fold ``e``, which
stops it early and gives the out-of-fold scores that calibrate the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["HeadSizes", "Heads", "RawScores", "expected_gap", "output_size", "split_scores"]


@dataclass(frozen=True)
class HeadSizes:
    """Sizes of the heads.

    Attributes
    ----------
    features, tiers, tasks, subtasks
        Length of the pooled features; ``K``; rows of the two embedding tables, "unknown" (row 0) included.
    width
        Width of the trunk and of the label embeddings.
    members
        Networks in the ensemble.
    """

    features: int
    tiers: int
    tasks: int
    subtasks: int
    width: int
    members: int


@dataclass(frozen=True)
class RawScores:
    """What the heads say, per member ``e`` and query ``b``.

    Attributes
    ----------
    passes
        ``[e, b, K - 1]``: logit of the pass probability.
    quality
        ``[e, b, K]``: logit of the expected quality of every tier; the expected gap is a difference of two.
    difficulty
        ``[e, b]``: logit of the difficulty.
    tier
        ``[e, b, K]``: logits of the cheapest passing tier.
    preference
        ``[e, b, K]``: Bradley-Terry scores.
    """

    passes: Tensor
    quality: Tensor
    difficulty: Tensor
    tier: Tensor
    preference: Tensor


class Heads(nn.Module):
    """The ensemble.

    Parameters
    ----------
    sizes
        Its sizes.
    dropout
        Share of trunk units dropped in training.
    generator
        Source of the initial weights.
    """

    def __init__(self, sizes: HeadSizes, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        members, width = sizes.members, sizes.width
        self.sizes = sizes

        def normal(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * scale)

        outputs = output_size(sizes.tiers)
        self.enter = normal(members, sizes.features, width, scale=sizes.features**-0.5)
        self.enter_bias = nn.Parameter(torch.zeros(members, 1, width))
        self.task = normal(members, sizes.tasks, width, scale=0.1)
        self.subtask = normal(members, sizes.subtasks, width, scale=0.1)
        self.inner = normal(members, width, width, scale=0.5 * width**-0.5)
        self.inner_bias = nn.Parameter(torch.zeros(members, 1, width))
        self.leave = normal(members, width, outputs, scale=0.1 * width**-0.5)
        self.leave_bias = nn.Parameter(torch.zeros(members, 1, outputs))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, task: Tensor, subtask: Tensor) -> Tensor:
        """Score queries, ``[e, b, 4 K]`` (`split_scores` tells them apart).

        Parameters
        ----------
        features
            ``[b, F]``, standardised.
        task, subtask
            ``[b]`` rows of the embedding tables.
        """
        entered = torch.matmul(self.dropout(features), self.enter) + self.enter_bias
        named = self.task[:, task] + self.subtask[:, subtask]
        trunk = self.dropout(nn.functional.gelu(entered + named))
        trunk = trunk + self.dropout(nn.functional.gelu(torch.matmul(trunk, self.inner) + self.inner_bias))
        return torch.matmul(trunk, self.leave) + self.leave_bias


def output_size(tiers: int) -> int:
    """Number of scores of one query."""
    return 4 * tiers


def split_scores(out: Tensor, tiers: int) -> RawScores:
    """Tell the scores ``[..., 4 K]`` apart."""
    passes, quality, difficulty, tier, preference = torch.split(out, [tiers - 1, tiers, 1, tiers, tiers], dim=-1)
    return RawScores(passes, quality, difficulty[..., 0], tier, preference)


def expected_gap(scores: RawScores) -> Tensor:
    """Quality of the reference tier less that of every cheap tier, ``[..., K - 1]``."""
    quality = scores.quality.sigmoid()
    return quality[..., -1:] - quality[..., :-1]
