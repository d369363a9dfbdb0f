"""What all tests share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from router_core.ledger import Ledger


def pytest_configure() -> None:
    """No event loop but those that are asked for: one that asyncio makes unasked is closed by nobody, and warned of."""
    asyncio.set_event_loop(None)


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


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle fitted on `bundles.small_records`: tasks "mood" and "sum", tiers small, medium, large.

    ``ROUTENLP_SMALL_BUNDLE`` names one fitted elsewhere, for an environment that serves and cannot fit.
    """
    if made := os.environ.get("ROUTENLP_SMALL_BUNDLE"):
        return Path(made)
    from bundles import fit_small

    folder = tmp_path_factory.mktemp("bundles") / "small"
    fit_small(folder)
    return folder


@pytest.fixture(scope="session")
def student_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle fitted on `tiny_student.student_records`, its small tier being the tiny student."""
    from dataclasses import replace

    from bundles import PORTFOLIO, TIERS
    from tiny_student import student_records, tiny_student

    from router_core.fitting.fit_bundle import FitSettings, fit
    from router_core.portfolio import Portfolio

    student = tiny_student()
    small, *others = PORTFOLIO.tiers
    portfolio = Portfolio((replace(small, model=student.fingerprint), *others))
    folder = tmp_path_factory.mktemp("student") / "bundle"
    fit(student_records(student), out=folder, portfolio=portfolio, tiers=TIERS, settings=FitSettings(alpha=0.1))
    return folder


@pytest.fixture(scope="session")
def company(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``records.jsonl`` of a cheap and a dear engine over the index of `company`, and ``bundle/`` fitted on them."""
    pytest.importorskip("llama_index.core", reason="needs routenlp[llama-index]")
    from engines import record_company

    folder = tmp_path_factory.mktemp("company")
    record_company(folder)
    return folder


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger that keeps texts."""
    from ledgers import url_of

    from router_core.ledger import Ledger

    with Ledger(url_of(tmp_path), store_text=True) as made:
        yield made
