"""Ledgers as files: exporting records or whole routes (`router_core.ledger.importing` is the way back)."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from router_core.durable import writing
from router_core.errors import InputError, MissingExtraError
from router_core.ledger.reader import LedgerReader

__all__ = ["COUNTS", "FLAGS", "NUMBERS", "SUFFIXES", "route_rows", "write_rows"]

SUFFIXES = (".jsonl", ".csv", ".parquet")
"""Endings of the files that can be written."""

_PAGE = 500
_NESTED = ("attempts", "feedback", "certificate", "budget")
FLAGS = frozenset({"certified", "escalated", "audited", "accepted", "audit", "redacted"})
COUNTS = frozenset({"position", "prompt_tokens", "completion_tokens", "retries"})
NUMBERS = frozenset({"at", "cost_usd", "latency_ms", "audit_probability", "confidence", "quality", "value"})
"""Columns of a ledger by what they hold; signals are numbers too, all others are texts or structures."""

Source = Callable[[], Iterable[Mapping[str, Any]]]


def route_rows(reader: LedgerReader, since: Any = None, until: Any = None) -> Iterator[dict[str, Any]]:
    """Every route as plain JSON values, attempts and feedback inside; then feedback to routes that are not there."""
    for route in reader.routes(since, until, hidden=True):
        told = asdict(route)
        told["hidden"] = None if route.hidden is None else base64.b64encode(route.hidden).decode()
        yield told
    if since is None and until is None:
        for stray in reader.stray_feedback():
            yield {**asdict(stray), "id": stray.route, "feedback_id": stray.id}


def write_rows(path: Path, rows: Source, *, nested: bool = False) -> int:
    """Write rows as they come, whole or not at all: beside the file, synced, renamed.

    Parameters
    ----------
    path
        A ``.jsonl``, ``.csv`` or ``.parquet`` file.
    rows
        Gives the rows from the beginning each time it is called; a table is read twice, first for its columns.
    nested
        Attempts, feedback and certificate are structures: JSON text in a table.

    Returns
    -------
    int
        How many rows were written.

    Raises
    ------
    InputError
        For another ending, or no rows.
    MissingExtraError
        For Parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: the file must end in {', '.join(SUFFIXES)}")
    write = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}[suffix]
    with writing(path) as file:
        count = write(file, rows if not nested or suffix == ".jsonl" else _flat(rows))
        if not count:
            raise InputError(f"{path}: there is nothing to write")
    return count


def _flat(rows: Source) -> Source:
    def flat() -> Iterator[dict[str, Any]]:
        for row in rows():
            yield {
                name: json.dumps(value, ensure_ascii=False) if name in _NESTED and value is not None else value
                for name, value in row.items()
            }

    return flat


def _write_jsonl(file: Any, rows: Source) -> int:
    count = 0
    for row in rows():
        file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())
        count += 1
    return count


def _columns(rows: Source) -> dict[str, None]:
    found: dict[str, None] = {}
    for row in rows():
        found.update(dict.fromkeys(row))
    return found


def _write_csv(file: Any, rows: Source) -> int:
    import io

    names, count = list(_columns(rows)), 0
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    for row in rows():
        writer.writerow(row)
        count += 1
    text.detach()
    return count


def _write_parquet(file: Any, rows: Source) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("fit", "write Parquet") from None

    def kind(name: str) -> Any:
        if name in FLAGS:
            return pyarrow.bool_()
        return pyarrow.float64() if name in NUMBERS | COUNTS or name.startswith("signal_") else pyarrow.string()

    names, count = list(_columns(rows)), 0
    schema = pyarrow.schema([(name, kind(name)) for name in names])
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        page: list[Mapping[str, Any]] = []
        for row in rows():
            page.append(row)
            count += 1
            if len(page) == 20 * _PAGE:
                writer.write_table(pyarrow.Table.from_pylist(page, schema=schema))
                page = []
        if page:
            writer.write_table(pyarrow.Table.from_pylist(page, schema=schema))
    return count
