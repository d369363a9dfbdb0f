"""A uniform sample of logged traffic: the queries that random audits chose, at most one of each group.

Audits are decided by a hash of the query's id with a probability that is written down, before anything of its answer is
known (`router_core.audits`). So the audited queries are a fair sample of all queries, whoever answered them, as long as
every query had its chance. Three things make each group enter with one and the same probability:

- audits at higher rates are thinned to the lowest, by a hash of the id;
- of a conversation, or a text that repeats, one query stands for all, the one whose id has the smallest SHA-256 among
  all that were logged, audited or not. Taking any audited one would favour long conversations and frequent texts;
- times in which some query had no chance, as the budget was spent or nothing was audited, are refused.

Source: METHOD.md 2.6, 2.7 and P16, P23.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from router_core.certificate import clopper_pearson
from router_core.errors import InputError
from router_core.groups import unit_interval
from router_core.ledger.reader import LedgerReader, Moment, seconds
from router_core.ledger.schema import tables

__all__ = ["THIN_SALT", "Logged", "Sample", "logged_queries", "uniform_sample"]

THIN_SALT = "routenlp-thin-v1"
_PAGE = 5_000
_SURE = 1.0 - 1e-6


@dataclass(frozen=True, slots=True)
class Logged:
    """One logged query, as far as a sample goes by it.

    Attributes
    ----------
    id
        Of the route.
    at
        Seconds since 1970.
    group
        Its conversation, else its text, by their hashes; what has neither is its own group.
    probability
        With which it was to be audited; None where nothing was decided about it.
    audited
        Whether chance chose it.
    """

    id: str
    at: float
    group: str
    probability: float | None
    audited: bool


@dataclass(frozen=True)
class Sample:
    """Queries drawn from the traffic.

    Attributes
    ----------
    ids
        Of the routes.
    probability
        With which each group of the traffic is among them.
    total, audited
        Queries of the traffic, and audits among them.
    thinned, repeats
        Audits left out: of denser times, and where another query stands for the group.
    """

    ids: frozenset[str]
    probability: float
    total: int
    audited: int
    thinned: int
    repeats: int


def logged_queries(
    reader: LedgerReader, tasks: Collection[str], since: Moment = None, until: Moment = None
) -> Iterator[Logged]:
    """Every logged query of some tasks with ``since <= at < until``, oldest first, a page at a time.

    Parameters
    ----------
    reader
        An open ledger; texts are not read.
    tasks
        Names; routes that named none are of the task ``"default"``.
    since, until
        Bounds in time.

    Raises
    ------
    InputError
        When the ledger cannot be read.
    """
    import sqlalchemy as sa

    table = tables().routes
    columns = table.c.id, table.c.at, table.c.conversation, table.c.key, table.c.audited, table.c.audit_probability
    query = sa.select(*columns).where(sa.func.coalesce(table.c.task, "default").in_(sorted(tasks)))
    for bound, operator in ((seconds(since), table.c.at.__ge__), (seconds(until), table.c.at.__lt__)):
        if bound is not None:
            query = query.where(operator(bound))
    query = query.order_by(table.c.at, table.c.id).limit(_PAGE)
    place: tuple[float, str] | None = None
    while True:
        page = query if place is None else query.where(sa.tuple_(table.c.at, table.c.id) > place)
        with reader.connect() as connection:
            rows = connection.execute(page).all()
        for row in rows:
            group = f"conversation {row.conversation}" if row.conversation else row.key or row.id
            yield Logged(row.id, row.at, group, row.audit_probability, bool(row.audited))
        if len(rows) < _PAGE:
            return
        place = rows[-1].at, rows[-1].id


def uniform_sample(traffic: Callable[[], Iterable[Logged]]) -> Sample:
    """Draw the groups of some traffic, each with one and the same probability.

    Parameters
    ----------
    traffic
        Gives all queries, and the same ones when called again: they are read twice and never held, so that memory
        grows with the audits alone.

    Raises
    ------
    InputError
        When some query had no chance of being audited, or audits are missing.
    """
    total, without, expected, lowest = 0, 0, 0.0, 1.0
    chosen: list[Logged] = []
    last: Logged | None = None
    for one in traffic():
        total += 1
        if not one.probability:
            without, last = without + 1, one
            continue
        expected += one.probability
        lowest = min(lowest, one.probability)
        if one.audited:
            chosen.append(one)
    if last is not None:
        why = "was not put under audit" if last.probability is None else "came when budget or backlog allowed none"
        raise InputError(
            f"{without} of {total} logged queries could not be audited; the last, of {_iso(last.at)}, {why}. What was "
            "audited is then no random sample of the traffic: take the time after it, or audit every query, within a "
            "budget that lasts"
        )
    low, high = clopper_pearson(len(chosen), total, _SURE)
    if total and not low <= expected / total <= high:
        raise InputError(
            f"{len(chosen)} of {total} logged queries are audited where about {expected:.0f} should be: rows of the "
            "ledger are missing, so what is left is no random sample"
        )
    kept = [one for one in chosen if unit_interval(THIN_SALT, one.id) < lowest / (one.probability or 1.0)]
    wanted = {one.group for one in kept}
    stands: dict[str, tuple[bytes, str]] = {}
    for one in traffic():
        if one.group in wanted:
            mine = hashlib.sha256(one.id.encode("utf-8", "surrogatepass")).digest(), one.id
            stands[one.group] = min(stands.get(one.group, mine), mine)
    ids = frozenset(one.id for one in kept if stands[one.group][1] == one.id)
    return Sample(ids, lowest, total, len(chosen), len(chosen) - len(kept), len(kept) - len(ids))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
