"""Small graders: how good an answer is, in [0, 1], against a gold answer.

They serve records that are graded here; records may as well bring their own quality.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from router_core.groups import normalise

__all__ = ["exact_match", "set_f1", "token_f1"]


def exact_match(answer: str, gold: str | Sequence[str]) -> float:
    """1.0 if the normalised answer equals a gold answer (or one of several), else 0.0."""
    accepted = [gold] if isinstance(gold, str) else gold
    return float(normalise(answer) in {normalise(text) for text in accepted})


def token_f1(answer: str, gold: str) -> float:
    """F1 of the words of `answer` and `gold`, repeated words counted as in SQuAD; 1.0 if both are empty."""
    return _f1(Counter(normalise(answer).split()), Counter(normalise(gold).split()))


def set_f1(answer: Iterable[str], gold: Iterable[str]) -> float:
    """F1 of two sets of labels, compared normalised, repetitions ignored; 1.0 if both are empty."""
    return _f1(Counter({normalise(label) for label in answer}), Counter({normalise(label) for label in gold}))


def _f1(found: Counter[str], wanted: Counter[str]) -> float:
    if not found and not wanted:
        return 1.0
    return 2 * (found & wanted).total() / (found.total() + wanted.total())
