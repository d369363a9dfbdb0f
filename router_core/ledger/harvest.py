"""Harvesting a ledger: queries whose reference answer is known, from random audits and from escalations.

An audited query was chosen by chance, so it may stand in any split. An escalated one was chosen by the router, which
found its cheap answers doubtful: among escalations bad answers are far more frequent than in the traffic. They are
good to learn from and would falsify every certificate and every report, so they are always train. So is an audit
beside the uniform sample of the traffic (`router_core.ledger.fair`): of denser times, or of a group for which another
query stands. Where there is no such sample, every row is train, or, where one is asked for, the ledger is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from router_core.errors import InputError
from router_core.grades import Grading, grade, grader
from router_core.groups import hash_key, normalise
from router_core.ledger.fair import FairAudits, fair_audits
from router_core.ledger.reader import LedgerReader, LoggedAttempt, LoggedRoute, Moment
from router_core.portfolio import Portfolio
from router_core.selection import SPLITS

if TYPE_CHECKING:
    from router_core.bundle import Bundle

__all__ = ["Harvest", "harvest"]

_CLAIMED = ("calib", "test", "audit")
"""Splits that something is claimed of the traffic from."""


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
    portfolio: Portfolio | None = None,
    tiers: Sequence[str] | None = None,
    since: Moment = None,
    until: Moment = None,
    split: str | None = None,
    metric: Grading = "agree_with_reference",
    gold: bool = False,
    left_out: Counter[str] | None = None,
    told: list[str] | None = None,
) -> Iterator[Harvest]:
    """Find the queries whose reference answer is known, oldest first, a page at a time.

    Parameters
    ----------
    reader
        An open ledger that keeps texts.
    bundle
        Queries whose text this bundle was trained or tuned on are left out, and only its tasks and tiers are looked at.
    portfolio
        Names the models of the tiers; that of the bundle when None. Audits that another model answered are left out.
    tiers
        The tiers to look at, the reference last; those of the bundle, else whatever was logged, when None.
    since, until
        Bounds in time.
    split
        Where the uniform sample of audited queries goes; other audits and escalations are train whatever is asked for.
        None splits the sample by the hash rule of `router_core.splits`, 60 % train, 20 % calib, 20 % test, and where
        the ledger gives no such sample every row is train. For calib, test and audit near-duplicates are settled
        among all logged queries.
    metric
        How an answer without a grade from its audit is graded, against the reference's answer or, with `gold`,
        against the right one.
    gold
        Grade by the label or the correction in the feedback, and leave out queries without one unless they are
        audited: of those the quality is None, since dropping them would leave the ones users cared to correct.
    left_out
        Counts what was left out, by reason.
    told
        Takes one sentence about the sample, or why there is none.

    Raises
    ------
    InputError
        For an unknown split or metric, or when calib, test or audit is asked for and the ledger gives no uniform
        sample of its traffic.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"unknown split {split!r}; use {', '.join(SPLITS)}")
    if bundle is not None and tiers is None:
        tiers = bundle.portfolio.names
    count: Counter[str] = Counter() if left_out is None else left_out
    grades = grader(metric)
    learned = set() if bundle is None else _learned(bundle)
    tasks = None if bundle is None else bundle.scopes.subtasks
    fair = _fair(reader, bundle, portfolio, split, since, until)
    count.update(fair.left_out)
    if told is not None:
        told.append(fair.told)
    for route in reader.routes(since, until, learnable=True):
        if route.id in fair.others:
            continue
        if tasks is not None and (route.task or "default") not in tasks:
            count["of another task"] += 1
            continue
        if route.text is None or not route.text.strip():
            count["without their text"] += 1
            continue
        if route.key in learned:
            count["seen in training"] += 1
            continue
        reference = route.reference if tiers is None else tiers[-1]
        answers = _answers(route, tiers)
        by_chance = route.id in fair.ids
        if reference not in answers and not by_chance:
            count["without a reference answer"] += 1
            continue
        quality = _quality(route, reference, answers, grades, gold=gold)
        if not by_chance and all(value is None for value in quality.values()):
            count["without a right answer in the feedback"] += 1
            continue
        group = f"conversation {route.conversation}" if route.conversation else ""
        yield Harvest(route, _split(route, split, group, by_chance=by_chance), group, answers, quality)


def _fair(
    reader: LedgerReader,
    bundle: Bundle | None,
    portfolio: Portfolio | None,
    split: str | None,
    since: Moment,
    until: Moment,
) -> FairAudits:
    """The audits that may stand in a split something is claimed from; none where the ledger gives no sample."""
    if split in ("train", "tune"):
        return FairAudits(told="nothing of it may certify")
    if not reader.audited(since, until):
        return FairAudits(told="nothing was audited, so nothing of it may certify")
    served: list[str] = []
    if bundle is not None:
        # Certified again a router is another bundle, and its tiers are the same.
        served = [bundle.id, *filter(None, [bundle.report.get("calibrated", {}).get("from")])]
        portfolio = portfolio or bundle.portfolio
    try:
        return fair_audits(
            reader, portfolio=portfolio, bundles=served, tasks=None if bundle is None else bundle.scopes.subtasks,
            since=since, until=until, near=split in _CLAIMED,
        )  # fmt: skip
    except InputError as error:
        if split in _CLAIMED:
            raise InputError(f"{reader.address.shown}: {error}") from None
        return FairAudits(told=f"all train, as this is no sample of the traffic: {error}")


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
            if not 0.0 <= attempt.quality <= 1.0:
                raise InputError(
                    f"the logged route {route.id} has an answer of {name!r} graded {attempt.quality:g}, and grades lie "
                    "between 0 and 1: the row is wrong, so take a time without it"
                )
            quality[name] = attempt.quality
        else:
            quality[name] = grade(grades(route.task), attempt.answer or "", said)
    return quality


def _learned(bundle: Bundle) -> set[str]:
    """Hashes of the keys a bundle was trained or tuned on, as the ledger writes them."""
    return {f"{key:016x}" for keys in (bundle.keys.train, bundle.keys.tune) for key in keys.tolist()}
