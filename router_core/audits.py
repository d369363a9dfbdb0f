"""Random audits: with known probability, what a cheap tier answered is also asked of the reference tier.

Accepted cheap answers have no label otherwise. Whether a query is audited is decided from a hash of its id before
anything about it is known, so that audits are a fair sample of the traffic: they estimate its risk (METHOD.md 2.7,
P16) and, unlike escalations, may certify.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from router_core.audit_budget import AuditBudget
from router_core.errors import InputError
from router_core.grades import Grading, grade, grader
from router_core.groups import unit_interval
from router_core.ledger import Ledger, new_id
from router_core.ledger.rows import AttemptEntry

if TYPE_CHECKING:
    from router_core import Answer, Route

__all__ = ["AuditDecision", "AuditPlan", "Auditor"]

_SALT = "routenlp-audit-v1"

TierCall = Callable[[Any], "Answer | str | Awaitable[Answer | str]"]
Price = Callable[[str, str, "Answer"], float]


@dataclass(frozen=True)
class AuditPlan:
    """How many queries are audited, and how they are graded.

    Attributes
    ----------
    rate
        Probability with which a query is audited, above 0 and at most 1.
    budget_usd
        US dollars that audits may cost in one window and process. When it is spent no query is chosen until the next
        window, and a probability of 0 is recorded.
    window_s
        Length of a window in seconds; a day.
    grade
        Quality of an answer given the reference tier's: the name of a metric (`router_core.metrics`), a function
        (answer, reference answer) -> [0, 1], or one of these by task.
    seed
        Of the choice.
    """

    rate: float
    budget_usd: float
    window_s: float = 86_400.0
    grade: Grading = "agree_with_reference"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no probability, no budget or no grade."""
        _check_rate(self.rate)
        for name in ("budget_usd", "window_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} = {value!r} must be a positive number")
        grader(self.grade)


@dataclass(frozen=True, slots=True)
class AuditDecision:
    """Whether the route of this id is audited, and with which probability that was decided."""

    id: str
    chosen: bool
    probability: float


@dataclass(frozen=True, slots=True)
class _Job:
    decision: AuditDecision
    route: Route
    text: str
    payload: Any
    answers: Mapping[str, Answer]


