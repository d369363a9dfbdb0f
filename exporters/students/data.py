"""What a student learns from: pairs of a prompt and an answer, and their mix with earlier ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exporters.fence import item_keys
from router_core.errors import InputError
from router_core.groups import hash_key, unit_interval
from router_core.prompt_template import PromptTemplate
from router_core.tagger import entities

__all__ = [
    "OUTSIDE",
    "SOURCES",
    "Pair",
    "labels_in",
    "mix",
    "parse_labels",
    "parse_tags",
    "set_tune_aside",
    "tagged_answer",
]

_SALT = "routenlp-student-tune-v1"
_TUNE_SHARE = 0.2
SOURCES = ("cluster", "replay", "seed")
"""Where a pair comes from."""

OUTSIDE = "O"
"""Tag of a word in no entity."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt with the answer to learn.

    Attributes
    ----------
    query_id
        Its id.
    prompt
        As in the records, whole.
    answer
        As the student shall give it: a label; a JSON list of labels; a JSON list of ``[text, type]``; free text.
    task
        For reports.
    group
        Group key, ``""`` for none.
    split
        ``"train"``, ``"tune"``, or ``""`` where the trainer sets TUNE aside by a hash of the text.
    soft
        The teacher's probability of labels, or None; those not named have none.
    tags
        Of a tagger, instead of `answer`: a tag per word of the text, ``O``, ``B-X`` or ``I-X``.
    weight
        How much it counts.
    source
        ``"cluster"`` (a failure that was picked), ``"replay"`` (learned earlier) or ``"seed"``.
    cost_usd
        What the teacher's answer cost, US dollars.
    """

    query_id: str
    prompt: str
    answer: str
    task: str = "default"
    group: str = ""
    split: str = ""
    soft: Mapping[str, float] | None = None
    tags: tuple[str, ...] | None = None
    weight: float = 1.0
    source: str = "seed"
    cost_usd: float = 0.0

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise InputError(f"pair {self.query_id!r} has an empty prompt; every pair needs one")
        if self.split not in ("", "train", "tune"):
            raise InputError(
                f"pair {self.query_id!r} is of the split {self.split!r}; a student learns from train and tune only"
            )
        if not (np.isfinite(self.weight) and self.weight > 0):
            raise InputError(f"pair {self.query_id!r} has the weight {self.weight}; it must be above 0")
        if self.source not in SOURCES:
            raise InputError(f"pair {self.query_id!r} has the source {self.source!r}; use {', '.join(SOURCES)}")
        if self.soft is not None:
            _check_soft(self)

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys it is known by (`exporters.fence.item_keys`)."""
        return item_keys(self.query_id, self.group, self.prompt)


def parse_labels(pair: Pair) -> tuple[str, ...]:
    """Labels of a multilabel pair, sorted.

    Raises
    ------
    InputError
        When the answer is no JSON list of labels.
    """
    try:
        told = json.loads(pair.answer)
    except ValueError:
        told = None
    if not isinstance(told, list) or not all(isinstance(label, str) and label for label in told):
        raise InputError(
            f"pair {pair.query_id!r}: the answer of a multilabel student is a JSON list of labels, not "
            f"{pair.answer[:60]!r}"
        )
    return tuple(sorted(set(told)))


def parse_tags(pair: Pair, text: str) -> tuple[str, ...]:
    """Tags of a tagger's pair, one for each word of the text.

    Where only entities are known, each is looked for in the words behind the one before it.

    Raises
    ------
    InputError
        When tags are malformed or not as many as words, or an entity is not in the text.
    """
    words = text.split()
    if pair.tags is not None:
        if len(pair.tags) != len(words):
            raise InputError(f"pair {pair.query_id!r} has {len(pair.tags)} tags for {len(words)} words")
        for tag in pair.tags:
            if tag != OUTSIDE and (tag[:2] not in {"B-", "I-"} or len(tag) == 2):
                raise InputError(f"pair {pair.query_id!r}: the tag {tag!r} is none of O, B-X, I-X")
        return pair.tags
    try:
        told = [(str(text).split(), str(kind)) for text, kind in json.loads(pair.answer)]
    except (ValueError, TypeError):
        raise InputError(
            f"pair {pair.query_id!r}: the answer of a tagger is a JSON list of [text, type], not {pair.answer[:60]!r}"
        ) from None
    tags, start = [OUTSIDE] * len(words), 0
    for entity, kind in told:
        spots = (i for i in range(start, len(words) - len(entity) + 1) if words[i : i + len(entity)] == entity)
        at = next(spots, None)
        if at is None or not entity or not kind:
            raise InputError(f"pair {pair.query_id!r}: the entity {' '.join(entity)!r} is not in its text, in order")
        tags[at : at + len(entity)] = [f"B-{kind}", *[f"I-{kind}"] * (len(entity) - 1)]
        start = at + len(entity)
    return tuple(tags)


