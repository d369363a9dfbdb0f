"""Fine-tuning: the top layers of the encoder learn together with heads of their own.

Fold 0 stops the training early and is never trained on, so that it can calibrate the router afterwards. The layers
below stay as they were: hidden vectors come from them, so that no label bears on likeness.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from exporters.transformer.body import Body
from exporters.transformer.features import buckets, padded
from exporters.transformer.graph import Projection
from exporters.transformer.heads import Heads, HeadSizes, split_scores
from exporters.transformer.labels import Rows
from exporters.transformer.losses import total_loss
from exporters.transformer.options import TransformerOptions
from exporters.transformer.source import Source
from exporters.transformer.targets import TrainingSet
from router_core.text_tokens import TextTokens

__all__ = ["finetune"]

_BATCH = 32
_EPOCHS = 4
_BODY_RATE = 5e-5
_PROJECTED = 1000


def finetune(
    source: Source,
    data: TrainingSet,
    layers: tuple[int, ...],
    fold: Rows,
    options: TransformerOptions,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Return a copy of the encoder with tuned top layers.

    Parameters
    ----------
    source
        The encoder; left as it is.
    data
        What to learn from.
    layers
        Hidden states that are pooled, the last layer included.
    fold
        Fold of every text; fold 0 stops the training.
    options
        `finetune` layers are trained.
    seed
        Fixes order, masking and initial heads.
    progress
        Called with batches done and batches at most.
    """
    source = replace(source, model=copy.deepcopy(source.model))
    body = Body(source.model, layers, options.pooling).eval()
    for parameter in body.parameters():
        parameter.requires_grad_(False)
    tuned = [p for layer in source.model.encoder.layer[-options.finetune :] for p in layer.parameters()]
    for parameter in tuned:
        parameter.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        run = _Run(source, body, data, options, seed)
        optimizer = torch.optim.AdamW([
            {"params": tuned, "lr": _BODY_RATE},
            {"params": [*run.heads.parameters()], "lr": options.heads.learning_rate},
        ], weight_decay=0.01)  # fmt: skip
        rng = np.random.default_rng(seed)
        train, held = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
        lowest, kept = np.inf, copy.deepcopy(source.model.state_dict())
        total, done = _EPOCHS * -(-len(train) // _BATCH), 0
        for _ in range(_EPOCHS):
            run.heads.train()
            for at in buckets([len(run.ids[i]) for i in train.tolist()], _BATCH, rng):
                loss = run.loss(train[at], rng.integers(0, len(data.table.levels), len(at)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done += 1
                if progress is not None:
                    progress(done, total)
            found = run.held_out(held)
            if found >= lowest:
                break
            lowest, kept = found, copy.deepcopy(source.model.state_dict())
    source.model.load_state_dict(kept)
    return source


class _Run:
    """Encoder, one set of heads, and the loss of a batch."""

    def __init__(self, source: Source, body: Body, data: TrainingSet, options: TransformerOptions, seed: int) -> None:
        tokens = TextTokens(source.tokenizer, options.max_tokens)
        self.ids = [tokens.ids(text) for text in data.texts]
        self.body, self.data, self.losses = body, data, options.losses
        sample = np.random.default_rng(seed).permutation(len(self.ids))[:_PROJECTED]
        with torch.no_grad():
            found = [self._features(rows) for rows in np.array_split(sample, max(1, len(sample) // _BATCH))]
        projection = Projection.of(torch.cat(found).numpy(), options.components)
        self.center, self.matrix = torch.from_numpy(projection.center), torch.from_numpy(projection.matrix)
        table = data.table
        sizes = HeadSizes(
            self.matrix.shape[1], data.targets.quality.shape[1], int(table.task.max()) + 1,
            int(table.subtask.max()) + 1, options.heads.width, 1,
        )  # fmt: skip
        self.heads = Heads(sizes, options.heads.dropout, torch.Generator().manual_seed(seed))
        self.levels = torch.from_numpy(np.stack(table.levels))
        self.task, self.subtask = torch.from_numpy(table.task), torch.from_numpy(table.subtask)

    def _features(self, rows: Rows) -> Tensor:
        batch, mask = padded([self.ids[i] for i in rows.tolist()], 0)
        return self.body(torch.from_numpy(batch), torch.from_numpy(mask))

    def loss(self, rows: Rows, level: Rows) -> Tensor:
        """Mean loss of some texts, each at a level of masking."""
        at = torch.from_numpy(rows)
        label = self.levels[torch.from_numpy(level), at]
        z = torch.matmul(self._features(rows) - self.center, self.matrix)
        scores = split_scores(self.heads(z, self.task[label], self.subtask[label]), self.heads.sizes.tiers)
        return total_loss(scores, self.data.targets.at(at), self.losses).mean()

    @torch.no_grad()
    def held_out(self, rows: Rows) -> float:
        """Mean loss of held-out texts over all levels."""
        self.heads.eval()
        total = 0.0
        for part in np.array_split(rows, max(1, len(rows) // _BATCH)):
            for level in range(len(self.levels)):
                total += float(self.loss(part, np.full(len(part), level))) * len(part)
        return total / max(1, len(rows))
