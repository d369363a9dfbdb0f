"""The `student` tier: small scikit-learn models fitted on the seed queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from items import LABELS, Item
from keyword_rules import list_hits
from numpy.typing import NDArray
from span_ranker import SpanRanker

__all__ = ["Student"]


class Student:
    """Logistic regression for the label tasks, a span ranker for `extract`.

    The label models see TF-IDF of words and letters, and how often each word list of the keyword tier is hit.

    Parameters
    ----------
    seed
        Items to fit on; none of them may be in the records.
    """

    def __init__(self, seed: Sequence[Item]) -> None:
        self._labels = {task: _fit(task, [item for item in seed if item.task == task]) for task in LABELS}
        self._ranker = SpanRanker([item for item in seed if item.task == "extract"])

    def answer(self, item: Item) -> tuple[str, float]:
        """The answer and the model's own confidence in [0, 1]."""
        if item.task == "extract":
            ranked = self._ranker.rank(item)
            return ranked.text, ranked.confidence
        model = self._labels[item.task]
        probabilities = model.predict_proba([item.prompt])[0]
        best = int(probabilities.argmax())
        return str(model.classes_[best]), float(probabilities[best])


def _fit(task: str, items: Sequence[Item]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    def hits(prompts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([list_hits(task, prompt) for prompt in prompts], dtype=np.float64)

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    features = make_union(words, letters, FunctionTransformer(hits))
    model = make_pipeline(features, LogisticRegression(C=20.0, max_iter=3000))
    return model.fit([item.prompt for item in items], [item.gold for item in items])
