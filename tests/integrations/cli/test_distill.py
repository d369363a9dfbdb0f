"""``routenlp distill`` where torch is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from routenlp_integrations.cli import main


def test_without_torch_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the extra, exit code 2, nothing written."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    given = ["distill", "pairs.jsonl", "--kind", "classifier", "--tier", "small", "--out", str(tmp_path / "out")]
    assert main(given) == 2
    shown = capsys.readouterr()
    assert shown.err == "routenlp: routenlp[train] is needed to distil a student: pip install 'routenlp[train]'\n"
    assert not (tmp_path / "out").exists()
