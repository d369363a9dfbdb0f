"""Losses of the heads (arXiv 2604.23577 as METHOD fixes it): tiers, pass probabilities, preferences.

Every loss returns one number per member and query, ``[e, b]``; the trainer weighs and averages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from exporters.transformer.heads import RawScores, expected_gap

__all__ = ["WITH_RECORDS", "LossWeights", "Targets", "total_loss"]


WITH_RECORDS = 0.5
"""Weight of the preference loss where preference records are given and none was chosen."""


@dataclass(frozen=True)
class LossWeights:
    """How much every loss counts; 0 switches it off.

    Defaults by cross-validation on the train rows of nine record files (``benchmarks/ablation/signals.py``): what does
    not lower the log loss of pass probabilities by more than its spread over the files is off. Qualities do; pairs made
    of grades and the tier loss do not.

    Attributes
    ----------
    passes
        Binary cross-entropy of the pass probability of every cheap tier.
    difficulty
        Binary cross-entropy of the difficulty in [0, 1].
    quality
        Binary cross-entropy of the quality of every tier.
    gap
        Squared error of the expected gap, the difference of two qualities.
    tier
        Cross-entropy of the cheapest passing tier, with `cost` and `hinge` beside it.
    cost
        Expected cost over the reference tier's mean cost, under the softmax of the tier logits.
    hinge
        Expected shortfall below the reference tier's quality less the tolerance, under the same softmax.
    preference
        Bradley-Terry on pairs of graded answers and on preference records; `WITH_RECORDS` where such records are given.
    """

    passes: float = 1.0
    difficulty: float = 0.3
    quality: float = 1.0
    gap: float = 0.0
    tier: float = 0.0
    cost: float = 0.3
    hinge: float = 0.5
    preference: float = 0.0


@dataclass(frozen=True)
class Targets:
    """What is known of a batch of queries.

    Attributes
    ----------
    passes
        ``[b, K]``, 0 or 1; 1 for the reference tier.
    quality, cost
        ``[b, K]``; cost in units of the reference tier's mean cost.
    shortfall
        ``[b, K]``: how far the tier lies below the floor (reference quality less tolerance), at least 0.
    beats
        ``[b, K, K]``: 1 where the row's tier is preferred to the column's, 1/2 where they tie, 0 else.
    known
        ``[b, K, K]``: weight of the comparison; 0 where none was made.
    graded
        ``[b]``: 1 for a query with qualities, 0 for a preference record.
    """

    passes: Tensor
    quality: Tensor
    cost: Tensor
    shortfall: Tensor
    beats: Tensor
    known: Tensor
    graded: Tensor

    def at(self, rows: Tensor) -> Targets:
        """The rows of a batch."""
        return Targets(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def total_loss(scores: RawScores, targets: Targets, weights: LossWeights) -> Tensor:
    """Weighted sum of the losses that are switched on, ``[e, b]``."""
    total = torch.zeros(scores.difficulty.shape)
    if weights.passes:
        total = total + weights.passes * _pass_loss(scores, targets)
    if weights.difficulty:
        total = total + weights.difficulty * _difficulty_loss(scores, targets)
    if weights.quality:
        total = total + weights.quality * _quality_loss(scores, targets)
    if weights.gap:
        total = total + weights.gap * _gap_loss(scores, targets)
    if weights.tier:
        total = total + weights.tier * _tier_loss(scores, targets, weights)
    total = total * targets.graded
    if weights.preference:
        total = total + weights.preference * _preference_loss(scores, targets)
    return total


def _pass_loss(scores: RawScores, targets: Targets) -> Tensor:
    target = targets.passes[:, :-1].expand_as(scores.passes)
    return functional.binary_cross_entropy_with_logits(scores.passes, target, reduction="none").mean(-1)


def _difficulty_loss(scores: RawScores, targets: Targets) -> Tensor:
    first = targets.passes.argmax(-1).to(scores.difficulty.dtype) / (targets.passes.shape[-1] - 1)
    return functional.binary_cross_entropy_with_logits(
        scores.difficulty, first.expand_as(scores.difficulty), reduction="none"
    )


def _quality_loss(scores: RawScores, targets: Targets) -> Tensor:
    target = targets.quality.expand_as(scores.quality)
    return functional.binary_cross_entropy_with_logits(scores.quality, target, reduction="none").mean(-1)


def _gap_loss(scores: RawScores, targets: Targets) -> Tensor:
    gap = targets.quality[:, -1:] - targets.quality[:, :-1]
    return (expected_gap(scores) - gap).square().mean(-1)


def _tier_loss(scores: RawScores, targets: Targets, weights: LossWeights) -> Tensor:
    members = scores.tier.shape[0]
    label = targets.passes.argmax(-1).expand(members, -1)
    entropy = functional.cross_entropy(scores.tier.flatten(0, 1), label.flatten(), reduction="none").view_as(label)
    share = scores.tier.softmax(-1)
    cost = (share * targets.cost).sum(-1)
    return entropy + weights.cost * cost + weights.hinge * (share * targets.shortfall).sum(-1)


def _preference_loss(scores: RawScores, targets: Targets) -> Tensor:
    margin = scores.preference[..., :, None] - scores.preference[..., None, :]
    loss = functional.binary_cross_entropy_with_logits(margin, targets.beats.expand_as(margin), reduction="none")
    return (loss * targets.known).sum((-1, -2)) / targets.known.sum((-1, -2)).clamp_min(1.0)
