"""One round: from what the ledger says of failures to a release that is promoted, or to reasons why it is not.

harvest -> cluster -> select -> teach -> distil -> re-answer -> retrain the router -> certify on a fresh fold -> gate ->
promote or keep. Every step is journaled (`exporters.loop.journal`): a killed round goes on at its first incomplete
step, and until the last of them the old release serves.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from exporters.loop.audited import kept_keys, read_fold, spent_keys, with_fold
from exporters.loop.files import read_json, write_json
from exporters.loop.fresh import FreshAudits, FreshFold, asked_usd
from exporters.loop.journal import Journal, locked
from exporters.loop.learning import Learning
from exporters.loop.options import LoopOptions
from exporters.loop.proving import Proving
from exporters.loop.reporting import RoundReport, exhausted, report_of
from exporters.loop.state import ROUNDS, State, students_of
from exporters.loop.work import Distil, Work
from exporters.students.teacher import Ask
from router_core.bundle import Bundle
from router_core.encoder import EncoderTrainer
from router_core.errors import InputError
from router_core.fitting.tables import Progress
from router_core.keys import hash_keys
from router_core.ledger.reader import seconds
from router_core.records import Records
from router_core.release import BUNDLE_FOLDER, RELEASES, Release

__all__ = ["run_round"]

_LAST = "report"


def run_round(
    root: str | Path,
    *,
    ledger: str,
    records: Records,
    options: LoopOptions,
    ask: Ask | None = None,
    progress: Progress | None = None,
    trainers: Sequence[EncoderTrainer] = (),
    distil: Distil | None = None,
    fresh: FreshAudits | None = None,
) -> RoundReport:
    """Run the next round of a loop, or finish the one that was killed.

    Parameters
    ----------
    root
        ROOT of a loop that was started.
    ledger
        URL of the ledger with the routes since the last promoted round.
    records
        The records that the loop was started with.
    options
        Those that the loop, or the killed round, was started with; what is taught and the limits may change from round
        to round.
    ask
        The reference tier, asked what no escalation paid for; None learns only from answers that are there.
    progress
        Called as the work goes on.
    trainers
        Of the router's encoder; the static one when empty.
    distil
        Stands in for `exporters.students.distil`.
    fresh
        Certify on queries of the ledger that were audited at random since what serves was learned, and not on the next
        fold of the start.

    Returns
    -------
    RoundReport
        Also written to ``ROOT/rounds/<n>/report.md`` and ``report.json``.

    Raises
    ------
    InputError
        When no loop was started here, another process is at work here, what is given is not what the loop or the
        killed round was started with, or the audits make no fold.
    """
    work = Work.of(root, records, options, trainers=trainers, progress=progress, distiller=distil)
    state = work.state
    state.check_started()
    with locked(state.root):
        told = state.check_started()
        if work.digest != told["records"]:
            raise InputError(
                f"{records.source}: these are not the records that the loop in {state.root} was started with; the "
                "folds were allocated on those"
            )
        if told["tier"] != options.tier:
            raise InputError(f"{state.root}: the tier that learns is {told['tier']!r}, not {options.tier!r}")
        _check_fixed(told, work)
        _check_scale(work, fresh)
        journal = _journal(state, work, fresh)
        if journal is None:
            return exhausted(state.root, len(work.folds.ids))
        return _steps(work, journal, ledger, ask, fresh)


def _check_fixed(told: Mapping[str, Any], work: Work) -> None:
    """Refuse what would make the certificates of this round mean something else than those before."""
    now, was = work.options.fixed, told.get("fixed")
    if not isinstance(was, Mapping):
        raise InputError(
            f"{work.state.start} does not say what the certificates rest on: the loop was started by a version under "
            "development; start anew in another folder"
        )
    wrong = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if wrong:
        raise InputError(
            f"{work.state.root}: {', '.join(wrong)} differ from what the loop was started with, and must not change "
            "between rounds; start in another folder"
        )


def _check_scale(work: Work, fresh: FreshAudits | None) -> None:
    """Refuse audits where a task has no plan: what it is recorded with need not be agreement with the reference."""
    others = sorted({*work.given.task} - {*work.options.plans})
    if fresh is not None and others:
        raise InputError(
            f"tasks {', '.join(others)} have no plan: what the records say of them need not be agreement with the "
            "reference tier, by which audits are graded, so fresh audits cannot certify this loop"
        )


def _journal(state: State, work: Work, fresh: FreshAudits | None) -> Journal | None:
    """The journal of the round to do; None when there is no fold left for one."""
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
        return last
    begun: dict[str, Any] = {
        "options": work.options.digest,
        "round": number + 1,
        "incumbent": Release.current(state.root).id,
        "since": _since(state),
        "until": time.time(),
    }
    if fresh is not None:
        audits = {"since": _fresh_since(state, fresh), "before_usd": asked_usd(state, work.options.portfolio.names)}
        return Journal(state.round(number + 1), {**begun, "fold": None, "fresh": audits})
    read = _read_folds(state, work)
    left = [fold for fold in range(1, len(work.folds.ids)) if fold not in read]
    if not left:
        return None
    return Journal(state.round(number + 1), {**begun, "fold": left[0]})


def _fresh_since(state: State, fresh: FreshAudits) -> float | None:
    """Since when audits may certify: no earlier than what serves was learned or a fold of audits was last read."""
    read = [float(until) for until in _spent_audits(state)]
    for number in state.rounds():
        journal = Journal(state.round(number))
        if journal.begun.get("fresh") is not None and journal.done("retrain"):
            read.append(float(journal.begun["until"]))
    learned = _since(state)
    floor = max([*read, *([] if learned is None else [learned])], default=None)
    given = seconds(fresh.since)
    if given is not None and floor is not None and given < floor:
        raise InputError(
            f"audits since {fresh.since} were learned from or certified on already; give no moment before "
            f"{datetime.fromtimestamp(floor, UTC).isoformat(timespec='seconds')}, or none"
        )
    return floor if given is None else given


def _spent_audits(state: State) -> dict[str, list[str]]:
    found: dict[str, list[str]] = read_json(state.spent_audits) if state.spent_audits.exists() else {}
    return found


def _since(state: State) -> float | None:
    """Until when the round that made what serves now had read the ledger; what a round that was undone read counts."""
    serving = Release.current(state.root).id
    for number in reversed(state.rounds()):
        journal = Journal(state.round(number))
        if number and journal.promoted == serving:
            return float(journal.begun["until"])
    return None


def _read_folds(state: State, work: Work) -> set[int]:
    """Folds that were read, by every trace that is left: the list, journals of rounds, calib keys of releases."""
    found = {int(fold) for fold in (read_json(state.spent) if state.spent.exists() else {})}
    for number in state.rounds():
        journal = Journal(state.round(number))
        if number and journal.done("retrain") and journal.begun["fold"] is not None:
            found.add(int(journal.begun["fold"]))
    records, releases = work.prepared.records, state.root / RELEASES
    used = [Bundle.load(one / BUNDLE_FOLDER).keys.calib for one in sorted(releases.glob("[!.]*")) if one.is_dir()]
    for fold in set(range(1, len(work.folds.ids))) - found:
        # By groups: a short text may stand in several of them.
        groups = hash_keys(records.group[i] for i in work.folds.rows(records, fold))
        if any(np.isin(groups, mine).any() for mine in used):
            found.add(fold)
    return found


def _steps(work: Work, journal: Journal, ledger: str, ask: Ask | None, fresh: FreshAudits | None) -> RoundReport:
    state, begun = work.state, journal.begun
    incumbent = Release(state.root, begun["incumbent"])
    left_out: Counter[str] = Counter()
    try:
        if fresh is not None:
            asks = {**fresh.asks, **({} if ask is None else {work.options.portfolio.reference.name: ask})}
            work = _with_audits(work, journal, incumbent, ledger, asks)
        learning = Learning(work, journal, incumbent)
        learning.harvest(ledger, left_out)
    except InputError:
        # A ledger that cannot be read begins no round, so the next may be given other options.
        journal.discard()
        raise
    learning.cluster()
    learning.select()
    learning.teach(ask)
    made = learning.distil()
    if not made:
        return report_of(work, journal, incumbent)
    proving = Proving(work, journal, incumbent, made, learning.learned())
    proving.answer()
    proving.retrain()
    if work.fresh:
        spent = {**_spent_audits(state), str(begun["until"]): kept_keys(work.prepared.records, proving.fold)}
        write_json(state.spent_audits, spent)
    else:
        _spend(state, begun["fold"], begun["until"])
    proving.certify()
    verdict = proving.gate()
    if verdict.promoted:
        proving.promote()
    if "hashes" not in verdict.reasons:
        proving.test()
    return report_of(work, journal, incumbent)


def _with_audits(work: Work, journal: Journal, incumbent: Release, ledger: str, asks: Mapping[str, Ask]) -> Work:
    """The round's work with its fold of fresh audits, drawn before anything of the ledger is learned."""

    def step(folder: Path) -> dict[str, Any]:
        begun, tier = journal.begun, work.options.tier
        fold = FreshFold(
            work, Bundle.load(incumbent.bundle), begun["fresh"]["since"], begun["until"],
            learned=work.state.learned(incumbent.id), students=students_of(incumbent, tier, list(work.options.plans)),
            spent=spent_keys(work.state, _spent_audits(work.state)), asks=asks,
            before_usd=begun["fresh"]["before_usd"],
        )  # fmt: skip
        return fold.draw(ledger, folder)

    journal.run("fold", step)
    return with_fold(work, read_fold(journal.path("fold"), work.options.portfolio))


def _spend(state: State, fold: int, by: float) -> None:
    """Write down that a fold is read from now on, by whom, before it is."""
    spent: dict[str, Any] = read_json(state.spent) if state.spent.exists() else {}
    if spent.get(str(fold), by) != by:
        raise InputError(
            f"{state.spent}: fold {fold} was read by a round that is gone; remove this round and begin anew"
        )
    write_json(state.spent, {**spent, str(fold): by})
