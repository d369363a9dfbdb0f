"""A calibration fold of fresh audits: queries of the ledger that chance alone chose, to certify one round on.

A certificate needs a fold that nothing before it depended on (METHOD.md 2.6 a, rolling audit labels). Which queries are
of the fold is settled by chance and by what was known before they came (`router_core.ledger.sample`; what records hold
or students learned is left out), never by an answer. Then every one must have every tier's answer: what neither the
route nor its audit asked is asked now, and a query that stays without refuses the round, as those with an answer are no
random sample. Students answer anew, so of the tier that learns nothing needs to be logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from exporters.fence import Keys, item_keys
from exporters.loop.answering import Asked, answer_batch
from exporters.loop.audited import answers_of, told_answer, told_lesson, write_fold
from exporters.loop.lessons import worst_price
from exporters.loop.near import groups_of_new
from exporters.loop.state import State
from exporters.loop.work import Work
from exporters.students.data import Pair
from exporters.students.teacher import Ask, Question, paid, teach
from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.fingerprints import fingerprint_changed
from router_core.groups import hash_key
from router_core.keys import hash_keys
from router_core.ledger.reader import LedgerReader, LoggedRoute, Moment
from router_core.ledger.rows import key_of
from router_core.ledger.sample import Sample, logged_queries, uniform_sample
from router_core.portfolio import Tier
from router_core.risks import least_n
from router_core.student import Student

__all__ = ["FreshAudits", "FreshFold", "asked_usd"]

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
    """

    since: Moment = None
    asks: Mapping[str, Ask] = field(default_factory=dict)


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
        tasks = self.work.options.plans
        place = f"{reader.address.shown}, for a fold of fresh audits"
        try:
            sample = uniform_sample(lambda: logged_queries(reader, tasks, self.since, self.until))
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        found = [one for one in reader.routes(self.since, self.until, learnable=True) if one.id in sample.ids]
        self._check_whole(place, found, sample)
        self._check_replayed(place, found)
        left_out: Counter[str] = Counter()
        rows = self._new(found, left_out)
        self._check_enough(place, rows)
        asked, usd = self._complete(place, rows)
        write_fold(folder, rows)
        count = Counter(row["task"] for row in rows)
        return {
            "found": dict(sorted(count.items())), "left_out": dict(sorted(left_out.items())), "asked": asked,
            "usd": usd, "probability": sample.probability, "traffic": sample.total, "audited": sample.audited,
            "thinned": sample.thinned, "repeats": sample.repeats, "since": self.since, "until": self.until,
        }  # fmt: skip

    def _check_whole(self, place: str, found: Sequence[LoggedRoute], sample: Sample) -> None:
        """Refuse a sample of which rows, texts or the tiers' names are not as they were."""
        if len(found) < len(sample.ids):
            raise InputError(f"{place}: {len(sample.ids) - len(found)} audited queries went while they were read")
        mute = sum(not (one.text or "").strip() for one in found)
        if mute:
            raise InputError(
                f"{place}: {mute} of {len(found)} sampled queries have no text, and the others are no random sample; "
                "log with store_text=True, and keep texts until the round that certifies on them"
            )
        changed = sum(key_of(one.text or "") != one.key for one in found)
        if changed:
            raise InputError(
                f"{place}: {changed} of {len(found)} sampled queries are not stored as they were routed (redaction "
                "changed them), so what the tiers do with them cannot be replayed; certify on records instead"
            )
        for one in found:
            for attempt in one.attempts:
                known = attempt.tier in self.bundle.portfolio.names and attempt.tier != self.work.options.tier
                if known and fingerprint_changed(self.bundle, attempt.tier, attempt.model_name):
                    raise InputError(
                        f"{place}: {attempt.tier} answered as {attempt.model_name!r}, which is not the model of the "
                        "portfolio; certify on what was logged after that, with a portfolio that names it"
                    )

    def _check_replayed(self, place: str, found: Sequence[LoggedRoute]) -> None:
        """Refuse texts to which the students that serve answer otherwise than they did when they were asked."""
        asked, then = [], []
        for one in found:
            task, said = one.task or "default", answers_of(one).get(self.work.options.tier)
            if said is not None and task in self.students and one.bundle == self.bundle.id:
                asked.append(Asked(one.id, task, one.text or ""))
                then.append((said.answer or "").strip())
        now = answer_batch(asked, self.students, self.work.progress)
        other = sum(given.text.strip() != said for given, said in zip(now, then, strict=True))
        if other > _UNLIKE * len(asked):
            raise InputError(
                f"{place}: to {other} of {len(asked)} sampled queries the students answer otherwise now than when they "
                "served: the logged text is not all they were asked (earlier turns, a system prompt), or answers are "
                "redacted, so the fold cannot be replayed; certify on records instead"
            )

    def _new(self, found: Sequence[LoggedRoute], left_out: Counter[str]) -> list[dict[str, Any]]:
        """The queries that are new: no record, pair or earlier fold has them, and of near-duplicates one."""
        work = self.work
        texts = [(one.task or "default", self._group(one), one.text or "") for one in found]
        names = groups_of_new(work.prepared, texts, self.learned)
        ids = set(work.given.query_id)
        rows = []
        for one, (task, group, text), name in zip(found, texts, names, strict=True):
            if name is None:
                left_out["known from the records or learned before"] += 1
                continue
            if np.isin(hash_keys(item_keys(one.id, group, text)), self.spent).any():
                left_out["of an earlier fold"] += 1
                continue
            answers = answers_of(one)
            rows.append({
                "query_id": f"audit {one.id}" if one.id in ids else one.id, "task": task, "prompt": text,
                "subtask": one.subtask or "", "group": group, "near": name,
                "tiers": {
                    name: told_answer(answers[name], tier, text)
                    for name, tier in zip(work.options.portfolio.names, work.options.portfolio.tiers, strict=True)
                    if name in answers
                },
            })  # fmt: skip
        return rows

    def _group(self, route: LoggedRoute) -> str:
        group = f"conversation {route.conversation}" if route.conversation else hash_key(route.text or "")
        return self.work.groups.get(group, group)

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

    def _complete(self, place: str, rows: Sequence[dict[str, Any]]) -> tuple[int, float]:
        """Ask what is missing; how many answers, and for how many US dollars."""
        work, budget, asked = self.work, self.work.options.budget_usd, 0
        for tier in work.options.portfolio.tiers:
            anew = self.students if tier.name == work.options.tier else ()
            missing = [row for row in rows if row["task"] not in anew and tier.name not in row["tiers"]]
            if not missing:
                continue
            ask = self.asks.get(tier.name)
            if ask is None:
                raise InputError(
                    f"{place}: {len(missing)} of {len(rows)} sampled queries have no answer of {tier.name!r}, and the "
                    "others are no random sample; wait for the audits under way, audit with all tiers, or name whom "
                    "to ask with --teacher"
                )
            self._check_askable(place, tier, len(missing))
            before = self.before_usd.get(tier.name, 0.0)
            journal = asked_file(work.state, tier.name)
            journal.parent.mkdir(parents=True, exist_ok=True)
            taught = teach(
                [Question(row["query_id"], row["prompt"], group=row["group"]) for row in missing], ask,
                budget_usd=before + budget, worst_usd=partial(worst_price, tier),
                journal=journal, concurrency=work.options.concurrency, progress=work.progress,
            )  # fmt: skip
            budget = max(0.0, budget - (taught.spent_usd - before))
            asked += len(taught.lessons)
            for row in missing:
                if lesson := taught.lessons.get(row["query_id"]):
                    row["tiers"][tier.name] = told_lesson(lesson)
            if lacking := len(missing) - len(taught.lessons):
                raise InputError(
                    f"{place}: {lacking} of {len(rows)} sampled queries got no answer of {tier.name!r} "
                    f"({taught.stopped or 'the calls failed'}), and the others are no random sample; answers that were "
                    "paid for are kept, so run the round again"
                )
        return asked, work.options.budget_usd - budget

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


def asked_file(state: State, tier: str) -> Path:
    """Journal of what a tier was asked for folds of audits, by whatever round."""
    return state.asked / f"{tier}.jsonl"


def asked_usd(state: State, tiers: Sequence[str]) -> dict[str, float]:
    """What such answers have cost so far, by tier, US dollars."""
    return {tier: paid([], path)[0] for tier in tiers if (path := asked_file(state, tier)).exists()}
