"""A smaller encoder that learns to give the features of the whole one, from texts alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from exporters.transformer.body import Body
from exporters.transformer.features import buckets, padded
from exporters.transformer.source import Source
from router_core.text_tokens import TextTokens

__all__ = ["distil"]

_BATCH = 32
_LEARNING_RATE = 1e-4


def distil(
    teacher: Source,
    student: Source,
    texts: Sequence[str],
    max_tokens: int,
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Train all layers of the student, in place, to give the teacher's pooled last layer.

    No label is used, so features and hidden vectors of the student stay unsupervised.

    Parameters
    ----------
    teacher, student
        The whole encoder and one with fewer of its layers (`source.keep_layers`).
    texts
        What to learn on.
    max_tokens
        Tokens kept of a text.
    epochs
        Passes over the texts.
    seed
        Fixes the order.
    progress
        Called with batches done and batches in all.
    """
    tokens = TextTokens(teacher.tokenizer, max_tokens)
    ids = [tokens.ids(text) for text in texts]
    lengths = [len(one) for one in ids]
    rng = np.random.default_rng(seed)
    whole, part = Body(teacher.model, (teacher.layers,)).eval(), Body(student.model, (student.layers,)).eval()
    optimizer = torch.optim.AdamW(part.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    done, total = 0, epochs * -(-len(ids) // _BATCH)
    for _ in range(epochs):
        for rows in buckets(lengths, _BATCH, rng):
            batch, mask = (torch.from_numpy(one) for one in padded([ids[i] for i in rows.tolist()], 0))
            with torch.no_grad():
                wanted = whole(batch, mask)
            loss = (part(batch, mask) - wanted).square().mean() / wanted.var().clamp_min(1e-6)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if progress is not None:
                progress(done, total)
    return student
