"""Plain sentence encoders for serving without torch: MiniLM, or any encoder `source` can load, in two sizes.

`export_sentence_encoder` writes the whole encoder, pooled, fused and in int8 (milliseconds a text).
`export_token_vectors` writes one vector per token (microseconds a text): what the encoder gives for the token alone,
its principal components, weighed by the logarithm of the token's rank, as in Model2Vec (Tulkens and van Dongen, 2024)
and Arora et al. (2017).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.transformer.body import export_body
from exporters.transformer.int8 import probe_tokens, quantise
from exporters.transformer.source import PACKAGED, Source, load_source
from router_core.errors import InputError
from router_core.onnx_encoder import open_session
from router_core.sentence_encoder import SentenceEncoder, SentenceHeader, TokenVectors, save_sentence_encoder
from router_core.text_tokens import TextTokens

__all__ = ["export_sentence_encoder", "export_token_vectors"]

_BATCH = 256
_LEVELS = 127


def export_sentence_encoder(
    out: str | Path,
    source: str = PACKAGED,
    *,
    max_tokens: int = 128,
    quantised: bool = True,
    name: str | None = None,
) -> Path:
    """Write a folder that `router_core.sentence_encoder.SentenceEncoder` serves.

    Parameters
    ----------
    out
        Folder to write; replaced if it holds a sentence encoder.
    source
        ``"minilm"``, a folder, or a hub id.
    max_tokens
        Tokens kept of a text.
    quantised
        int8 if true, else float32.
    name
        What it is called; `source` by default.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    MissingExtraError
        If the packaged model is not installed.
    InputError
        If there is no such encoder, or `out` exists and is something else.
    """
    loaded = load_source(source, max_tokens)
    tokens = TextTokens(loaded.tokenizer, max_tokens)
    graph = export_body(loaded, (loaded.layers,))
    if quantised:
        graph = quantise(graph, probe_tokens(tokens, loaded.vocabulary))
    header = SentenceHeader("onnx", name or source, max_tokens, tokens.digest())
    return save_sentence_encoder(SentenceEncoder(header, graph, loaded.tokenizer), out)


def export_token_vectors(
    out: str | Path, source: str = PACKAGED, *, size: int = 256, max_tokens: int = 512, name: str | None = None
) -> Path:
    """Write a folder that `router_core.sentence_encoder.TokenVectors` serves.

    Parameters
    ----------
    out, source, max_tokens, name
        As for `export_sentence_encoder`.
    size
        Principal components that are kept.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    MissingExtraError
        If the packaged model is not installed.
    InputError
        If there is no such encoder, `size` exceeds its width, or `out` exists and is something else.
    """
    loaded = load_source(source, 8)
    if not 1 <= size <= loaded.width:
        raise InputError(f"{source} has vectors of {loaded.width} values; size = {size} cannot be kept of them.")
    tokens = TextTokens(loaded.tokenizer, max_tokens)
    alone, special = _alone(loaded, tokens)
    centered = alone - alone[~special].mean(axis=0)
    _, vectors = np.linalg.eigh(centered[~special].T @ centered[~special])
    vectors = vectors[:, ::-1][:, :size]
    found = centered @ (vectors * np.where(vectors[np.abs(vectors).argmax(0), np.arange(size)] < 0, -1.0, 1.0))
    # Vocabularies are sorted by frequency, so the id stands for the rank (Zipf).
    found *= np.where(special, 0.0, np.log1p(np.arange(len(found))))[:, None]
    scale = np.maximum(np.abs(found).max(axis=1), 1e-9) / _LEVELS
    table = np.rint(found / scale[:, None]).astype(np.int8)
    header = SentenceHeader("tokens", name or source, max_tokens, tokens.digest())
    return save_sentence_encoder(TokenVectors(header, table, scale.astype(np.float32), loaded.tokenizer), out)


def _alone(source: Source, tokens: TextTokens) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Vectors ``[vocabulary, width]`` of every token between the special ones, and which tokens are special."""
    session = open_session(export_body(source, (source.layers,)))
    edge = tokens.ids("")
    half = len(edge) // 2
    rows = []
    for start in range(0, source.vocabulary, _BATCH):
        middle = np.arange(start, min(start + _BATCH, source.vocabulary), dtype=np.int64)[:, None]
        ids = np.hstack((np.tile(edge[:half], (len(middle), 1)), middle, np.tile(edge[half:], (len(middle), 1))))
        rows.append(session.run(("features",), {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0])
    special = np.zeros(source.vocabulary, dtype=np.bool_)
    special[edge] = True
    return np.concatenate(rows).astype(np.float64), special
