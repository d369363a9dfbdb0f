"""Importing into a ledger: exported routes, feedback, and other ledgers; the whole source is checked first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from router_core.errors import InputError
from router_core.ledger.checks import checked
from router_core.ledger.files import route_rows
from router_core.ledger.reader import LedgerReader
from router_core.ledger.rows import Rows
from router_core.ledger.schema import open_ledger
from router_core.ledger.store import insert_rows
from router_core.ledger.url import Address, is_ledger_url, what_went_wrong

__all__ = ["import_into"]

_DATABASES = (".db", ".sqlite", ".sqlite3")
_PAGE = 500


def import_into(source: str, url: str) -> dict[str, int]:
    """Import into a ledger what it does not hold yet; what is there stays as it is, but for grades it lacks.

    Parameters
    ----------
    source
        Another ledger (a URL, or a ``.db``, ``.sqlite`` file), or a ``.jsonl`` file: lines as `route_rows` writes
        them, and feedback as ``{"id": route, "kind": "label", "value": 1.0, "text": null}``. All of the source is
        checked before anything is stored.
    url
        The ledger to import into; made when it is not there.

    Returns
    -------
    dict
        ``read`` (routes and feedback in the source) and ``new`` (rows stored, attempts counted).

    Raises
    ------
    InputError
        Naming the line or the route, and the column, that is wrong, or the database that cannot be read or written.
    """
    path = Path(source)
    if is_ledger_url(source) or path.suffix.lower() in _DATABASES:
        reader = LedgerReader(source if is_ledger_url(source) else f"sqlite:///{path}")

        def rows() -> Iterator[Rows]:
            return (checked(told, f"{reader.address.shown}: route {told['id']}") for told in route_rows(reader))

    elif path.suffix.lower() == ".jsonl":

        def rows() -> Iterator[Rows]:
            return _read_jsonl(path)

    else:
        raise InputError(f"{source}: cannot be imported; give a .jsonl file, a .db file or the URL of a ledger")
    for _ in rows():
        pass
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
                yield checked(told, place)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
