"""Training of the heads on pooled features: mini-batches, masking, early stopping of every member on its own fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.transformer.heads import Heads, HeadSizes, split_scores
from exporters.transformer.labels import LabelTable, Rows
from exporters.transformer.losses import LossWeights, Targets, total_loss

__all__ = ["FittedHeads", "HeadOptions", "fit_heads"]

_ADAM_BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class HeadOptions:
    """How the heads are trained; chosen by cross-validation on train rows.

    Attributes
    ----------
    width, members
        Width of the trunk; networks in the ensemble, each stopped early on a fold of its own.
    dropout
        Share of features and trunk units dropped.
    learning_rate, weight_decay
        Of AdamW.
    batch, epochs, patience
        Queries a step; most passes over the data; passes without a better held-out loss before a stop.
    """

    width: int = 64
    members: int = 5
    dropout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    batch: int = 256
    epochs: int = 60
    patience: int = 6


@dataclass(frozen=True)
class FittedHeads:
    """Trained heads and what they said of queries they had not seen.

    Attributes
    ----------
    heads
        With the best weights of every member.
    out_of_fold
        float64 ``[n, 4 K]`` per level of masking.
    epochs
        Passes after which every member was best.
    """

    heads: Heads
    out_of_fold: list[NDArray[np.float64]]
    epochs: list[int]


def fit_heads(
    features: NDArray[np.float32],
    table: LabelTable,
    targets: Targets,
    fold: Rows,
    weights: LossWeights,
    options: HeadOptions,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> FittedHeads:
    """Fit the ensemble.

    Parameters
    ----------
    features
        ``[n, F]``, standardised.
    table
        Labels with their levels, one row per query.
    targets
        What is known of every query.
    fold
        ``[n]``; member ``e`` is held out on fold ``e``.
    weights, options
        Losses and training.
    seed
        Fixes initial weights, order, masking and dropout.
    progress
        Called with passes done and passes at most.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(features)
    levels = torch.from_numpy(np.stack(table.levels))
    task, subtask = torch.from_numpy(table.task), torch.from_numpy(table.subtask)
    sizes = HeadSizes(
        x.shape[1],
        targets.quality.shape[1],
        int(table.task.max()) + 1,
        int(table.subtask.max()) + 1,
        options.width,
        options.members,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = Heads(sizes, options.dropout, generator)
        held = torch.from_numpy(fold[None, :] == np.arange(options.members)[:, None])
        decayed = [heads.enter, heads.inner, heads.leave, heads.task, heads.subtask]
        free = [heads.enter_bias, heads.inner_bias, heads.leave_bias]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": options.weight_decay}, {"params": free, "weight_decay": 0.0}],
            lr=options.learning_rate,
            betas=_ADAM_BETAS,
        )
        best = _Best(heads)
        for epoch in range(options.epochs):
            heads.train()
            for rows in torch.randperm(len(x), generator=generator).split(options.batch):
                level = torch.randint(len(levels), (len(rows),), generator=generator)
                label = levels[level, rows]
                scores = split_scores(heads(x[rows], task[label], subtask[label]), sizes.tiers)
                mask = (~held[:, rows]).float()
                loss = (total_loss(scores, targets.at(rows), weights) * mask).sum() / len(rows)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            best.offer(epoch, _held_out_loss(heads, x, levels, (task, subtask), targets, weights, held))
            if progress is not None:
                progress(epoch + 1, options.epochs)
            if best.waited(epoch) > options.patience:
                break
        best.restore()
    heads.eval()
    return FittedHeads(heads, _out_of_fold(heads, x, levels, (task, subtask), held), best.epochs)


class _Best:
    """The best weights of every member so far."""

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._loss = torch.full((heads.sizes.members,), float("inf"))
        self._kept = {name: value.detach().clone() for name, value in heads.named_parameters()}
        self.epochs = [0] * heads.sizes.members

    def offer(self, epoch: int, loss: Tensor) -> None:
        """Keep the members whose held-out loss ``[e]`` is lower than ever."""
        better = loss < self._loss
        self._loss = torch.where(better, loss, self._loss)
        for name, value in self._heads.named_parameters():
            self._kept[name][better] = value.detach()[better]
        for member in better.nonzero()[:, 0].tolist():
            self.epochs[member] = epoch

    def waited(self, epoch: int) -> int:
        """Passes since any member was better."""
        return epoch - max(self.epochs)

    def restore(self) -> None:
        """Put the best weights back."""
        with torch.no_grad():
            for name, value in self._heads.named_parameters():
                value.copy_(self._kept[name])


@torch.no_grad()
def _held_out_loss(
    heads: Heads, x: Tensor, levels: Tensor, tables: tuple[Tensor, Tensor], targets: Targets, weights: LossWeights,
    held: Tensor,
) -> Tensor:  # fmt: skip
    """Mean loss ``[e]`` of every member on its own fold, over all levels of masking."""
    heads.eval()
    total = torch.zeros(held.shape[0])
    for label in levels:
        loss = total_loss(
            split_scores(heads(x, tables[0][label], tables[1][label]), heads.sizes.tiers), targets, weights
        )
        total += (loss * held).sum(1) / held.sum(1).clamp_min(1)
    return total


@torch.no_grad()
def _out_of_fold(
    heads: Heads, x: Tensor, levels: Tensor, tables: tuple[Tensor, Tensor], held: Tensor
) -> list[NDArray[np.float64]]:
    """Scores of the member that had not seen the query, per level."""
    member = held.float().argmax(0)
    found = []
    for label in levels:
        scores = heads(x, tables[0][label], tables[1][label])
        found.append(scores[member, torch.arange(len(x))].double().numpy())
    return found
