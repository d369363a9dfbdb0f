"""Traffic through a deployed bundle, one query at a time, by the very code that serves: the cascade and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from data import Item
from prices import nominal_usd, tokens
from protocol import NOMINAL, REFERENCE, TAUGHT, TIERS
from scoring import Grade
from served import Served
from sheet import conversation_of
from tiers import Answers

from router_core.cascade import Answer, Cascade, Route
from router_core.ledger import Ledger
from router_core.policy import CASCADE
from router_core.router import Router

__all__ = ["Said", "Sources", "always", "log", "serve", "sources_of"]

Said = Mapping[str, tuple[str, Mapping[str, float]]]
"""By query id an answer and its signals."""

Sources = Mapping[str, Mapping[str, Said]]
"""By task and real tier what it answers."""


def sources_of(known: Mapping[str, Mapping[str, Answers]], taught: Mapping[str, Said] | None = None) -> Sources:
    """What tiers answer, the taught tier's replaced by those of other students where given."""
    found: dict[str, dict[str, Said]] = {task: {k: told.said for k, told in of.items()} for task, of in known.items()}
    for task, said in (taught or {}).items():
        found[task] = {**found[task], TAUGHT: said}
    return found


def serve(
    router: Router,
    items: Sequence[Item],
    sources: Sources,
    grade: Grade,
    *,
    policy: str = CASCADE,
    seen: Callable[[Item, Route, dict[str, Answer]], None] | None = None,
) -> Served:
    """Answer queries of one task through a cascade; `seen` is told every route and what its tiers answered."""
    asked: dict[str, Answer] = {}

    def call(tier: str) -> Callable[[Any], Answer]:
        def answer(item: Item) -> Answer:
            text, signals = (item.gold, {}) if tier == REFERENCE else sources[item.task][tier][item.query_id]
            read = tokens(item.prompt)
            usd = read * NOMINAL[tier] / 1000
            asked[tier] = Answer(text, read, tokens(text), usd, signals=dict(signals))
            return asked[tier]

        return answer

    cascade = Cascade(router, {tier: call(tier) for tier in router.portfolio.names}, policy=policy)
    tier, tried, quality = [], np.zeros((len(items), len(TIERS)), bool), []
    for row, item in enumerate(items):
        asked.clear()
        route = cascade.run(item.prompt, item.task, item)
        tried[row] = [name in asked for name in TIERS]
        tier.append(TIERS.index(route.tier))
        quality.append(1.0 if route.tier == REFERENCE else grade(route.answer.text, item.gold))
        if seen is not None:
            seen(item, route, dict(asked))
    usd = nominal_usd([item.prompt for item in items])
    return Served(
        np.array(tier, dtype=np.intp), tried, np.array(quality), np.ones(len(items)), (usd * tried).sum(axis=1),
        usd[:, -1].copy(),
    )  # fmt: skip


def always(items: Sequence[Item], sources: Sources, grade: Grade, tier: str) -> Served:
    """Every query answered by one tier."""
    at, usd = TIERS.index(tier), nominal_usd([item.prompt for item in items])
    tried = np.zeros(usd.shape, bool)
    tried[:, at] = True
    quality = np.ones(len(items))
    if tier != REFERENCE:
        quality = np.array([grade(sources[i.task][tier][i.query_id][0], i.gold) for i in items])
    return Served(np.full(len(items), at), tried, quality, np.ones(len(items)), usd[:, at].copy(), usd[:, -1].copy())


def log(ledger: Ledger, router: Router, items: Iterable[Item], sources: Sources, grades: Mapping[str, Grade]) -> int:
    """Let queries flow through the deployed release in order; only what an operator would see is logged.

    A query that is logged already stays as it is, so that this may be stopped and done again.

    Returns
    -------
    int
        How many the reference tier answered.
    """
    count = 0

    def seen(item: Item, route: Route, answers: dict[str, Answer]) -> None:
        ledger.append(
            route, text=item.prompt, id=item.query_id, answers=answers, reference=REFERENCE,
            conversation=conversation_of(item),
        )  # fmt: skip

    for item in items:
        count += int(serve(router, [item], sources, grades[item.task], seen=seen).tier[0] == len(TIERS) - 1)
    return count
