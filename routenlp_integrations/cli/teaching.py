"""A live teacher's answers to the rows of a file that have none: the price first, then what the budget pays for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from routenlp_integrations.cli.progress import progress_bar
from router_core.errors import InputError, TierError

if TYPE_CHECKING:
    from rich.console import Console

    from exporters.fence import Keys
    from exporters.students import Pair
    from routenlp_integrations.cli.teacher import LiveTeacher

__all__ = ["journal_of", "learn_from"]


def journal_of(out: Path) -> Path:
    """Where the answers that were paid for are kept: beside the checkpoint."""
    return out.absolute().parent / f"{out.absolute().name}.teacher.jsonl"


def learn_from(
    teacher: LiveTeacher,
    pairs: Sequence[Pair],
    out: Path,
    budget: float | None,
    screen: Console,
    *,
    calib: Keys,
    yes: bool,
) -> tuple[list[Pair], dict[str, Any]]:
    """Ask for what is missing, in file order; every answer is kept beside `out`, so a second call goes on.

    Parameters
    ----------
    teacher
        Who is asked.
    pairs
        From a file; those without an answer are asked.
    out
        Folder of the checkpoint; the journal is ``<out>.teacher.jsonl``.
    budget
        US dollars, earlier calls into the same journal included.
    screen
        Where the price is shown.
    calib
        Hashed keys of calibration items.
    yes
        Spend without asking.

    Returns
    -------
    tuple
        Pairs that have an answer, and what was asked and spent, for JSON.

    Raises
    ------
    InputError
        Without a budget or a yes, for a calibration item, or a budget that pays for nothing.
    TierError
        When the teacher was given up.
    """
    from exporters.students.reading import is_answered
    from exporters.students.teacher import Question, paid, teach

    if budget is None:
        raise InputError("a live teacher is paid; say how many US dollars with --budget")
    book = journal_of(out)
    asked = [Question(one.query_id, one.prompt, group=one.group) for one in pairs if not is_answered(one)]
    if len({one.query_id for one in asked}) < len(asked):
        raise InputError("two rows to be answered have the same id; give each its own")
    before, left = paid(asked, book)
    usd, worst = (sum(price(one.prompt) for one in left) for price in (teacher.expected_usd, teacher.worst_usd))
    screen.print(
        f"{len(left)} answers of {teacher.name}: about {usd:.4g} USD, at most {worst:.4g}. Budget {budget:.4g} USD, "
        f"{before:.4g} spent before.",
        style="bold",
        soft_wrap=True,
    )
    if left and not yes:
        _confirm()
    book.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar(silent=screen.quiet) as progress:
        taught = teach(
            asked, teacher.ask, budget_usd=budget, worst_usd=teacher.worst_usd, journal=book, calib=calib,
            progress=progress,
        )  # fmt: skip
    if taught.stopped not in ("", "budget"):
        raise TierError(f"{taught.stopped}; what came is kept in {book}, run the same command again to go on")
    told = taught.lessons
    made = [
        replace(one, answer=told[one.query_id].text.strip(), cost_usd=told[one.query_id].cost_usd)
        if one.query_id in told
        else one
        for one in pairs
    ]
    learned = [one for one in made if is_answered(one)]
    if not learned:
        raise InputError(f"the budget of {budget:g} USD pays for no answer ({taught.spent_usd:.4g} USD spent)")
    if unanswered := len(made) - len(learned):
        screen.print(f"{unanswered} left unanswered; the same command with a larger --budget goes on", soft_wrap=True)
    return learned, {
        "teacher": {
            "name": teacher.name, "asked": taught.asked, "usd": taught.spent_usd, "usd_before": before,
            "expected_usd": usd, "worst_usd": worst, "unanswered": unanswered, "stopped": taught.stopped,
            "journal": str(book),
        }
    }  # fmt: skip


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise InputError("nobody is there to confirm the price; say --yes to spend it")
    if not typer.confirm("Spend it?", err=True):
        raise InputError("not confirmed; nothing was asked and nothing spent")
