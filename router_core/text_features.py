"""What the static encoder reads from a text: hashed words, hashed character n-grams, and counts.

Everything is computed on a byte array with a fixed number of numpy calls; no Python loop touches characters.
The hash of bytes ``s..e`` is polynomial over prefix sums modulo 2^64:
``H(s, e) = (P[e] - P[s]) * R^-s`` with ``P[i] = sum over j < i of value[byte j] * R^j`` and an odd ``R``
(odd numbers are invertible modulo 2^64), so any substring costs one subtraction and one product.

A text longer than ``HEAD + TAIL`` characters is cut to its first ``HEAD`` and last ``TAIL`` characters; its
true length stays a feature.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BUCKETS",
    "HEAD",
    "STATISTICS",
    "TAIL",
    "TextFeatures",
    "clip_text",
    "text_features",
]

HEAD: Final = 4000
"""Characters kept from the start of a text."""
TAIL: Final = 2000
"""Characters kept from the end of a text."""

_BITS: Final = 19
BUCKETS: Final = 1 << _BITS
"""Hash buckets of words; character n-grams use the ``BUCKETS`` numbers that follow."""

_ORDER: Final = 4
_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_MAX_BYTES: Final = 4 * (HEAD + TAIL) + 1

STATISTICS: Final = (
    "log_characters",
    "log_words",
    "log_newlines",
    "log_questions",
    "log_quotes",
    "log_commas",
    "log_digits",
    "log_operators",
    "log_first_line",
    "log_last_line",
    "log_mean_word_length",
    "digit_share",
    "upper_share",
    "punctuation_share",
    "bracket_share",
    "operator_share",
    "non_ascii_share",
    "starts_with_question_word",
    "negation",
    "blank_to_fill",
    "code_words",
    "all_or_none",
    "log_items",
    "log_longest_item",
    "log_shortest_item",
    "item_spread",
    "numeric_items",
)
"""Names of the prompt statistics, in the order of ``TextFeatures.statistics``."""

# Byte classes counted by one bincount.
_CLASSES: Final = 12
_OTHER, _SPACE, _NEWLINE, _LOWER, _UPPER, _DIGIT, _HIGH, _BRACKET, _OPERATOR, _QUESTION, _QUOTE, _COMMA = range(
    _CLASSES
)

_QUESTION_WORDS: Final = (
    "what", "which", "who", "whom", "whose", "when", "where", "why", "how", "is ", "are ", "do ", "does ",
    "did ", "can ", "could ", "should ", "would ",
)  # fmt: skip
_NEGATIONS: Final = (" NOT ", " EXCEPT", " except ", "n't ", " not ", " LEAST ")
_BLANKS: Final = ("__", "...", "[MASK]")
_CODE: Final = (
    "def ",
    "return ",
    "import ",
    "class ",
    "();",
    "#include",
    "SELECT ",
    "function",
    "\\frac",
    "</",
)
_ALL_NONE: Final = ("ll of the", "one of the", "both ", "neither ")


# Lettered or numbered lines: the options of a question, the steps of a request.
_ITEM: Final = re.compile(r"^\(?[A-Ja-j1-9][.)] (.*)", re.MULTILINE)
_MAX_ITEMS: Final = 8
_HAS_DIGIT: Final = re.compile("[0-9]")
_SHORT_ITEM: Final = 15


def _powers(base: int) -> NDArray[np.uint64]:
    """Return ``base ** 0 .. base ** _MAX_BYTES`` modulo 2^64."""
    out = np.full(_MAX_BYTES + 1, base, dtype=np.uint64)
    out[0] = 1
    return np.multiply.accumulate(out)


def _byte_values() -> NDArray[np.uint64]:
    """Return one 64-bit value per byte, splitmix64 of its folded form: case and kind of space are lost."""
    folded = np.arange(256, dtype=np.uint64)
    folded[65:91] += np.uint64(32)
    folded[[9, 10, 11, 12, 13]] = 32
    z = (folded + np.uint64(1)) * np.uint64(_MULTIPLIER)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def _byte_classes() -> NDArray[np.uint8]:
    """Return the class of every byte, for the counts."""
    out = np.full(256, _OTHER, dtype=np.uint8)
    for members, kind in (
        (b" \t\x0b\x0c\r", _SPACE),
        (b"\n", _NEWLINE),
        (bytes(range(97, 123)), _LOWER),
        (bytes(range(65, 91)), _UPPER),
        (b"0123456789", _DIGIT),
        (bytes(range(128, 256)), _HIGH),
        (b"()[]{}", _BRACKET),
        (b"=+*/<>^|&%$\\~#@", _OPERATOR),
        (b"?", _QUESTION),
        (b"\"'`", _QUOTE),
        (b",;:", _COMMA),
    ):
        out[np.frombuffer(members, dtype=np.uint8)] = kind
    return out


_POWER: Final = _powers(_MULTIPLIER)
_INVERSE: Final = _powers(pow(_MULTIPLIER, -1, 1 << 64))
_VALUE: Final = _byte_values()
_CLASS: Final = _byte_classes()
_IS_WORD: Final = np.isin(_CLASS, [_LOWER, _UPPER, _DIGIT, _HIGH])
_SPREAD: Final = np.uint64(0xD6E8FEB86659FD93)
_PAIR: Final = np.uint64(0xA0761D6478BD642F)
_HALF: Final = np.uint64(32)
_TOP: Final = np.uint64(64 - _BITS)


@dataclass(frozen=True)
class TextFeatures:
    """Features of one text.

    Attributes
    ----------
    buckets
        int64: first the words and the pairs of neighbouring words, in ``[0, BUCKETS)``, then the byte 4-grams of
        the folded text, in ``[BUCKETS, 2 BUCKETS)``.
    word_hash
        uint64 ``[w]``: full hashes of the words, well mixed in every bit; their buckets are ``buckets[:w]``.
    pairs_end
        Where the pairs end and the 4-grams begin: ``2 w - 1``, or 0 without words.
    statistics
        float64 ``[len(STATISTICS)]``.
    """

    buckets: NDArray[np.int64]
    word_hash: NDArray[np.uint64]
    pairs_end: int
    statistics: NDArray[np.float64]

    @property
    def words(self) -> NDArray[np.int64]:
        """Buckets of the words, then of the pairs."""
        return self.buckets[: self.pairs_end]

    @property
    def characters(self) -> NDArray[np.int64]:
        """Buckets of the byte 4-grams."""
        return self.buckets[self.pairs_end :]


def clip_text(text: str) -> str:
    """Return what is read of a text: all of it, or its first ``HEAD`` and last ``TAIL`` characters."""
    if len(text) <= HEAD + TAIL:
        return text
    return text[:HEAD] + text[-TAIL:]


def _any(text: str, needles: tuple[str, ...]) -> float:
    """Return 1.0 if one of the needles occurs."""
    for needle in needles:
        if needle in text:
            return 1.0
    return 0.0


def text_features(text: str) -> TextFeatures:
    """Compute the features of one text; defined for every string, lone surrogates and NUL included.

    Parameters
    ----------
    text
        Any string. Compatibility forms and case are folded (NFKC, lower case) for the hashes.

    Returns
    -------
    TextFeatures
        Deterministic: no seed, no state, the same on every machine.
    """
    length = len(text)
    clipped = clip_text(text)
    if not clipped.isascii():
        # NFKC makes some texts 18 times longer (U+FDFA), lower() some a little, so each is clipped again.
        clipped = clip_text(unicodedata.normalize("NFKC", clipped))
        folded = clip_text(clipped.lower())
        raw = np.frombuffer(clipped.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        data = np.frombuffer(folded.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    else:
        raw = data = np.frombuffer(clipped.encode(), dtype=np.uint8)
    size = len(data)

    prefix = np.zeros(size + 1, dtype=np.uint64)
    np.add.accumulate(_VALUE[data] * _POWER[:size], out=prefix[1:])

    # A word is a run of letters, digits and non-ASCII bytes; its edges are where the padded flags change.
    flags = np.zeros(size + 2, dtype=np.bool_)
    flags[1:-1] = _IS_WORD[data]
    edges = (flags[1:] != flags[:-1]).nonzero()[0]
    starts = edges[::2]
    words = len(starts)
    pairs_end = max(0, 2 * words - 1)
    grams = max(0, size - _ORDER + 1)

    hashes = np.empty(pairs_end + grams, dtype=np.uint64)
    singles, pairs, rest = hashes[:words], hashes[words:pairs_end], hashes[pairs_end:]
    np.multiply(prefix[edges[1::2]] - prefix[starts], _INVERSE[starts], out=singles)
    np.multiply(singles[:-1], _PAIR, out=pairs)
    pairs += singles[1:]
    np.multiply(prefix[size - grams + 1 :] - prefix[:grams], _INVERSE[:grams], out=rest)

    # A polynomial hash is weak in its low bits; this spreads it over all 64.
    hashes ^= hashes >> _HALF
    hashes *= _SPREAD
    hashes ^= hashes >> _HALF
    buckets = (hashes >> _TOP).view(np.int64)
    buckets[pairs_end:] += BUCKETS
    return TextFeatures(buckets, singles, pairs_end, _statistics(clipped, length, raw, words))


def _items(clipped: str) -> tuple[float, float, float, float, float]:
    """Measure the first few list items: log count, log longest, log shortest, spread, share of short numbers."""
    items = [match[1] for match in islice(_ITEM.finditer(clipped), _MAX_ITEMS)]
    if not items:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    lengths = [len(item) for item in items]
    count, longest, shortest = len(items), max(lengths), min(lengths)
    numeric = sum(1 for item in items if len(item) < _SHORT_ITEM and _HAS_DIGIT.search(item))
    spread = (longest - shortest) / (1.0 + sum(lengths) / count)
    return math.log1p(count), math.log1p(longest), math.log1p(shortest), spread, numeric / count


def _statistics(clipped: str, length: int, raw: NDArray[np.uint8], words: int) -> NDArray[np.float64]:
    """Compute counts and shares of a clipped text; the order is ``STATISTICS``."""
    counts: list[int] = np.bincount(_CLASS[raw], minlength=_CLASSES).tolist()
    size = max(1, len(raw))
    letters = counts[_LOWER] + counts[_UPPER] + counts[_DIGIT] + counts[_HIGH]
    first = clipped.find("\n")
    head = clipped[:64].lstrip().lower()
    out = np.array(
        (
            length,
            words,
            counts[_NEWLINE],
            counts[_QUESTION],
            counts[_QUOTE],
            counts[_COMMA],
            counts[_DIGIT],
            counts[_OPERATOR],
            len(clipped) if first < 0 else first,
            len(clipped) - clipped.rfind("\n") - 1,
            letters / max(1, words),
            counts[_DIGIT] / size,
            counts[_UPPER] / size,
            counts[_OTHER] / size,
            counts[_BRACKET] / size,
            counts[_OPERATOR] / size,
            counts[_HIGH] / size,
            1.0 if head.startswith(_QUESTION_WORDS) else 0.0,
            _any(clipped, _NEGATIONS),
            _any(clipped, _BLANKS),
            _any(clipped, _CODE),
            _any(clipped, _ALL_NONE),
            *_items(clipped),
        )
    )
    np.log1p(out[:11], out=out[:11])
    return out
