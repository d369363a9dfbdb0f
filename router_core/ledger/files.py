"""Ledgers as files: exporting records or whole routes, and importing routes, feedback and other ledgers."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from router_core.durable import writing
from router_core.errors import InputError, MissingExtraError
from router_core.ledger.reader import LedgerReader, LoggedAttempt, LoggedFeedback, LoggedRoute
from router_core.ledger.rows import FEEDBACK, Rows
from router_core.ledger.schema import open_ledger
from router_core.ledger.store import insert_rows
from router_core.ledger.url import Address, is_ledger_url, what_went_wrong

__all__ = ["SUFFIXES", "import_into", "route_rows", "write_rows"]

SUFFIXES = (".jsonl", ".csv", ".parquet")
"""Endings of the files that can be written."""

_DATABASES = (".db", ".sqlite", ".sqlite3")
_PAGE = 500
_NESTED = ("attempts", "feedback", "certificate", "budget")
_FLAGS = {"certified", "escalated", "audited", "accepted", "audit"}
_COUNTS = {"position", "prompt_tokens", "completion_tokens", "retries"}
_NUMBERS = {"at", "cost_usd", "latency_ms", "audit_probability", "confidence", "quality", "value"}
_REQUIRED = {"id", "at", "tier", "position", "route", "kind"} | _FLAGS

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


def import_into(source: str, url: str) -> dict[str, int]:
    """Import into a ledger what it does not hold yet; doing it again changes nothing.

    Parameters
    ----------
    source
        Another ledger (a URL, or a ``.db``, ``.sqlite`` file), or a ``.jsonl`` file: lines as `route_rows` writes
        them, and feedback as ``{"id": route, "kind": "label", "value": 1.0, "text": null}``. The whole file is checked
        before anything is stored.
    url
        The ledger to import into; made when it is not there.

    Returns
    -------
    dict
        ``read`` (routes and feedback in the source) and ``new`` (rows stored, attempts counted).

    Raises
    ------
    InputError
        Naming the line that is wrong, or the database that cannot be read or written.
    """
    path = Path(source)
    if is_ledger_url(source) or path.suffix.lower() in _DATABASES:
        reader = LedgerReader(source if is_ledger_url(source) else f"sqlite:///{path}")

        def rows() -> Iterator[Rows]:
            return (_checked(told, reader.address.shown) for told in route_rows(reader))

    elif path.suffix.lower() == ".jsonl":

        def rows() -> Iterator[Rows]:
            return _read_jsonl(path)

        for _ in rows():
            pass
    else:
        raise InputError(f"{source}: cannot be imported; give a .jsonl file, a .db file or the URL of a ledger")
    address = Address(url)
    engine = open_ledger(address, create=True)
    from sqlalchemy.exc import DBAPIError

    read = new = 0
    try:
        with engine.connect() as connection:
            for page, count in _pages(rows()):
                with connection.begin():
                    new += insert_rows(connection, page)
                read += count
    except DBAPIError as error:
        raise InputError(f"{address.shown}: cannot be written ({what_went_wrong(error)})") from None
    return {"read": read, "new": new}


def _pages(rows: Iterable[Rows]) -> Iterator[tuple[Rows, int]]:
    page: Rows = {}
    count = 0
    for one in rows:
        for name, found in one.items():
            page.setdefault(name, []).extend(found)
        count += 1
        if count == _PAGE:
            yield page, count
            page, count = {}, 0
    if count:
        yield page, count


def _read_jsonl(path: Path) -> Iterator[Rows]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                place = f"{path}: line {number}"
                if not raw.strip():
                    continue
                try:
                    told = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{place} is not valid JSON ({error})") from None
                if not isinstance(told, dict):
                    raise InputError(f"{place} is not a JSON object")
                yield _checked(told, place)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _checked(told: Mapping[str, Any], place: str) -> Rows:
    """The rows of one line; what this version does not know is left out."""
    if "kind" in told:
        return {"routes": [], "attempts": [], "graded": [], "feedback": [_outcome(told, place)]}
    if not isinstance(told.get("attempts"), (list, tuple)):
        raise InputError(f"{place} is neither a route (it has no attempts) nor feedback (it has no kind)")
    route = _row(told, LoggedRoute, place)
    hidden = route["hidden"]
    try:
        route["hidden"] = None if hidden is None else base64.b64decode(hidden, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise InputError(f"{place}: 'hidden' is not base64") from None
    attempts = [{"route": route["id"], **_row(one, LoggedAttempt, place)} for one in told["attempts"]]
    feedback = [_row({"route": route["id"], **one}, LoggedFeedback, place) for one in told.get("feedback") or ()]
    graded = [
        {"in_route": route["id"], "of_tier": one["tier"], "grade": one["quality"]}
        for one in attempts
        if one["quality"] is not None
    ]
    return {"routes": [route], "attempts": attempts, "feedback": feedback, "graded": graded}


def _outcome(told: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A line of feedback; without an id of its own, its content is its id, so that it is stored once."""
    content = json.dumps({name: told.get(name) for name in ("id", "at", "kind", "value", "text")}, sort_keys=True)
    name = told.get("feedback_id") or f"import-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
    at = told.get("at")
    row = {**told, "id": name, "route": told.get("id"), "at": time.time() if at is None else at}
    return _row(row, LoggedFeedback, place)


def _row(told: Any, kind: type, place: str) -> dict[str, Any]:
    if not isinstance(told, Mapping):
        raise InputError(f"{place}: a {kind.__name__.removeprefix('Logged').lower()} must be an object")
    row = {}
    for item in fields(kind):
        name = item.name
        if name in ("attempts", "feedback"):
            continue
        value = told.get(name)
        if value is None:
            if name in _REQUIRED:
                raise InputError(f"{place}: {name!r} is missing")
        elif name in _FLAGS:
            _need(isinstance(value, bool), name, "true or false", place)
        elif name in _COUNTS:
            fine = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62
            _need(fine, name, "a count", place)
        elif name in _NUMBERS:
            fine = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            _need(fine, name, "a finite number", place)
        elif name in ("certificate", "signals", "budget"):
            _need(isinstance(value, Mapping), name, "an object", place)
        elif name != "hidden":
            _need(isinstance(value, str), name, "text", place)
            value = value.replace("\x00", "").encode("utf-8", "replace").decode()
        row[name] = value
    if kind is LoggedFeedback and row["kind"] not in FEEDBACK:
        raise InputError(f"{place}: feedback of kind {row['kind']!r} is unknown; use {', '.join(FEEDBACK)}")
    return row


def _need(fine: bool, name: str, what: str, place: str) -> None:
    if not fine:
        raise InputError(f"{place}: {name!r} must be {what}")


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
        if name in _FLAGS:
            return pyarrow.bool_()
        return pyarrow.float64() if name in _NUMBERS | _COUNTS or name.startswith("signal_") else pyarrow.string()

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
