"""Extraction as ranking: every short span of the context is a candidate, a linear model picks one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from items import Item, grade, normalise, split_question, words_of

__all__ = ["Evidence", "Ranked", "Span", "SpanRanker", "spans"]

_LONGEST = 6
_NUMBER_WORDS = words_of(
    "one two three four five six seven eight nine ten eleven twelve fifteen sixteen twenty thirty forty fifty "
    "sixty seventy eighty ninety hundred million billion half third"
)
_TIME_WORDS = words_of(
    "monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays fridays "
    "saturdays sundays january february march april may june july august september october november december "
    "noon midnight dawn dusk night morning evening winter summer spring autumn eve"
)
_UNITS = words_of(
    "euros pounds dollars francs yen crowns kilos tons metres miles kilometres litres hours minutes days "
    "weeks months years percent degrees inches times"
)
_COLOURS = words_of("red blue green yellow orange purple brown black white grey silver")
_ARTICLES = words_of("a an the his her its their")
_PREPOSITIONS = words_of(
    "in on at by from to with near above under behind over into of for through between before after during "
    "within off among around until since"
)
_JOINS = words_of("and but while so except though")
_AUXILIARIES = words_of("did does do is was are were can must should has have will")


@dataclass(frozen=True)
class Span:
    """A run of words of the context: ``words[start:stop]``."""

    words: tuple[str, ...]
    start: int
    stop: int

    @property
    def text(self) -> str:
        """The span as it stands in the context, without the punctuation around it."""
        return " ".join(self.words[self.start : self.stop]).strip(".,\"'")


@dataclass(frozen=True)
class Ranked:
    """The chosen span and the share of the candidates' total score it got."""

    text: str
    confidence: float


Evidence = Callable[[Item, Sequence[Span]], list[dict[str, float]]]
"""Further features for the candidates of one item, for instance from a language model."""


def spans(context: str) -> list[Span]:
    """All spans of at most six words that could stand alone.

    No comma or full stop cuts them, an article before a span belongs to it, and none ends in an article or
    preposition.
    """
    words = tuple(context.split())
    found = []
    for start in range(len(words)):
        if start and words[start - 1].lower() in _ARTICLES:
            continue
        for stop in range(start + 1, min(start + _LONGEST, len(words)) + 1):
            if words[stop - 1].lower() not in _ARTICLES | _PREPOSITIONS:
                found.append(Span(words, start, stop))
            if words[stop - 1][-1] in ".,":
                break
    return found


class SpanRanker:
    """Logistic regression over features of (question, span), fitted on seed items.

    Parameters
    ----------
    items
        Seed items of the task `extract`.
    evidence
        Optional further features for each span.
    regularisation
        Inverse strength of the ridge penalty, scikit-learn's ``C``.
    """

    def __init__(self, items: Sequence[Item], evidence: Evidence | None = None, regularisation: float = 1.0) -> None:
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.linear_model import LogisticRegression

        self._evidence = evidence
        features: list[dict[str, float]] = []
        right: list[int] = []
        for item in items:
            candidates = spans(split_question(item.prompt)[0])
            features += self._features(item, candidates)
            right += [grade(item, candidate.text) for candidate in candidates]
        self._vectorizer: Any = DictVectorizer(sparse=False)
        self._model: Any = LogisticRegression(C=regularisation, max_iter=2000)
        self._model.fit(self._vectorizer.fit_transform(features), right)

    def rank(self, item: Item) -> Ranked:
        """Choose the span of highest score; ties go to the first."""
        candidates = spans(split_question(item.prompt)[0])
        scores = self._model.decision_function(self._vectorizer.transform(self._features(item, candidates)))
        weights = np.exp(scores - scores.max())
        best = int(np.argmax(scores))
        return Ranked(candidates[best].text, float(weights[best] / weights.sum()))

    def _features(self, item: Item, candidates: Sequence[Span]) -> list[dict[str, float]]:
        rows = [_describe(split_question(item.prompt)[1], candidate) for candidate in candidates]
        if self._evidence is not None:
            for row, further in zip(rows, self._evidence(item, candidates), strict=True):
                row.update(further)
        return rows


def _describe(question: str, span: Span) -> dict[str, float]:
    asked = normalise(question).split()
    kinds = _kinds(asked)
    words = [normalise(word) for word in span.words]
    inside = words[span.start : span.stop]
    before = words[span.start - 1] if span.start else "^"
    after = words[span.stop] if span.stop < len(words) else "$"
    shape = " ".join(_shape(word, raw) for word, raw in zip(inside, span.words[span.start :], strict=False))
    stems = {_stem(word) for word in asked if word not in _PREPOSITIONS and word not in _ARTICLES}
    named = [index for index, word in enumerate(words) if _stem(word) in stems]
    outside = [index for index in named if not span.start <= index < span.stop]
    clause = _clause(span)
    gap = min((min(abs(index - span.start), abs(index - span.stop + 1)) for index in outside), default=9)
    plain: Mapping[str, float] = {
        f"shape={shape}": 1.0,
        f"first={_shape(inside[0], span.words[span.start])}": 1.0,
        f"last={_shape(inside[-1], span.words[span.stop - 1])}": 1.0,
        f"before={before if before in _PREPOSITIONS | _ARTICLES else _shape(before, 'x')}": 1.0,
        f"after={after if after in _PREPOSITIONS | _ARTICLES or after == '$' else 'w'}": 1.0,
        f"length={len(inside)}": 1.0,
        f"cut={span.words[span.stop - 1][-1] in '.,'}": 1.0,
        f"opens={span.start == 0}": 1.0,
        f"shared={min(len(named) - len(outside), 2)}": 1.0,
        f"gap={min(gap, 4)}": 1.0,
        f"side={_side(span, outside)}": 1.0,
        "clause": sum(index in clause for index in named) / max(1, len(named)),
    }
    return {**plain, **{f"{kind}|{name}": value for kind in kinds for name, value in plain.items()}}


def _side(span: Span, named: Sequence[int]) -> str:
    if not named:
        return "alone"
    return "before" if span.stop <= min(named) else "after" if span.start > max(named) else "between"


def _clause(span: Span) -> range:
    breaks = [index + (word in _JOINS) for index, word in enumerate(span.words) if word in _JOINS or word.endswith(",")]
    start = max((index for index in breaks if index <= span.start), default=0)
    stop = min((index for index in breaks if index >= span.stop), default=len(span.words))
    return range(start, stop)


def _kinds(asked: Sequence[str]) -> tuple[str, str]:
    kind = _question_word(asked)
    verb = asked[len(kind.split())] if len(asked) > len(kind.split()) else ""
    return kind, f"{kind}+{'object' if verb in _AUXILIARIES else 'subject'}"


def _question_word(asked: Sequence[str]) -> str:
    text = " ".join(asked)
    if "colour" in asked:
        return "colour"
    found = re.search(
        r"\b(?:how (?:many|much|long|often|old|far|high|heavy|\w+)|who|whom|where|when|why|which|what)", text
    )
    return found.group() if found else "what"


def _shape(word: str, raw: str) -> str:
    if word in _ARTICLES:
        return "D"
    if word in _PREPOSITIONS:
        return "P"
    if word[:1].isdigit():
        return "9"
    for letter, listed in (("N", _NUMBER_WORDS), ("T", _TIME_WORDS), ("U", _UNITS), ("C", _COLOURS)):
        if word in listed:
            return letter
    if word.endswith(("ed", "was", "is", "are", "were", "has", "had")):
        return "v"
    return "X" if raw[:1].isupper() else "w"


def _stem(word: str) -> str:
    return word[: max(4, len(word) - 3)]
