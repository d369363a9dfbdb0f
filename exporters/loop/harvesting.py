"""Harvest: the logged queries that the student tier failed at, or all of them, as far as students may be taught them.

The ledger is read a page at a time and at most a fixed sample a task is kept, so memory stays flat. Calibration and
test queries, their near-duplicates, the router's part of train and what was taught before are left out and counted.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from exporters.fence import NO_KEYS, Keys, item_keys
from exporters.loop.corrections import corrected_routes, correction_of, settle_corrections
from exporters.loop.folds import is_student_part
from exporters.loop.logged_rows import LoggedRows
from exporters.loop.near import near_records
from router_core.bad import is_bad
from router_core.errors import InputError
from router_core.grades import Grading, grade, grader
from router_core.groups import hash_key
from router_core.keys import hash_keys
from router_core.ledger.reader import LedgerReader, LoggedAttempt, LoggedRoute, Moment, seconds
from router_core.ledger.rows import logged_group
from router_core.records import Records
from router_core.splits import Prepared
from router_core.student import Student

__all__ = ["Fence", "Found", "gaps", "harvest_failures", "to_row"]

_LEARNED = ("train", "tune")


@dataclass(frozen=True, slots=True)
class Found:
    """One query that may be taught.

    Attributes
    ----------
    query_id, task, prompt, group
        Its id is the record's where it is one of the records, else the route's.
    answer
        The right answer, or the reference tier's, where it is known; else None.
    answer_usd
        What that answer cost when it was given, US dollars.
    route_usd
        What answering the query cost, US dollars.
    gap
        Quality of the reference tier's answer less that of the student tier's.
    row
        Of the records; None where it is none of them.
    """

    query_id: str
    task: str
    prompt: str
    group: str
    answer: str | None
    answer_usd: float
    route_usd: float
    gap: float = 1.0
    row: int | None = None


@dataclass(frozen=True, eq=False)
class Fence:
    """What may not be taught.

    Attributes
    ----------
    prepared
        The records with their splits and groups.
    calib
        Hashed keys of every calibration query, of whatever fold.
    taught
        Hashed keys of what the current students learned from.
    student_share
        Of the student part.
    test
        Hashed keys of every test query.
    groups
        Groups of the records as `prepared` names them, by their own name and by that of the ledger, which keeps the
        hash of a conversation.
    answers
        What the current students were taught, by task and key of the text.
    """

    prepared: Prepared
    calib: Keys
    taught: Keys
    student_share: float
    test: Keys = field(default_factory=lambda: NO_KEYS)
    groups: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def why_not(self, one: Found, correction: str | None = None) -> str:
        """Why a query may not be taught; empty where it may. A correction of what was taught may."""
        query_id, group, prompt, row = one.query_id, one.group, one.prompt, one.row
        keys = hash_keys(item_keys(query_id, group, prompt))
        if np.isin(keys, self.calib).any():
            return "calibration queries"
        if row is not None and self.prepared.records.split[row] not in _LEARNED:
            return f"{self.prepared.records.split[row]} queries"
        if np.isin(keys, self.test).any():
            return "test queries"
        said = None if correction is None else correction.strip()
        same = said is None or self.answers.get((one.task, hash_key(prompt)), said) == said
        # The text alone: a conversation's later turns are new, though one of them was taught.
        if same and np.isin(hash_keys([hash_key(prompt)]), self.taught).any():
            return "taught before"
        return "" if is_student_part(group, self.student_share) else "of the router's part"


def harvest_failures(
    ledger: str,
    fence: Fence,
    *,
    tasks: Iterable[str],
    since: Moment,
    until: Moment,
    everything: bool,
    dearer: Sequence[str],
    recorded: bool,
    tolerance: float,
    limit: int,
    seed: int,
    left_out: Counter[str],
) -> list[Found]:
    """Read the ledger.

    Parameters
    ----------
    ledger
        URL.
    fence
        What may not be taught.
    tasks
        Tasks that have a plan.
    since, until
        Bounds in time.
    everything
        Take every route, not only failures.
    dearer
        Tiers above the student tier: what they served the student tier did not, and that is a failure, as is what an
        audit or a user found bad.
    recorded
        Take the reference tier's answer from the records where the route has none.
    tolerance
        By how much an answer may fall short of the reference tier's without being bad.
    limit
        Queries kept per task, a fixed sample by the hash of the id.
    seed
        Of the sample.
    left_out
        Counts what was left out, by reason.

    Raises
    ------
    InputError
        When the ledger cannot be read, or neither it nor the records hold the texts of what it logged.
    """
    records, known = fence.prepared.records, set(tasks)
    rows = LoggedRows(records)
    heaps: dict[str, list[tuple[int, int, Found]]] = defaultdict(list)
    reader = LedgerReader(ledger)
    first, last = seconds(since), seconds(until)

    def read_before(route: LoggedRoute) -> bool:
        within = (first is None or route.at >= first) and (last is None or route.at < last)
        return within and (everything or route.audited or route.escalated or route.tier in dearer)

    routes = chain(
        reader.routes(since, until, learnable=not everything, served_by=dearer),
        (route for route in corrected_routes(reader, since, until) if not read_before(route)),
    )
    kept = 0
    for number, route in enumerate(routes):
        task = route.task or "default"
        if task not in known:
            left_out["of tasks without a plan"] += 1
            continue
        if not everything and route.tier not in dearer and not _bad(route, tolerance):
            left_out["audited and not bad"] += 1
            continue
        row = rows.of(route, task)
        if row is None and not (route.text or "").strip():
            left_out["without their text"] += 1
            continue
        one = _found(route, task, fence, rows, row, recorded=recorded)
        if why := fence.why_not(one, correction_of(route)):
            left_out[why] += 1
            continue
        kept += 1
        rank = -int.from_bytes(hashlib.sha256(f"{seed}|{route.id}".encode("utf-8", "replace")).digest()[:8])
        heap = heaps[task]
        if len(heap) < limit:
            heapq.heappush(heap, (rank, number, one))
        elif rank > heap[0][0]:
            heapq.heapreplace(heap, (rank, number, one))
    if not kept and left_out["without their text"]:
        raise InputError(
            f"{left_out['without their text']} logged routes have no text and none of them is in the records; log with "
            "store_text=True, or give the records whose queries were logged"
        )
    found = [one for _, heap in sorted(heaps.items()) for _, _, one in sorted(heap, key=lambda item: item[1])]
    found = settle_corrections(found, corrected_routes(reader, since, until), rows.text_of, left_out)
    return _without_near_duplicates(found, fence, left_out)


def gaps(
    found: Sequence[Found], students: Mapping[str, Student], records: Records, column: int, grades: Grading
) -> list[Found]:
    """Fill in by how much the student tier falls short on each query.

    The current student answers anew; a tier without one is judged by its recorded answer. Where no right answer is
    known the gap is what the student doubts, 1 less its own confidence; where nothing is known it is 1.
    """
    of = grader(grades)
    told = []
    for one in found:
        student = students.get(one.task)
        said: str | None = None if one.row is None else records.response[one.row][column]
        gap = 1.0
        if student is not None:
            answer = student.answer(one.prompt)
            said, gap = answer.text, 1.0 - answer.signals.get("own_confidence", 0.0)
        if said is not None and one.answer is not None:
            gap = 1.0 - grade(of(one.task), said, one.answer)
        told.append(replace(one, gap=float(gap)))
    return told


def _found(route: LoggedRoute, task: str, fence: Fence, rows: LoggedRows, row: int | None, *, recorded: bool) -> Found:
    records = fence.prepared.records
    told = correction_of(route)
    reference = _reference(route)
    if told is not None:
        answer, usd = told, 0.0
    elif reference is not None:
        answer, usd = str(reference.answer), float(reference.cost_usd or 0.0)
    elif recorded and row is not None and records.response[row][-1] is not None:
        answer, usd = str(records.response[row][-1]), float(np.nan_to_num(records.cost[row, -1]))
    else:
        answer, usd = None, 0.0
    cost = float(route.cost_usd or 0.0)
    if row is not None:
        query, text, group = records.query_id[row], records.prompt[row], records.group[row]
        return Found(query, task, text, group, answer, usd, cost, row=row)
    text = route.text or ""
    group = logged_group(route.conversation, text)
    return Found(rows.own_id(route.id), task, text, fence.groups.get(group, group), answer, usd, cost)


def _reference(route: LoggedRoute) -> LoggedAttempt | None:
    # What redaction left of an answer is not the answer.
    found = [one for one in route.attempts if one.tier == route.reference and one.whole and not one.redacted]
    return found[-1] if found else None


def _bad(route: LoggedRoute, tolerance: float) -> bool:
    """Whether an audit or a user found the served answer bad."""
    grades = [told.value for told in route.feedback if told.kind == "audit" and told.value is not None]
    if grades and is_bad(1.0, grades[-1], tolerance):
        return True
    served = [one.answer for one in route.attempts if one.tier == route.tier and not one.audit and one.whole]
    right = correction_of(route)
    return right is not None and bool(served) and served[-1] is not None and served[-1] != right


def _without_near_duplicates(found: list[Found], fence: Fence, left_out: Counter[str]) -> list[Found]:
    """Leave out logged queries that are near-duplicates of records that may not be taught."""
    strangers = [one for one in found if one.row is None]
    if not strangers:
        return found
    records = fence.prepared.records
    barred = [
        i
        for i, (split, group) in enumerate(zip(records.split, records.group, strict=True))
        if split not in _LEARNED or not is_student_part(group, fence.student_share)
    ]
    near = near_records(fence.prepared, [(one.task, one.group, one.prompt) for one in strangers], barred)
    gone = {id(one) for one, held in zip(strangers, near, strict=True) if held}
    if gone:
        left_out["near-duplicates of calibration, test or the router's queries"] += len(gone)
    return [one for one in found if id(one) not in gone]


def to_row(one: Found) -> dict[str, Any]:
    """Plain JSON values."""
    return {name: getattr(one, name) for name in Found.__dataclass_fields__}
