"""The tables of a ledger, and the check that a database holds one this version can read.

Tables (prefix ``routenlp_``); money in US dollars, latency in milliseconds, ``at`` in seconds since 1970-01-01 UTC:

========  ==========================================================================================================
routes    one row a query: id, at, task, subtask, scope, policy, tier (served), reference (the reference tier),
          cost_usd, latency_ms (all attempts), bundle, certified, certificate (JSON), reason, escalated (a cheap tier
          and the reference tier both answered), audited (chosen for a random audit), audit_probability (null: no
          audits were kept; 0: none could be, the budget was spent), key (64-bit hash of the normalised text),
          conversation (hash), text, hidden (float32, little-endian), budget (JSON)
attempts  one row a call of a tier: route, position, at, tier, model_name, confidence, accepted, audit (made by an
          audit, not by the route), cost_usd, prompt_tokens, completion_tokens, latency_ms, reason, quality (graded by
          an audit), answer, signals (JSON), retries (calls beyond the first; latency is over all of them),
          redacted (whether redaction changed the answer; null where no text is kept)
feedback  id, route, at, kind, value, text
schema    the version
========  ==========================================================================================================

``text``, ``answer``, ``hidden`` and the text of feedback are null unless texts are kept, and ``hidden`` wherever
``text`` is not what was routed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from router_core.errors import InputError
from router_core.ledger.url import BUSY_S, Address, what_went_wrong

if TYPE_CHECKING:
    from sqlalchemy import Column, Connection, Engine, MetaData, Table

__all__ = ["SCHEMA", "Tables", "check_ledger", "make_ledger", "missing_columns", "open_ledger", "tables"]

SCHEMA = 1
"""Schema this version writes. Readers ask for the columns they know by name, so later ones may be added: `_LATER`."""

_LATER = {"routes": ("budget",), "attempts": ("retries", "redacted")}
"""Columns that ledgers made earlier lack. A writer adds them, all nullable, and older versions go on beside it."""

_TRIES = 20


@dataclass(frozen=True)
class Tables:
    """The tables; their columns are described above."""

    metadata: MetaData
    schema: Table
    routes: Table
    attempts: Table
    feedback: Table


@lru_cache(maxsize=1)
def tables() -> Tables:
    """Describe the tables to SQLAlchemy, once."""
    import sqlalchemy as sa

    metadata, number = sa.MetaData(), sa.Double

    def column(name: str, kind: Any, **more: Any) -> Any:
        return sa.Column(name, kind, **{"nullable": True, **more})

    schema = sa.Table(
        "routenlp_schema", metadata, sa.Column("name", sa.String(32), primary_key=True), column("value", sa.Text)
    )
    routes = sa.Table(
        "routenlp_routes",
        metadata,
        sa.Column("id", sa.String(64), primary_key=True),
        column("at", number, nullable=False),
        column("task", sa.Text),
        column("subtask", sa.Text),
        column("scope", sa.Text),
        column("policy", sa.Text),
        column("tier", sa.Text, nullable=False),
        column("reference", sa.Text),
        column("cost_usd", number),
        column("latency_ms", number),
        column("bundle", sa.Text),
        column("certified", sa.Boolean, nullable=False),
        column("certificate", sa.JSON(none_as_null=True)),
        column("reason", sa.Text),
        column("escalated", sa.Boolean, nullable=False),
        column("audited", sa.Boolean, nullable=False),
        column("audit_probability", number),
        column("key", sa.String(16)),
        column("conversation", sa.String(16)),
        column("text", sa.Text),
        column("hidden", sa.LargeBinary),
        column("budget", sa.JSON(none_as_null=True)),
    )
    attempts = sa.Table(
        "routenlp_attempts",
        metadata,
        sa.Column("route", sa.String(64), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        column("at", number, nullable=False),
        column("tier", sa.Text, nullable=False),
        column("model_name", sa.Text),
        column("confidence", number),
        column("accepted", sa.Boolean, nullable=False),
        column("audit", sa.Boolean, nullable=False),
        column("cost_usd", number),
        column("prompt_tokens", sa.BigInteger),
        column("completion_tokens", sa.BigInteger),
        column("latency_ms", number),
        column("reason", sa.Text),
        column("quality", number),
        column("answer", sa.Text),
        column("signals", sa.JSON(none_as_null=True)),
        column("retries", sa.Integer),
        column("redacted", sa.Boolean),
    )
    feedback = sa.Table(
        "routenlp_feedback",
        metadata,
        sa.Column("id", sa.String(64), primary_key=True),
        column("route", sa.String(64), nullable=False),
        column("at", number, nullable=False),
        column("kind", sa.String(16), nullable=False),
        column("value", number),
        column("text", sa.Text),
    )

    def index(name: str, *columns: Any, where: Any = None) -> None:
        sa.Index(f"routenlp_{name}", *columns, sqlite_where=where, postgresql_where=where)

    index("routes_at", routes.c.at, routes.c.id)
    # The few routes worth harvesting, and the few texts old enough to go, are found without reading the rest.
    index("routes_learn", routes.c.at, routes.c.id, where=sa.or_(routes.c.audited, routes.c.escalated))
    index("routes_text", routes.c.at, where=routes.c.text.is_not(None))
    index("routes_hidden", routes.c.at, where=routes.c.hidden.is_not(None))
    index("attempts_text", attempts.c.at, where=attempts.c.answer.is_not(None))
    index("feedback_route", feedback.c.route)
    index("feedback_text", feedback.c.at, where=feedback.c.text.is_not(None))
    return Tables(metadata, schema, routes, attempts, feedback)


def make_ledger(connection: Connection) -> None:
    """Make the tables where they are missing; other tables in the same database are left alone.

    Raises
    ------
    InputError
        When the ledger there was made by a newer version.
    """
    import sqlalchemy as sa

    all_tables = tables()
    if sa.inspect(connection).has_table(all_tables.schema.name):
        check_ledger(connection)
        _add_later(connection)
        return
    if connection.dialect.name == "sqlite":
        connection.commit()
        # Only outside a transaction can the journal be changed, and then it stays so.
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.commit()
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        # Two processes that start together must not both create; the number is an arbitrary name for the lock.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7236010719)")
    all_tables.metadata.create_all(connection)
    have = connection.execute(sa.select(all_tables.schema.c.value)).first()
    if have is None:
        connection.execute(all_tables.schema.insert().values(name="schema", value=str(SCHEMA)))
    connection.commit()


def missing_columns(connection: Connection) -> set[Column[Any]]:
    """Columns that the ledger lacks because no writer of this version has opened it yet."""
    import sqlalchemy as sa

    all_tables, found = tables(), set()
    for name, later in _LATER.items():
        table: Table = getattr(all_tables, name)
        have = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
        found |= {table.c[column] for column in later if column not in have}
    return found


def _add_later(connection: Connection) -> None:
    """Add what a ledger made by an earlier version lacks; two writers may try at once."""
    import sqlalchemy as sa
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.schema import CreateColumn

    missing = missing_columns(connection)
    connection.rollback()
    for column in missing:
        told = CreateColumn(column).compile(dialect=connection.dialect)
        try:
            connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {told}")
            connection.commit()
        except DBAPIError:
            connection.rollback()
            if column in missing_columns(connection):
                raise
            connection.rollback()
    table = tables().routes
    have = {one["name"] for one in sa.inspect(connection).get_indexes(table.name)}
    connection.rollback()
    for later in (one for one in table.indexes if one.name not in have):
        try:
            later.create(connection, checkfirst=True)
            connection.commit()
        except DBAPIError:
            # Another writer made it meanwhile, or cannot now; nothing but speed depends on it.
            connection.rollback()


def check_ledger(connection: Connection) -> None:
    """Make sure that the database holds a ledger of this version or an older one.

    Raises
    ------
    InputError
        When it holds none, or a newer one; without naming it, which the caller does.
    """
    import sqlalchemy as sa

    all_tables = tables()
    missing = [
        table.name for table in all_tables.metadata.sorted_tables if not sa.inspect(connection).has_table(table.name)
    ]
    if missing:
        raise InputError(f"not a ledger (there is no table {missing[0]})")
    value = connection.execute(
        sa.select(all_tables.schema.c.value).where(all_tables.schema.c.name == "schema")
    ).scalar_one_or_none()
    if value is None or not str(value).isdigit():
        raise InputError("not a ledger (it does not say which schema it has)")
    if int(value) > SCHEMA:
        raise InputError(f"the ledger has schema {value}, this version reads up to {SCHEMA}; upgrade routenlp")


def open_ledger(address: Address, *, create: bool = False) -> Engine:
    """Open a ledger, or with `create` make one where there is none.

    Raises
    ------
    InputError
        When it cannot be opened, is no ledger, or is newer than this version.
    """
    from sqlalchemy.exc import DBAPIError, OperationalError

    engine = address.engine(create=create)
    began = time.monotonic()
    for left in range(_TRIES, -1, -1):
        try:
            with engine.connect() as connection:
                (make_ledger if create else check_ledger)(connection)
            return engine
        except InputError as error:
            raise InputError(f"{address.shown}: {error}") from None
        except DBAPIError as error:
            said = what_went_wrong(error)
            # Turning a new file to WAL does not wait for another process that does the same; all else waited already.
            waited = time.monotonic() - began > BUSY_S / 2
            if left and not waited and isinstance(error, OperationalError) and "locked" in said:
                time.sleep(0.05)
                continue
            if "not a database" in said:
                raise InputError(f"{address.shown}: not a ledger ({said})") from None
            raise InputError(f"{address.shown}: cannot be opened ({said})") from None
    raise AssertionError("unreachable: the last try returns or raises")
