"""Encoders as students use them: features of a text for labels of texts, features of every token for tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.students.heads import Tick
from exporters.transformer.body import Body, body_digest, export_body, export_fused
from exporters.transformer.int8 import quantise_plainly
from exporters.transformer.source import Source
from router_core.onnx_encoder import open_session
from router_core.tagger import SHAPES, first_tokens, word_shape
from router_core.text_tokens import TextTokens

__all__ = ["Read", "TextBody", "TokenBody", "export_student_body", "features_of", "frozen_graphs"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

_REMEMBERED = 2
_graphs: dict[tuple[str, tuple[int, ...], bool, bool], tuple[bytes, bytes]] = {}


class TextBody(Body):
    """The mean of the last layer over the tokens of a text, ``[b, width]``."""

    inputs = ("input_ids", "attention_mask")
    plain = 0

    def __init__(self, source: Source) -> None:
        super().__init__(source.model, (source.layers,))

    @property
    def size(self) -> int:
        """Length of the features."""
        return int(self.model.config.hidden_size)


class TokenBody(nn.Module):
    """States of every token in some layers, and the shape of its word one-hot, ``[b, t, width * layers + 8]``.

    An uncased vocabulary does not show capitals. The head sees the shape of the token's own word; once the encoder
    is trained too, a learned embedding of the shape is added to that of the token, so that neighbours see it.

    Parameters
    ----------
    source
        The encoder.
    layers
        Hidden states, counted from the last.
    learned
        Whether shapes are embedded.
    """

    inputs = ("input_ids", "attention_mask", "word_shape")
    plain = len(SHAPES)

    def __init__(self, source: Source, layers: tuple[int, ...], *, learned: bool) -> None:
        super().__init__()
        self.model = source.model
        states = source.layers + 1
        self.layers = tuple(sorted({max(layer % states if layer >= -states else 0, 0) for layer in layers}))
        self.register_buffer("shapes", torch.eye(len(SHAPES)))
        self.embedded = nn.Embedding(len(SHAPES), source.width) if learned else None
        if self.embedded is not None:
            nn.init.zeros_(self.embedded.weight)

    @property
    def size(self) -> int:
        """Length of the features."""
        return int(self.model.config.hidden_size) * len(self.layers) + self.plain

    def forward(self, input_ids: Tensor, attention_mask: Tensor, word_shape: Tensor) -> Tensor:
        """Return the features of tokens ``[b, t]``."""
        given: dict[str, Any] = {"input_ids": input_ids}
        if self.embedded is not None:
            words = self.model.get_input_embeddings()
            given = {"inputs_embeds": words(input_ids) + self.embedded(word_shape)}
        found = self.model(**given, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        return torch.cat([*(found[layer] for layer in self.layers), self.shapes[word_shape]], dim=-1)


def export_student_body(source: Source, body: TextBody | TokenBody) -> bytes:
    """Export a body as a fused float32 graph with the output ``features``."""
    if isinstance(body, TextBody):
        return export_body(source, body.layers, body.pooling)
    return export_fused(source, body.eval(), body.inputs, {0: "b", 1: "t"})


def frozen_graphs(source: Source, body: TextBody | TokenBody, *, quantised: bool) -> tuple[bytes, bytes]:
    """Graphs of a body in float32 and as it is served; remembered, since every student of a frozen encoder has them."""
    key = (body_digest(source.model), body.layers, isinstance(body, TokenBody), quantised)
    if key not in _graphs:
        exact = export_student_body(source, body)
        while len(_graphs) >= _REMEMBERED:
            _graphs.pop(next(iter(_graphs)))
        _graphs[key] = (exact, quantise_plainly(exact) if quantised else exact)
    return _graphs[key]


@dataclass(frozen=True, eq=False)
class Read:
    """Texts as tokens.

    Attributes
    ----------
    ids
        Per text its token ids, ``[t]``.
    rows
        Per text the rows of the targets that belong to it: itself, or its words that were kept.
    shapes, first
        Of a tagger, per text: the shape of every token's word, and where the words' first tokens are; else empty.
    kept
        Of a tagger, per text: which of its words were kept.
    """

    ids: list[Ids]
    rows: list[Ids]
    shapes: list[Ids] = field(default_factory=list)
    first: list[Ids] = field(default_factory=list)
    kept: list[Ids] = field(default_factory=list)

    @classmethod
    def texts(cls, texts: Sequence[str], tokens: TextTokens) -> Read:
        """Read texts whose labels are of the whole."""
        return cls([tokens.ids(text) for text in texts], [np.array([i]) for i in range(len(texts))])

    @classmethod
    def words(cls, texts: Sequence[str], tokens: TextTokens) -> Read:
        """Read texts whose words are labelled."""
        found, start = cls([], []), 0
        for text in texts:
            words = text.split()
            ids, of = tokens.of_words(words)
            at = first_tokens(of, len(words))
            kept = np.flatnonzero(at >= 0)
            found.ids.append(ids)
            found.rows.append(np.arange(start, start + len(kept)))
            found.shapes.append(np.array([word_shape(words[i]) if i >= 0 else 0 for i in of.tolist()], dtype=np.int64))
            found.first.append(at[kept])
            found.kept.append(kept)
            start += len(kept)
        return found


def features_of(graph: bytes, read: Read, rows: Sequence[int] | None = None, progress: Tick | None = None) -> Floats:
    """Features of texts or of their words, in the order of the targets' rows, ``[n, F]``.

    Every text goes through the graph alone, as it does in serving: the head is fitted and calibrated on the very
    numbers it will see.

    Parameters
    ----------
    graph
        ONNX bytes of a body.
    read
        The texts.
    rows
        Which texts; all by default.
    progress
        Called with texts done and texts in all.
    """
    session, found = open_session(graph, part="model.onnx", again="distil it again"), []
    known: dict[bytes, Floats] = {}
    wanted = range(len(read.ids)) if rows is None else rows
    for done, i in enumerate(wanted, start=1):
        feed = {"input_ids": read.ids[i], "attention_mask": np.ones_like(read.ids[i])}
        if read.shapes:
            feed["word_shape"] = read.shapes[i]
            found.append(session.run(["features"], {k: v[None, :] for k, v in feed.items()})[0][0][read.first[i]])
        else:
            key = read.ids[i].tobytes()
            if key not in known:
                known[key] = session.run(["features"], {k: v[None, :] for k, v in feed.items()})[0]
            found.append(known[key])
        if progress is not None and (done % 20 == 0 or done == len(wanted)):
            progress("reading the texts", done, len(wanted))
    return np.concatenate(found)
