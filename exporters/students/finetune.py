"""Fine-tuning a student: the top layers learn together with the head; the layers below stay as they were."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.students.bodies import Read, TextBody, TokenBody
from exporters.students.heads import Fitted, Head, Targets, Tick, loss
from exporters.students.options import EncoderOptions
from exporters.students.schedule import up_and_down
from exporters.transformer.features import buckets, padded
from exporters.transformer.source import Source

__all__ = ["finetune_student"]

Rows = NDArray[np.intp]


def finetune_student(
    source: Source, read: Read, targets: Targets, held: Rows, options: EncoderOptions, *, seed: int,
    progress: Tick | None = None,
) -> tuple[Source, TextBody | TokenBody, Fitted]:  # fmt: skip
    """Train the top layers and a head; TUNE texts stop the training and are never trained on.

    Parameters
    ----------
    source
        The encoder; left as it is.
    read
        Train and TUNE texts.
    targets
        One row a text, or one row for every word that was kept of every text.
    held
        Which texts are TUNE.
    options
        `EncoderOptions.finetune` layers are trained, with a warm-up and then a linear decay of the rate.
    seed
        Fixes the order and dropout.
    progress
        Called with batches done and batches at most.

    Returns
    -------
    tuple
        The tuned copy of the encoder, its body, and the head.
    """
    source = replace(source, model=copy.deepcopy(source.model))
    body = TokenBody(source, options.tagged_layers, learned=True) if read.shapes else TextBody(source)
    for parameter in source.model.parameters():
        parameter.requires_grad_(False)
    top = [p for layer in source.model.encoder.layer[-options.finetune :] for p in layer.parameters()]
    for parameter in top:
        parameter.requires_grad_(True)
    if isinstance(body, TokenBody) and body.embedded is not None:
        top += list(body.embedded.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(body.size, targets.hard.shape[1], options.head.scale, body.plain)
        run = _Run(body, head, read, targets, options)
        rate, size = options.finetune_rate, options.finetune_batch
        train = np.setdiff1d(np.arange(len(read.ids)), held)
        total = options.finetune_epochs * -(-len(train) // size)
        optimizer = torch.optim.AdamW([
            {"params": top, "lr": rate}, {"params": [*head.parameters()], "lr": options.head.learning_rate},
        ], weight_decay=0.01)  # fmt: skip
        schedule = up_and_down(optimizer, total)
        rng, done, losses = np.random.default_rng(seed), 0, list[float]()
        kept = copy.deepcopy((body.state_dict(), head.state_dict()))
        for _ in range(options.finetune_epochs):
            source.model.train()
            for at in buckets([len(read.ids[i]) for i in train.tolist()], size, rng):
                optimizer.zero_grad()
                run.loss(train[at], options.head.label_smoothing).backward()
                torch.nn.utils.clip_grad_norm_([*top, *head.parameters()], 1.0)
                optimizer.step()
                schedule.step()
                done += 1
                if progress is not None:
                    progress("training the top layers", done, total)
            source.model.eval()
            losses.append(run.held_out(held))
            if losses[-1] > min(losses):
                break
            kept = copy.deepcopy((body.state_dict(), head.state_dict()))
    body.load_state_dict(kept[0])
    head.load_state_dict(kept[1])
    return source, body.eval(), Fitted(head.eval(), int(np.argmin(losses)) + 1, tuple(round(one, 6) for one in losses))


class _Run:
    """Encoder, head, and the loss of some texts."""

    def __init__(
        self, body: TextBody | TokenBody, head: Head, read: Read, targets: Targets, options: EncoderOptions
    ) -> None:
        self.body, self.head, self.read, self.options = body, head, read, options
        self.several = targets.several
        self.hard, self.soft, self.weight = targets.balanced(options.balance).tensors()

    def loss(self, texts: Rows, smoothing: float = 0.0) -> Tensor:
        """Weighed mean loss of the rows of some texts."""
        rows = torch.from_numpy(np.concatenate([self.read.rows[i] for i in texts.tolist()]))
        each = loss(
            self.head(self._features(texts)), self.hard[rows], self.soft[rows], self.options, several=self.several,
            smoothing=smoothing,
        )  # fmt: skip
        return (each * self.weight[rows]).mean()

    @torch.no_grad()
    def held_out(self, texts: Rows) -> float:
        """Weighed mean loss of held-out texts."""
        total, rows = 0.0, 0
        for part in np.array_split(texts, max(1, len(texts) // self.options.finetune_batch)):
            size = sum(len(self.read.rows[i]) for i in part.tolist())
            total, rows = total + float(self.loss(part)) * size, rows + size
        return total / max(1, rows)

    def _features(self, texts: Rows) -> Tensor:
        at = texts.tolist()
        batch, mask = (torch.from_numpy(one) for one in padded([self.read.ids[i] for i in at], 0))
        if isinstance(self.body, TextBody):
            return self.body(batch, mask)
        shapes, _ = padded([self.read.shapes[i] for i in at], 0)
        states = self.body(batch, mask, torch.from_numpy(shapes))
        return torch.cat([states[n, torch.from_numpy(self.read.first[i])] for n, i in enumerate(at)])
