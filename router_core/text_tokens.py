"""A text as token ids, exactly as a transformer router was fitted on them.

Long texts keep their head and their tail: a question stands at the start, its options and instructions at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router_core.errors import BundleError

__all__ = ["CLIP", "WORD_CLIP", "TextTokens"]

CLIP: Final = 16
"""Characters kept of a text, from either end, for each token that is kept there: ordinary tokens have four or five."""

WORD_CLIP: Final = 128
"""Characters kept of one word of a text that is given in words."""


class TextTokens:
    """Tokenizer and truncation.

    Parameters
    ----------
    content
        A ``tokenizer.json`` of the `tokenizers` library; its own truncation and padding are switched off.
    max_tokens
        Longest sequence, special tokens included; at least 4 more than the tokenizer's special tokens.
    again
        For the error: how to make the part anew.

    Raises
    ------
    BundleError
        If the content is no tokenizer, or `max_tokens` leaves no room for text.
    """

    def __init__(self, content: bytes, max_tokens: int, again: str = "fit the bundle again") -> None:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(content.decode())
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"The part tokenizer.json is no tokenizer ({error}); {again}.") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer: Any = tokenizer
        self.max_tokens = max_tokens
        probe = tokenizer.encode("a")
        special = [bool(flag) for flag in probe.special_tokens_mask]
        start = special.index(False) if False in special else len(special)
        end = len(special) - special[::-1].index(False) if False in special else len(special)
        self._before, self._after = list(probe.ids[:start]), list(probe.ids[end:])
        room = max_tokens - len(self._before) - len(self._after)
        if room < 4:
            raise BundleError(f"max_tokens = {max_tokens} leaves room for {room} tokens of text; 4 are needed.")
        self._tail = room // 2
        self._head = room - self._tail

    @property
    def largest_id(self) -> int:
        """Largest id the tokenizer can give."""
        return max(int(row) for row in self._tokenizer.get_vocab(with_added_tokens=True).values())

    def digest(self) -> str:
        """SHA-256 of the vocabulary: tokens with their ids."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        content = json.dumps(sorted(vocabulary.items()), separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def ids(self, text: str) -> NDArray[np.int64]:
        """Return the token ids of a text, int64 ``[t]`` with ``t <= max_tokens``.

        Lone surrogates, which no tokenizer accepts, count as question marks.
        """
        if len(text) > CLIP * (self._head + self._tail):
            text = f"{text[: CLIP * self._head]} {text[-CLIP * self._tail :]}"
        found = self._tokenizer.encode(_clean(text), add_special_tokens=False).ids
        return np.array(self._before + self._cut(found) + self._after, dtype=np.int64)

    def of_words(self, words: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the token ids of a text that is split into words, and the word each token belongs to.

        Returns
        -------
        tuple
            int64 ``[t]`` and ``[t]`` with ``t <= max_tokens``; the word of a special token is -1. Of a text too long
            the head and the tail are kept, of a word at most `WORD_CLIP` characters.
        """
        kept = list(range(len(words)))
        if len(words) > self._head + self._tail:
            # A word gives a token or more, so words further in cannot be kept.
            kept = [*kept[: self._head], *kept[-self._tail :]]
        found = self._tokenizer.encode(
            [_clean(words[i][:WORD_CLIP]) for i in kept], is_pretokenized=True, add_special_tokens=False
        )
        of = self._cut([kept[i] for i in found.word_ids])
        ids = self._before + self._cut(found.ids) + self._after
        return np.array(ids, dtype=np.int64), np.array(
            [-1] * len(self._before) + of + [-1] * len(self._after), dtype=np.int64
        )

    def count(self, text: str) -> int:
        """Return the number of tokens of a whole text, special tokens not counted."""
        return len(self._tokenizer.encode(_clean(text), add_special_tokens=False).ids)

    def _cut(self, found: list[int]) -> list[int]:
        return found if len(found) <= self._head + self._tail else found[: self._head] + found[-self._tail :]


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
