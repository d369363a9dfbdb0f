"""The student that tags words: named entities, as a JSON list.

A text is split at white space; a word's tag is that of its first token. An uncased vocabulary does not show capitals,
so a graph may ask for the shape of the word each token belongs to.
"""

from __future__ import annotations

import json
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from router_core.checkpoint import Checkpoint
from router_core.onnx_student import OnnxStudent
from router_core.own_confidence import log_softmax
from router_core.student import StudentAnswer

__all__ = ["SHAPES", "Tagger", "entities", "first_tokens", "word_shape"]

SHAPES: Final = ("none", "lower", "title", "upper", "mixed", "digits", "with digits", "other")
"""Shapes of a word, in the order of their codes; ``none`` is a special token's."""

_OUTSIDE: Final = "O"


def word_shape(word: str) -> int:
    """Code of a word's shape, its place in `SHAPES`."""
    if word.isdecimal():
        return 5
    if any(letter.isdigit() for letter in word):
        return 6
    letters = "".join(letter for letter in word if letter.isalpha())
    if not letters:
        return 7
    if letters.islower():
        return 1
    if letters.isupper() and len(letters) > 1:
        return 3
    return 2 if letters[0].isupper() and (len(letters) == 1 or letters[1:].islower()) else 4


def first_tokens(of: NDArray[np.int64], words: int) -> NDArray[np.int64]:
    """Place of each word's first token, -1 for a word without one.

    Parameters
    ----------
    of
        The word each token belongs to, -1 for none.
    words
        How many words there are.
    """
    found = np.full(words, -1, dtype=np.int64)
    for at in range(len(of) - 1, -1, -1):
        if of[at] >= 0:
            found[of[at]] = at
    return found


def entities(words: list[str], tags: list[str]) -> list[tuple[str, str]]:
    """Join tags to entities, (text, type) in order; an ``I-X`` that continues nothing begins one, as in conlleval."""
    found: list[tuple[list[str], str]] = []
    before = _OUTSIDE
    for word, tag in zip(words, tags, strict=True):
        if tag != _OUTSIDE:
            kind = tag[2:]
            if tag.startswith("I-") and before[2:] == kind:
                found[-1][0].append(word)
            else:
                found.append(([word], kind))
        before = tag
    return [(" ".join(text), kind) for text, kind in found]


class Tagger(OnnxStudent):
    """Answers with the entities of a text, ``[["Ann Lee", "PER"], ...]``.

    Its raw probability of being right is that of every word's tag, taken as independent. Words past `max_tokens` are
    outside.
    """

    optional_inputs: ClassVar[frozenset[str]] = frozenset({"word_shape"})

    def __init__(self, checkpoint: Checkpoint, threads: int = 1) -> None:
        super().__init__(checkpoint, threads)
        for label in self.labels:
            if label != _OUTSIDE and (label[:2] not in {"B-", "I-"} or len(label) == 2):
                self._refuse(f"the label {label!r} of a tagger is none of O, B-X, I-X")
        if _OUTSIDE not in self.labels:
            self._refuse("the labels of a tagger need O")

    def tags(self, text: str) -> tuple[list[str], list[str]]:
        """Return the words of a text and their tags."""
        words, tags, _, _ = self._tags(text)
        return words, tags

    def _answer(self, text: str) -> StudentAnswer:
        words, tags, ids, log_p = self._tags(text)
        return self.read(ids, json.dumps(entities(words, tags), ensure_ascii=False), log_p)

    def _tags(self, text: str) -> tuple[list[str], list[str], NDArray[np.int64], float]:
        words = text.split()
        ids, of = self.tokens.of_words(words)
        shapes = np.array([word_shape(words[i]) if i >= 0 else 0 for i in of.tolist()], dtype=np.int64)
        log_p = log_softmax(self.run(ids, word_shape=shapes))
        at = first_tokens(of, len(words))
        seen = at >= 0
        best = log_p[at[seen]].argmax(axis=-1)
        tags = np.full(len(words), self.labels.index(_OUTSIDE))
        tags[seen] = best
        sure = log_p[at[seen], best].sum() if seen.any() else 0.0
        return words, [self.labels[i] for i in tags.tolist()], ids, float(sure)

    def _shape(self, tokens: int) -> tuple[int, ...]:
        return tokens, len(self.labels)
