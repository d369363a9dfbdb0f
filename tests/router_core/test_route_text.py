"""`route_text`: what of a conversation is routed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router_core.route_text import CONTEXT_CHARACTERS, ROUTE_TEXT_VERSION, last_turn, route_text


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ([("human", " exactly\x00 so \n")], " exactly\x00 so \n"),
        ([("system", "be brief"), ("human", " so \n")], " so \n"),
        ([("human", "q"), ("ai", ""), ("tool", "output"), ("ai", "half"), ("tool", "more")], "q"),
        ([("human", "q"), ("human", "<system-reminder>x</system-reminder> <command-message>y</command-message>")], "q"),
        ([("human", "<system-reminder>x</system-reminder>")], "<system-reminder>x</system-reminder>"),
        ([("human", "<system-reminder>x</system-reminder> really?")], "<system-reminder>x</system-reminder> really?"),
        ([("human", "q"), ("human", "  ")], "q"),
        ([("system", "s"), ("ai", "a")], "a"),
        ([("human", "")], ""),
        ([], ""),
    ],
)
def test_one_turn_is_routed_unchanged(turns: list[tuple[str, str]], text: str) -> None:
    """One human turn is routed as the record's prompt was, whatever a system, a tool or a harness says around it."""
    assert route_text(turns) == last_turn(turns) == text


def test_earlier_turns_come_before_the_last_one() -> None:
    """What people and the model said before is context; system text, tool output and harness text are not."""
    turns = [
        ("system", "s"),
        ("human", "first"),
        ("ai", "a"),
        ("tool", "t"),
        ("human", "<environment_context>x</environment_context>"),
        ("human", "last\n"),
        ("ai", "calls"),
        ("tool", "t"),
    ]
    assert route_text(turns) == "human: first\nai: a\n\nlast\n"
    assert last_turn(turns) == "last\n"


def test_the_context_is_bounded_from_its_end() -> None:
    """However long a conversation, its context keeps the last characters, and the last turn is whole."""
    turns = [("human", "old " * 500), ("ai", "x" * 100 + "end"), ("human", "q" * 5_000)]
    text = route_text(turns)
    context, _, last = text.partition("\n\n")
    assert last == "q" * 5_000
    assert context.endswith("end")
    assert len(context) == CONTEXT_CHARACTERS + len("human: ") + len("ai: ") + 1
    assert route_text([("human", "older"), *turns]) == text


def test_long_harness_text_is_read_in_no_time() -> None:
    """Tags that nest or never close cost one pass: they are no harness text, and are routed."""
    text = "<system-reminder>" * 20_000 + "</system-reminder>"
    assert route_text([("human", "q"), ("human", text + "<system-reminder>")]).endswith("<system-reminder>")


def test_the_version_is_in_the_manifest(small_bundle: Path) -> None:
    """A bundle says which version it was certified with."""
    manifest = json.loads((small_bundle / "manifest.json").read_text())
    assert manifest["route_text"] == ROUTE_TEXT_VERSION
