"""How likely each of several described choices is to fit a query.

`ChoiceModel` is linear in a sparse vector of words and characters and, where there is a text encoder, in its unit
vector. Its weights hold both what labelled queries taught and the likeness to the choices' own descriptions;
`router_core.fitting.choices` weighs the two by cross-validation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router_core.errors import InputError
from router_core.sentence_encoder import TextEncoder
from router_core.text_features import text_features
from router_core.text_space import Vocabulary

__all__ = ["Choice", "ChoiceModel", "TextVectors", "distinct", "softmax", "unit"]

Float = NDArray[np.float64]


class Choice(NamedTuple):
    """One choice as its user describes it; the name may be empty."""

    name: str
    description: str

    @property
    def text(self) -> str:
        """What is read of it."""
        return f"{self.name.replace('_', ' ')}: {self.description}" if self.name else self.description


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
