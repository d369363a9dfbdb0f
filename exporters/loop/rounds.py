"""One round: from what the ledger says of failures to a release that is promoted, or to reasons why it is not.

harvest -> cluster -> select -> teach -> distil -> re-answer -> retrain the router -> certify on a fresh fold -> gate ->
promote or keep. Every step is journaled (`exporters.loop.journal`): a killed round goes on at its first incomplete
step, and until the last of them the old release serves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporters.loop.audited import kept_keys, read_fold, read_spent, spent_keys, with_fold
from exporters.loop.beginning import next_round
from exporters.loop.files import write_json
from exporters.loop.fresh import FreshAudits, FreshFold
from exporters.loop.journal import Journal, locked
from exporters.loop.learning import Learning
from exporters.loop.options import LoopOptions
from exporters.loop.proving import Proving
from exporters.loop.reporting import RoundReport, exhausted, report_of
from exporters.loop.state import State, students_of
from exporters.loop.work import Distil, Work
from exporters.students.teacher import Ask
from router_core.bundle import Bundle
from router_core.encoder import EncoderTrainer
from router_core.errors import BundleError, InputError
from router_core.fitting.tables import Progress
from router_core.records import Records
from router_core.release import Release

__all__ = ["run_round"]


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
        journal = next_round(work, fresh)
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
    except (InputError, BundleError):
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
        spent = {**read_spent(state), str(begun["until"]): kept_keys(work.prepared.records, proving.fold)}
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
            spent=spent_keys(work.state), asks=asks,
            before_usd=begun["fresh"]["before_usd"],
        )  # fmt: skip
        return fold.draw(ledger, folder)

    journal.run("fold", step)
    return with_fold(work, read_fold(journal.path("fold"), work.options.portfolio))


def _spend(state: State, fold: int, by: float) -> None:
    """Write down that a fold is read from now on, by whom, before it is."""
    spent = state.spent_folds()
    if spent.get(str(fold), by) != by:
        raise InputError(
            f"{state.spent}: fold {fold} was read by a round that is gone; remove this round and begin anew"
        )
    write_json(state.spent, {**spent, str(fold): by})
