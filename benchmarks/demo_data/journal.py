"""Answers on disk as they come, so that a killed recording goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from items import Item, read_rows, write_rows

__all__ = ["Journal"]


class Journal:
    """A JSON Lines file of answers by id, written row by row.

    Parameters
    ----------
    path
        The file; it is made if it is not there. A row that a kill cut short is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        rows = read_rows(path) if path.exists() else []
        write_rows(path, rows)
        self._rows: dict[str, dict[str, Any]] = {row["id"]: row for row in rows}

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The row kept under an id."""
        return self._rows[key]

    def missing(self, items: Iterable[Item]) -> list[Item]:
        """The items that have no row yet, in order."""
        return [item for item in items if item.query_id not in self._rows]

    def fill(
        self, keys: Sequence[str], make: Callable[[str], dict[str, Any]], tick: Callable[[], None] | None = None
    ) -> None:
        """Make and keep the row of every key that has none; `tick` is called after each key."""
        with self._path.open("a", encoding="utf-8") as file:
            for key in keys:
                if key not in self._rows:
                    row = {"id": key, **make(key)}
                    file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
                    file.flush()
                    self._rows[key] = row
                if tick is not None:
                    tick()
