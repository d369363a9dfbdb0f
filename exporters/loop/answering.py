"""Re-answering: what the students of a release answer to logged queries, and records that hold it.

Both functions are pure: a batch of queries and students in, answers out, and records with another tier's column in,
records out. Neither knows where its batch came from, so a large log can be re-answered in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.errors import InputError
from router_core.grades import Grade, grade, grader
from router_core.portfolio import Tier
from router_core.records import Records
from router_core.student import Student

__all__ = ["Asked", "Given", "answer_batch", "asked_of", "with_answers"]

_CHUNK = 200
Tick = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """One query for a student."""

    query_id: str
    task: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Given:
    """One answer of a student.

    Attributes
    ----------
    query_id
        Of the query.
    text, prompt_tokens, completion_tokens, signals
        As in `router_core.student.StudentAnswer`.
    """

    query_id: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    signals: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; floats keep every bit."""
        return {
            "query_id": self.query_id, "text": self.text, "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens, "signals": dict(self.signals),
        }  # fmt: skip


def asked_of(records: Records, rows: Iterable[int], tasks: Iterable[str]) -> list[Asked]:
    """The queries of some rows whose task has a student."""
    known = set(tasks)
    return [Asked(records.query_id[i], records.task[i], records.prompt[i]) for i in rows if records.task[i] in known]


def answer_batch(batch: Sequence[Asked], students: Mapping[str, Student], progress: Tick | None = None) -> list[Given]:
    """Answer queries, each by the student of its task, in order.

    Parameters
    ----------
    batch
        Queries, all of tasks that have a student.
    students
        By task.
    progress
        Called as the work goes on.
    """
    found: dict[int, Given] = {}
    for task in sorted({one.task for one in batch}):
        mine = [at for at, one in enumerate(batch) if one.task == task]
        for first in range(0, len(mine), _CHUNK):
            part = mine[first : first + _CHUNK]
            answers = students[task].answer_many([batch[at].prompt for at in part])
            for at, answer in zip(part, answers, strict=True):
                found[at] = Given(
                    batch[at].query_id, answer.text, answer.prompt_tokens, answer.completion_tokens, answer.signals
                )
            if progress is not None:
                progress(f"students answer {task}", first + len(part), len(mine))
    return [found[at] for at in range(len(batch))]


def with_answers(records: Records, tier: Tier, given: Iterable[Given], grades: Mapping[str, str | Grade]) -> Records:
    """Put a tier's answers in the place of the recorded ones, and grade every tier of these tasks on one scale.

    The scale is agreement with the reference tier: its own answer counts as right and scores 1, whatever it is
    recorded with, and recorded answers of other tiers are graded anew against it.

    Parameters
    ----------
    records
        The reference tier's column last.
    tier
        Whose answers they are, with its prices.
    given
        Answers; queries without one keep the recorded one.
    grades
        Of an answer against the right one, by task; other tasks keep what they are recorded with.

    Returns
    -------
    Records
        A copy; what was recorded of the tier for these queries, signals included, is gone.

    Raises
    ------
    InputError
        When the tier is not a column, an answer is to a task without a grade, or a quality is recorded of an answer
        that is not, so that it cannot be graded.
    """
    column, of = records.models.index(tier.name), grader(grades)
    place = {query: i for i, query in enumerate(records.query_id)}
    told = {place[one.query_id]: one for one in given}
    cost, tokens = records.cost.copy(), (records.prompt_tokens.copy(), records.completion_tokens.copy())
    response = [list(row) for row in records.response]
    names = sorted({*records.signals, *(name for one in told.values() for name in one.signals)})
    empty = np.full(cost.shape, np.nan)
    signals = {name: records.signals.get(name, empty).copy() for name in names}
    scored = records.quality.copy()
    for i, one in told.items():
        scored[i, column] = 0.0
        cost[i, column] = tier.price(one.prompt_tokens, one.completion_tokens)
        tokens[0][i, column], tokens[1][i, column] = one.prompt_tokens, one.completion_tokens
        response[i][column] = one.text
        for name, values in signals.items():
            values[i, column] = one.signals.get(name, np.nan)
    quality = scored.copy()
    for i, task in enumerate(records.task):
        if task in grades or i in told:
            row = _graded(records, i, response[i], np.isfinite(scored[i]), of(task))
            quality[i] = np.where(np.isfinite(scored[i]), row, np.nan)
    return replace(
        records, quality=quality, cost=cost, response=response, prompt_tokens=tokens[0], completion_tokens=tokens[1],
        signals=signals,
    )  # fmt: skip


def _graded(
    records: Records, i: int, response: Sequence[str | None], there: NDArray[np.bool_], function: Grade
) -> list[float]:
    """Agreement of each tier's answer with the reference tier's; of one that is not there anything."""
    reference, found = response[-1], [1.0] * len(response)
    for k in np.flatnonzero(there).tolist():
        text = response[k]
        if reference is None or text is None:
            missing = records.models[-1 if reference is None else k]
            raise InputError(
                f"{records.source}: query {records.query_id[i]!r} has no recorded answer of {missing!r}; students are "
                "graded against the reference tier's answer, and every tier must be on the same scale, so records for "
                "the loop need the responses of all their tiers"
            )
        if k < len(response) - 1:
            found[k] = grade(function, text, reference)
    return found
