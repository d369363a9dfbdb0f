"""Records from a ledger: queries whose reference answer is known, from random audits and from escalations.

An audited query was chosen by chance, so it may stand in any split. An escalated one was chosen by the router, which
found its cheap answers doubtful: among escalations bad answers are far more frequent than in the traffic. They are
good to learn from and would falsify every certificate and every report, so they are always train. Where audits were
made at different rates, those of the higher rates are thinned to the lowest, or times of dense audits would count for
more than their traffic; what is thinned out is train too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router_core.errors import InputError
from router_core.grades import Grading, grade, grader
from router_core.groups import hash_key, normalise, unit_interval
from router_core.ledger.reader import LedgerReader, LoggedAttempt, LoggedRoute, Moment
from router_core.ledger.sample import THIN_SALT
from router_core.ledger.url import Address
from router_core.selection import SPLITS

if TYPE_CHECKING:
    from router_core.bundle import Bundle
    from router_core.records import Records

__all__ = ["Harvest", "harvest", "record_rows", "records_from_ledger"]


@dataclass(frozen=True, slots=True)
class Harvest:
    """One query to learn from or to certify on.

    Attributes
    ----------
    route
        As logged.
    split
        Where it may stand.
    group
        ``""``, or the hash of its conversation.
    answers
        By tier the attempt that was answered; the reference tier is among them.
    quality
        By tier, in [0, 1]; None where it cannot be known.
    """

    route: LoggedRoute
    split: str
    group: str
    answers: dict[str, LoggedAttempt]
    quality: dict[str, float | None]


def harvest(
    reader: LedgerReader,
    *,
    bundle: Bundle | None = None,
    tiers: Sequence[str] | None = None,
    since: Moment = None,
    until: Moment = None,
    split: str | None = None,
    metric: Grading = "agree_with_reference",
    gold: bool = False,
    left_out: Counter[str] | None = None,
) -> Iterator[Harvest]:
    """Find the queries whose reference answer is known, oldest first, a page at a time.

    Parameters
    ----------
    reader
        An open ledger that keeps texts.
    bundle
        Queries whose text this bundle was trained or tuned on are left out, and only its tiers are looked at.
    tiers
        The tiers to look at, the reference last; those of the bundle, else whatever was logged, when None.
    since, until
        Bounds in time.
    split
        Where audited queries go. None splits them by the hash rule of `router_core.splits`, 60 % train, 20 % calib,
        20 % test. Escalations are train whatever is asked for.
    metric
        How an answer without a grade from its audit is graded, against the reference's answer or, with `gold`,
        against the right one.
    gold
        Grade by the label or the correction in the feedback, and leave out queries without one unless they are
        audited: of those the quality is None, since dropping them would leave the ones users cared to correct.
    left_out
        Counts what was left out, by reason.

    Raises
    ------
    InputError
        For an unknown split or metric.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"unknown split {split!r}; use {', '.join(SPLITS)}")
    if bundle is not None and tiers is None:
        tiers = bundle.portfolio.names
    count: Counter[str] = Counter() if left_out is None else left_out
    grades = grader(metric)
    learned = set() if bundle is None else _learned(bundle)
    lowest = reader.lowest_probability(since, until) or 1.0
    for route in reader.routes(since, until, learnable=True):
        if route.text is None or not route.text.strip():
            count["without their text"] += 1
            continue
        if route.key in learned:
            count["seen in training"] += 1
            continue
        reference = route.reference if tiers is None else tiers[-1]
        answers = _answers(route, tiers)
        by_chance = _by_chance(route, lowest)
        if reference not in answers and not by_chance:
            count["without a reference answer"] += 1
            continue
        quality = _quality(route, reference, answers, grades, gold=gold)
        if not by_chance and all(value is None for value in quality.values()):
            count["without a right answer in the feedback"] += 1
            continue
        group = f"conversation {route.conversation}" if route.conversation else ""
        yield Harvest(route, _split(route, split, group, by_chance=by_chance), group, answers, quality)


