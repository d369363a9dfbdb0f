"""Which round is next, and what it may read: the one that was killed, or a new one on a fold that nobody read."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from exporters.loop.audited import read_spent, released_keys
from exporters.loop.fresh import FreshAudits
from exporters.loop.journal import Journal
from exporters.loop.missing import asked_usd
from exporters.loop.state import ROUNDS, State
from exporters.loop.work import Work
from router_core.errors import InputError
from router_core.keys import hash_keys
from router_core.ledger.reader import seconds
from router_core.ledger.sample import moment_after
from router_core.release import Release

__all__ = ["next_round", "read_folds", "read_until"]

_LAST = "report"


def next_round(work: Work, fresh: FreshAudits | None) -> Journal | None:
    """The journal of the round to do; None when there is no fold left for one.

    Parameters
    ----------
    work
        What the round is called with.
    fresh
        How it certifies on audits, if it does.

    Raises
    ------
    InputError
        When the round that was killed was begun with something else, or the audits asked for cannot certify.
    """
    state = work.state
    if not (numbers := state.rounds()):
        raise InputError(
            f"{state.root / ROUNDS} holds no round, not even the start; restore it, or start in another folder"
        )
    number = max(numbers)
    last = Journal(state.round(number))
    if number and not last.done(_LAST):
        if last.begun["options"] != work.options.digest:
            raise InputError(
                f"{last.folder} was begun with other options; finish it with those, or remove it to lose the round and "
                "its calibration fold"
            )
        if (last.begun.get("fresh") is None) != (fresh is None):
            was = "the next fold of the start" if fresh is not None else "fresh audits"
            raise InputError(f"{last.folder} was begun on {was}; finish it so, or remove it to lose the round")
        if fresh is not None and last.begun["fresh"].get("given") != _given(fresh):
            raise InputError(
                f"{last.folder} was begun on audits of another time; finish it with the since and until it was begun "
                "with, or remove it to lose the round"
            )
        return last
    until = time.time()
    if fresh is not None and (named := seconds(fresh.until)) is not None:
        if named > until:
            raise InputError(f"audits until {fresh.until}: that is to come; give a moment that is past, or none")
        until = named
    begun: dict[str, Any] = {
        "options": work.options.digest,
        "round": number + 1,
        "incumbent": Release.current(state.root).id,
        "since": read_until(state),
        "until": until,
    }
    if fresh is not None:
        audits = {"since": _fresh_since(state, fresh), "before_usd": asked_usd(state, work.options.portfolio.names)}
        audits["given"] = _given(fresh)
        return Journal(state.round(number + 1), {**begun, "fold": None, "fresh": audits})
    read = read_folds(state, work)
    left = [fold for fold in range(1, len(work.folds.ids)) if fold not in read]
    if not left:
        return None
    return Journal(state.round(number + 1), {**begun, "fold": left[0]})


def _given(fresh: FreshAudits) -> list[float | None]:
    return [seconds(fresh.since), seconds(fresh.until)]


def _fresh_since(state: State, fresh: FreshAudits) -> float:
    """Since when audits may certify: no earlier than what serves was learned or a fold of audits was last read."""
    told, serving, made = state.check_started(), Release.current(state.root).id, read_until(state)
    if made is None and serving != told["release"]:
        raise InputError(
            f"release {serving} was made by no start or round of {state.root}, so nobody can tell what it learned from "
            "and which audits are new to it; roll back to one that was, or certify on the next fold of the start"
        )
    if not isinstance(told.get("at"), (int, float)):
        raise InputError(
            f"{state.start} does not say when the loop was started, as an earlier version wrote it, so nobody can tell "
            "which audits are new; start anew in another folder"
        )
    read = [float(told["at"]), *([] if made is None else [made]), *map(float, read_spent(state))]
    for number in state.rounds():
        journal = Journal(state.round(number))
        if journal.begun.get("fresh") is not None and journal.done("retrain"):
            read.append(float(journal.begun["until"]))
    floor, given = max(read), seconds(fresh.since)
    if given is not None and given < floor:
        raise InputError(
            f"audits since {fresh.since} were learned from or certified on already; give no moment before "
            f"{moment_after(floor)}, or none"
        )
    return floor if given is None else given


def read_until(state: State) -> float | None:
    """Until when the round that made what serves now had read the ledger; what a round that was undone read counts."""
    serving = Release.current(state.root).id
    for number in reversed(state.rounds()):
        journal = Journal(state.round(number))
        if number and journal.promoted == serving:
            return float(journal.begun["until"])
    return None


def read_folds(state: State, work: Work) -> set[int]:
    """Folds that were read, by every trace that is left: the list, journals of rounds, calib keys of releases."""
    found = set(map(int, state.spent_folds()))
    for number in state.rounds():
        journal = Journal(state.round(number))
        if number and journal.done("retrain") and journal.begun["fold"] is not None:
            found.add(int(journal.begun["fold"]))
    records, used = work.prepared.records, released_keys(state)
    for fold in set(range(1, len(work.folds.ids))) - found:
        # By groups: a short text may stand in several of them.
        groups = hash_keys(records.group[i] for i in work.folds.rows(records, fold))
        if any(np.isin(groups, mine).any() for mine in used):
            found.add(fold)
    return found
