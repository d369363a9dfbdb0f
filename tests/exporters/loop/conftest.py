"""What the tests of the loop share: a loop that was started, and one that has promoted a round."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from loops import fake_distil, first_students, know, loop_options, loop_records, stream


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a started loop and the ledger that its first release left; copy it to change it."""
    from exporters.loop import start

    folder = tmp_path_factory.mktemp("loop")
    records = loop_records()
    start(folder / "root", records, options=loop_options(), checkpoints=first_students(), distil=fake_distil)
    stream(folder / "root", f"sqlite:///{folder / 'ledger.db'}", records)
    return folder


@pytest.fixture(scope="session")
def played(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it whose loop has promoted a round; copy it to change it."""
    from exporters.loop import run_round

    folder = tmp_path_factory.mktemp("played") / "loop"
    shutil.copytree(begun, folder)
    report = run_round(
        folder / "root", ledger=f"sqlite:///{folder / 'ledger.db'}", records=loop_records(),
        options=loop_options(most=6), distil=lambda *_, **__: know(0, 1),
    )  # fmt: skip
    assert report.promoted, report.reasons
    return folder
