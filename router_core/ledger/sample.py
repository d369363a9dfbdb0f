"""A uniform sample of logged traffic: the queries that random audits chose, at most one of each group.

Audits are decided by a hash of the query's id with a probability that is written down, before anything of its answer is
known (`router_core.audits`). So the audited queries are a fair sample of all queries, whoever answered them, as long as
every query had its chance. Three things make each group enter with one and the same probability:

- audits at higher rates are thinned to the lowest, by a hash of the id;
- of a group (a conversation, a text that repeats, or what the caller takes for one) one query of each task stands for
  all, the one whose id has the smallest SHA-256 among all of the task that were logged, audited or not. Taking any
  audited one would favour large groups, and one for all tasks would show of a task only some of its groups;
- times in which some query had no chance, as the budget was spent or nothing was audited, are refused.

Source: METHOD.md 2.6, 2.7 and P16, P23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from router_core.certificate import clopper_pearson
from router_core.errors import InputError
from router_core.groups import smallest_of_each, unit_interval
from router_core.ledger.logged import iso
from router_core.ledger.reader import LedgerReader, Moment, seconds
from router_core.ledger.schema import tables

__all__ = [
    "THIN_SALT",
    "Logged",
    "Sample",
    "check_traffic",
    "logged_queries",
    "logged_texts",
    "moment_after",
    "uniform_sample",
]

THIN_SALT = "routenlp-thin-v1"
_PAGE = 2_000
_MOST = 200_000
"""Logged queries whose near-duplicates are settled in memory."""
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
    task
        Which it is of.
    key, text, conversation
        Hash of what was routed, what is kept of it, and the conversation's; None unless asked for.
    """

    id: str
    at: float
    group: str
    probability: float | None
    audited: bool
    task: str = "default"
    key: str | None = None
    text: str | None = None
    conversation: str | None = None


@dataclass(frozen=True)
class Sample:
    """Queries drawn from the traffic.

    Attributes
    ----------
    ids
        Of the routes.
    probability
        With which each group of a task's traffic is among them.
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
    reader: LedgerReader,
    tasks: Collection[str] | None,
    since: Moment = None,
    until: Moment = None,
    *,
    texts: bool = False,
) -> Iterator[Logged]:
    """Every logged query of some tasks with ``since <= at < until``, oldest first, a page at a time.

    Parameters
    ----------
    reader
        An open ledger.
    tasks
        Names; routes that named none are of the task ``"default"``. None is every task.
    since, until
        Bounds in time.
    texts
        Read the texts too.

    Raises
    ------
    InputError
        When the ledger cannot be read.
    """
    import sqlalchemy as sa

    table = tables().routes
    task = sa.func.coalesce(table.c.task, "default").label("of_task")
    columns = table.c.id, table.c.at, table.c.conversation, table.c.key, table.c.audited, table.c.audit_probability
    query = sa.select(*columns, task, *([table.c.text] if texts else ())).where(*_bounds(tasks, since, until))
    query = query.order_by(table.c.at, table.c.id).limit(_PAGE)
    place: tuple[float, str] | None = None
    while True:
        page = query if place is None else query.where(sa.tuple_(table.c.at, table.c.id) > place)
        with reader.connect() as connection:
            rows = connection.execute(page).all()
        for row in rows:
            group = f"conversation {row.conversation}" if row.conversation else row.key or row.id
            told = (row.key, row.text, row.conversation) if texts else ()
            yield Logged(row.id, row.at, group, row.audit_probability, bool(row.audited), row.of_task, *told)
        if len(rows) < _PAGE:
            return
        place = rows[-1].at, rows[-1].id


def uniform_sample(traffic: Callable[[], Iterable[Logged]]) -> Sample:
    """Draw the groups of each task of some traffic, all with one and the same probability.

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
        if not 0.0 < one.probability <= 1.0:
            raise _impossible(one.id, one.probability)
        expected += one.probability
        lowest = min(lowest, one.probability)
        if one.audited:
            chosen.append(one)
    _check_chances(total, without, None if last is None else (last.at, last.probability))
    _check_drawn(total, len(chosen), expected)
    kept = [one for one in chosen if unit_interval(THIN_SALT, one.id) < lowest / (one.probability or 1.0)]
    wanted = {(one.task, one.group) for one in kept}
    stands = smallest_of_each(
        (group, one.id, one.id) for one in traffic() if (group := (one.task, one.group)) in wanted
    )
    ids = frozenset(one.id for one in kept if stands[one.task, one.group] == one.id)
    return Sample(ids, lowest, total, len(chosen), len(chosen) - len(kept), len(kept) - len(ids))


