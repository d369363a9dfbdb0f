"""The start: folds are allocated, the first students made or taken, and the first release certified and promoted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exporters.fence import refuse_calib
from exporters.loop.files import write_json
from exporters.loop.folds import Folds, is_student_part
from exporters.loop.journal import Journal, locked
from exporters.loop.near import near_calib
from exporters.loop.options import LoopOptions
from exporters.loop.routing import check_untaught, priced_as, router_sheet
from exporters.loop.state import State, pairs_keys, read_pairs_of, write_pairs
from exporters.loop.work import Distil, Work, read_answers, write_answers
from exporters.students.data import Pair
from router_core.checkpoint import Checkpoint
from router_core.encoder import EncoderTrainer
from router_core.errors import InputError
from router_core.fitting.fit_bundle import fit
from router_core.fitting.tables import Progress
from router_core.groups import unit_interval
from router_core.promotion import new_release_id, promote, publish
from router_core.records import Records
from router_core.release import CURRENT, Release
from router_core.student import make_student
from router_core.student_set import set_fingerprint

__all__ = ["start"]

_SEED_SALT = "routenlp-loop-seed-v1"


def start(
    root: str | Path,
    records: Records,
    *,
    options: LoopOptions,
    checkpoints: Mapping[str, Checkpoint | Path] | None = None,
    pairs: Mapping[str, Sequence[Pair]] | None = None,
    trainers: Sequence[EncoderTrainer] = (),
    progress: Progress | None = None,
    distil: Distil | None = None,
    plan: Mapping[str, Any] | None = None,
) -> Release:
    """Make and promote the first release of a ROOT; the same call goes on where it was killed.

    Parameters
    ----------
    root
        Folder of the loop, made where there is none.
    records
        Queries answered by every tier of the portfolio, with train, calib and test rows; the student tier's answers
        may be missing where its students are given. Later rounds need the same records.
    options
        Of the loop.
    checkpoints
        Students that there are already, by ``"<tier>"`` or ``"<tier>@<task>"``.
    pairs
        What these learned from, by task: their router learns nothing from the same queries. A student without pairs is
        taken to have learned from none of the records.
    trainers
        Of the router's encoder; the static one when empty.
    progress
        Called as the work goes on.
    distil
        Stands in for `exporters.students.distil`.
    plan
        What `routenlp loop round` is to go by; kept as ``ROOT/loop/plan.json``.

    Raises
    ------
    InputError
        When a loop was started here with something else, records or students do not fit, or a calibration query is
        among the pairs.
    """
    work = Work.of(root, records, options, trainers=trainers, progress=progress, distiller=distil)
    state, given = work.state, _by_task(checkpoints or {}, options)
    mine = _by_given(pairs or {}, given)
    begun = {
        "options": options.digest, "records": work.digest, "fixed": options.fixed,
        "checkpoints": {task: one.fingerprint for task, one in sorted(given.items())}, "pairs": _digest(mine),
    }  # fmt: skip
    with locked(state.root):
        folds = Folds.allocate(work.prepared, options.folds)
        _forget_unbegun(state)
        folds.save(state.folds)
        journal = Journal(state.round(0), begun)
        if journal.begun != begun:
            wrong = ", ".join(name for name in begun if name != "fixed" and journal.begun.get(name) != begun[name])
            wrong = wrong or "version of routenlp"
            raise InputError(f"{state.root}: a loop was started here with other {wrong}; use another folder")
        if state.started:
            raise InputError(f"{state.root}: a loop was started here already; run its next round")
        if plan is not None:
            write_json(state.plan, plan)
        students = _students(work, journal, given, mine)
        learned = {task: read_pairs_of(journal.path(f"distil@{task}") / "pairs.jsonl") for task in students}
        return _release(work, journal, students, learned)


def _release(
    work: Work, journal: Journal, students: Mapping[str, Path], learned: Mapping[str, Sequence[Pair]]
) -> Release:
    options, state = work.options, work.state
    taught = pairs_keys(learned)
    fold = work.folds.rows(work.prepared.records, 0)
    sheet = router_sheet(work.prepared, options, fold, taught, own_tune=work.own_tune)

    def answer(folder: Path) -> None:
        loaded = {task: make_student(Checkpoint.load(path)) for task, path in students.items()}
        write_answers(folder / "answers.jsonl", work.answers(sheet, range(len(sheet)), loaded))

    journal.run("answer", answer)

    def certify(folder: Path) -> dict[str, Any]:
        answered = work.answered(sheet, read_answers(journal.path("answer") / "answers.jsonl"))
        check_untaught(answered, taught)
        prints = {task: Checkpoint.load(path).fingerprint for task, path in students.items()}
        bundle = fit(
            answered, out=folder / "bundle", tiers=options.portfolio.names, settings=options.settings,
            portfolio=priced_as(options.portfolio, options.tier, set_fingerprint(prints) if prints else None),
            trainers=work.trainers, progress=work.progress,
        )  # fmt: skip
        return {"bundle": bundle.id}

    journal.run("certify", certify)
    name = journal.run("name", lambda _: {"release": new_release_id(state.root)})["release"]
    named = {f"{options.tier}@{task}": path for task, path in students.items()}
    release = publish(state.root, name, journal.path("certify") / "bundle", named)
    for task, mine in learned.items():
        write_pairs(state.pairs(name) / f"{task}.jsonl", mine)
    write_json(
        state.start,
        {"release": name, "tier": options.tier, "tasks": sorted(options.plans), "at": time.time(), **journal.begun},
    )
    promote(state.root, name)
    return release


def _students(
    work: Work, journal: Journal, given: Mapping[str, Checkpoint], pairs: Mapping[str, Sequence[Pair]]
) -> dict[str, Path]:
    """Folders of the first students by task: those that were given, others from seed pairs."""
    found = {}
    for task, plan in work.options.plans.items():
        if task not in given and not plan.seed_pairs:
            continue

        def make(folder: Path, task: str = task) -> dict[str, Any]:
            if task in given:
                mine, made = list(pairs.get(task, ())), given[task]
                refuse_calib("training pairs", (key for pair in mine for key in pair.keys), work.calib)
                if near := near_calib(work.prepared, {task: mine}):
                    raise InputError(
                        f"{len(near)} pairs of {task}, the first {near[0]!r}, are near-duplicates of calibration "
                        "queries, which certify only what nothing was fitted on; drop these pairs, and give no "
                        "student that learned from them"
                    )
            else:
                mine = _seed(work, task, work.options.plans[task].seed_pairs)
                made = work.distil(task, mine, replay=(), parent=None, lineage={"round": 0})
            write_pairs(folder / "pairs.jsonl", mine)
            return {"student": made.save(folder / "checkpoint").fingerprint, "pairs": len(mine)}

        journal.run(f"distil@{task}", make)
        found[task] = journal.path(f"distil@{task}") / "checkpoint"
    return found


def _seed(work: Work, task: str, count: int) -> list[Pair]:
    """Student-part queries of a task with the reference tier's recorded answers, in hash order."""
    records, prepared = work.prepared.records, work.prepared
    rows = [
        i
        for i in sorted({*prepared.train.tolist(), *prepared.tune.tolist()})
        if records.task[i] == task
        and is_student_part(records.group[i], work.options.student_share)
        and (records.response[i][-1] or "").strip()
    ]
    rows.sort(key=lambda i: unit_interval(_SEED_SALT, records.group[i]))
    return [
        Pair(
            records.query_id[i], records.prompt[i], str(records.response[i][-1]).strip(), task, records.group[i],
            cost_usd=max(0.0, float(records.cost[i, -1])),
        )
        for i in rows[:count]
    ]  # fmt: skip


