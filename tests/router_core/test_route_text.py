"""`route_text`: what of a conversation is routed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router_core.route_text import ROUTE_TEXT_VERSION, route_text


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ([("human", " exactly\x00 so \n")], " exactly\x00 so \n"),
        ([("system", "s"), ("human", "first"), ("ai", "a"), ("human", "last"), ("tool", "t")], "last"),
        ([("system", "s"), ("ai", "a")], "a"),
        ([("human", "")], ""),
        ([], ""),
    ],
)
def test_the_last_human_turn_is_routed(turns: list[tuple[str, str]], text: str) -> None:
    """The last human turn, unchanged; without one the last turn; without any turn nothing."""
    assert route_text(turns) == text


def test_the_version_is_in_the_manifest(small_bundle: Path) -> None:
    """A bundle says which version it was certified with."""
    manifest = json.loads((small_bundle / "manifest.json").read_text())
    assert manifest["route_text"] == ROUTE_TEXT_VERSION
