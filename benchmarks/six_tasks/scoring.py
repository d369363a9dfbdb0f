"""How good an answer is: one quality in [0, 1] a task, and what is reported beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from data import Item
from protocol import GENERATION

from exporters.students.data import OUTSIDE, Pair, parse_tags
from router_core.errors import InputError
from router_core.metrics import rouge_l, set_f1

__all__ = ["beside", "entity_f1", "grades", "label_f1", "raw_score", "same", "tau_of", "threshold"]

Grade = Callable[[str, str], float]


def entity_f1(answer: str, gold: str) -> float:
    """F1 of the (text, type) entities of a sentence, repeats counted; both empty is 1."""
    found, wanted = (Counter(map(tuple, _listed(text))) for text in (answer, gold))
    if not found and not wanted:
        return 1.0
    return 2 * (found & wanted).total() / (found.total() + wanted.total())


def label_f1(answer: str, gold: str) -> float:
    """F1 of two JSON lists of categories as sets."""
    return set_f1(_listed(answer), _listed(gold))


def same(answer: str, gold: str) -> float:
    """1 where the label is the gold one."""
    return float(answer.strip() == gold.strip())


raw_score: Mapping[str, Grade] = {
    "finance_ner": entity_f1,
    "finance_summarization": rouge_l,
    "cs_intent": same,
    "cs_response": rouge_l,
    "legal_clause": label_f1,
    "legal_risk": same,
}
"""Score of an answer by task, before tau."""


def threshold(score: Grade, tau: float) -> Grade:
    """1 where the score reaches tau, else 0."""
    return lambda answer, gold: float(score(answer, gold) >= tau)


def tau_of(scores: Mapping[str, Sequence[float]]) -> float:
    """Median score, on TRAIN, of the tier with the best mean there."""
    best = max(scores, key=lambda tier: float(np.mean(scores[tier])))
    return float(np.median(scores[best]))


def grades(tau: Mapping[str, float]) -> dict[str, Grade]:
    """Quality of an answer by task, ``(answer, gold) -> [0, 1]``; of generation tasks those in `tau` alone."""
    return {
        task: threshold(score, tau[task]) if task in GENERATION else score
        for task, score in raw_score.items()
        if task not in GENERATION or task in tau
    }


def beside(task: str, items: Sequence[Item], answers: Sequence[str]) -> dict[str, float]:
    """What is reported beside the quality of one tier's answers."""
    gold = [item.gold for item in items]
    raw = [raw_score[task](answer, right) for answer, right in zip(answers, gold, strict=True)]
    told: dict[str, Any] = {"score": np.mean(raw), "whole": np.mean(np.asarray(raw) >= 1.0)}
    if task == "finance_ner":
        from seqeval.metrics import f1_score

        tags = [_tags(item, answer) for item, answer in zip(items, answers, strict=True)]
        told["corpus_f1"] = f1_score([list(item.tags) for item in items], tags)
    elif task in ("cs_intent", "legal_risk"):
        from sklearn.metrics import f1_score as macro

        told["macro_f1"] = macro(gold, list(answers), average="macro", zero_division=0)
    return {name: round(float(value), 4) for name, value in told.items()}


def _listed(text: str) -> list[Any]:
    try:
        told = json.loads(text)
    except ValueError:
        return []
    return told if isinstance(told, list) else []


def _tags(item: Item, answer: str) -> list[str]:
    try:
        return list(parse_tags(Pair(item.query_id, item.prompt, answer), item.prompt))
    except InputError:
        return [OUTSIDE] * len(item.tags)
