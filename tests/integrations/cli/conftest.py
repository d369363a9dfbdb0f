"""What the tests of the command line share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bundles import rows_of, small_records

import router_core
from routenlp_integrations.cli import main


class Said(NamedTuple):
    """What one run of the command line left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Run one command in this process, without colour and at 80 columns."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return call


Rows = list[dict[str, Any]]


@pytest.fixture
def small_rows() -> Rows:
    """`bundles.small_records` as rows of a records file, to be changed at will."""
    return rows_of(small_records())


@pytest.fixture
def write_rows() -> Callable[[Path, Rows], Path]:
    """Write rows as JSON lines; NaN is written as JSON's common extension."""
    return _write


@pytest.fixture(scope="session")
def records_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bundles.small_records` as a JSON-lines file."""
    return _write(tmp_path_factory.mktemp("records") / "small.jsonl", rows_of(small_records()))


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one command in a process of its own, in an empty folder, as a shell sees it."""

    def call(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", "from routenlp_integrations.cli import main; import sys; sys.exit(main())"]
        home = str(Path(router_core.__file__).parents[1])
        env = {**os.environ, "PYTHONPATH": home, "NO_COLOR": "1", "COLUMNS": "80", **more}
        words += [str(argument) for argument in arguments]
        return subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603 - our own words

    return call


def _write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
