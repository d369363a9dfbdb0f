"""What is taught: picks among what was harvested, the teacher's answers to them, and pairs to distil from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from exporters.loop.harvesting import Found
from exporters.loop.options import LoopOptions
from exporters.students.data import Pair
from exporters.students.teacher import Lesson, Question
from router_core.errors import TierError
from router_core.groups import hash_key
from router_core.portfolio import Tier
from router_core.router import estimate_tokens

__all__ = ["no_teacher", "pairs_of", "pick", "questions_of", "worst_price"]

_ASSUMED_TOKENS = 256


def pick(found: Sequence[Found], order: Sequence[str] | None, options: LoopOptions) -> dict[str, list[str]]:
    """Ids to teach by task, the most important first, each text once.

    Parameters
    ----------
    found
        What was harvested.
    order
        Ids, the most important first; None picks in the order of their hashes.
    options
        Of the loop.
    """
    by_id = {one.query_id: one for one in found}
    if order is None:
        order = sorted(by_id, key=lambda query: hashlib.sha256(f"{options.seed}|{query}".encode()).digest())
    picked: dict[str, list[str]] = {}
    seen: set[tuple[str, str]] = set()
    for query in order:
        one = by_id[query]
        mine, key = picked.setdefault(one.task, []), (one.task, hash_key(one.prompt))
        if key not in seen and len(mine) < options.most:
            seen.add(key)
            mine.append(query)
    return {task: ids for task, ids in picked.items() if len(ids) >= options.least}


def questions_of(picked: Iterable[str], found: Sequence[Found], earlier: Mapping[str, str]) -> list[Question]:
    """Questions to the teacher, those that are answered already with their answer.

    Parameters
    ----------
    picked
        Ids.
    found
        What was harvested.
    earlier
        Answers that earlier rounds paid for, by the key of the text.
    """
    by_id = {one.query_id: one for one in found}
    asked = []
    for query in picked:
        one = by_id[query]
        known = None if one.answer is None else Lesson(one.answer, one.answer_usd)
        if known is None and (text := earlier.get(f"{one.task}|{hash_key(one.prompt)}")) is not None:
            known = Lesson(text, 0.0)
        asked.append(Question(query, one.prompt, known, one.group))
    return asked


def pairs_of(picked: Sequence[str], found: Sequence[Found], lessons: Mapping[str, Lesson]) -> list[Pair]:
    """Pairs of one task from the lessons there are."""
    by_id = {one.query_id: one for one in found}
    made = []
    for query in picked:
        lesson = lessons.get(query)
        if lesson is None or not lesson.text.strip():
            continue
        one = by_id[query]
        made.append(
            Pair(
                query, one.prompt, lesson.text.strip(), one.task, one.group, soft=lesson.soft, source="cluster",
                cost_usd=lesson.cost_usd,
            )
        )  # fmt: skip
    return made


def worst_price(tier: Tier, prompt: str) -> float:
    """Most that a tier's answer to a prompt is taken to cost, US dollars."""
    return tier.price(estimate_tokens(prompt), tier.assumed_completion_tokens or _ASSUMED_TOKENS)


def no_teacher(prompt: str) -> Lesson:
    """Stand in where no teacher was given: only answers that were paid for already are learned."""
    del prompt
    raise TierError("no teacher was given")