class Auditor:
    """Chooses queries for audits and runs them in the background.

    For each query: `decide` before the tiers are asked, `Ledger.append` with the decision, then `submit`.

    Parameters
    ----------
    ledger
        Where routes and audits go.
    tiers
        Callables by tier: payload in, `Answer` or text out, plain or async. The last one is the reference tier.
        Tiers of a query that were not asked are asked by its audit if they are here. With the reference tier alone
        audits label what was served; with all tiers they give whole records, which may certify.
    price
        US dollars of one answer: ``router.price``.
    plan
        Rate, budget, grade.
    waiting
        Audits that may wait for the thread; while there are more, no query is chosen.
    clock
        Seconds; for tests.
    """

    def __init__(
        self,
        ledger: Ledger,
        tiers: Mapping[str, TierCall],
        *,
        price: Price,
        plan: AuditPlan,
        waiting: int = 100,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.own = False
        """Whether a model made it of a plan, to ask that model's own tiers."""
        if not tiers:
            raise InputError("an audit needs the reference tier; give it as {name: callable}")
        self.ledger, self.plan = ledger, plan
        self.reference = list(tiers)[-1]
        self._tiers, self._price, self._waiting = dict(tiers), price, waiting
        self._grade = grader(plan.grade)
        self._clock = clock
        self._async = all(map(inspect.iscoroutinefunction, tiers.values()))
        self._start_over()

    def _start_over(self) -> None:
        self._process = os.getpid()
        self._budget = AuditBudget(self.plan.budget_usd, self.plan.window_s, self._clock)
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def decide(self, rate: float | None = None, id: str | None = None) -> AuditDecision:
        """Choose or not, before anything is known of the answer.

        Parameters
        ----------
        rate
            Another probability than the plan's, from what is known before the query is answered (its task, say).
        id
            From `new_id`; drawn when None.
        """
        name = id or new_id()
        if self._process != os.getpid():
            # A forked child leaves its parent's audits to the parent, and has a budget of its own.
            self._start_over()
        probability = self.plan.rate if rate is None else rate
        if rate is not None:
            _check_rate(rate)
        if self._jobs.qsize() + len(self._tasks) >= self._waiting or not self._budget.affords():
            probability = 0.0
        chosen = unit_interval(f"{_SALT}|{self.plan.seed}", name) < probability
        return AuditDecision(name, chosen, probability)

    def submit(
        self,
        decision: AuditDecision,
        route: Route,
        text: str,
        payload: Any = None,
        answers: Mapping[str, Answer] | None = None,
    ) -> None:
        """Run the audit of a route that was chosen, in the background; returns at once and never raises for a tier.

        Under a running event loop async tiers are asked by a task of that loop; everything else runs in one thread.

        Parameters
        ----------
        decision
            From `decide`.
        route, text, answers
            As for `Ledger.append`.
        payload
            What the tiers are called with; `text` when None.
        """
        if not decision.chosen:
            return
        given = {route.tier: route.answer} if answers is None else dict(answers)
        job = _Job(decision, route, text, text if payload is None else payload, given)
        self._budget.begin()
        if self._async:
            with contextlib.suppress(RuntimeError):
                task = asyncio.get_running_loop().create_task(self._audit(job))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
        self._jobs.put(job)
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="routenlp-audits", daemon=True)
                self._thread.start()

    def join(self, timeout: float = 30.0) -> bool:
        """Wait for the audits under way; False when some are left after `timeout` seconds. Not from an event loop."""
        end = time.monotonic() + timeout
        while self._budget.under_way:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    @property
    def spent_usd(self) -> float:
        """What audits have cost in this window, US dollars."""
        return self._budget.spent

    def __deepcopy__(self, memo: dict[int, Any]) -> Auditor:
        # A copy of a model spends from the same budget.
        return self

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            with contextlib.suppress(Exception):
                asyncio.run(self._audit(job))

    async def _audit(self, job: _Job) -> None:
        spent, made = 0.0, []
        answers, failed = dict(job.answers), ""
        try:
            for tier, call in self._tiers.items():
                if tier in answers:
                    continue
                attempt, answer = await self._ask(tier, call, job)
                made.append(attempt)
                spent += attempt.cost_usd
                if answer is not None:
                    answers[tier] = answer
                elif tier == self.reference:
                    failed = attempt.reason
            self._tell(job, answers, made, failed)
        finally:
            self._budget.end(spent)

    async def _ask(self, tier: str, call: TierCall, job: _Job) -> tuple[AttemptEntry, Answer | None]:
        from router_core import Answer

        began, answer, cost, reason = time.perf_counter(), None, 0.0, "audit"
        try:
            reply = call(job.payload)
            told = await reply if inspect.isawaitable(reply) else reply
            answer = told if isinstance(told, Answer) else Answer(str(told))
            cost = self._price(tier, job.text, answer)
        except Exception as error:
            answer, reason = None, f"audit failed: {type(error).__name__}"
        elapsed = (time.perf_counter() - began) * 1e3
        entry = self.ledger.attempt(tier, answer, accepted=False, cost_usd=cost, latency_ms=elapsed, reason=reason)
        return entry, answer

    def _tell(self, job: _Job, answers: Mapping[str, Answer], made: list[AttemptEntry], failed: str) -> None:
        reference, quality = answers.get(self.reference), {}
        if reference is not None:
            task = None if job.route.task is None else job.route.task.partition("/")[0]
            try:
                function = self._grade(task)
                quality = {name: grade(function, answer.text, reference.text) for name, answer in answers.items()}
                quality[self.reference] = 1.0
            except Exception as error:
                quality, failed = {}, f"the grade failed: {type(error).__name__}"
        self.ledger.audited(
            job.decision.id,
            tuple(made),
            position=len(job.route.attempts),
            quality=quality,
            value=quality.get(job.route.tier),
            text=failed or (None if reference is None else reference.text),
        )


def _check_rate(rate: float) -> None:
    if not (math.isfinite(rate) and 0.0 < rate <= 1.0):
        raise InputError(f"an audit rate must be a probability above 0 and at most 1, not {rate!r}")
