"""Text in, one vector out: a sentence encoder as an int8 graph, or as a table of token vectors; a hashed folder.

They know no tiers and no labels, so that anything which compares texts (`router_core.choices`) can stand on them.
``exporters.transformer.sentence`` makes the folders; neither torch nor transformers is needed to read one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_arrays, dump_json, load_arrays, load_json
from router_core.errors import BundleError
from router_core.folder import MANIFEST, FolderKind, check_output, parts_id, read_folder, write_folder
from router_core.onnx_encoder import open_session
from router_core.text_tokens import TextTokens

__all__ = [
    "SENTENCE",
    "SavedEncoder",
    "SentenceEncoder",
    "SentenceHeader",
    "TextEncoder",
    "TokenVectors",
    "is_sentence_folder",
    "load_sentence_encoder",
    "save_sentence_encoder",
    "sentence_encoder_from_parts",
]

GRAPH: Final = "sentence.onnx"
TABLE: Final = "sentence.npz"
TOKENIZER: Final = "sentence_tokenizer.json"
SENTENCE: Final = "sentence.json"
_FORMAT: Final = 1
_AGAIN: Final = "export it again"
_KIND: Final = FolderKind(
    "sentence encoder", "exported", _AGAIN, "`exporters.transformer.sentence.export_sentence_encoder`"
)


@runtime_checkable
class TextEncoder(Protocol):
    """Anything that turns a text into a vector: a `SentenceEncoder`, or the encoder of a bundle."""

    def embed(self, text: str) -> NDArray[np.float64]:
        """Return a vector of the text alone, float64 ``[d]``, the same on every call."""


@runtime_checkable
class SavedEncoder(TextEncoder, Protocol):
    """A text encoder that travels as named parts."""

    def parts(self) -> dict[str, bytes]:
        """Return the parts by file name."""


@dataclass(frozen=True)
class SentenceHeader:
    """What ``sentence.json`` says.

    Attributes
    ----------
    kind
        ``"onnx"`` or ``"tokens"``.
    name
        Where the weights come from, such as ``"minilm"``.
    max_tokens
        Tokens kept of a text, special tokens included.
    vocabulary_sha256
        `TextTokens.digest` of the tokenizer that graph or table was made for.
    """

    kind: str
    name: str
    max_tokens: int
    vocabulary_sha256: str

    def to_bytes(self) -> bytes:
        """The part ``sentence.json``."""
        return dump_json({"format": _FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read the part ``sentence.json``.

        Raises
        ------
        BundleError
            If it is malformed or of a format this version does not know.
        """
        told = load_json(SENTENCE, content)
        try:
            if told["format"] != _FORMAT:
                raise ValueError(f"format {told['format']!r} is not known; upgrade routenlp")
            return cls(str(told["kind"]), str(told["name"]), int(told["max_tokens"]), str(told["vocabulary_sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"The part {SENTENCE} is malformed ({error}); {_AGAIN}.") from error


def _tokens(header: SentenceHeader, tokenizer: bytes) -> TextTokens:
    tokens = TextTokens(tokenizer, header.max_tokens, _AGAIN)
    if tokens.digest() != header.vocabulary_sha256:
        raise BundleError(f"The vocabulary of {TOKENIZER} is not the one the encoder was made for; {_AGAIN}.")
    return tokens


class SentenceEncoder:
    """Serves a sentence encoder with ONNX Runtime.

    Parameters
    ----------
    header
        What ``sentence.json`` says; kind ``"onnx"``.
    graph
        ONNX bytes: int64 ``input_ids`` and ``attention_mask`` ``[b, t]`` in, float32 ``features`` ``[b, d]`` out.
    tokenizer
        A ``tokenizer.json``.
    threads
        Threads of one run.

    Raises
    ------
    BundleError
        If graph, tokenizer and header do not fit together.
    """

    def __init__(self, header: SentenceHeader, graph: bytes, tokenizer: bytes, threads: int = 1) -> None:
        self.header, self.threads = header, threads
        self._graph, self._tokenizer = graph, tokenizer
        self._tokens = _tokens(header, tokenizer)
        self._session = open_session(graph, threads, GRAPH, _AGAIN)
        try:
            self.size = len(self.embed("a " * header.max_tokens))
        except Exception as error:  # onnxruntime has no public base class of its errors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BundleError(f"The part {GRAPH} does not run ({reason}); {_AGAIN}.") from error

    def embed(self, text: str) -> NDArray[np.float64]:
        """Return the vector of a text, float64 ``[size]``; one text at a time, offline as online."""
        ids = self._tokens.ids(text)[None, :]
        found = self._session.run(("features",), {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return np.asarray(found[0][0], dtype=np.float64)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.header, self._graph, self._tokenizer, self.threads)

    def parts(self) -> dict[str, bytes]:
        """Return the parts ``sentence.json``, ``sentence.onnx`` and ``sentence_tokenizer.json``."""
        return {SENTENCE: self.header.to_bytes(), GRAPH: self._graph, TOKENIZER: self._tokenizer}


class TokenVectors:
    """A sentence encoder reduced to one vector per token: tens of microseconds, numpy only.

    A text is the mean of its tokens' vectors. Rare tokens weigh more; special tokens are zero.

    Parameters
    ----------
    header
        What ``sentence.json`` says; kind ``"tokens"``.
    table
        int8 ``[vocabulary, d]``.
    scale
        float32 ``[vocabulary]``: what a row is multiplied by.
    tokenizer
        A ``tokenizer.json``.

    Raises
    ------
    BundleError
        If table, tokenizer and header do not fit together.
    """

    def __init__(
        self, header: SentenceHeader, table: NDArray[np.int8], scale: NDArray[np.float32], tokenizer: bytes
    ) -> None:
        self.header, self._table, self._scale, self._tokenizer = header, table, scale, tokenizer
        self._tokens = _tokens(header, tokenizer)
        if table.ndim != 2 or scale.shape != table.shape[:1] or len(table) <= self._tokens.largest_id:
            raise BundleError(f"The part {TABLE} does not fit {TOKENIZER}; {_AGAIN}.")
        if table.dtype != np.int8 or not np.isfinite(scale).all():
            raise BundleError(f"The part {TABLE} is malformed; {_AGAIN}.")
        self.size = table.shape[1]

    def embed(self, text: str) -> NDArray[np.float64]:
        """Return the vector of a text, float64 ``[size]``; zero where no token is known."""
        ids = self._tokens.ids(text)
        found: NDArray[np.float64] = self._scale[ids].astype(np.float64) @ self._table[ids].astype(np.float64)
        return found / len(ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.header, self._table, self._scale, self._tokenizer)

    def parts(self) -> dict[str, bytes]:
        """Return the parts ``sentence.json``, ``sentence.npz`` and ``sentence_tokenizer.json``."""
        arrays = dump_arrays({"table": self._table, "scale": self._scale})
        return {SENTENCE: self.header.to_bytes(), TABLE: arrays, TOKENIZER: self._tokenizer}


def sentence_encoder_from_parts(parts: Mapping[str, bytes], threads: int = 1) -> SentenceEncoder | TokenVectors:
    """Read an encoder back from its parts.

    Raises
    ------
    BundleError
        If a part is missing, malformed or of a newer format, or the parts do not fit together.
    """
    header = SentenceHeader.from_bytes(_part(parts, SENTENCE))
    if header.kind == "onnx":
        return SentenceEncoder(header, _part(parts, GRAPH), _part(parts, TOKENIZER), threads)
    if header.kind == "tokens":
        arrays = load_arrays(TABLE, _part(parts, TABLE))
        if set(arrays) != {"table", "scale"}:
            raise BundleError(f"The part {TABLE} is malformed; {_AGAIN}.")
        return TokenVectors(header, arrays["table"], arrays["scale"], _part(parts, TOKENIZER))
    raise BundleError(f"The sentence encoder is of kind {header.kind!r}, which this version does not know.")


def save_sentence_encoder(encoder: SavedEncoder, path: str | Path) -> Path:
    """Write the folder: beside the target, synced, then renamed into place.

    Raises
    ------
    InputError
        When the target exists and is not such a folder.
    """
    target, parts = check_output(path, _KIND), encoder.parts()
    write_folder(target, {"kind": _KIND.name, "id": parts_id(parts)}, parts)
    return target


def load_sentence_encoder(path: str | Path, threads: int = 1) -> SentenceEncoder | TokenVectors:
    """Read and verify a folder.

    Raises
    ------
    BundleError
        When it is no sentence encoder, a file is changed, missing or extra, or the schema is newer.
    """
    return sentence_encoder_from_parts(read_folder(Path(path), _KIND)[1], threads)


def _part(parts: Mapping[str, bytes], name: str) -> bytes:
    if name not in parts:
        raise BundleError(f"The sentence encoder has no part {name}; {_AGAIN}.")
    return parts[name]


def is_sentence_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a sentence encoder rather than a bundle."""
    return (Path(path) / MANIFEST).is_file() and (Path(path) / SENTENCE).is_file()
