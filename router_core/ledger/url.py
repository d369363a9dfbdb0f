"""Ledger URLs: what is one, opening it, and never showing its password."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from router_core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine import URL

__all__ = ["BUSY_S", "Address", "is_ledger_url", "mask", "what_went_wrong"]

BUSY_S = 10.0
"""How long a writer waits for another one's transaction, seconds."""

_CONNECT_S = 5
_URL = re.compile(r"^(sqlite|postgres|postgresql)(\+\w+)?:/", re.IGNORECASE)
# Whatever stands between the scheme and the last @ may hold a password; so may an option of that name.
_USERINFO = re.compile(r"(?<=://)(\S*)@")
_OPTION = re.compile(r"(?i)(?<=[?&; ])(password|passwd|sslpassword|passfile)=[^&;\s]*")


def is_ledger_url(text: object) -> bool:
    """Whether a text names a ledger (``sqlite:///file.db``, ``postgresql://...``) rather than a file of records."""
    return isinstance(text, str) and bool(_URL.match(text))


def mask(text: object) -> str:
    """A URL, or a message that quotes one, without user names and passwords."""
    return _OPTION.sub(r"\1=***", _USERINFO.sub("***@", str(text)))


def what_went_wrong(error: BaseException) -> str:
    """First line of a database error, without SQL, parameters (they hold texts) and passwords."""
    cause = getattr(error, "orig", None) or error
    said = str(cause).strip().splitlines()
    return mask(said[0]) if said else type(cause).__name__


class Address:
    """Where a ledger is: a checked URL and the way to open it.

    Parameters
    ----------
    url
        ``sqlite:///file.db`` (three slashes and a relative path, four and an absolute one) or
        ``postgresql://user:password@host/database``.

    Raises
    ------
    InputError
        For a URL that is none, of another database, or of a database in memory; never quoting a password.
    MissingExtraError
        When SQLAlchemy or the PostgreSQL driver is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            from sqlalchemy.engine import make_url
            from sqlalchemy.exc import ArgumentError
        except ImportError:
            raise MissingExtraError("ledger", "keep or read a ledger") from None
        self.shown = mask(url)
        if not is_ledger_url(url):
            raise InputError(f"{self.shown} is no ledger URL; use sqlite:///file.db or postgresql://user@host/database")
        try:
            self.url: URL = make_url(url)
        except (ArgumentError, ValueError):
            raise InputError(f"{self.shown} is no URL of a database; use sqlite:///file.db") from None
        self.path: Path | None = None
        if self.url.get_backend_name() == "sqlite":
            name = self.url.database
            if not name or name == ":memory:" or name.startswith("file:"):
                raise InputError(f"{self.shown} names no file; a ledger is kept in one, as in sqlite:///routenlp.db")
            self.path = Path(name).absolute()
        else:
            self.url = self.url.set(drivername="postgresql+psycopg")
            self._need_driver()

    @staticmethod
    def _need_driver() -> None:
        try:
            import psycopg  # noqa: F401 - asked for before SQLAlchemy does, to name the extra
        except ImportError:
            raise MissingExtraError("postgres", "use a ledger in PostgreSQL") from None

    def engine(self, *, create: bool = False) -> Engine:
        """An engine that keeps no connection open by itself.

        Parameters
        ----------
        create
            Make the SQLite file when it is absent.

        Raises
        ------
        InputError
            When the SQLite file, or with `create` its folder, does not exist.
        """
        import sqlite3

        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        if self.path is None:
            return create_engine(
                self.url, poolclass=NullPool, hide_parameters=True, connect_args={"connect_timeout": _CONNECT_S}
            )
        if create and not self.path.parent.is_dir():
            raise InputError(f"{self.shown}: the folder {self.path.parent} does not exist; make it first")
        if not create and not self.path.is_file():
            raise InputError(f"{self.shown}: no such database; check the path")
        mode = "rwc" if create else "rw"
        file = f"file:{quote(str(self.path))}?mode={mode}"

        def connect() -> Any:
            connection = sqlite3.connect(file, uri=True, timeout=BUSY_S, check_same_thread=False)
            # A commit in WAL mode survives the death of the process; NORMAL syncs at checkpoints only.
            connection.execute("PRAGMA synchronous=NORMAL")
            return connection

        return create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)
