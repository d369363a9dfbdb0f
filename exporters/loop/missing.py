"""Answers that a fold of fresh audits lacks: asked now, journaled whatever becomes of the round, never paid twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from exporters.loop.audited import told_lesson
from exporters.loop.lessons import worst_price
from exporters.loop.state import State
from exporters.loop.work import Work
from exporters.students.teacher import Ask, Lesson, Question, paid, teach
from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.fingerprints import fingerprint_changed
from router_core.portfolio import Tier

__all__ = ["Missing", "asked_file", "asked_usd", "model_changed"]


@dataclass(frozen=True, eq=False)
class Missing:
    """Whom to ask.

    Attributes
    ----------
    work, bundle, asks, before_usd
        As for `exporters.loop.fresh.FreshFold`.
    anew
        Tasks whose students answer anew, so that nothing of the tier that learns is needed.
    """

    work: Work
    bundle: Bundle
    anew: Collection[str]
    asks: Mapping[str, Ask]
    before_usd: Mapping[str, float]

    def ask(self, place: str, rows: Sequence[dict[str, Any]]) -> tuple[int, float]:
        """Fill the rows of a fold; how many answers were had, and for how many US dollars.

        Parameters
        ----------
        place
            Where the fold is from, for messages.
        rows
            Of the fold (`exporters.loop.audited`); answers are added.

        Raises
        ------
        InputError
            When an answer cannot be had.
        """
        work, budget, asked = self.work, self.work.options.budget_usd, 0
        for tier in work.options.portfolio.tiers:
            anew = self.anew if tier.name == work.options.tier else ()
            missing = [row for row in rows if row["task"] not in anew and tier.name not in row["tiers"]]
            if not missing:
                continue
            ask = self.asks.get(tier.name)
            if ask is None:
                raise InputError(
                    f"{place}: {len(missing)} of {len(rows)} sampled queries have no answer of {tier.name!r}, and the "
                    "others are no random sample; wait for the audits under way and give --until a moment before "
                    "them, audit with all tiers, or name whom to ask with --teacher"
                )
            self._check_askable(place, tier, len(missing))
            before = self.before_usd.get(tier.name, 0.0)
            journal = asked_file(work.state, tier.name)
            journal.parent.mkdir(parents=True, exist_ok=True)
            taught = teach(
                [Question(row["query_id"], row["prompt"], group=row["group"]) for row in missing],
                self._certified(place, tier, ask),
                budget_usd=before + budget, worst_usd=partial(worst_price, tier),
                journal=journal, concurrency=work.options.concurrency, progress=work.progress,
            )  # fmt: skip
            budget = max(0.0, budget - (taught.spent_usd - before))
            asked += len(taught.lessons)
            for row in missing:
                if lesson := taught.lessons.get(row["query_id"]):
                    row["tiers"][tier.name] = told_lesson(lesson, tier, row["prompt"])
            if lacking := len(missing) - len(taught.lessons):
                raise InputError(
                    f"{place}: {lacking} of {len(rows)} sampled queries got no answer of {tier.name!r} "
                    f"({taught.stopped or 'the calls failed'}), and the others are no random sample; answers that were "
                    "paid for are kept, so run the round again"
                )
        return asked, work.options.budget_usd - budget

    def _certified(self, place: str, tier: Tier, ask: Ask) -> Ask:
        """Ask, and refuse an answer of another model than the one the certificate is about."""

        def checked(prompt: str) -> Lesson:
            lesson = ask(prompt)
            if model_changed(self.work, self.bundle, tier.name, lesson.model_name):
                raise InputError(
                    f"{place}: the teacher of {tier.name!r} answers as {lesson.model_name!r}, which is not the model "
                    "of the portfolio; name that model in the file of tiers"
                )
            return lesson

        return checked

    def _check_askable(self, place: str, tier: Tier, missing: int) -> None:
        """Refuse to ask anew a tier whose answers came with signals, which decide whether they are accepted."""
        portfolio = self.work.options.portfolio
        if tier.name == portfolio.reference.name:
            return
        at, given = portfolio.index(tier.name), self.work.given
        if signals := [name for name, values in given.signals.items() if np.isfinite(values[:, at]).any()]:
            raise InputError(
                f"{place}: {missing} sampled queries have no answer of {tier.name!r}, whose answers come with signals "
                f"({', '.join(sorted(signals))}) that a teacher does not give; audit with all tiers"
            )


def model_changed(work: Work, bundle: Bundle, tier: str, model_name: str | None) -> bool:
    """Whether another model than the portfolio's answered; the tier that learns changes by what it learns."""
    known = tier in bundle.portfolio.names and tier != work.options.tier
    return known and fingerprint_changed(bundle, tier, model_name)


def asked_file(state: State, tier: str) -> Path:
    """Journal of what a tier was asked for folds of audits, by whatever round."""
    return state.asked / f"{tier}.jsonl"


def asked_usd(state: State, tiers: Sequence[str]) -> dict[str, float]:
    """What such answers have cost so far, by tier, US dollars."""
    return {tier: paid([], path)[0] for tier in tiers if (path := asked_file(state, tier)).exists()}
