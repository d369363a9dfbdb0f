"""Which audits of a ledger may certify: a uniform sample of its traffic, answered by the certified models.

`router_core.ledger.sample` draws the queries. What a certificate is made of must further be what is served: the text
and the answers as they were, and the models that the bundle names. A certificate lapses when another model answers, so
it is about queries that these models answer; what others answered is left out, whatever was said. Which bundle
routed a query does not matter: chance chose it, and the router is replayed on its text and its answers.

Source: METHOD.md 2.6 (a) and 2.7.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from router_core.errors import InputError
from router_core.fingerprints import checkpoint_declared, fingerprint_changed
from router_core.groups import merge_near_duplicates
from router_core.ledger.reader import LedgerReader, LoggedRoute, Moment
from router_core.ledger.rows import key_of, logged_group
from router_core.ledger.sample import Logged, check_traffic, logged_queries, logged_texts, uniform_sample
from router_core.portfolio import Portfolio

__all__ = ["FairAudits", "fair_audits"]


@dataclass(frozen=True)
class FairAudits:
    """Audits that may stand in a split that something is claimed from.

    Attributes
    ----------
    ids
        Of the routes.
    others
        Routes of the sample that another model answered: they may stand in no split.
    left_out
        How many these are, by reason.
    told
        The sample in words, or why there is none.
    """

    ids: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    left_out: Mapping[str, int] = field(default_factory=dict)
    told: str = ""


@dataclass(frozen=True)
class _Certified:
    """The models that are certified."""

    portfolio: Portfolio


def fair_audits(
    reader: LedgerReader,
    *,
    portfolio: Portfolio | None = None,
    bundles: Collection[str] = (),
    tasks: Collection[str] | None = None,
    since: Moment = None,
    until: Moment = None,
    near: bool = False,
) -> FairAudits:
    """Draw a uniform sample of the logged traffic, as it was routed and as the certified models answered it.

    Parameters
    ----------
    reader
        An open ledger that keeps texts.
    portfolio
        Names the model of each tier.
    bundles
        Ids of bundles whose tiers are these: only of their routes may an answer of a distilled tier lack its model.
    tasks
        Names; all when None.
    since, until
        Bounds in time.
    near
        Settle near-duplicates among all logged queries, audited or not, so that a large group is drawn as often as a
        small one. Takes all texts, in memory.

    Raises
    ------
    InputError
        When the audits are no random sample of the traffic (`uniform_sample`), or texts or answers of the sample are
        not those of the traffic; without naming the ledger.
    """
    check_traffic(reader, tasks, since, until)
    if near:
        every = _settled(
            logged_texts(
                reader, tasks, since, until, shorter="take a shorter time (--since, --until)",
                keep="take the time texts are kept of (--since)",
            )
        )  # fmt: skip
        traffic: Callable[[], Iterable[Logged]] = lambda: every  # noqa: E731
    else:
        traffic = lambda: logged_queries(reader, tasks, since, until)  # noqa: E731
    sample = uniform_sample(traffic)
    models = _Models(portfolio, frozenset(bundles))
    faults: Counter[str] = Counter()
    kept, others = set(), set()
    for route in reader.routes(since, until, learnable=True):
        if route.id not in sample.ids:
            continue
        if why := models.other(route):
            models.left_out[why] += 1
            others.add(route.id)
            continue
        kept.add(route.id)
        faults[_fault(route)] += 1
    for fault, advice in _FAULTS.items():
        if faults[fault]:
            raise InputError(
                f"of {faults[fault]} of {len(kept)} sampled audits {fault}, and the others are no random sample of the "
                f"traffic: {advice}"
            )
    models.check()
    if len(kept) + len(others) < len(sample.ids):
        gone = len(sample.ids) - len(kept) - len(others)
        raise InputError(f"{gone} audited queries went while they were read; try again")
    told = (
        f"a uniform sample of {sample.total} logged queries, {sample.audited} of them audited, each group taken with "
        f"probability {sample.probability:g}"
    )
    return FairAudits(frozenset(kept), frozenset(others), dict(models.left_out), told)


_NO_TEXT = "no text is kept"
_CHANGED = "redaction changed the text or an answer"
_UNKNOWN = "the ledger does not say whether redaction changed an answer"
_FAULTS = {
    _NO_TEXT: "log with store_text=True, keep texts until they are used, and take the time they are kept of (--since)",
    _CHANGED: "what is served cannot be replayed from them; certify on records instead",
    _UNKNOWN: "an earlier version logged them; take the time since then (--since)",
}


def _fault(route: LoggedRoute) -> str:
    """What of a route is not as it was routed and answered, or nothing."""
    if route.text is None or not route.text.strip():
        return _NO_TEXT
    said = {attempt.redacted for attempt in route.attempts if attempt.whole}
    if True in said or key_of(route.text) != route.key:
        return _CHANGED
    return _UNKNOWN if None in said else ""


class _Models:
    """Tells routes that other models answered."""

    def __init__(self, portfolio: Portfolio | None, bundles: frozenset[str]) -> None:
        self._certified = None if portfolio is None else _Certified(portfolio)
        self._bundles = bundles
        self._seen: dict[str, set[str]] = {}
        self.left_out: Counter[str] = Counter()

    def other(self, route: LoggedRoute) -> str:
        """Why a route is none of the certified models', empty where it is; counts the names of undeclared models."""
        named = self._certified.portfolio.names if self._certified is not None else ()
        for attempt in route.attempts:
            tier, model = attempt.tier, attempt.model_name
            if self._certified is not None and tier in named:
                if fingerprint_changed(self._certified, tier, model):
                    return f"answered by another model than the certified one ({tier} as {model!r})"
                declared = self._certified.portfolio.models[tier]
                if not model and checkpoint_declared(declared) and attempt.whole and route.bundle not in self._bundles:
                    return f"answered by a model that is not named, under another bundle ({tier})"
                if declared:
                    continue
            elif self._certified is not None:
                continue
            if model and model != tier:
                self._seen.setdefault(tier, set()).add(model)
        return ""

    def check(self) -> None:
        """Refuse a sample in which several models answered for a tier whose model nobody declares."""
        for tier, seen in sorted(self._seen.items()):
            if len(seen) > 1:
                raise InputError(
                    f"several models answered for {tier!r} ({', '.join(sorted(seen))}), and a certificate is about "
                    "one: name the tier's model in a portfolio, or take the time of one of them (--since, --until)"
                )


def _settled(every: list[Logged]) -> list[Logged]:
    """The same queries by groups of near-duplicates, without their texts."""
    texts = [one.text or "" for one in every]
    keys = [logged_group(one.conversation, one.text) for one in every]
    groups = merge_near_duplicates(texts, keys, [one.task for one in every], np.zeros(len(every), dtype=bool))
    return [replace(one, group=group, text=None, conversation=None) for one, group in zip(every, groups, strict=True)]
