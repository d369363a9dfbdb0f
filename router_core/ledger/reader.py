"""Reading a ledger, a few hundred routes at a time: memory stays flat however many there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from router_core.errors import InputError
from router_core.ledger.logged import LoggedAttempt, LoggedFeedback, LoggedRoute, Moment, iso, seconds
from router_core.ledger.schema import missing_columns, open_ledger, tables
from router_core.ledger.url import Address, what_went_wrong

if TYPE_CHECKING:
    from sqlalchemy import Column, Connection, Row, Table

__all__ = ["LedgerReader", "LoggedAttempt", "LoggedFeedback", "LoggedRoute", "Moment", "seconds"]

_PAGE = 500


class LedgerReader:
    """Reads a ledger; opens a connection for each call and keeps none.

    Parameters
    ----------
    url
        As for `router_core.ledger.Ledger`; nothing is made where there is none.

    Raises
    ------
    InputError
        When there is no database, it is no ledger, or it is newer than this version.
    """

    def __init__(self, url: str | Address) -> None:
        self.address = url if isinstance(url, Address) else Address(url)
        self._engine = open_ledger(self.address)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection whose failures are `InputError`."""
        from sqlalchemy.exc import DBAPIError

        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise InputError(f"{self.address.shown}: cannot be read ({what_went_wrong(error)})") from None

    def routes(
        self,
        since: Moment = None,
        until: Moment = None,
        *,
        learnable: bool = False,
        served_by: Sequence[str] = (),
        hidden: bool = False,
        feedback: Sequence[str] = (),
    ) -> Iterator[LoggedRoute]:
        """Every route with ``since <= at < until``, oldest first.

        Each page is a transaction of its own, so that a long read holds up neither writers nor the database's
        housekeeping. A route that is stored meanwhile with an earlier time may be missed.

        Parameters
        ----------
        since, until
            Bounds in time; None is no bound.
        learnable
            Only routes that were chosen for an audit or escalated: those with a reference answer beside a cheap one.
        served_by
            With `learnable`: those too that one of these tiers served.
        hidden
            Read the hidden vectors too.
        feedback
            Only routes to which feedback of one of these kinds gave a text within the bounds in time, whenever they
            were answered.
        """
        import sqlalchemy as sa

        all_tables = tables()
        table = all_tables.routes
        with self.connect() as connection:
            lacking = missing_columns(connection)
        skipped = lacking if hidden else {*lacking, table.c.hidden}
        query = sa.select(*(column for column in table.columns if column not in skipped))
        query = query.order_by(table.c.at, table.c.id).limit(_PAGE)
        if learnable:
            query = query.where(sa.or_(table.c.audited, table.c.escalated, table.c.tier.in_(served_by)))
        told = all_tables.feedback
        dated = told.c.at if feedback else table.c.at
        bounds = [
            operator(bound)
            for bound, operator in ((seconds(since), dated.__ge__), (seconds(until), dated.__lt__))
            if bound is not None
        ]
        if feedback:
            named = sa.select(told.c.route).where(told.c.kind.in_(feedback), told.c.text.is_not(None), *bounds)
            query = query.where(table.c.id.in_(named))
        else:
            query = query.where(*bounds)
        place: tuple[float, str] | None = None
        while True:
            page = query
            if place is not None:
                page = query.where(sa.tuple_(table.c.at, table.c.id) > place)
            with self.connect() as connection:
                rows = connection.execute(page).all()
                ids = [row.id for row in rows]
                attempts = _by_route(connection, all_tables.attempts, ids, ("position",), lacking)
                opinions = _by_route(connection, all_tables.feedback, ids, ("at", "id"), lacking)
            for row in rows:
                yield LoggedRoute(
                    **{"hidden": None, **row._mapping},
                    attempts=tuple(LoggedAttempt(**_without_route(found)) for found in attempts.get(row.id, ())),
                    feedback=tuple(LoggedFeedback(**found._mapping) for found in opinions.get(row.id, ())),
                )
            if len(rows) < _PAGE:
                return
            place = rows[-1].at, rows[-1].id

    def stray_feedback(self) -> Iterator[LoggedFeedback]:
        """Feedback to routes that are not in this ledger."""
        import sqlalchemy as sa

        table, routes = tables().feedback, tables().routes
        query = sa.select(table).where(~sa.exists().where(routes.c.id == table.c.route))
        place = ""
        while True:
            with self.connect() as connection:
                rows = connection.execute(query.where(table.c.id > place).order_by(table.c.id).limit(_PAGE)).all()
            yield from (LoggedFeedback(**row._mapping) for row in rows)
            if len(rows) < _PAGE:
                return
            place = rows[-1].id

    def audited(self, since: Moment = None, until: Moment = None) -> int:
        """How many routes of this time were chosen for an audit."""
        import sqlalchemy as sa

        table = tables().routes
        query = sa.select(sa.func.count()).select_from(table).where(table.c.audited)
        if (bound := seconds(since)) is not None:
            query = query.where(table.c.at >= bound)
        if (bound := seconds(until)) is not None:
            query = query.where(table.c.at < bound)
        with self.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def stats(self) -> dict[str, Any]:
        """What the ledger holds.

        Returns
        -------
        dict
            ``url`` (masked), ``routes``, ``first`` and ``last`` (ISO 8601, UTC), ``cost_usd`` (audits apart),
            ``certified``, ``escalated``, ``texts`` (routes whose text is kept), ``tiers`` (routes served by each),
            ``tasks``, ``bundles``, ``attempts``, ``feedback`` (rows of each kind), ``audits``: ``chosen``, ``done``,
            ``failed``, ``unaffordable`` (none could be chosen: budget or backlog) and ``cost_usd``.
        """
        import sqlalchemy as sa

        all_tables = tables()
        routes, attempts, feedback = all_tables.routes, all_tables.attempts, all_tables.feedback
        count, total = sa.func.count, sa.func.coalesce

        def number(condition: Any) -> Any:
            return total(sa.func.sum(sa.case((condition, 1), else_=0)), 0)

        with self.connect() as connection:

            def shares(column: Any, *where: Any) -> dict[str, int]:
                found = connection.execute(sa.select(column, count()).where(*where).group_by(column).order_by(column))
                return {str(name): int(many) for name, many in found if name is not None}

            overall = connection.execute(
                sa.select(
                    count(),
                    sa.func.min(routes.c.at),
                    sa.func.max(routes.c.at),
                    total(sa.func.sum(routes.c.cost_usd), 0.0),
                    number(routes.c.certified),
                    number(routes.c.escalated),
                    count(routes.c.text),
                    number(routes.c.audited),
                    number(routes.c.audit_probability == 0),
                )
            ).one()
            audit = feedback.c.kind == "audit"
            told = connection.execute(
                sa.select(number(feedback.c.value.is_not(None)), number(feedback.c.value.is_(None))).where(audit)
            ).one()
            paid = connection.execute(
                sa.select(total(sa.func.sum(attempts.c.cost_usd), 0.0)).where(attempts.c.audit)
            ).scalar_one()
            return {
                "url": self.address.shown,
                "routes": overall[0],
                "first": None if overall[1] is None else iso(overall[1]),
                "last": None if overall[2] is None else iso(overall[2]),
                "cost_usd": float(overall[3]),
                "certified": int(overall[4]),
                "escalated": int(overall[5]),
                "texts": int(overall[6]),
                "tiers": shares(routes.c.tier),
                "tasks": shares(routes.c.task),
                "bundles": shares(routes.c.bundle),
                "attempts": connection.execute(sa.select(count()).select_from(attempts)).scalar_one(),
                "feedback": shares(feedback.c.kind),
                "audits": {
                    "chosen": int(overall[7]),
                    "done": int(told[0]),
                    "failed": int(told[1]),
                    "unaffordable": int(overall[8]),
                    "cost_usd": float(paid),
                },
            }


def _by_route(
    connection: Connection, table: Table, ids: Sequence[str], order: Sequence[str], lacking: Collection[Column[Any]]
) -> dict[str, list[Row[Any]]]:
    import sqlalchemy as sa

    found: dict[str, list[Row[Any]]] = {}
    if ids:
        query = sa.select(*(column for column in table.columns if column not in lacking))
        query = query.where(table.c.route.in_(ids)).order_by(*(table.c[name] for name in order))
        for row in connection.execute(query):
            found.setdefault(row.route, []).append(row)
    return found


def _without_route(row: Row[Any]) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "route"}
