"""A label from several readings of a text at once: MiniLM vectors, words and letters, and its nearest neighbours.

Log-probabilities of the members are added up; which members there are was chosen by task. T2 of the
classification tasks; T3 adds a fine-tuned student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.students.heads import Targets, fit_head
from exporters.students.options import EncoderOptions
from router_core.own_confidence import log_softmax

__all__ = ["Blend", "Said"]

Floats = NDArray[np.float64]
Said = list[tuple[str, dict[str, float]]]

_PASSES, _HEAT, _NEIGHBOURS, _SHARP, _FLOOR = 40, 4.0, 10, 10.0, 0.01


class Blend:
    """Head on MiniLM vectors, linear SVM on TF-IDF beside the vectors, and ten nearest neighbours.

    Parameters
    ----------
    texts, vectors, labels
        What is learned from; vectors float32 [n, d].
    members
        Which of ``head``, ``svm`` and ``near``.
    seed
        Of the head's order of rows.
    """

    def __init__(
        self, texts: Sequence[str], vectors: NDArray[np.float32], labels: Sequence[str], members: Sequence[str],
        seed: int = 0,
    ) -> None:  # fmt: skip
        import torch
        from scipy.sparse import csr_matrix, hstack
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.svm import LinearSVC

        self.labels = tuple(sorted(set(labels)))
        wanted = np.searchsorted(np.asarray(self.labels), np.asarray(labels))
        self._torch, self._hstack, self._csr = torch, hstack, csr_matrix
        unit = _unit(vectors)
        self._make: dict[str, Callable[[Sequence[str], NDArray[np.float32]], Floats]] = {}
        if "head" in members:
            hard = np.eye(len(self.labels), dtype=np.float32)[wanted]
            targets = Targets(hard, np.zeros_like(hard), np.ones(len(hard), np.float32))
            self._head = fit_head(vectors, targets, _PASSES, EncoderOptions(), seed=seed).head
            self._make["head"] = self._by_head
        if "svm" in members:
            self._words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
            self._letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=2)
            learned = hstack([self._words.fit_transform(texts), self._letters.fit_transform(texts), csr_matrix(unit)])
            self._svm = LinearSVC(C=0.5).fit(learned.tocsr(), wanted)
            self._make["svm"] = self._by_svm
        if "near" in members:
            self._known, self._wanted = unit, wanted
            self._make["near"] = self._by_neighbours

    def members(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> list[Floats]:
        """Log-probabilities [n, L] of every member."""
        return [make(texts, vectors) for make in self._make.values()]

    def _by_head(self, _: Sequence[str], vectors: NDArray[np.float32]) -> Floats:
        with self._torch.no_grad():
            return log_softmax(np.asarray(self._head(self._torch.from_numpy(vectors)).numpy(), dtype=np.float64))

    def _by_svm(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> Floats:
        unit = self._csr(_unit(vectors))
        seen = self._hstack([self._words.transform(texts), self._letters.transform(texts), unit])
        far = np.asarray(self._svm.decision_function(seen.tocsr()))
        return log_softmax(_HEAT * (far if far.ndim > 1 else np.stack([-far, far], axis=1)))

    def _by_neighbours(self, _: Sequence[str], vectors: NDArray[np.float32]) -> Floats:
        return 0.5 * self._near(_unit(vectors))

    def answer(self, texts: Sequence[str], vectors: NDArray[np.float32], more: Sequence[Floats] = ()) -> Said:
        """Label and signals of every text; `more` are further members' log-probabilities [n, L]."""
        members = [*self.members(texts, vectors), *more]
        total = log_softmax(np.sum(members, axis=0))
        best = total.argmax(axis=1)
        alike = np.mean([one.argmax(axis=1) == best for one in members], axis=0)
        return [
            (self.labels[j], {"own_confidence": float(np.exp(total[i, j])), "members_agree": float(alike[i])})
            for i, j in enumerate(best.tolist())
        ]

    def _near(self, unit: NDArray[np.float32]) -> Floats:
        found = np.zeros((len(unit), len(self.labels)))
        for start in range(0, len(unit), 2000):
            like = unit[start : start + 2000] @ self._known.T
            top = np.argpartition(-like, min(_NEIGHBOURS, like.shape[1] - 1), axis=1)[:, :_NEIGHBOURS]
            rows = np.arange(len(like))[:, None]
            weight = np.exp(_SHARP * like[rows, top])
            np.add.at(found, (start + np.broadcast_to(rows, top.shape), self._wanted[top]), weight)
        return np.asarray(np.log(found / found.sum(axis=1, keepdims=True) + _FLOOR))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length: Any = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-9), dtype=np.float32)
