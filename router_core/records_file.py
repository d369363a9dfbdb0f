"""Writing records: rows to a Parquet or JSON-lines file, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router_core.durable import writing
from router_core.errors import InputError, MissingExtraError

__all__ = ["RECORD_SUFFIXES", "write_records"]

RECORD_SUFFIXES = (".parquet", ".jsonl")
"""Endings of the files that can be written."""

_NUMBERS = ("quality", "cost_usd", "prompt_tokens", "completion_tokens")


def write_records(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows beside the file, sync them, and rename them into place.

    Parameters
    ----------
    path
        A ``.parquet`` or ``.jsonl`` file.
    rows
        At least one; a column that a row lacks is null there.

    Raises
    ------
    InputError
        For another ending, or no rows.
    MissingExtraError
        For Parquet without pyarrow.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in RECORD_SUFFIXES:
        raise InputError(f"{path}: records are written as {' or '.join(RECORD_SUFFIXES)}")
    if not rows:
        raise InputError(f"{path}: there are no records to write")
    names = list(dict.fromkeys(name for row in rows for name in row))
    with writing(path) as file:
        if suffix == ".parquet":
            _write_parquet(file, names, rows)
        else:
            for row in rows:
                told = {name: row.get(name) for name in names}
                file.write((json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _write_parquet(file: Any, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("collect", "write Parquet records") from None
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        # A column that is null throughout has no type of its own, and readers expect numbers or text.
        number = name in _NUMBERS or name.startswith("signal_")
        kind = None
        if all(value is None for value in values):
            kind = pyarrow.float64() if number else pyarrow.string()
        columns[name] = pyarrow.array(values, type=kind)
    parquet.write_table(pyarrow.table(columns), file, compression="zstd")
