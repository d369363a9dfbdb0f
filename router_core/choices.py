"""Which of several described choices fits a query: probabilities from a few labelled queries, and calibrated sets.

`ChoiceModel` is linear in a sparse vector of words and characters and, where there is a text encoder, in its unit
vector. Its weights hold both what labelled queries taught and the likeness to the choices' own descriptions;
`router_core.fitting.choices` weighs the two by cross-validation. `ChoiceJudge` adds what calibration showed, and is
saved as one hashed folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_arrays, dump_json, load_arrays, load_json
from router_core.encoder import Encoder, load_encoder, serving_threads
from router_core.errors import BundleError, InputError
from router_core.folder import FolderKind, check_output, parts_id, read_folder, write_folder
from router_core.label_sets import LabelSets, TakenClaim
from router_core.sentence_encoder import (
    SENTENCE,
    SavedEncoder,
    SentenceEncoder,
    TextEncoder,
    TokenVectors,
    is_sentence_folder,
    load_sentence_encoder,
    sentence_encoder_from_parts,
)
from router_core.text_features import BUCKETS, text_features
from router_core.text_space import Vocabulary

__all__ = [
    "Choice",
    "ChoiceJudge",
    "ChoiceModel",
    "Counts",
    "TextVectors",
    "distinct",
    "find_encoder",
    "softmax",
    "unit",
]

Float = NDArray[np.float64]

_HEADER: Final = "choices.json"
_ARRAYS: Final = "choices.npz"
_FORMAT: Final = 1
_AGAIN: Final = "fit it again"
_KIND: Final = FolderKind("selector", "fitted", _AGAIN, "`ConformalSelector.fit(...).save(...)`")


class Choice(NamedTuple):
    """One choice as its user describes it; the name may be empty."""

    name: str
    description: str

    @property
    def text(self) -> str:
        """What is read of it."""
        return f"{self.name.replace('_', ' ')}: {self.description}" if self.name else self.description


class Counts(NamedTuple):
    """Labelled queries by what became of them."""

    train: int
    calib: int
    repeats: int
    straddlers: int


@dataclass(frozen=True, eq=False)
class ChoiceModel:
    """The numbers of a fitted model: ``m`` choices, ``F`` features of words and characters, ``d`` of the encoder.

    Attributes
    ----------
    vocabulary
        The features.
    words
        float32 ``[F, m]``.
    dense
        float64 ``[d, m]``; ``d`` is 0 without an encoder.
    offset
        float64 ``[m]``.
    likeness
        Weights of the likeness to a description, by words and by the encoder: all there is for a choice never fitted.
    encoder
        Turns a text into a vector, or None.
    """

    vocabulary: Vocabulary
    words: NDArray[np.float32]
    dense: Float
    offset: Float
    likeness: tuple[float, float]
    encoder: TextEncoder | None

    def read(self, text: str) -> TextVectors:
        """Read a text once; any string."""
        rows, values, _ = self.vocabulary.vector(text_features(text))
        return TextVectors(rows, values, None if self.encoder is None else unit(self.encoder.embed(text)))

    def scores(self, query: TextVectors) -> Float:
        """Logits ``[m]`` of the fitted choices."""
        found = self.offset + query.values @ self.words[query.rows]
        return found if query.dense is None else found + query.dense @ self.dense

    def likeness_to(self, query: TextVectors, choice: TextVectors) -> float:
        """Logit of a choice never fitted, on the scale of `scores`, from its text alone."""
        _, mine, others = np.intersect1d(query.rows, choice.rows, assume_unique=True, return_indices=True)
        found = self.likeness[0] * float(query.values[mine] @ choice.values[others])
        if query.dense is not None and choice.dense is not None:
            found += self.likeness[1] * float(query.dense @ choice.dense)
        return found + float(self.offset.mean())

    def probabilities(self, text: str) -> Float:
        """P(choice | query) of the fitted choices, float64 ``[m]``."""
        return softmax(self.scores(self.read(text)))


class TextVectors(NamedTuple):
    """A text as a model reads it: rows and values of the sparse vector, and a unit vector or None."""

    rows: NDArray[np.int32]
    values: Float
    dense: Float | None


def unit(vector: Float) -> Float:
    """Scale a vector to length 1; what is zero or not finite becomes zero."""
    norm = math.sqrt(float(vector @ vector))
    return vector / norm if 0.0 < norm < math.inf else np.zeros(len(vector))


def softmax(scores: Float) -> Float:
    """Probabilities of logits, along the last axis."""
    found = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(found / found.sum(axis=-1, keepdims=True))


def find_encoder(encoder: str | Path | TextEncoder | None, threads: int | None = None) -> TextEncoder | None:
    """Resolve what a user gives as encoder.

    Parameters
    ----------
    encoder
        ``"static"`` or None: words and characters alone. A folder: of a sentence encoder or token vectors
        (`router_core.sentence_encoder`), or a bundle, whose hidden vectors are used. Else any object with `embed`.
    threads
        As for `Router.load`.

    Raises
    ------
    InputError
        If it is none of these.
    BundleError
        If the folder is damaged.
    """
    if encoder is None or encoder == "static":
        return None
    if isinstance(encoder, str | Path):
        if not Path(encoder).is_dir():
            raise InputError(f"encoder = {str(encoder)!r} is neither 'static' nor a folder with an encoder.")
        if is_sentence_folder(encoder):
            return load_sentence_encoder(encoder, serving_threads(threads))
        from router_core.bundle import Bundle

        found: TextEncoder = Bundle.load(encoder, threads).scorer.encoder
        return found
    if not isinstance(encoder, TextEncoder):
        raise InputError(f"encoder = {encoder!r} has no method embed(text).")
    return encoder


@dataclass(frozen=True, eq=False)
class ChoiceJudge:
    """A fitted model with what calibration showed of it.

    Attributes
    ----------
    choices
        In fitted order; every index of this class is a position in it.
    model
        Gives probabilities.
    sets
        Gives calibrated sets.
    taken
        The certified rule for taking the most probable choice.
    counts
        Labelled queries by what became of them.
    """

    choices: tuple[Choice, ...]
    model: ChoiceModel
    sets: LabelSets
    taken: TakenClaim
    counts: Counts

    @property
    def encoder_kind(self) -> str:
        """What the texts are read with, in a word or two."""
        encoder = self.model.encoder
        if encoder is None:
            return "hashed words"
        if isinstance(encoder, SentenceEncoder | TokenVectors):
            return f"{encoder.header.name}, {'token vectors' if encoder.header.kind == 'tokens' else 'ONNX'}"
        return f"encoder of a bundle, {encoder.kind}" if isinstance(encoder, Encoder) else type(encoder).__name__

    def parts(self) -> dict[str, bytes]:
        """Return the parts of the folder.

        Raises
        ------
        InputError
            When the encoder is an object that gives no parts.
        """
        model, encoder = self.model, self.model.encoder
        if encoder is not None and not isinstance(encoder, SavedEncoder):
            raise InputError(
                f"The encoder {type(encoder).__name__} cannot be saved; fit with a folder as encoder "
                "(router_core.sentence_encoder) to save the selector."
            )
        header = {
            "format": _FORMAT, "choices": [list(one) for one in self.choices], "alpha": self.sets.alpha,
            "likeness": list(model.likeness), "counts": list(self.counts), "encoder": encoder is not None,
            "taken": [self.taken.alpha, self.taken.delta, self.taken.n, self.taken.taken, self.taken.wrong,
                      self.taken.threshold],
        }  # fmt: skip
        arrays: dict[str, NDArray[Any]] = {
            "buckets": model.vocabulary.buckets, "weights": model.vocabulary.weights, "words": model.words,
            "dense": model.dense, "offset": model.offset, **self.sets.to_arrays(),
        }  # fmt: skip
        own = {_HEADER: dump_json(header), _ARRAYS: dump_arrays(arrays)}
        return own if encoder is None else {**encoder.parts(), **own}

    def save(self, path: str | Path) -> Path:
        """Write the folder: beside the target, synced, then renamed into place.

        Raises
        ------
        InputError
            When the target exists and is no such folder, or the encoder cannot be saved.
        """
        parts = self.parts()
        target = check_output(path, _KIND)
        write_folder(target, {"kind": _KIND.name, "id": parts_id(parts)}, parts)
        return target

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> Self:
        """Read and verify a folder; `threads` is as for `Router.load`.

        Raises
        ------
        BundleError
            When it is no selector, a file is changed, missing or extra, or it is of a newer schema or format.
        """
        _, parts = read_folder(Path(path), _KIND)
        for name in (_HEADER, _ARRAYS):
            if name not in parts:
                raise BundleError(f"{path} is no selector: it has no {name}; {_AGAIN}.")
        header, arrays = load_json(_HEADER, parts[_HEADER]), load_arrays(_ARRAYS, parts[_ARRAYS])
        try:
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']!r} is not known; upgrade routenlp")
            encoder = _read_encoder(parts, serving_threads(threads)) if header["encoder"] else None
            return cls._from(header, arrays, encoder)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(f"The selector {path} is malformed ({error}); {_AGAIN}.") from error

    @classmethod
    def _from(cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], encoder: TextEncoder | None) -> Self:
        choices = tuple(Choice(str(name), str(text)) for name, text in header["choices"])
        buckets, m = arrays["buckets"].astype(np.int32), len(choices)
        if len(buckets) and (buckets[0] < 0 or buckets[-1] >= 2 * BUCKETS or (np.diff(buckets) <= 0).any()):
            raise ValueError("buckets do not rise within their range")
        words, dense, offset = arrays["words"], arrays["dense"].astype(np.float64), arrays["offset"]
        wide = 0 if encoder is None else len(encoder.embed(""))
        if words.shape != (len(buckets), m) or dense.shape != (wide, m) or offset.shape != (m,):
            raise ValueError("the arrays do not fit together")
        words_like, dense_like = map(float, header["likeness"])
        model = ChoiceModel(
            Vocabulary(buckets, arrays["weights"].astype(np.float32)), words.astype(np.float32), dense,
            offset.astype(np.float64), (words_like, dense_like), encoder,
        )  # fmt: skip
        alpha, delta, n, taken, wrong, threshold = header["taken"]
        claim = TakenClaim(
            float(alpha), float(delta), int(n), int(taken), int(wrong), None if threshold is None else float(threshold)
        )
        sets = LabelSets.from_arrays(float(header["alpha"]), m, arrays)
        return cls(choices, model, sets, claim, Counts(*map(int, header["counts"])))


def _read_encoder(parts: Mapping[str, bytes], threads: int) -> TextEncoder:
    if SENTENCE in parts:
        return sentence_encoder_from_parts(parts, threads)
    found: Encoder = load_encoder(parts, threads)
    return found


def distinct(choices: Sequence[Choice]) -> None:
    """Refuse choices that cannot be told apart when a query comes.

    Raises
    ------
    InputError
        When there is none, or two have the same name and description.
    """
    if not choices:
        raise InputError("A selector needs at least one choice.")
    seen: set[Choice] = set()
    for choice in choices:
        if choice in seen:
            raise InputError(f"Two choices are {choice.text[:80]!r}; give each its own name or description.")
        seen.add(choice)
