"""The router: from a text and a task to the tier to start with, and from an answer to accept or escalate."""

import math
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router_core.claim import OUTLIVES_DEPARTURE, Certificate
from router_core.policy import CASCADE, ROUTE_ONLY, Policy
from router_core.portfolio import Portfolio
from router_core.scopes import Scopes
from router_core.scoring import Before, Scorer, View

if TYPE_CHECKING:
    from router_core.bundle import Bundle
    from router_core.cascade import Answer

__all__ = ["Decision", "Router", "Scopes", "Start", "estimate_tokens"]

_WARNED = 1_000
"""Unknown tasks remembered as warned about; a caller who makes up names must not fill the memory."""

_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Start:
    """Where one query starts, and under which policy it goes on.

    `policy` and `before` are None when no policy applies: the query goes to the reference tier, or was
    `forced` to `tier`, whose answer is then served unjudged.
    """

    text: str
    task: str | None
    scope: str | None
    policy_name: str
    tier: int
    reason: str
    policy: Policy | None
    before: Before | None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What the router decides before anything is generated.

    Attributes
    ----------
    tier
        Name of the tier to call.
    pass_probability
        Per tier, the probability that its answer is not bad.
    difficulty
        Expected position of the cheapest passing tier, 0 (the cheapest) to 1 (only the reference).
    scope, policy
        Whose promise applies; the scope is None for a task never calibrated.
    certificate
        What was shown of the policy, None when nothing was.
    reason
        One sentence with the numbers that decided.
    """

    tier: str
    pass_probability: dict[str, float]
    difficulty: float
    scope: str | None
    policy: str
    certificate: dict[str, Any] | None
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Router:
    """A loaded bundle, ready to decide. Stateless but for the tasks it has warned about; safe across threads."""

    bundle_id: str
    portfolio: Portfolio
    scopes: Scopes
    scorer: Scorer
    policies: Mapping[tuple[str, str], Policy]
    certificates: Mapping[tuple[str, str], Certificate]
    _warned: set[str] = field(default_factory=set, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __repr__(self) -> str:
        names, tasks = list(self.portfolio.names), list(self.scopes.subtasks)
        return f"Router(bundle={self.bundle_id[:12]!r}, tiers={names}, tasks={tasks})"

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> "Router":
        """Load and verify a bundle.

        Parameters
        ----------
        path
            Folder of the bundle.
        threads
            Threads of one decision of a transformer router; ``ROUTENLP_THREADS`` or one when None. A setting of the
            process: the bundle and its id stay as they are.

        Raises
        ------
        BundleError
            When a file is changed, missing or extra, or the bundle is newer than this reader.
        """
        from router_core.bundle import Bundle

        return cls.from_bundle(Bundle.load(path, threads))

    @classmethod
    def from_bundle(cls, bundle: "Bundle") -> "Router":
        """Make a router of a bundle in memory."""
        return cls(bundle.id, bundle.portfolio, bundle.scopes, bundle.scorer, bundle.policies, bundle.certificates)

    def start(self, text: str, task: str | None = None, policy: str = CASCADE) -> Start:
        """Decide where a query starts.

        Parameters
        ----------
        text
            What is routed.
        task
            ``"task"``, ``"task/subtask"`` or None; see `Scopes.resolve`.
        policy
            ``"cascade"`` or ``"route_only"``.
        """
        last, reference = len(self.portfolio.tiers) - 1, self.portfolio.reference.name
        view = self.scopes.resolve(task or None)
        if view is None:
            self._warn(str(task))
            reason = f"task {task!r} was never calibrated; sent to {reference}"
            return Start(text, task, None, policy, last, reason, None, None)
        path = self.policies[view.scope, policy]
        if path.step == 0:
            reason = f"no certificate for scope {view.scope!r}; sent to {reference}"
            return Start(text, task, view.scope, policy, last, reason, path, None)
        before = self.scorer.before(text, view)
        scores = [path.score(j.risk, j.saving, before.toss) for j in before.judgements]
        tier = path.first(scores)
        return Start(text, task, view.scope, policy, tier, self._why(path, scores, tier), path, before)

    def force(self, text: str, task: str | None, policy: str, tier: str, why: str) -> Start:
        """Start a query at a tier whatever the policy says: a forced tier, or tools that calib did not have.

        The certificate of the scope is kept if `tier` is the reference tier and the risk is joint (also in
        expectation), since no cheap answer is then served, and void otherwise.

        Parameters
        ----------
        text, task, policy
            As for `start`.
        tier
            Name of the tier to call.
        why
            The departure in a few words, completing "...; sent to <tier>".

        Raises
        ------
        InputError
            When the portfolio has no such tier.
        """
        index = self.portfolio.index(tier)
        view = self.scopes.resolve(task)
        if view is None:
            self._warn(str(task))
        scope = None if view is None else view.scope
        return Start(text, task, scope, policy, index, f"{why}; sent to {tier}", None, None, forced=True)

    def decide(self, text: str, task: str | None = None, policy: str = ROUTE_ONLY) -> Decision:
        """Decide which tier to call, with the reasons; see `start` for the parameters."""
        start = self.start(text, task, policy)
        before = start.before
        if before is None:
            view = self.scopes.resolve(task) or View("", None, None)
            prediction = self.scorer.encoder.predict(text, view.task, view.subtask)
        else:
            prediction = before.prediction
        return Decision(
            self.portfolio.names[start.tier],
            dict(zip(self.portfolio.names, prediction.pass_probability.tolist(), strict=True)),
            float(prediction.difficulty),
            start.scope,
            policy,
            self.claim(start),
            start.reason,
        )

    def accept(
        self, start: Start, tier: int, answer: str, tried: Mapping[str, str], signals: Mapping[str, float]
    ) -> tuple[bool, float | None, str]:
        """Accept an answer of a cheap tier, or escalate.

        Returns
        -------
        tuple
            Whether it is served, the confidence 1 - P(bad | evidence) (None when answers are not judged), and why.
        """
        name = self.portfolio.names[tier]
        if start.policy is None or start.before is None:
            return False, None, f"{name}: no policy applies; escalated"
        if start.policy.name == ROUTE_ONLY or not self.scorer.judges(tier, start.before.view):
            judged = start.before.judgements[tier]
            shown = None
        else:
            judged = self.scorer.after(start.before, tier, answer, tried, signals)
            shown = 1.0 - judged.risk
            if math.isnan(judged.risk):
                return False, shown, f"{name}: a signal the evidence model needs is missing; escalated"
        score = start.policy.score(judged.risk, judged.saving, start.before.toss)
        accepted = start.policy.accepts(tier, score)
        threshold = float(start.policy.accept[start.policy.step, tier])
        if math.isinf(threshold) and accepted:
            why = start.reason if tier == start.tier else f"{name} is not judged"
            return True, shown, f"{why}; decided before generating, served"
        sign, verdict = (">=", "served") if accepted else ("<", "escalated")
        risk = f"P(bad) {judged.risk:.3f}, " if shown is not None else ""
        return accepted, shown, f"{name}: {risk}score {score:.4f} {sign} {threshold:.4f}; {verdict}"

    def claim(self, start: Start) -> dict[str, Any] | None:
        """What was shown of the policy a query started under, as plain values; None when nothing was."""
        if start.scope is None:
            return None
        certificate = self.certificates[start.scope, start.policy_name]
        if not certificate.certified:
            return None
        return {
            key: getattr(certificate, key)
            for key in ("scope", "policy", "risk", "alpha", "delta", "n", "bad", "lower_bound")
        }

    def outlives_departure(self, start: Start) -> bool:
        """Whether what was shown still holds when this query goes straight to the reference tier instead."""
        shown = None if start.scope is None else self.certificates.get((start.scope, start.policy_name))
        return shown is None or shown.risk in OUTLIVES_DEPARTURE

    def price(self, tier: str, prompt: str, answer: "Answer") -> float:
        """US dollars of one attempt: the caller's figure, else tokens at the portfolio's prices.

        Tokens the tier does not report are estimated at four UTF-8 bytes each.
        """
        if answer.cost_usd is not None:
            return answer.cost_usd
        sent = estimate_tokens(prompt) if answer.prompt_tokens is None else answer.prompt_tokens
        received = estimate_tokens(answer.text) if answer.completion_tokens is None else answer.completion_tokens
        return self.portfolio.tiers[self.portfolio.index(tier)].price(sent, received)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock, which belongs to one process."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _why(self, path: Policy, scores: list[float], tier: int) -> str:
        names = self.portfolio.names
        if tier == len(scores):
            return f"no cheap tier's score clears its start threshold; sent to {names[tier]}"
        threshold = float(path.start[path.step, tier])
        if math.isinf(threshold):
            return f"the cascade starts at {names[tier]}"
        return f"{names[tier]}: {path.ordering.replace('_', ' ')} {scores[tier]:.4f} >= {threshold:.4f}"

    def _warn(self, task: str) -> None:
        with self._lock:
            if task in self._warned:
                return
            if len(self._warned) < _WARNED:
                self._warned.add(task)
        warnings.warn(
            f"task {task!r} was never calibrated (known: {', '.join(self.scopes.subtasks)}); "
            "its queries go to the reference tier",
            stacklevel=3,
        )


def estimate_tokens(text: str) -> int:
    """Tokens of a text whose tier does not say: one for every four UTF-8 bytes, rounded up."""
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / _CHARACTERS_PER_TOKEN)
