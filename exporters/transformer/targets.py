"""What the heads learn from: graded queries, and preference records about other prompts below them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from exporters.transformer.labels import LabelTable
from exporters.transformer.losses import Targets
from exporters.transformer.preferences import Preference, for_examples, pairs_of
from router_core.encoder import Examples

__all__ = ["TrainingSet"]


@dataclass(frozen=True)
class TrainingSet:
    """Texts, labels and targets; the graded queries come first.

    Attributes
    ----------
    texts
        ``n`` graded prompts, then prompts that only have preferences.
    table
        Labels, with levels of all texts.
    targets
        Of all texts.
    preferences
        How many preference records are used.
    """

    texts: list[str]
    table: LabelTable
    targets: Targets
    preferences: int

    @classmethod
    def of(cls, examples: Examples, preferences: Sequence[Preference], graded: Collection[str]) -> TrainingSet:
        """Put graded queries and preferences together."""
        at, extra = for_examples(preferences, examples.text, graded)
        table = LabelTable.of(examples)
        n, k = examples.quality.shape
        beats, known = pairs_of(examples.quality)
        beats = np.concatenate((beats, np.full((len(extra), k, k), 0.5)))
        known = np.concatenate((known, np.zeros((len(extra), k, k))))
        for row, one in [*at, *enumerate(extra, start=n)]:
            winner, loser = examples.tiers.index(one.winner), examples.tiers.index(one.loser)
            beats[row, winner, loser], beats[row, loser, winner] = 1.0, 0.0
            known[row, min(winner, loser), max(winner, loser)] = 1.0
        levels = _with_extra(table, [one.task for one in extra])
        fill = np.zeros((len(extra), k))
        reference = max(float(examples.cost[:, -1].mean()), 1e-12)
        shortfall = np.maximum(0.0, examples.quality[:, -1:] - examples.tolerance - examples.quality)
        targets = Targets(
            passes=_tensor(np.concatenate((examples.passes().astype(np.float64), fill + 1.0))),
            quality=_tensor(np.concatenate((examples.quality, fill))),
            cost=_tensor(np.concatenate((np.nan_to_num(examples.cost) / reference, fill))),
            shortfall=_tensor(np.concatenate((shortfall, fill))),
            beats=_tensor(beats),
            known=_tensor(known),
            graded=_tensor(np.concatenate((np.ones(n), np.zeros(len(extra))))),
        )
        texts = [*examples.text, *(one.prompt for one in extra)]
        return cls(texts, replace(table, levels=levels), targets, len(at) + len(extra))


def _with_extra(table: LabelTable, tasks: list[str]) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]:
    """Append the label rows of texts that only have preferences, at every level."""
    row = {label: i for i, label in enumerate(table.labels, start=1)}
    levels = []
    for depth, level in enumerate(table.levels):
        found = []
        for name in tasks:
            task, _, subtask = name.partition("/")
            fallback = row.get((task, ""), 0)
            found.append(
                0 if depth == 0 else row.get((task, subtask), fallback) if depth == len(table.levels) - 1 else fallback
            )
        levels.append(np.concatenate((level, np.array(found, dtype=np.int64))))
    return tuple(levels)


def _tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()
