"""A calibration fold of fresh audits: queries of the ledger that chance alone chose, to certify one round on.

A certificate needs a fold that nothing before it depended on (METHOD.md 2.6 a, rolling audit labels). Which queries are
of the fold is settled by chance and by what was known before they came (`router_core.ledger.sample`; what records hold
or students learned is left out), never by an answer. Then every one must have every tier's answer: what neither the
route nor its audit asked is asked now, and a query that stays without refuses the round, as those with an answer are no
random sample. Students answer anew, so of the tier that learns nothing needs to be logged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from exporters.fence import Keys, item_keys
from exporters.loop.answering import Asked, answer_batch
from exporters.loop.audited import answers_of, told_answer, write_fold
from exporters.loop.missing import Missing, model_changed
from exporters.loop.traffic import Traffic, route_group, settled_traffic
from exporters.loop.work import Work
from exporters.students.data import Pair
from exporters.students.teacher import Ask
from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.keys import hash_keys
from router_core.ledger.reader import LedgerReader, LoggedRoute, Moment, seconds
from router_core.ledger.sample import Sample, uniform_sample
from router_core.risks import least_n
from router_core.student import Student

__all__ = ["FreshAudits", "FreshFold"]

_LEAST_REPLAYED = 20
"""Answers that must be compared, where students gave so many."""
_UNLIKE = 0.01
"""Share of answers that may differ when they are given again, as those of generative students may in rare ties."""


@dataclass(frozen=True)
class FreshAudits:
    """How a round certifies on audits.

    Attributes
    ----------
    since
        Audits from this moment on; None takes all since what serves was learned, or a fold of audits was last read.
    asks
        By tier, whom to ask what the ledger lacks; the reference tier is asked by the round's teacher.
    until
        The round reads the ledger up to this moment; now when None.

    Raises
    ------
    InputError
        For a bound that is no moment.
    """

    since: Moment = None
    asks: Mapping[str, Ask] = field(default_factory=dict)
    until: Moment = None

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            moment = seconds(getattr(self, name))
            if moment is not None and not math.isfinite(moment):
                raise InputError(f"fresh audits {name} {moment}: that is no moment; give a date, a time or None")


@dataclass(frozen=True, eq=False)
class FreshFold:
    """One reading of the ledger for a fold.

    Attributes
    ----------
    work
        What the round is called with.
    bundle
        Of the release that serves.
    since, until
        Bounds in time.
    learned
        What the students that serve learned from, by task.
    students
        Students that serve, by task; those of the round answer anew, so that nothing of their tier is needed.
    spent
        Hashed keys of calibration queries that were read before.
    asks
        By tier, whom to ask what the ledger lacks.
    before_usd
        By tier, what earlier rounds paid for such answers.
    """

    work: Work
    bundle: Bundle
    since: float | None
    until: float
    learned: Mapping[str, Sequence[Pair]]
    students: Mapping[str, Student]
    spent: Keys
    asks: Mapping[str, Ask]
    before_usd: Mapping[str, float]

    def draw(self, ledger: str, folder: Path) -> dict[str, Any]:
        """Write the fold's rows into a folder; what the journal is to keep of it.

        Raises
        ------
        InputError
            When the audits of this time are no random sample, are too few, or lack a text or an answer that could not
            be had.
        """
        reader = LedgerReader(ledger)
        place = f"{reader.address.shown}, for a fold of fresh audits"
        try:
            traffic = settled_traffic(reader, self.work, self.since, self.until, self.learned)
            sample = uniform_sample(lambda: traffic.logged)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        found = [one for one in reader.routes(self.since, self.until, learnable=True) if one.id in sample.ids]
        self._check_whole(place, found, sample)
        replayed = self._check_replayed(place, found)
        left_out: Counter[str] = Counter()
        rows = self._new(found, traffic, left_out)
        self._check_enough(place, rows)
        missing = Missing(self.work, self.bundle, frozenset(self.students), self.asks, self.before_usd)
        asked, usd = missing.ask(place, rows)
        write_fold(folder, rows)
        count = Counter(row["task"] for row in rows)
        return {
            "found": dict(sorted(count.items())), "left_out": dict(sorted(left_out.items())), "asked": asked,
            "usd": usd, "probability": sample.probability, "traffic": sample.total, "audited": sample.audited,
            "thinned": sample.thinned, "repeats": sample.repeats, "since": self.since, "until": self.until,
            "groups": dict(sorted(traffic.groups.items())), "largest": traffic.largest, "replayed": replayed,
        }  # fmt: skip

    def _check_whole(self, place: str, found: Sequence[LoggedRoute], sample: Sample) -> None:
        """Refuse a sample of which rows, answers or the tiers' names are not as they were."""
        if len(found) < len(sample.ids):
            raise InputError(f"{place}: {len(sample.ids) - len(found)} audited queries went while they were read")
        answers = [[said.redacted for said in answers_of(one).values()] for one in found]
        if changed := sum(any(said) for said in answers):
            raise InputError(
                f"{place}: of {changed} of {len(found)} sampled queries redaction changed an answer, so what the tiers "
                "said cannot be compared; certify on records instead"
            )
        if unknown := sum(None in said for said in answers):
            raise InputError(
                f"{place}: of {unknown} of {len(found)} sampled queries the ledger does not say whether redaction "
                "changed an answer, as an earlier version logged them; certify on what was logged since, with --since"
            )
        for one in found:
            for attempt in one.attempts:
                if model_changed(self.work, self.bundle, attempt.tier, attempt.model_name):
                    raise InputError(
                        f"{place}: {attempt.tier} answered as {attempt.model_name!r}, which is not the model of the "
                        "portfolio; certify on what was logged after that, with a portfolio that names it"
                    )

    def _check_replayed(self, place: str, found: Sequence[LoggedRoute]) -> int:
        """Refuse texts that the students that serve do not answer as they did when asked; how many were compared."""
        asked, then, elsewhere = [], [], 0
        for one in found:
            task, said = one.task or "default", answers_of(one).get(self.work.options.tier)
            if said is None or task not in self.students:
                continue
            if one.bundle != self.bundle.id:
                elsewhere += 1
                continue
            asked.append(Asked(one.id, task, one.text or ""))
            then.append((said.answer or "").strip())
        both = len(asked) + elsewhere
        if elsewhere and len(asked) < max(min(_LEAST_REPLAYED, both), both / 10):
            raise InputError(
                f"{place}: of {both} sampled queries that students answered only {len(asked)} were "
                "served by the release that serves now, too few to see whether logged texts are all that students were "
                "asked; certify on what it serves itself"
            )
        now = answer_batch(asked, self.students, self.work.progress)
        other = sum(given.text.strip() != said for given, said in zip(now, then, strict=True))
        if other > _UNLIKE * len(asked):
            raise InputError(
                f"{place}: to {other} of {len(asked)} sampled queries the students answer otherwise now than when they "
                "served: the logged text is not all they were asked (earlier turns, a system prompt), or answers are "
                "redacted, so the fold cannot be replayed; certify on records instead"
            )
        return len(asked)

    def _new(self, found: Sequence[LoggedRoute], traffic: Traffic, left_out: Counter[str]) -> list[dict[str, Any]]:
        """The queries that are new: no record or pair is near to them, and no earlier fold has them."""
        work = self.work
        ids = set(work.given.query_id)
        near = {one.id: one.group for one in traffic.logged}
        rows = []
        for one in found:
            task, group, text = one.task or "default", route_group(work, one.conversation, one.text), one.text or ""
            if one.id in traffic.known:
                left_out["known from the records or learned before"] += 1
                continue
            if np.isin(hash_keys(item_keys(one.id, group, text)), self.spent).any():
                left_out["of an earlier fold"] += 1
                continue
            answers = answers_of(one)
            rows.append({
                "query_id": f"audit {one.id}" if one.id in ids else one.id, "task": task, "prompt": text,
                "subtask": one.subtask or "", "group": group, "near": near[one.id],
                "tiers": {
                    name: told_answer(answers[name], tier, text)
                    for name, tier in zip(work.options.portfolio.names, work.options.portfolio.tiers, strict=True)
                    if name in answers
                },
            })  # fmt: skip
        return rows

    def _check_enough(self, place: str, rows: Sequence[Mapping[str, Any]]) -> None:
        settings = self.work.options.settings
        least = least_n(settings.risk, settings.alpha, settings.delta)
        groups = Counter(task for task, _ in {(row["task"], row["near"]) for row in rows})
        few = {task: groups[task] for task in self.work.options.plans if groups[task] < least}
        if few:
            told = ", ".join(f"{count} of {task}" for task, count in few.items())
            raise InputError(
                f"{place}: too few new queries were audited ({told}); a certificate at {settings.alpha:g} takes at "
                f"least {least} of each task. Nothing of them was used: come back when there are more"
            )