def tagged_answer(text: str, tags: Sequence[str]) -> str:
    """The answer a tagger gives for these tags."""
    return json.dumps(entities(text.split(), list(tags)), ensure_ascii=False)


def labels_in(found: Iterable[Iterable[str]], known: Sequence[str] = ()) -> tuple[str, ...]:
    """Label map: labels known before keep their places, new ones follow in order of the alphabet."""
    new = {label for labels in found for label in labels} - set(known)
    return (*known, *sorted(new))


def set_tune_aside(pairs: Sequence[Pair], *, by_answer: bool) -> list[Pair]:
    """Give every pair a split: a fifth of the texts without one goes to TUNE, by a hash of the text.

    Equal texts stand on one side; a text that is supplied for both stays in TUNE, where nothing is learned from it.

    Parameters
    ----------
    pairs
        With a split or without.
    by_answer
        Answers are labels: one that TUNE alone would have stays in train, so that it can be learned.

    Raises
    ------
    InputError
        When a side stays empty.
    """
    keys = [hash_key(pair.prompt) for pair in pairs]
    supplied = {key for key, pair in zip(keys, pairs, strict=True) if pair.split}
    tune = {key for key, pair in zip(keys, pairs, strict=True) if pair.split == "tune"}
    tune |= {key for key in set(keys) - supplied if unit_interval(_SALT, key) < _TUNE_SHARE}
    if by_answer:
        learned = {pair.answer for key, pair in zip(keys, pairs, strict=True) if key not in tune}
        tune -= {
            key for key, pair in zip(keys, pairs, strict=True) if key not in supplied and pair.answer not in learned
        }
    found = [replace(pair, split="tune" if key in tune else "train") for key, pair in zip(keys, pairs, strict=True)]
    for split in ("train", "tune"):
        if not any(pair.split == split for pair in found):
            raise InputError(f"{len(pairs)} pairs leave {split} empty; give more pairs, or a split column")
    return found


def mix(new: Sequence[Pair], earlier: Sequence[Pair], ratio: float | None, seed: int, *, by_answer: bool) -> list[Pair]:
    """New pairs and a replay of earlier ones, against forgetting.

    Parameters
    ----------
    new
        What is to be learned; of a text that stands in both, the new answer counts.
    earlier
        What was learned before.
    ratio
        Earlier pairs per new one, at most; None = all.
    seed
        Fixes the draw.
    by_answer
        Answers are labels, which take turns in the draw, so that none is left out.
    """
    known = {hash_key(pair.prompt) for pair in new}
    kept = [replace(pair, source="replay") for pair in earlier if hash_key(pair.prompt) not in known]
    most = len(kept) if ratio is None else min(len(kept), round(ratio * len(new)))
    drawn: list[int] = np.random.default_rng(seed).permutation(len(kept)).tolist()
    if by_answer:
        turn: Counter[str] = Counter()
        turns: list[tuple[int, int, int]] = []
        for i in drawn:
            turns.append((turn[kept[i].answer], len(turns), i))
            turn[kept[i].answer] += 1
        drawn = [i for _, _, i in sorted(turns)]
    return [*new, *(kept[i] for i in sorted(drawn[:most]))]


def texts_of(pairs: Sequence[Pair], template: str) -> list[str]:
    """What a student reads of the prompts.

    Raises
    ------
    InputError
        When a prompt does not have the form of the template.
    """
    cut = PromptTemplate(template).cut
    texts = []
    for pair in pairs:
        text, matched = cut(pair.prompt)
        if not matched:
            raise InputError(
                f"pair {pair.query_id!r}: its prompt does not have the form of the prompt template, so the student "
                "would be served other texts than it learned from; correct the template or drop the pair"
            )
        texts.append(text)
    return texts


def lineage_of(pairs: Sequence[Pair], given: Mapping[str, Any] | None, made: Mapping[str, Any]) -> dict[str, Any]:
    """Lineage of a checkpoint: how it was made, pairs by source, what the teacher cost, and what the caller says.

    Replayed answers were charged to the student that learned them first.
    """
    counts = {source: sum(pair.source == source for pair in pairs) for source in SOURCES}
    spent = sum(pair.cost_usd for pair in pairs if pair.source != "replay")
    return {"pairs": counts, "spend_usd": spent, **made, **(given or {})}


def _check_soft(pair: Pair) -> None:
    values = list((pair.soft or {}).values())
    if not values or not all(np.isfinite(value) and 0 <= value <= 1 for value in values) or sum(values) <= 0:
        raise InputError(f"pair {pair.query_id!r}: soft labels are probabilities in [0, 1], not all of them 0")
