"""Records from a ledger: what was harvested of it (`router_core.ledger.harvest`) as records, or rows of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from router_core.errors import InputError
from router_core.grades import Grading
from router_core.ledger.harvest import Harvest, harvest
from router_core.ledger.reader import LedgerReader, Moment
from router_core.ledger.url import Address
from router_core.portfolio import Portfolio
from router_core.selection import SPLITS

if TYPE_CHECKING:
    from router_core.bundle import Bundle
    from router_core.records import Records

__all__ = ["record_rows", "records_from_ledger"]


def records_from_ledger(
    url: str | Address,
    *,
    bundle: Bundle | None = None,
    portfolio: Portfolio | None = None,
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
        words how many of which were found and left out, and of what sample.

    Raises
    ------
    InputError
        When the ledger cannot be read, holds nothing that could be learned from, or gives no sample that was asked for.
    """
    from router_core.records import Records

    reader = LedgerReader(url)
    left_out: Counter[str] = Counter()
    told: list[str] = []
    found: list[Harvest] = []
    names: dict[str, None] = dict.fromkeys(tiers or (() if bundle is None else bundle.portfolio.names))
    fixed = bool(names)
    signals: dict[str, None] = {}
    for item in harvest(
        reader,
        bundle=bundle, portfolio=portfolio, tiers=tiers, since=since, until=until, split=split, metric=metric,
        gold=gold, left_out=left_out, told=told,
    ):  # fmt: skip
        found.append(item)
        for name, attempt in item.answers.items():
            if not fixed:
                names.setdefault(name)
            signals.update(dict.fromkeys(attempt.signals or ()))
    source = _source(reader.address.shown, found, left_out, told)
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


def _source(shown: str, found: list[Harvest], left_out: Counter[str], told: list[str]) -> str:
    splits = Counter(item.split for item in found)
    parts = [f"{name} {splits[name]}" for name in SPLITS if splits[name]]
    parts += [f"{many} {why} left out" for why, many in sorted(left_out.items())]
    counted = ", ".join(parts) or "no audited and no escalated routes"
    return f"{shown} ({'; '.join([counted, *filter(None, told)])})"


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
