"""From raw scores to calibrated outputs: a small stack per level of masking, fitted out of fold.

A score whose weight would be negative, or which adds nothing, gets weight 0: every loss must earn its place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.transformer.heads import expected_gap, split_scores
from exporters.transformer.labels import LabelTable, Rows
from router_core.fitting.ridge import linear_stack, stack

__all__ = ["SCORES", "Stack", "fit_stack", "pass_columns"]

Float = NDArray[np.float64]

SCORES = ("passes", "quality", "tier", "preference")
"""The scores of a cheap tier that the pass probability is made of."""


@dataclass(frozen=True)
class Stack:
    """Weights per label row.

    Attributes
    ----------
    pass_weight, pass_offset
        ``[L, K - 1, 4]`` and ``[L, K - 1]``: logit of the pass probability from the four `SCORES` of a tier.
    gap_weight, gap_offset
        ``[L, K - 1, 2]`` and ``[L, K - 1]``: expected gap from the gap score and the probability of a bad answer.
    difficulty_weight, difficulty_offset
        ``[L]``: logit of the difficulty.
    used
        Mean share of every score in the logit of the pass probability, for the record.
    """

    pass_weight: Float
    pass_offset: Float
    gap_weight: Float
    gap_offset: Float
    difficulty_weight: Float
    difficulty_offset: Float
    used: dict[str, float]


def pass_columns(raw: Float, tiers: int, tier: int) -> Float:
    """The `SCORES` of a cheap tier, ``[n, 4]``; quality and preference against the reference tier."""
    scores = split_scores(torch.from_numpy(raw), tiers)
    first = scores.tier.numpy()
    odds = np.logaddexp.reduce(first[:, : tier + 1], axis=1) - np.logaddexp.reduce(first[:, tier + 1 :], axis=1)
    preference = scores.preference[:, tier] - scores.preference[:, -1]
    gap = expected_gap(scores)[:, tier]
    return np.column_stack((scores.passes[:, tier].numpy(), -gap.numpy(), odds, preference.numpy()))


def fit_stack(
    raw: list[Float], table: LabelTable, passes: Float, gap: Float, difficulty: Float, fold: Rows, strength: float,
    prior_strength: float, scores_off: Collection[str] = (),
) -> Stack:  # fmt: skip
    """Fit the stack on out-of-fold scores.

    Parameters
    ----------
    raw
        float64 ``[n, 4 K]`` per level of masking.
    table
        Labels with levels of the same ``n`` rows.
    passes, gap, difficulty
        Targets ``[n, K - 1]``, ``[n, K - 1]`` and ``[n]``.
    fold
        Fold of every row, for out-of-fold label means.
    strength, prior_strength
        Pseudo-observations that pull weights to zero, and label means to the mean above.
    scores_off
        Of `SCORES`: those whose loss is switched off; they say nothing.
    """
    cheap, size = passes.shape[1], table.size
    target = np.column_stack((passes, gap, difficulty))
    prior, prior_out = table.priors(target, fold, prior_strength)
    out = Stack(
        np.zeros((size, cheap, len(SCORES))), np.zeros((size, cheap)),
        np.zeros((size, cheap, 2)), np.zeros((size, cheap)), np.zeros(size), np.zeros(size), {},
    )  # fmt: skip
    shares = []
    off = [i for i, name in enumerate(SCORES) if name in scores_off]
    for scores, rows, known in zip(raw, table.levels, prior_out, strict=True):
        members = np.unique(rows)
        for j in range(cheap):
            columns = np.column_stack((pass_columns(scores, cheap + 1, j), known[:, j]))
            gaps = -columns[:, 1]
            columns[:, off] = 0.0
            weights, intercept = stack(columns, passes[:, j], strength)
            shares.append(weights * columns.std(axis=0))
            out.pass_weight[members, j] = weights[:-1]
            out.pass_offset[members, j] = weights[-1] * prior[members, j] + intercept
            bad = 1.0 - 1.0 / (1.0 + np.exp(-(columns @ weights + intercept)))
            columns = np.column_stack((gaps, bad, known[:, cheap + j]))
            weights, intercept = linear_stack(columns, gap[:, j], strength)
            out.gap_weight[members, j] = weights[:-1]
            out.gap_offset[members, j] = weights[-1] * prior[members, cheap + j] + intercept
        columns = np.column_stack((scores[:, 2 * cheap + 1], known[:, -1]))
        weights, intercept = stack(columns, difficulty, strength)
        out.difficulty_weight[members] = weights[0]
        out.difficulty_offset[members] = weights[1] * prior[members, -1] + intercept
    total = np.abs(shares).mean(axis=0)
    out.used.update(
        {name: round(float(x), 4) for name, x in zip((*SCORES, "label"), total / max(total.sum(), 1e-12), strict=True)}
    )
    return out
