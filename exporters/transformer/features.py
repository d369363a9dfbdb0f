"""Pooled features of texts, computed once: the serving graph for what is fitted, batches for torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from router_core.onnx_encoder import open_session
from router_core.text_tokens import TextTokens

__all__ = ["FeatureStore", "buckets", "padded"]

Floats = NDArray[np.float32]


class FeatureStore:
    """Features of one encoder graph, remembered by a hash of the tokens.

    Every text goes through the graph alone, as it does in serving, so that heads are fitted, calibrated and
    certified on the very numbers they will see.

    Parameters
    ----------
    graph
        ONNX bytes of an encoder with its pooling (`body.export_body`).
    tokens
        Its tokenizer.
    """

    def __init__(self, graph: bytes, tokens: TextTokens) -> None:
        self.graph, self.tokens = graph, tokens
        self._session = open_session(graph)
        self._known: dict[bytes, Floats] = {}

    def one(self, text: str) -> Floats:
        """Features of one text, ``[1, F]``."""
        ids = self.tokens.ids(text)
        key = hashlib.sha256(ids.tobytes()).digest()
        found = self._known.get(key)
        if found is None:
            batch = ids[None, :]
            found = self._session.run(["features"], {"input_ids": batch, "attention_mask": np.ones_like(batch)})[0]
            self._known[key] = found
        return found

    def of(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Floats:
        """Features of all texts, ``[n, F]``."""
        found = []
        for done, text in enumerate(texts, start=1):
            found.append(self.one(text)[0])
            if progress is not None and (done % 20 == 0 or done == len(texts)):
                progress(done, len(texts))
        return np.stack(found)


def buckets(lengths: Sequence[int], size: int, rng: np.random.Generator | None = None) -> Iterator[NDArray[np.intp]]:
    """Yield batches of rows of like length, so that little is padded; in random order where `rng` is given."""
    noise = rng.uniform(0.0, 4.0, len(lengths)) if rng is not None else np.zeros(len(lengths))
    order = np.argsort(np.asarray(lengths) + noise, kind="stable")
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    for at in rng.permutation(len(batches)) if rng is not None else range(len(batches)):
        yield batches[at]


def padded(ids: Sequence[NDArray[np.int64]], pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Stack token ids as ``[b, t]`` with their mask."""
    longest = max(len(one) for one in ids)
    batch, mask = np.full((len(ids), longest), pad, dtype=np.int64), np.zeros((len(ids), longest), dtype=np.int64)
    for row, one in enumerate(ids):
        batch[row, : len(one)] = one
        mask[row, : len(one)] = 1
    return batch, mask