def _forget_unbegun(state: State) -> None:
    """Let a start that did nothing yet be replaced by one with other options."""
    if (state.root / CURRENT).exists() or state.start.exists() or not set(state.rounds()) <= {0}:
        return
    if state.rounds():
        journal = Journal(state.round(0))
        if journal.steps:
            return
        journal.discard()
    state.folds.unlink(missing_ok=True)


def _by_given(pairs: Mapping[str, Sequence[Pair]], given: Mapping[str, Checkpoint]) -> Mapping[str, Sequence[Pair]]:
    for task in pairs:
        if task not in given:
            known = ", ".join(given) or "none"
            raise InputError(f"pairs of {task!r}: no checkpoint of that task is given; those given are of {known}")
    return pairs


def _digest(pairs: Mapping[str, Sequence[Pair]]) -> str:
    told = {task: [asdict(pair) for pair in mine] for task, mine in pairs.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _by_task(checkpoints: Mapping[str, Checkpoint | Path], options: LoopOptions) -> dict[str, Checkpoint]:
    found: dict[str, Checkpoint] = {}
    for name, given in checkpoints.items():
        tier, mark, task = name.partition("@")
        if tier != options.tier or (mark and task not in options.plans):
            raise InputError(
                f"checkpoint {name!r} is of no task that has a plan; name it {options.tier}@<task> with one of "
                f"{', '.join(options.plans)}"
            )
        loaded = given if isinstance(given, Checkpoint) else Checkpoint.load(given)
        for one in [task] if mark else list(options.plans):
            if loaded.tier not in (options.tier, f"{options.tier}@{one}"):
                raise InputError(
                    f"checkpoint {name!r} was made for the tier {loaded.tier!r}, not for {options.tier!r}; give one "
                    "that was"
                )
            found[one] = loaded
    return found
