"""From answers to records: graded, priced, split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from routenlp_integrations.langchain.collect.asking import key_of
from routenlp_integrations.langchain.collect.journal import Entry, Journal
from routenlp_integrations.langchain.collect.judge import grade_of, judge_turns
from routenlp_integrations.langchain.collect.tiers_file import Asked, TiersFile
from router_core.conversations import Turns
from router_core.groups import merge_near_duplicates
from router_core.metrics import Gold, metric
from router_core.prompts import Prompt
from router_core.redaction import Redaction
from router_core.splits import hash_key, hash_split, normalise

__all__ = ["Graded", "judged", "record_rows"]


@dataclass(frozen=True)
class Graded:
    """Records, and what they lack.

    Attributes
    ----------
    rows
        The record schema, one row for each query and tier.
    missing
        Per tier the queries it did not answer.
    ungraded
        Answers whose grade by the judge could not be read.
    """

    rows: list[dict[str, Any]]
    missing: dict[str, int]
    ungraded: int


def judged(prompt: Prompt, entry: Entry, redact: Redaction) -> Turns:
    """What the judge is asked about an answer: nothing that would not be stored."""
    turns = tuple((role, redact(text)) for role, text in prompt.turns)
    return judge_turns(turns, _redacted(prompt.gold, redact), entry.text)


def record_rows(prompts: Sequence[Prompt], file: TiersFile, journal: Journal, grader: str, redact: Redaction) -> Graded:
    """Grade what the journal holds.

    An answer that is missing, was filtered, or could not be graded has quality null. Grades see what is stored:
    prompts, answers and gold answers are redacted first.

    Parameters
    ----------
    prompts
        Queries that every tier was asked about.
    file
        Tiers, and the judge if `grader` is one.
    journal
        The answers.
    grader
        Name of the metric; not used with a judge.
    redact
        Applied to everything that is written.
    """
    texts = [redact(prompt.text) for prompt in prompts]
    splits = _splits(prompts, texts)
    missing: Counter[str] = Counter()
    ungraded = 0
    rows: list[dict[str, Any]] = []
    for prompt, text, split in zip(prompts, texts, splits, strict=True):
        entries = [journal.get(key_of(asked, prompt.turns)) for asked in file.tiers]
        for asked, entry in zip(file.tiers, entries, strict=True):
            answered = entry is not None and not entry.missing
            quality = _quality(prompt, entry, entries[-1], file.judge, journal, grader, redact) if answered else None
            missing[asked.name] += not answered
            ungraded += answered and quality is None and file.judge is not None
            rows.append(
                {
                    "query_id": prompt.query_id,
                    "task": prompt.task,
                    "prompt": text,
                    "model": asked.name,
                    **_answer(asked, entry, redact),
                    "quality": quality,
                    "split": split,
                    **({"group": redact(prompt.group)} if any(p.group for p in prompts) else {}),
                    **{f"signal_{name}": value for name, value in (entry.signals if entry else {}).items()},
                }
            )
    return Graded(rows, {asked.name: missing[asked.name] for asked in file.tiers}, ungraded)


def _answer(asked: Asked, entry: Entry | None, redact: Redaction) -> dict[str, Any]:
    if entry is None:
        names = ("response", "prompt_tokens", "completion_tokens", "cost_usd", "cost_basis")
        return dict.fromkeys(names)
    return {
        "response": redact(entry.text),
        "prompt_tokens": entry.prompt_tokens,
        "completion_tokens": entry.completion_tokens,
        "cost_usd": asked.tier.price(entry.prompt_tokens, entry.completion_tokens),
        "cost_basis": "measured" if entry.measured else "estimated",
    }


def _quality(
    prompt: Prompt,
    entry: Entry | None,
    reference: Entry | None,
    judge: Asked | None,
    journal: Journal,
    grader: str,
    redact: Redaction,
) -> float | None:
    if entry is None:
        return None
    if judge is not None:
        reply = journal.get(key_of(judge, judged(prompt, entry, redact)))
        return None if reply is None else grade_of(reply.text)
    if grader == "agree_with_reference" and (reference is None or reference.missing):
        return None
    told = "" if reference is None else redact(reference.text)
    return metric(grader)(redact(entry.text), _redacted(prompt.gold, redact), told)


def _redacted(gold: Gold, redact: Redaction) -> Gold:
    if gold is None:
        return None
    return redact(gold) if isinstance(gold, str) else tuple(redact(one) for one in gold)


def _splits(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[str]:
    """The splits given, else those `router_core.splits.prepare` makes: the hash rule over near-duplicates."""
    if prompts and prompts[0].split:
        return [prompt.split for prompt in prompts]
    keys = [prompt.group or hash_key(text) for prompt, text in zip(prompts, texts, strict=True)]
    tasks = [prompt.task.partition("/")[0] for prompt in prompts]
    learned = np.array([hash_split(normalise(key)) == "train" for key in keys], dtype=bool)
    return [hash_split(normalise(group)) for group in merge_near_duplicates(texts, keys, tasks, learned)]
