"""Writing batches of rows to a ledger: one connection, one transaction a batch, nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from router_core.ledger.rows import AuditEntry, FeedbackEntry, RouteEntry, Rows, rows_of
from router_core.ledger.schema import make_ledger, open_ledger, tables
from router_core.ledger.url import Address, what_went_wrong

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["Entry", "Store", "StoreError", "insert_rows", "retire"]

Entry = RouteEntry | FeedbackEntry | AuditEntry

_RETIRED_AT_ONCE = 2_000
_INHERITED: list[Any] = []
"""Connections of a parent process: closing one here would act on the parent's."""


class StoreError(Exception):
    """The database cannot be written now; the batch is kept and tried again."""


class Store:
    """A ledger as its writer sees it; used by one thread.

    Parameters
    ----------
    address
        Where the ledger is. It is made when it is not there yet.

    Raises
    ------
    InputError
        When it cannot be opened, is no ledger, or is newer than this version.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        open_ledger(address, create=True).dispose()
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._file: tuple[int, int] | None = None

    def write(self, entries: list[Entry]) -> int:
        """Store entries, all in one transaction.

        Returns
        -------
        int
            How many were dropped because the database will never take them (a value out of its range).

        Raises
        ------
        StoreError
            When the database is away, locked, full or read-only; nothing was stored.
        """
        from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

        from router_core.errors import InputError

        try:
            self._write(entries)
            return 0
        except (DataError, IntegrityError):
            pass
        except (DBAPIError, OSError, StoreError, InputError) as error:
            self.close()
            raise StoreError(what_went_wrong(error)) from None
        except Exception:  # noqa: S110 - a value that no column takes; found below
            pass
        self.close()
        # One of the entries is at fault, not the database: the others must not go with it.
        return 1 if len(entries) == 1 else sum(self.write([entry]) for entry in entries)

    def retire(self, before: float) -> int:
        """Take out texts older than `before` (seconds since 1970); how many rows held one."""
        from sqlalchemy.exc import DBAPIError

        try:
            return retire(self._open(), before)
        except (DBAPIError, OSError) as error:
            self.close()
            raise StoreError(what_went_wrong(error)) from None

    def close(self) -> None:
        """Let the connection go; the next write opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception:
                connection.invalidate()

    def abandon(self) -> None:
        """Forget the connection without closing it, as a forked child must."""
        _INHERITED.append((self._engine, self._connection))
        self._engine = self._connection = None

    def _write(self, entries: list[Entry]) -> None:
        connection = self._open()
        with connection.begin():
            insert_rows(connection, rows_of(entries))

    def _open(self) -> Connection:
        path = self.address.path
        if path is not None:
            # SQLite goes on writing to a file that was moved away or deleted, and says nothing.
            try:
                there = path.stat()
            except FileNotFoundError:
                raise StoreError("the database file is gone") from None
            if self._connection is not None and self._file != (there.st_dev, there.st_ino):
                self.close()
            self._file = (there.st_dev, there.st_ino)
        if self._connection is None:
            if self._engine is None:
                self._engine = self.address.engine()
            connection = self._engine.connect()
            try:
                make_ledger(connection)
                connection.rollback()
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def insert_rows(connection: Connection, rows: Rows) -> int:
    """Insert rows that are not there yet (ids and positions decide), and grade ungraded attempts; how many were new."""
    import sqlalchemy as sa

    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    all_tables, new = tables(), 0
    for name in ("routes", "attempts", "feedback"):
        if rows.get(name):
            add = insert(getattr(all_tables, name)).on_conflict_do_nothing()
            done = connection.execute(add, rows[name], execution_options={"preserve_rowcount": True})
            new += max(done.rowcount, 0)
    if rows.get("graded"):
        attempts = all_tables.attempts
        grade = (
            sa.update(attempts)
            .where(
                attempts.c.route == sa.bindparam("in_route"),
                attempts.c.tier == sa.bindparam("of_tier"),
                attempts.c.quality.is_(None),
            )
            .values(quality=sa.bindparam("grade"))
        )
        connection.execute(grade, rows["graded"])
    return new


def retire(connection: Connection, before: float) -> int:
    """Take texts, answers and vectors that are older than `before` (seconds since 1970) out; the rows stay.

    Whichever of them a row holds. In steps of a few thousand rows, so that another writer never waits long. Returns how
    many rows held one.
    """
    import sqlalchemy as sa

    all_tables, gone = tables(), 0
    for table, columns in (
        (all_tables.routes, ("text", "hidden")),
        (all_tables.routes, ("hidden",)),
        (all_tables.attempts, ("answer",)),
        (all_tables.feedback, ("text",)),
    ):
        keys = list(table.primary_key.columns)
        old = sa.select(*keys).where(table.c.at < before, table.c[columns[0]].is_not(None)).limit(_RETIRED_AT_ONCE)
        while True:
            found = connection.execute(old).all()
            if not found:
                connection.rollback()
                break
            these = [{f"k{i}": value for i, value in enumerate(row)} for row in found]
            same = [key == sa.bindparam(f"k{i}") for i, key in enumerate(keys)]
            connection.execute(sa.update(table).where(*same).values(dict.fromkeys(columns)), these)
            connection.commit()
            gone += len(found)
    return gone
