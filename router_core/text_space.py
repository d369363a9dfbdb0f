"""A text as numbers, by a fitted vocabulary: a sparse vector, a dense vector, a hidden vector.

Training builds its matrices from these very calls, so that what was fitted is what is served.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router_core.text_features import BUCKETS, TextFeatures

__all__ = ["TextSpace", "Vocabulary"]

Float = NDArray[np.float64]

_SKETCH_BYTES: Final = 3
_SKETCH: Final = 8 * _SKETCH_BYTES
_SKETCH_SCALE: Final = 0.5
_CHARACTER_WEIGHT: Final = 0.5
_LOG_COUNT: Final = 1.0 + np.log(np.maximum(1.0, np.arange(64.0)))
_CLIP: Final = 4.0


class Vocabulary:
    """The features an encoder knows: hash buckets with their weights.

    Parameters
    ----------
    buckets
        int32 ``[F]``, strictly rising: word buckets in ``[0, BUCKETS)`` first, then character buckets.
    weights
        float32 ``[F]``: inverse document frequencies.
    """

    def __init__(self, buckets: NDArray[np.int32], weights: NDArray[np.float32]) -> None:
        self.buckets = buckets
        self.weights = weights
        self.size = len(buckets)
        self.words = int(np.searchsorted(buckets, BUCKETS))
        self._row = np.full(2 * BUCKETS, self.size, dtype=np.int32)
        self._row[buckets] = np.arange(self.size, dtype=np.int32)
        self._weights = weights.astype(np.float64)

    def vector(self, features: TextFeatures) -> tuple[NDArray[np.int32], Float, int]:
        """Return rows and values of the sparse vector of a text, and how many of them are words.

        Values are log counts times weights, each block scaled to unit length (characters to
        ``_CHARACTER_WEIGHT``). Rows rise; features outside the vocabulary are left out.
        """
        found = self._row[features.buckets]
        found.sort()
        known = int(found.searchsorted(self.size))
        if known == 0:
            return found[:0], np.zeros(0), 0
        first = np.empty(known + 1, dtype=np.bool_)
        first[0] = first[known] = True
        np.not_equal(found[1:known], found[: known - 1], out=first[1:known])
        starts = first.nonzero()[0]
        rows = found[starts[:-1]]
        counts = np.minimum(starts[1:] - starts[:-1], 63)
        values = self._weights[rows] * _LOG_COUNT[counts]
        words = int(rows.searchsorted(self.words))
        _rescale(values[:words], 1.0)
        _rescale(values[words:], _CHARACTER_WEIGHT)
        return rows, values, words


class TextSpace:
    """The part of the encoder that sees text only: sparse vector, dense vector, hidden vector."""

    def __init__(self, vocabulary: Vocabulary, topics: NDArray[np.float16], center: Float, scale: Float) -> None:
        self.vocabulary = vocabulary
        self.topics = topics
        self.center = center
        self.scale = scale
        self.hidden_size: int = topics.shape[1] + _SKETCH
        self._topics = topics.astype(np.float64)
        self._inverse = 1.0 / scale

    def dense(self, features: TextFeatures, rows: NDArray[np.int32], values: Float, words: int) -> Float:
        """Return latent topics of unit length, then standardised and clipped statistics, ``[d + s]``."""
        latent = values[:words] @ self._topics[rows[:words]]
        _rescale(latent, 1.0)
        statistics = (features.statistics - self.center) * self._inverse
        np.minimum(np.maximum(statistics, -_CLIP, out=statistics), _CLIP, out=statistics)
        return np.concatenate((latent, statistics))

    def hidden(self, features: TextFeatures, dense: Float) -> Float:
        """Return latent topics, then a sketch of the words, ``[hidden_size]``."""
        return np.concatenate((dense[: self.topics.shape[1]], _sketch(features.word_hash)))


def _rescale(vector: Float, length: float) -> None:
    """Give a vector a Euclidean length, in place; a zero vector stays zero."""
    norm = math.sqrt(vector @ vector)
    if norm > 0.0:
        vector *= length / norm


def _sketch(word_hash: NDArray[np.uint64]) -> Float:
    """Sum random signs of the words: words outside the vocabulary count in the hidden vector too."""
    if len(word_hash) == 0:
        return np.zeros(_SKETCH)
    octets = word_hash.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)[:, :_SKETCH_BYTES]
    total = np.unpackbits(octets, axis=1).sum(axis=0, dtype=np.int64)
    signed: Float = 2.0 * total - len(word_hash)
    _rescale(signed, _SKETCH_SCALE)
    return signed
