"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data() -> Path | None:
    """Return the folder of shared data, or None where there is none (``ROUTENLP_SHARED`` overrides it)."""
    default = Path(__file__).resolve().parents[1] / "../shared"
    folder = Path(os.environ.get("ROUTENLP_SHARED", default)).resolve() / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Shared data folder; skips the test where it is absent."""
    folder = shared_data()
    if folder is None:
        pytest.skip("no shared data here")
    return folder