def check_traffic(
    reader: LedgerReader, tasks: Collection[str] | None, since: Moment = None, until: Moment = None
) -> None:
    """Refuse by a few sums what `uniform_sample` would refuse after reading all of a large ledger.

    Raises
    ------
    InputError
        As `uniform_sample`; parameters as for `logged_queries`.
    """
    import sqlalchemy as sa

    table = tables().routes
    probability, mine = table.c.audit_probability, _bounds(tasks, since, until)
    chance = sa.func.coalesce(probability, 0.0)
    none = sa.func.sum(sa.case((chance == 0, 1), else_=0))
    sums = sa.select(sa.func.count(), none, sa.func.sum(chance), sa.func.sum(sa.case((table.c.audited, 1), else_=0)))
    final = sa.select(table.c.at, probability).where(*mine, chance == 0)
    wrong = sa.select(table.c.id, probability).where(*mine, sa.or_(probability < 0.0, probability > 1.0)).limit(1)
    with reader.connect() as connection:
        if (row := connection.execute(wrong).first()) is not None:
            raise _impossible(row.id, row.audit_probability)
        total, without, expected, audited = connection.execute(sums.where(*mine)).one()
        last = connection.execute(final.order_by(table.c.at.desc(), table.c.id.desc()).limit(1)).first()
    _check_chances(total, without, None if last is None else (last.at, last.audit_probability))
    _check_drawn(total, audited or 0, expected or 0.0)


def _bounds(tasks: Collection[str] | None, since: Moment, until: Moment) -> list[Any]:
    import sqlalchemy as sa

    table = tables().routes
    found: list[Any] = []
    if tasks is not None:
        found.append(sa.func.coalesce(table.c.task, "default").in_(sorted(tasks)))
    for bound, operator in ((seconds(since), table.c.at.__ge__), (seconds(until), table.c.at.__lt__)):
        if bound is not None:
            found.append(operator(bound))
    return found


def _impossible(name: str, probability: float) -> InputError:
    return InputError(
        f"the logged query {name} has the audit probability {probability:g}, which is none: the row is wrong, so "
        "take a time without it"
    )


def _check_chances(total: int, without: int, last: tuple[float, float | None] | None) -> None:
    if last is None:
        return
    at, probability = last
    why = "was not put under audit" if probability is None else "came when budget or backlog allowed none"
    raise InputError(
        f"{without} of {total} logged queries could not be audited; the last {why}. What was audited is then no "
        f"random sample of the traffic: take the time from {moment_after(at)} on, or audit every query, within a "
        "budget that lasts"
    )


def _check_drawn(total: int, audited: int, expected: float) -> None:
    low, high = clopper_pearson(audited, total, _SURE)
    if total and not low <= expected / total <= high:
        raise InputError(
            f"{audited} of {total} logged queries are audited where about {expected:.0f} should be: rows of the "
            "ledger are missing, so what is left is no random sample"
        )


def logged_texts(
    reader: LedgerReader, tasks: Collection[str] | None, since: Moment, until: Moment, *, shorter: str, keep: str
) -> list[Logged]:
    """Every logged query with its text, whether audited or not, to settle near-duplicates among all of them.

    Parameters
    ----------
    reader
        An open ledger.
    tasks
        Names; all when None.
    since, until
        Bounds in time.
    shorter, keep
        What to do where there are too many, and where texts were not kept, for the message.

    Raises
    ------
    InputError
        When there are too many to hold, or texts are missing; without naming the ledger.
    """
    every = list(islice(logged_queries(reader, tasks, since, until, texts=True), _MOST + 1))
    if len(every) > _MOST:
        raise InputError(f"more than {_MOST} queries were logged, too many to tell near-duplicates apart; {shorter}")
    if mute := sum(not (one.text or "").strip() for one in every):
        raise InputError(
            f"{mute} of {len(every)} logged queries have no text, and the others are no random sample; log with "
            f"store_text=True, and {keep}"
        )
    return every


def moment_after(at: float) -> str:
    """The next millisecond after a point in time, as text that can be given as a bound."""
    return iso(math.floor(at * 1e3 + 1) / 1e3, "milliseconds").replace("+00:00", "Z")
