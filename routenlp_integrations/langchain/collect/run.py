"""The run: every prompt to every tier, a few at a time, until all is asked or the budget is spent."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from routenlp_integrations.langchain.collect.asking import Asker, BudgetSpent, CallFailed, key_of
from routenlp_integrations.langchain.collect.journal import Entry
from routenlp_integrations.langchain.collect.rows import judged
from router_core.conversations import Turns
from router_core.groups import unit_interval
from router_core.prompts import Prompt

__all__ = ["Collection", "Outcome", "Tick", "asking_order"]

Tick = Callable[[int, int, float, float], None]
"""Called with queries done, queries in all, US dollars spent, and left."""

_SALT = "routenlp-collect-v1"
_HOPELESS = 5
"""Failures of a model that has never answered in this run, after which asking on would only cost time."""


def asking_order(prompts: Sequence[Prompt], limit: int | None = None) -> list[Prompt]:
    """Prompts in an order that has nothing to do with the file's, cut at `limit`.

    A run that stops early has then asked a fair sample, and a larger limit or budget adds to it.
    """
    chosen = sorted(prompts, key=lambda prompt: (unit_interval(_SALT, prompt.query_id), prompt.query_id))
    return chosen[:limit]


@dataclass
class Outcome:
    """What a run left behind, beside the journal.

    Attributes
    ----------
    asked
        Ids of the queries that every tier, and the judge, was asked about.
    failed
        Per model the calls that failed after all retries.
    why
        Per model the first such failure.
    stopped
        ``""``, ``"budget"``, or why it was no use to go on.
    """

    asked: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)
    why: dict[str, str] = field(default_factory=dict)
    stopped: str = ""


class Collection:
    """One run over some prompts.

    Parameters
    ----------
    askers
        The tiers in cascade order.
    judge
        The judge, or None.
    tick
        Called after every query.
    """

    def __init__(self, askers: Sequence[Asker], judge: Asker | None = None, tick: Tick | None = None) -> None:
        self._askers = tuple(askers)
        self._judge = judge
        self._tick = tick
        self._answered: Counter[str] = Counter()
        self._twins: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._outcome = Outcome()

    async def run(self, prompts: Sequence[Prompt], concurrency: int = 4) -> Outcome:
        """Ask; answers go to the journal, `concurrency` calls are in flight at most."""
        waiting = iter(prompts)
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(self._work(waiting, len(prompts)))
        return self._outcome

    async def _work(self, waiting: Iterator[Prompt], total: int) -> None:
        purse = self._askers[0].purse
        for prompt in waiting:
            if self._over():
                return
            try:
                complete = await self._query(prompt)
            except BudgetSpent:
                self._outcome.stopped = self._outcome.stopped or "budget"
                return
            # What another worker ran into does not undo a query that is complete.
            if not complete:
                return
            self._outcome.asked.add(prompt.query_id)
            if self._tick is not None:
                self._tick(len(self._outcome.asked), total, purse.spent, purse.left)

    def _over(self) -> bool:
        return bool(self._outcome.stopped)

    async def _query(self, prompt: Prompt) -> bool:
        """Ask about one prompt; False when the run ended before all was asked."""
        for asker in self._askers:
            if self._over():
                return False
            entry = await self._ask(asker, prompt.turns)
            if self._judge is not None and entry is not None and not entry.missing:
                if self._over():
                    return False
                await self._ask(self._judge, judged(prompt, entry, self._judge.redact))
        return True

    async def _ask(self, asker: Asker, turns: Turns) -> Entry | None:
        name = asker.asked.name
        try:
            # Two queries with the same words share one answer; the second waits for the first.
            async with self._twins[key_of(asker.asked, turns)]:
                entry = await asker.ask(turns)
        except CallFailed as failure:
            self._outcome.failed[name] += 1
            self._outcome.why.setdefault(name, str(failure))
            if self._outcome.failed[name] >= _HOPELESS and not self._answered[name]:
                self._outcome.stopped = (
                    f"{name} failed {_HOPELESS} times and never answered ({self._outcome.why[name]})"
                )
            return None
        self._answered[name] += 1
        return entry
