"""Opening a ledger that another process holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from ledgers import url_of

from router_core.errors import InputError
from router_core.ledger import Ledger, schema
from router_core.ledger.reader import LedgerReader
from router_core.ledger.url import Address


def test_a_locked_ledger_is_told_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One wait for the lock is enough: it is not waited for again at each try."""
    Ledger(url_of(tmp_path)).close()
    opened, clock = [], iter(range(0, 1000, 10))
    engine = Address.engine

    def counted(self: Address, **more: Any) -> Any:
        found = engine(self, **more)
        connect = found.connect
        monkeypatch.setattr(found, "connect", lambda: (opened.append(1), connect())[1])
        return found

    monkeypatch.setattr(Address, "engine", counted)
    monkeypatch.setattr("router_core.ledger.url.BUSY_S", 0.01)
    monkeypatch.setattr(schema.time, "monotonic", lambda: float(next(clock)))
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="locked"):
            LedgerReader(url_of(tmp_path))
    assert len(opened) == 1
