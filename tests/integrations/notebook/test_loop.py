"""Recorded students are checkpoints as any other, and pictures of the loop and of sources say what they show."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from routenlp_integrations.notebook.loop import loop_records, picture_loop, recorded_distil
from routenlp_integrations.notebook.sources import Asked, compare_ways, picture_sources
from router_core.checkpoint import Checkpoint
from router_core.errors import InputError
from router_core.student import Student, make_student


def _distilled(task: str, number: int) -> Checkpoint:
    pair: Any = SimpleNamespace(task=task, query_id="q0")
    return recorded_distil("classifier", [pair], tier="student", lineage={"round": number})


def _agreement(student: Student, task: str) -> float:
    records = loop_records()
    rows = [i for i, its in enumerate(records.task) if its == task and records.split[i] == "test"]
    same = [student.answer(records.prompt[i]).text == records.response[i][1] for i in rows]
    return sum(same) / len(same)


def test_recorded_students_learn_and_the_misled_do_not() -> None:
    """The student of round 1 agrees with the reference more often than the first, that of round 2 far less."""
    first, second, misled = (_agreement(make_student(_distilled("intent", n)), "intent") for n in (0, 1, 2))
    assert first + 0.1 < second
    assert misled < second - 0.2


def test_what_was_not_recorded_is_refused() -> None:
    """A round or task that was never recorded is an error that says what to do."""
    with pytest.raises(InputError, match="no student of task 'intent' was recorded for round 9; train"):
        _distilled("intent", 9)


def test_pictures_need_something_to_show() -> None:
    """Nothing asked, nothing drawn; ratios are to the dearest way."""
    with pytest.raises(InputError, match="0 routes before"):
        picture_loop([], [], ("student", "panel"), {})
    with pytest.raises(InputError, match="no questions"):
        picture_sources({}, [])
    ways = {"cheap": [(0.0, 1.0), (1.0, 1.0)], "dear": [(1.0, 4.0), (1.0, 4.0)]}
    assert [row["share of the dearest"] for row in compare_ways(ways)] == [0.25, 1.0]
    told = picture_sources(ways, [Asked("offices", "offices", "offices", 1.0, 0.0)]).told
    assert "cheap 50 %" in told
