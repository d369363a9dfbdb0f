"""Traffic through a deployed bundle, one query at a time, by the very code that serves: the cascade and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from data import Item
from numpy.typing import NDArray
from prices import nominal_usd, tokens
from protocol import NOMINAL, REFERENCE, TIERS
from scoring import Grade
from sheet import conversation_of
from tiers import Answers

from router_core.cascade import Answer, Cascade, Route
from router_core.ledger import Ledger
from router_core.policy import CASCADE
from router_core.router import Router

__all__ = ["Said", "Served", "Sources", "always", "log", "serve", "sources_of"]

Said = Mapping[str, tuple[str, Mapping[str, float]]]
"""By query id an answer and its signals."""

Sources = Mapping[str, Mapping[str, Said]]
"""By task and real tier what it answers."""


def sources_of(known: Mapping[str, Mapping[str, Answers]], t1: Mapping[str, Said] | None = None) -> Sources:
    """What tiers answer, T1's replaced by those of other students where given."""
    found: dict[str, dict[str, Said]] = {task: {k: told.said for k, told in of.items()} for task, of in known.items()}
    for task, said in (t1 or {}).items():
        found[task] = {**found[task], "t1": said}
    return found


@dataclass(frozen=True, eq=False)
class Served:
    """What a policy did with n queries of one task.

    Attributes
    ----------
    tier
        intp [n], place of the tier whose answer was served.
    tried
        bool [n, K], tiers that were called; each is paid for.
    quality, reference
        float64 [n], of the served answer and of the reference's.
    cost, always
        float64 [n], nominal US dollars of all attempts, and of the reference alone.
    """

    tier: NDArray[np.intp]
    tried: NDArray[np.bool_]
    quality: NDArray[np.float64]
    reference: NDArray[np.float64]
    cost: NDArray[np.float64]
    always: NDArray[np.float64]

    @property
    def bad(self) -> NDArray[np.bool_]:
        """B of the served answer, tolerance 0."""
        return np.asarray(self.reference - self.quality > 0.0)

    def priced(self, usd: NDArray[np.float64]) -> Served:
        """The same routes under another price list, float64 [n, K]."""
        return Served(
            self.tier, self.tried, self.quality, self.reference, (usd * self.tried).sum(axis=1), usd[:, -1].copy()
        )

    def take(self, rows: NDArray[np.intp]) -> Served:
        """Some of the queries."""
        return Served(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


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

    cascade = Cascade(router, {tier: call(tier) for tier in TIERS}, policy=policy)
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
    return Served(
        np.full(len(items), at), tried, quality, np.ones(len(items)), usd[:, at].copy(), usd[:, -1].copy()
    )


def log(ledger: Ledger, router: Router, items: Iterable[Item], sources: Sources, grades: Mapping[str, Grade]) -> int:
    """Let queries flow through the deployed release in order; only what an operator would see is logged.

    Returns
    -------
    int
        How many the reference tier answered.
    """
    count = 0

    def seen(item: Item, route: Route, answers: dict[str, Answer]) -> None:
        ledger.append(
            route, text=item.prompt, answers=answers, reference=REFERENCE, conversation=conversation_of(item)
        )

    for item in items:
        count += int(serve(router, [item], sources, grades[item.task], seen=seen).tier[0] == len(TIERS) - 1)
    return count