def records_from_ledger(
    url: str | Address,
    *,
    bundle: Bundle | None = None,
    tiers: Sequence[str] | None = None,
    since: Moment = None,
    until: Moment = None,
    split: str | None = None,
    metric: Grading = "agree_with_reference",
    gold: bool = False,
) -> Records:
    """Read records from a ledger; parameters as for `harvest`.

    Answers that were never asked for are missing: an escalation lacks the tiers above it, an audit those the `Auditor`
    was not given. As everywhere, `complete` drops a query that lacks a needed tier and refuses when it would drop more
    than 5 % of a split.

    Returns
    -------
    Records
        `query_id` is the id of the route, `group` its conversation, `split` where it may stand; `source` says in
        words how many of which were found and left out.

    Raises
    ------
    InputError
        When the ledger cannot be read, or holds nothing that could be learned from.
    """
    from router_core.records import Records

    reader = LedgerReader(url)
    left_out: Counter[str] = Counter()
    found: list[Harvest] = []
    names: dict[str, None] = dict.fromkeys(tiers or (() if bundle is None else bundle.portfolio.names))
    fixed = bool(names)
    signals: dict[str, None] = {}
    for item in harvest(
        reader,
        bundle=bundle,
        tiers=tiers,
        since=since,
        until=until,
        split=split,
        metric=metric,
        gold=gold,
        left_out=left_out,
    ):
        found.append(item)
        for name, attempt in item.answers.items():
            if not fixed:
                names.setdefault(name)
            signals.update(dict.fromkeys(attempt.signals or ()))
    source = _source(reader.address.shown, found, left_out)
    if not found:
        raise InputError(
            f"{source}: nothing to learn from; records come from audited and escalated routes of a ledger made with "
            "store_text=True and given answers and reference"
        )
    if len(names) < 2:
        raise InputError(f"{source}: answers of at least two tiers are needed, found only {', '.join(names)!r}")

    def table(of: Callable[[Harvest, str], float | None]) -> Any:
        return np.array([[_number(of(item, name)) for name in names] for item in found], dtype=np.float64)

    def column(field: str) -> Callable[[Harvest, str], Any]:
        return lambda item, name: getattr(item.answers[name], field) if name in item.answers else None

    def signal(which: str) -> Callable[[Harvest, str], float | None]:
        return lambda item, name: (item.answers[name].signals or {}).get(which) if name in item.answers else None

    return Records(
        query_id=[item.route.id for item in found],
        prompt=[item.route.text or "" for item in found],
        task=[item.route.task or "default" for item in found],
        subtask=[item.route.subtask or "" for item in found],
        group=[item.group for item in found],
        split=[item.split for item in found],
        models=tuple(names),
        quality=table(lambda item, name: item.quality.get(name)),
        cost=table(column("cost_usd")),
        response=[[item.answers[name].answer if name in item.answers else None for name in names] for item in found],
        prompt_tokens=table(column("prompt_tokens")),
        completion_tokens=table(column("completion_tokens")),
        signals={name: table(signal(name)) for name in signals},
        source=source,
    )


def record_rows(item: Harvest) -> Iterator[dict[str, Any]]:
    """The rows of a records file for one harvested query, one for each tier that answered."""
    route = item.route
    task = route.task or "default"
    for name, attempt in item.answers.items():
        yield {
            "query_id": route.id,
            "task": f"{task}/{route.subtask}" if route.subtask else task,
            "prompt": route.text,
            "model": name,
            "response": attempt.answer,
            "quality": item.quality.get(name),
            "prompt_tokens": attempt.prompt_tokens,
            "completion_tokens": attempt.completion_tokens,
            "cost_usd": attempt.cost_usd,
            "split": item.split,
            "group": item.group or None,
            **{f"signal_{signal}": value for signal, value in (attempt.signals or {}).items()},
        }


def _by_chance(route: LoggedRoute, lowest: float) -> bool:
    """Whether chance alone chose this query, with the same probability as every other such one."""
    probability = route.audit_probability or 0.0
    if not route.audited or probability <= 0.0:
        return False
    return unit_interval(THIN_SALT, route.id) < lowest / probability


def _split(route: LoggedRoute, wanted: str | None, group: str, *, by_chance: bool) -> str:
    """Where a query may stand: anywhere if chance chose it, else in train."""
    if not by_chance:
        return "train"
    if wanted is not None:
        return wanted
    from router_core.splits import hash_split

    return hash_split(normalise(group or hash_key(route.text or "")))


def _answers(route: LoggedRoute, tiers: Sequence[str] | None) -> dict[str, LoggedAttempt]:
    """By tier the last attempt that was answered and whose answer was kept, in the order of the tiers."""
    found = {attempt.tier: attempt for attempt in route.attempts if attempt.whole}
    return found if tiers is None else {name: found[name] for name in tiers if name in found}


def _quality(
    route: LoggedRoute,
    reference: str | None,
    answers: dict[str, LoggedAttempt],
    grades: Callable[[str | None], Any],
    *,
    gold: bool,
) -> dict[str, float | None]:
    if gold:
        right = [told.text for told in route.feedback if told.kind in ("label", "correction") and told.text]
        if not right:
            return dict.fromkeys(answers)
        function = grades(route.task)
        return {name: grade(function, attempt.answer or "", right[-1]) for name, attempt in answers.items()}
    if reference not in answers:
        return dict.fromkeys(answers)
    said = answers[reference].answer or ""
    quality: dict[str, float | None] = {}
    for name, attempt in answers.items():
        if name == reference:
            quality[name] = 1.0
        elif attempt.quality is not None:
            quality[name] = attempt.quality
        else:
            quality[name] = grade(grades(route.task), attempt.answer or "", said)
    return quality


def _learned(bundle: Bundle) -> set[str]:
    """Hashes of the keys a bundle was trained or tuned on, as the ledger writes them."""
    return {f"{key:016x}" for keys in (bundle.keys.train, bundle.keys.tune) for key in keys.tolist()}


def _source(shown: str, found: list[Harvest], left_out: Counter[str]) -> str:
    splits = Counter(item.split for item in found)
    parts = [f"{name} {splits[name]}" for name in SPLITS if splits[name]]
    parts += [f"{many} {why} left out" for why, many in sorted(left_out.items())]
    return f"{shown} ({', '.join(parts) or 'no audited and no escalated routes'})"


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
