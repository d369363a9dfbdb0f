"""The head of an encoder student: one linear layer, trained on hard and soft labels, stopped early on TUNE."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from exporters.students.options import EncoderOptions
from exporters.transformer.body import export_torchscript

__all__ = ["Fitted", "Head", "Targets", "export_head", "fit_head", "loss"]

Floats = NDArray[np.float32]
Tick = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Targets:
    """What rows (texts, or words of a tagger) shall say.

    Attributes
    ----------
    hard
        float32 ``[n, L]``, 0 or 1: one label a row, or any number of a multilabel student.
    soft
        float32 ``[n, L]``, the teacher's probabilities; rows without them are 0 throughout.
    weight
        float32 ``[n]``.
    several
        Whether labels are independent decisions (multilabel).
    """

    hard: Floats
    soft: Floats
    weight: Floats
    several: bool = False

    def at(self, mask: NDArray[np.bool_]) -> Targets:
        """Some of the rows."""
        return Targets(self.hard[mask], self.soft[mask], self.weight[mask], self.several)

    def balanced(self, exponent: float) -> Targets:
        """The same with rows weighed by how rare their label is; weights keep the mean 1.

        Of several labels the rarest counts, and rows with none count as a label of their own.
        """
        if not exponent:
            return self
        column = np.column_stack((self.hard, (self.hard.sum(1) == 0).astype(np.float32)))
        rarity = np.maximum(column.sum(0), 1.0) ** -exponent
        weight = self.weight * (column * rarity).max(1)
        scale = len(weight) / max(float(weight.sum()), 1e-12)
        return Targets(self.hard, self.soft, (weight * scale).astype(np.float32), self.several)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hard, soft and weight for torch."""
        return torch.from_numpy(self.hard), torch.from_numpy(self.soft), torch.from_numpy(self.weight)


class Head(nn.Module):
    """Features of one text or one word to logits.

    Parameters
    ----------
    features, labels
        Sizes.
    scale
        Length the features are normalised to.
    plain
        Last columns of the features that are left as they are (the word shape).
    """

    def __init__(self, features: int, labels: int, scale: float, plain: int = 0) -> None:
        super().__init__()
        self.scale, self.plain = scale, plain
        # The loss is convex in a linear head, so zeros are as good a start as any.
        self.linear = nn.Linear(features, labels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[..., L]`` of features ``[..., F]``."""
        cut = self.linear.in_features - self.plain
        states = features[..., :cut]
        length = states.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-6)
        states = states / length * self.scale
        return self.linear(torch.cat([states, features[..., cut:]], dim=-1) if self.plain else states)


def loss(
    logits: Tensor, hard: Tensor, soft: Tensor, options: EncoderOptions, *, several: bool, smoothing: float = 0.0
) -> Tensor:
    """Loss per row, ``[n]``: (1 - w) CE(hard) + w T^2 KL(soft^(1/T) || p^(1/T)); w = 0 for rows without soft labels.

    Of independent labels it is the binary cross-entropy against the mixture of hard and soft, summed over labels.
    """
    share = options.soft_weight * (soft.sum(-1) > 0).to(logits.dtype)
    if several:
        target = (1.0 - share[:, None]) * hard + share[:, None] * soft
        return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
    smooth = hard * (1.0 - smoothing) + smoothing / hard.shape[-1]
    total = (1.0 - share) * -(smooth * logits.log_softmax(-1)).sum(-1)
    if bool(share.any()):
        heat = options.temperature
        warm = soft.clamp_min(0.0) ** (1.0 / heat)
        warm = warm / warm.sum(-1, keepdim=True).clamp_min(1e-12)
        divergence = (warm * (warm.clamp_min(1e-12).log() - (logits / heat).log_softmax(-1))).sum(-1)
        total = total + share * heat**2 * divergence
    return total


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained head.

    Attributes
    ----------
    head
        As it was after the pass with the lowest loss on TUNE.
    best
        Which pass that was, counted from 1.
    tune_loss
        Mean loss on TUNE after every pass; empty where the number of passes was given.
    """

    head: Head
    best: int
    tune_loss: tuple[float, ...]


def fit_head(
    features: Floats, targets: Targets, held: tuple[Floats, Targets] | int, options: EncoderOptions, *, seed: int,
    plain: int = 0, progress: Tick | None = None,
) -> Fitted:  # fmt: skip
    """Train a head on features ``[n, F]``.

    Parameters
    ----------
    features, targets
        Train rows.
    held
        TUNE rows, which stop the training and are never trained on; or how many passes to make.
    options
        `EncoderOptions.head` and what concerns the loss.
    seed
        Fixes the order of rows.
    plain
        See `Head`.
    progress
        Called with passes done and passes at most.
    """
    settings = options.head
    head = Head(features.shape[1], targets.hard.shape[1], settings.scale, plain)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    x, (hard, soft, weight) = torch.from_numpy(features), targets.balanced(options.balance).tensors()
    rng, losses = np.random.default_rng(seed), list[float]()
    kept = copy.deepcopy(head.state_dict())
    epochs = held if isinstance(held, int) else settings.epochs
    for epoch in range(1, epochs + 1):
        for at in np.array_split(rng.permutation(len(x)), -(-len(x) // settings.batch)):
            rows = torch.from_numpy(at)
            each = loss(
                head(x[rows]), hard[rows], soft[rows], options, several=targets.several,
                smoothing=settings.label_smoothing,
            )  # fmt: skip
            optimizer.zero_grad()
            (each * weight[rows]).mean().backward()
            optimizer.step()
        if progress is not None:
            progress("training the head", epoch, epochs)
        if isinstance(held, int):
            continue
        losses.append(mean_loss(head(torch.from_numpy(held[0])), held[1], options))
        if losses[-1] == min(losses):
            kept = copy.deepcopy(head.state_dict())
        if len(losses) - int(np.argmin(losses)) > settings.patience:
            break
    if not isinstance(held, int):
        head.load_state_dict(kept)
    best = epochs if isinstance(held, int) else int(np.argmin(losses)) + 1
    return Fitted(head.eval(), best, tuple(round(one, 6) for one in losses))


@torch.no_grad()
def mean_loss(logits: Tensor, targets: Targets, options: EncoderOptions) -> float:
    """Mean loss of held-out rows, weighed as training rows are."""
    hard, soft, weight = targets.balanced(options.balance).tensors()
    each = loss(logits, hard, soft, options, several=targets.several)
    return float((each * weight).sum() / weight.sum())


def export_head(head: Head, rank: int) -> bytes:
    """Export a head as ONNX in float32, ``features`` to ``logits``; `rank` is that of the features."""
    buffer, axes = io.BytesIO(), {0: "b"} if rank == 2 else {0: "b", 1: "t"}
    example = torch.zeros(*(2, 8)[: rank - 1], head.linear.in_features)
    export_torchscript(head.eval(), (example,), buffer, {"features": axes}, {"logits": axes})
    return buffer.getvalue()
