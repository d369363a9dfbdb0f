"""``routenlp loop``, ``rollback`` and ``demo --loop``: one line and exit code 2 for bad input, and the whole road."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from routenlp_integrations.cli import main

TRAINABLE = all(find_spec(name) for name in ("torch", "transformers", "onnx", "sqlalchemy"))


def test_rollback_without_releases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without releases has nothing to go back to."""
    assert main(["rollback", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no folder of releases" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(TRAINABLE, reason="torch is here")
@pytest.mark.parametrize("words", [["demo", "--loop"], ["loop", "round", "root", "--ledger", "sqlite:///l.db"]])
def test_without_torch_one_line_names_the_extra(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The loop trains, so it says what to install."""
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "routenlp[train]" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(not TRAINABLE, reason="needs routenlp[train,ledger]")
@pytest.mark.filterwarnings("ignore")
def test_the_demo_promotes_a_round_and_refuses_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before, clusters, what was taught and its price, after; then shuffled labels are refused."""
    told = tmp_path / "told.json"
    assert main(["demo", "--loop", "--out", str(tmp_path / "demo"), "--json", str(told)]) == 0
    shown = capsys.readouterr().out
    for words in ("before:", "taught intent", "teacher:", "round 1: promoted", "round 2: refused"):
        assert words in shown
    first, last = json.loads(told.read_text())["rounds"]
    assert first["comparison"]["overall"]["difference_usd"][1] < 0
    assert "cost" in last["reasons"]
    assert main(["rollback", str(tmp_path / "demo" / "loop")]) == 0
