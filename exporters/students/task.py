"""What an encoder student shall say of every text, and whether what it says is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.students.bodies import Read
from exporters.students.data import OUTSIDE, Pair, labels_in, parse_labels, parse_tags, tagged_answer, texts_of
from exporters.students.heads import Targets
from exporters.students.options import EncoderOptions
from router_core.errors import InputError
from router_core.own_confidence import log_sigmoid, log_softmax

__all__ = ["Task"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Task:
    """Texts and what each shall be answered.

    Attributes
    ----------
    kind
        Kind of the student.
    pairs
        As given.
    texts
        What the student reads of their prompts.
    said
        Per text its label, labels, or a tag for every word.
    labels
        The label map.
    threshold
        Of a multilabel student.
    """

    kind: str
    pairs: list[Pair]
    texts: list[str]
    said: list[tuple[str, ...]]
    labels: tuple[str, ...]
    threshold: float

    @classmethod
    def of(cls, kind: str, pairs: list[Pair], known: Sequence[str], options: EncoderOptions) -> Task:
        """Read pairs.

        Raises
        ------
        InputError
            For a pair that no student of the kind can learn from.
        """
        texts = texts_of(pairs, options.prompt_template)
        if kind == "tagger":
            if any(pair.soft for pair in pairs):
                raise InputError("soft labels are of whole texts; a tagger learns from tags alone")
            said = [parse_tags(pair, text) for pair, text in zip(pairs, texts, strict=True)]
            kinds = {tag[2:] for tags in said for tag in tags if tag != OUTSIDE}
            found: list[Sequence[str]] = [[OUTSIDE], *([f"B-{one}", f"I-{one}"] for one in sorted(kinds))]
        else:
            said = [parse_labels(pair) if kind == "multilabel" else (_label(pair),) for pair in pairs]
            found = [*said, *(tuple(pair.soft) for pair in pairs if pair.soft)]
        labels = labels_in(found, known)
        if kind == "classifier" and len(labels) < 2:
            raise InputError(f"a classifier needs two labels, the pairs have {len(labels)}; give pairs of others too")
        if kind == "multilabel" and not labels:
            raise InputError("no pair has a label; a multilabel student needs one at least")
        return cls(kind, pairs, texts, said, labels, options.threshold)

    def targets(self, read: Read) -> Targets:
        """Targets of the rows of `read`."""
        place = {label: i for i, label in enumerate(self.labels)}
        if self.kind == "tagger":
            words = [place[self.said[i][w]] for i, kept in enumerate(read.kept) for w in kept.tolist()]
            hard = np.eye(len(place), dtype=np.float32)[words]
            weight = np.concatenate([np.full(len(k), p.weight) for k, p in zip(read.kept, self.pairs, strict=True)])
            return Targets(hard, np.zeros_like(hard), weight.astype(np.float32))
        hard = np.zeros((len(self.pairs), len(place)), dtype=np.float32)
        soft = np.zeros_like(hard)
        for i, (pair, labels) in enumerate(zip(self.pairs, self.said, strict=True)):
            hard[i, [place[label] for label in labels]] = 1.0
            for label, value in (pair.soft or {}).items():
                soft[i, place[label]] = value
        several = self.kind == "multilabel"
        if not several:
            soft /= np.maximum(soft.sum(1, keepdims=True), 1e-12)
        return Targets(hard, soft, np.array([pair.weight for pair in self.pairs], dtype=np.float32), several)

    def answer(self, i: int) -> str:
        """The right answer to text `i`."""
        if self.kind == "tagger":
            return tagged_answer(self.texts[i], self.said[i])
        return json.dumps(list(self.said[i]), ensure_ascii=False) if self.kind == "multilabel" else self.said[i][0]

    def wanted(self, texts: Rows) -> Rows:
        """Place of the label of every text, of a classifier."""
        place = {label: i for i, label in enumerate(self.labels)}
        return np.array([place[self.said[i][0]] for i in texts.tolist()], dtype=np.intp)

    def judge(self, logits: Floats, read: Read, texts: Rows) -> tuple[Floats, NDArray[np.bool_]]:
        """What a student with these logits says its probability of being right is, and whether it is right.

        Parameters
        ----------
        logits
            Rows of `texts` one after the other, over the temperature.
        read
            All texts.
        texts
            Which of them.
        """
        if self.kind == "classifier":
            log_p = log_softmax(logits).max(-1)
            return np.exp(log_p), logits.argmax(-1) == self.wanted(texts)
        if self.kind == "multilabel":
            chosen = logits >= np.log(self.threshold) - np.log1p(-self.threshold)
            log_p = log_sigmoid(np.where(chosen, logits, -logits)).sum(-1)
            named = [{self.labels[j] for j in np.flatnonzero(row).tolist()} for row in chosen]
            right = [found == set(self.said[i]) for found, i in zip(named, texts.tolist(), strict=True)]
            return np.exp(log_p), np.array(right, dtype=bool)
        said, right, start = [], [], 0
        log_p = log_softmax(logits)
        for i in texts.tolist():
            kept = read.kept[i]
            part = log_p[start : start + len(kept)]
            start += len(kept)
            tags = [OUTSIDE] * len(self.said[i])
            for w, best in zip(kept.tolist(), part.argmax(-1).tolist(), strict=True):
                tags[w] = self.labels[best]
            said.append(float(np.exp(part.max(-1).sum())) if len(kept) else 1.0)
            right.append(tagged_answer(self.texts[i], tags) == self.answer(i))
        return np.array(said), np.array(right, dtype=bool)


def _label(pair: Pair) -> str:
    label = pair.answer.strip()
    if not label:
        if not pair.soft:
            raise InputError(f"pair {pair.query_id!r} has neither a label nor soft labels")
        return max(pair.soft, key=lambda one: (pair.soft or {})[one])
    return label
