"""Harvest for a round keeps a fixed sample: its memory does not grow with the ledger."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from ledgers import fill
from loops import loop_records

from exporters.fence import NO_KEYS
from exporters.loop.harvesting import Fence, harvest_failures
from router_core.ledger import Ledger
from router_core.splits import prepare

LIMIT, EVERY = 50, 20


def peak(tmp_path: Path, routes: int, limit: int = LIMIT) -> int:
    """Peak memory, bytes, of a harvest of failures from a ledger in which one route of 20 went to the dearer tier."""
    url, path = f"sqlite:///{tmp_path / f'{routes}.db'}", tmp_path / f"{routes}.db"
    if not path.exists():
        Ledger(url).close()
        fill(path, routes, every=EVERY)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE routenlp_routes SET tier = 'large' WHERE escalated = 1")
            connection.commit()
    # All of the student part, so that none but the limit keeps a route out.
    fence = Fence(prepare(loop_records()), NO_KEYS, NO_KEYS, 1.0)
    left_out: Counter[str] = Counter()
    tracemalloc.start()
    found = harvest_failures(
        url, fence, tasks=["mood"], since=None, until=None, everything=False, dearer=["large"], recorded=True,
        tolerance=0.0, limit=limit, seed=0, left_out=left_out,
    )  # fmt: skip
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == min(limit, routes // EVERY), left_out
    return most


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Ten times as many routes take no more memory; the mutant that keeps every failure does."""
    peak(tmp_path, 1_000)
    few, many = peak(tmp_path, 2_000), peak(tmp_path, 20_000)
    assert many < 1.5 * few
    assert peak(tmp_path, 20_000, limit=10**9) > 1.5 * few


@pytest.mark.slow
def test_memory_stays_flat_at_a_million(tmp_path: Path) -> None:
    """A ledger of one million routes is harvested in the memory that one of forty thousand takes."""
    peak(tmp_path, 1_000)
    # Enough failures to fill the pages that the reader reads by.
    few, many = peak(tmp_path, 40_000), peak(tmp_path, 1_000_000)
    # Its 50,000 failures would take some 50 MB; the test runner's own threads allocate meanwhile, too.
    assert many < few + 8_000_000
