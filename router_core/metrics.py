"""Small graders: how good an answer is, in [0, 1], against a gold answer.

They serve records that are graded here; records may as well bring their own quality.

Every grader compares normalised text (`router_core.groups.normalise`): NFKC, lower case, everything but letters and
digits a space. So "Yes." is "yes", and "-5" is "5": where signs or punctuation carry the meaning, grade yourself.

`metric(name)` gives the graders of ``routenlp collect`` by name, each a pure function (answer, gold, reference):

====================  =============================================================================================
exact                 1 if the answer equals a gold answer, else 0
f1                    F1 of the words of answer and gold, as in SQuAD
set_f1                F1 of two sets of labels: a JSON list, or text split at commas, semicolons and line ends
rouge_l               ROUGE-L F of answer and gold, no stemming (Lin, 2004; the rouge-score package)
agree_with_reference  needs no gold: 1 if the answer equals the reference tier's; otherwise 0 when that has at most
                      five words (a label, a number), else the F1 of their words. The reference tier scores 1
====================  =============================================================================================

Of several gold answers the best counts, except for set_f1, where they are the set.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from router_core.errors import InputError, MissingExtraError
from router_core.groups import normalise

__all__ = [
    "METRICS",
    "Gold",
    "Metric",
    "agree_with_reference",
    "exact_match",
    "labels_of",
    "metric",
    "needs_gold",
    "rouge_l",
    "set_f1",
    "token_f1",
]

Gold = str | tuple[str, ...] | None
"""A gold answer, several of them, or none."""

Metric = Callable[[str, Gold, str], float]
"""(answer, gold, the reference tier's answer) -> quality in [0, 1]."""

_SHORT = 5
"""Words up to which agreement is all or nothing."""


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


def labels_of(text: str) -> tuple[str, ...]:
    """The labels a text lists: a JSON list (a JSON text is one label), else its parts at ``,``, ``;`` and line ends."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, str):
        told = [told]
    listed = told if isinstance(told, list) else re.split(r"[,;\n]", text)
    return tuple(str(label).strip() for label in listed if str(label).strip())


def rouge_l(answer: str, gold: str) -> float:
    """ROUGE-L F of the words of `answer` and `gold`; 1.0 if both are empty.

    Raises
    ------
    MissingExtraError
        Where rouge-score is not installed.
    """
    if not normalise(answer) and not normalise(gold):
        return 1.0
    return float(_scorer().score(gold, answer)["rougeL"].fmeasure)


def agree_with_reference(answer: str, reference: str) -> float:
    """How far an answer agrees with the reference tier's; see the module."""
    if exact_match(answer, reference):
        return 1.0
    return token_f1(answer, reference) if len(normalise(reference).split()) > _SHORT else 0.0


def metric(name: str) -> Metric:
    """The grader of a name.

    Raises
    ------
    InputError
        For a name that is none of `METRICS`.
    """
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}; use {', '.join(METRICS)} or judge:<model>")
    return METRICS[name]


def needs_gold(name: str) -> bool:
    """Whether a metric compares with gold answers."""
    return name in METRICS and name != "agree_with_reference"


def _several(gold: Gold) -> tuple[str, ...]:
    return () if gold is None else (gold,) if isinstance(gold, str) else gold


def _best(grade: Callable[[str, str], float]) -> Metric:
    return lambda answer, gold, _: max((grade(answer, one) for one in _several(gold)), default=0.0)


def _sets(answer: str, gold: Gold, _: str) -> float:
    return set_f1(labels_of(answer), labels_of(gold) if isinstance(gold, str) else _several(gold))


METRICS: dict[str, Metric] = {
    "exact": _best(exact_match),
    "f1": _best(token_f1),
    "set_f1": _sets,
    "rouge_l": _best(rouge_l),
    "agree_with_reference": lambda answer, _, reference: agree_with_reference(answer, reference),
}
"""Graders by name; ``judge:<model>`` is none of them, because it asks a model."""


class _Words:
    def tokenize(self, text: str) -> list[str]:
        # The package's own tokenizer drops every letter outside ASCII.
        return normalise(text).split()


@lru_cache(maxsize=1)
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise MissingExtraError("collect", "grade by rouge_l") from None
    return RougeScorer(["rougeL"], tokenizer=_Words())


def _f1(found: Counter[str], wanted: Counter[str]) -> float:
    if not found and not wanted:
        return 1.0
    return 2 * (found & wanted).total() / (found.total() + wanted.total())
