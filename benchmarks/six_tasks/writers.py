"""Answerers of the generation tasks: replies by retrieval, summaries by extraction; none is generative.

A reply is taken from the training dialogues; a summary is made of sentences of the call. Confidence is the similarity
of what was found, respectively the ranker's mean expected score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.metrics import rouge_l, token_f1

__all__ = ["Extracts", "Leads", "Replies", "Said", "last_turn"]

Said = list[tuple[str, dict[str, float]]]
"""Answers with their signals."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_MOST_WORDS = 45
_NUMBER = re.compile(r"\d")


def last_turn(text: str) -> str:
    """The turns that a reply mostly depends on: the last two."""
    return "\n".join(text.split("\n")[-2:])


class Replies:
    """Replies of the nearest training turns.

    Parameters
    ----------
    texts, replies
        Training dialogues up to the reply, and the replies.
    vectors
        float32 [n, d] of MiniLM, or None: words alone.
    among
        1 takes the nearest one's reply; more take the one that is most like the others' (minimum Bayes risk).
    """

    def __init__(
        self, texts: Sequence[str], replies: Sequence[str], vectors: NDArray[np.float32] | None = None, among: int = 1
    ) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._replies, self._among = list(replies), among
        self._words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
        self._known = self._words.fit_transform([last_turn(text) for text in texts])
        self._vectors = None if vectors is None else _unit(vectors)

    def answer(self, texts: Sequence[str], vectors: NDArray[np.float32] | None = None) -> Said:
        """Reply and signals for every dialogue."""
        found: Said = []
        for start in range(0, len(texts), 500):
            part = slice(start, start + 500)
            like = np.asarray((self._words.transform([last_turn(t) for t in texts[part]]) @ self._known.T).todense())
            if self._vectors is not None and vectors is not None:
                like = like + _unit(vectors[part]) @ self._vectors.T
            found += [self._one(row) for row in like]
        return found

    def _one(self, like: NDArray[Any]) -> tuple[str, dict[str, float]]:
        top = np.argsort(-like, kind="stable")[: self._among].tolist()
        if len(top) == 1:
            return self._replies[top[0]], {"own_confidence": float(like[top[0]])}
        said = [self._replies[i] for i in top]
        alike = np.array([[token_f1(a, b) for b in said] for a in said])
        np.fill_diagonal(alike, 0.0)
        mean = alike @ np.maximum(like[top], 1e-6) / np.maximum(like[top], 1e-6).sum()
        best = int(mean.argmax())
        return said[best], {"own_confidence": float(mean[best]), "nearest": float(like[top[0]])}


def sentences(text: str) -> list[str]:
    """Sentences of at least five words, in order."""
    return [one.strip() for one in _SENTENCE.split(text) if len(one.split()) >= 5]


class Leads:
    """The first sentences with a figure in them."""

    def answer(self, texts: Sequence[str], vectors: None = None) -> Said:
        """Summary and signals for every text."""
        return [self._one(sentences(text)) for text in texts]

    def _one(self, said: list[str]) -> tuple[str, dict[str, float]]:
        figures = [one for one in said if _NUMBER.search(one)]
        kept = _fill(figures or said)
        return "\n".join(kept), {"own_confidence": min(1.0, len(figures) / 20)}


class Extracts:
    """The sentences a ranker expects most of, learned from how much each shares with the summary.

    Parameters
    ----------
    texts, summaries
        Training calls and their summaries.
    boosted
        Gradient-boosted trees on features of the sentence; else a ridge on the same and on its words.
    """

    def __init__(self, texts: Sequence[str], summaries: Sequence[str], *, boosted: bool) -> None:
        from scipy.sparse import csr_matrix, hstack
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import Ridge

        self._boosted, self._hstack, self._csr = boosted, hstack, csr_matrix
        self._words = HashingVectorizer(n_features=2**15, ngram_range=(1, 2), alternate_sign=False)
        flat, target, rows = [], [], []
        for text, summary in zip(texts, summaries, strict=True):
            said = sentences(text)[:120]
            flat += said
            rows += _features(said)
            lines = [line for line in summary.split("\n") if line.strip()]
            target += [max((token_f1(one, line) for line in lines), default=0.0) for one in said]
        shown = np.array(rows)
        self._ridge = Ridge(alpha=5.0).fit(self._seen(flat, shown), target)
        self._trees = None
        if boosted:
            base = self._ridge.predict(self._seen(flat, shown))
            self._trees = HistGradientBoostingRegressor(max_iter=150, learning_rate=0.08, random_state=0)
            self._trees.fit(np.column_stack([shown, base]), target)

    def _seen(self, said: Sequence[str], shown: NDArray[np.float64]) -> Any:
        return self._hstack([self._words.transform(said), self._csr(shown)]).tocsr()

    def answer(self, texts: Sequence[str], vectors: None = None) -> Said:
        """Summary and signals for every text."""
        return [self._one(sentences(text)) for text in texts]

    def _one(self, said: list[str]) -> tuple[str, dict[str, float]]:
        if not said:
            return "", {"own_confidence": 0.0}
        shown = np.array(_features(said))
        score = self._ridge.predict(self._seen(said, shown))
        if self._trees is not None:
            score = self._trees.predict(np.column_stack([shown, score]))
        order = np.argsort(-score, kind="stable").tolist()
        kept = _fill([said[i] for i in order])
        return "\n".join(kept), {"own_confidence": float(np.mean(np.sort(score)[::-1][: len(kept)]))}


def _features(said: Sequence[str]) -> list[list[float]]:
    found = []
    for place, one in enumerate(said):
        words = one.split()
        figures = sum(bool(_NUMBER.search(word)) for word in words)
        found.append([
            place / max(1, len(said)), min(place, 40) / 40, len(words) / 40, figures, figures / len(words), "$" in one,
            "%" in one, "quarter" in one.lower(), "expect" in one.lower(), "compared" in one.lower(),
            "per share" in one.lower(), "revenue" in one.lower(), "million" in one.lower(), "year" in one.lower(),
        ])  # fmt: skip
    return [[float(value) for value in row] for row in found]


def _fill(said: Sequence[str]) -> list[str]:
    kept, words = [], 0
    for one in said:
        if kept and (words + len(one.split()) > _MOST_WORDS or len(kept) == 3):
            break
        kept.append(one)
        words += len(one.split())
    return kept


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), dtype=np.float32)


def mean_rouge(answers: Sequence[str], golds: Sequence[str]) -> float:
    """Mean ROUGE-L."""
    return float(np.mean([rouge_l(a, g) for a, g in zip(answers, golds, strict=True)]))
