"""The rows of several files as checked columns, with the place of every row for messages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from router_core.errors import InputError
from router_core.tables import Table

__all__ = ["OPTIONAL", "REQUIRED", "Rows"]

Floats = npt.NDArray[np.float64]

REQUIRED = ("query_id", "prompt", "model", "quality")
OPTIONAL = (
    "task",
    "response",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "split",
    "cost_basis",
    "group",
)
_RANGES = {
    "quality": (0.0, 1.0, "between 0 and 1 (null for a missing answer)"),
    "cost_usd": (0.0, 1e12, "a cost in US dollars, finite and not negative"),
    "prompt_tokens": (0.0, 1e12, "a count, finite and not negative"),
    "completion_tokens": (0.0, 1e12, "a count, finite and not negative"),
}


class Rows:
    """The columns of several tables, one after the other; a column that a table lacks is missing there."""

    def __init__(self, tables: list[Table]) -> None:
        self._tables = tables
        self._starts = np.cumsum([0, *(len(table.numbers_of) for table in tables)])
        self._texts: dict[str, list[str | None]] = {}
        self._numbers: dict[str, Floats] = {}
        self.source = ", ".join(table.source for table in tables)
        self.signals = sorted({name for table in tables for name in table.columns if name.startswith("signal_")})

    def __len__(self) -> int:
        return int(self._starts[-1])

    def place(self, i: int) -> str:
        """Say where row `i` stands: file, and row or line."""
        at = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self._tables[at].place(int(i - self._starts[at]))

    def texts(self, name: str) -> list[str | None]:
        """Return a text column; an empty cell of a required one is an `InputError`."""
        if name not in self._texts:
            values: list[str | None] = []
            for table in self._tables:
                values += table.texts(name) if name in table.columns else [None] * len(table.numbers_of)
            if name in REQUIRED:
                for i, value in enumerate(values):
                    if value is None or not value.strip():
                        raise InputError(f"{self.place(i)}: column {name!r} is empty; every row needs one")
            self._texts[name] = values
        return self._texts[name]

    def numbers(self, name: str) -> Floats:
        """Return a numeric column, nan where missing; a value out of range is an `InputError`."""
        if name not in self._numbers:
            parts = []
            for table in self._tables:
                if name in table.columns:
                    parts.append(_checked(table, name))
                else:
                    parts.append(np.full(len(table.numbers_of), np.nan))
            self._numbers[name] = np.concatenate(parts)
        return self._numbers[name]


def _checked(table: Table, name: str) -> Floats:
    values, missing = table.numbers(name)
    if name in _RANGES:
        low, high, rule = _RANGES[name]
        # Written so that NaN is wrong too.
        wrong = ~missing & ~((values >= low) & (values <= high))
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise InputError(f"{table.place(i)}: column {name!r} is {values[i]:g}; it must be {rule}")
    return np.where(missing | ~np.isfinite(values), np.nan, values)
