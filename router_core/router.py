"""The router: from a text and a task to the tier to start with, and from an answer to accept or escalate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router_core.claim import OUTLIVES_DEPARTURE, Certificate
from router_core.fingerprints import Fingerprints
from router_core.lapse import LapseWatch, Validity
from router_core.outages import Outages
from router_core.policy import CASCADE, ROUTE_ONLY, Policy
from router_core.portfolio import Portfolio
from router_core.pricing import attempt_price, estimate_tokens, expected_price
from router_core.release import bundle_folder
from router_core.route_text import NOTHING_ASKED
from router_core.scopes import Scopes
from router_core.scoring import Scorer, View
from router_core.start import Decision, Start
from router_core.unknown_tasks import UnknownTasks

if TYPE_CHECKING:
    from router_core.bundle import Bundle
    from router_core.route import Answer
    from router_core.sources import RouterSource

__all__ = ["Decision", "Router", "Scopes", "Start", "estimate_tokens"]


@dataclass(frozen=True, eq=False, repr=False)
class Router:
    """A loaded bundle, ready to decide; safe across threads.

    Stateless but for the tasks it has warned about, for what it knows of lapses (`router_core.lapse`): a scope whose
    certificate lapsed goes to the reference tier, and nothing is claimed of it; and for which tiers are away
    (`router_core.outages`): nothing is claimed meanwhile but of a joint risk, or one in expectation.
    """

    bundle_id: str
    portfolio: Portfolio
    scopes: Scopes
    scorer: Scorer
    policies: Mapping[tuple[str, str], Policy]
    certificates: Mapping[tuple[str, str], Certificate]
    mean_costs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    lapses: LapseWatch = field(default_factory=LapseWatch)
    outages: Outages = field(default_factory=Outages)
    unknown: UnknownTasks = field(default_factory=UnknownTasks)

    def __repr__(self) -> str:
        names, tasks = list(self.portfolio.names), list(self.scopes.subtasks)
        return f"Router(bundle={self.bundle_id[:12]!r}, tiers={names}, tasks={tasks})"

    @classmethod
    def load(
        cls, path: str | Path, *, threads: int | None = None, watch: bool = True, validity: Validity | None = None
    ) -> "Router":
        """Load and verify a bundle, or the one in the current release of a ROOT (`router_core.release`).

        Parameters
        ----------
        path
            Folder of the bundle, or a ROOT.
        threads
            Threads of one decision of a transformer router; ``ROUTENLP_THREADS`` or one when None. A setting of the
            process: the bundle and its id stay as they are.
        watch
            Look at the lapse file beside the bundle, at most once a second.
        validity
            How long its certificates are used; those the bundle's settings name when None.

        Raises
        ------
        BundleError
            When a file is changed, missing or extra, or the bundle is newer than this reader.
        """
        from router_core.bundle import Bundle

        # Resolved once: a link or ROOT that moves on meanwhile must not pair this bundle with another's lapses.
        folder = bundle_folder(path).resolve()
        bundle = Bundle.load(folder, threads)
        return cls.from_bundle(bundle, folder=folder if watch else None, validity=validity)

    @staticmethod
    def watch(root: str | Path, *, threads: int | None = None, validity: Validity | None = None) -> "RouterSource":
        """Follow a release ROOT: a source whose `get` gives every query the current release's router.

        Parameters and errors are those of `load`; InputError when the folder is no ROOT.
        """
        from router_core.sources import RouterSource

        return RouterSource(root, threads=threads, validity=validity)

    @classmethod
    def from_bundle(cls, bundle: "Bundle", *, folder: Path | None = None, validity: Validity | None = None) -> "Router":
        """Make a router of a bundle in memory; `folder` is where it lies if its lapses are to be watched."""
        means = bundle.settings.get("train_means", {})
        costs = {scope: tuple(cost for _, cost in tiers) for scope, tiers in means.items()}
        policies, shown = bundle.policies, bundle.certificates
        if validity is None:
            validity = Validity(bundle.settings.get("max_age_days"), bundle.settings.get("max_decisions"))
        lapses = LapseWatch(folder, bundle.id, validity, bundle.certified_at)
        return cls(bundle.id, bundle.portfolio, bundle.scopes, bundle.scorer, policies, shown, costs, lapses)

    def start(self, text: str, task: str | None = None, policy: str = CASCADE) -> Start:
        """Decide where a query starts.

        Parameters
        ----------
        text
            What is routed; without any text it is the reference tier's.
        task
            ``"task"``, ``"task/subtask"`` or None; see `Scopes.resolve`.
        policy
            ``"cascade"`` or ``"route_only"``.
        """
        last, reference = len(self.portfolio.tiers) - 1, self.portfolio.reference.name
        if not text or text.isspace():
            return self.force(text, task, policy, reference, NOTHING_ASKED)
        view = self.scopes.resolve(task or None)
        if view is None:
            self.unknown.warn(str(task), self.scopes.subtasks)
            reason = f"task {task!r} was never calibrated; sent to {reference}"
            return Start(text, task, None, policy, last, reason, None, None)
        path = self.policies[view.scope, policy]
        if path.step == 0:
            reason = f"no certificate for scope {view.scope!r}; sent to {reference}"
            return Start(text, task, view.scope, policy, last, reason, path, None)
        if lapsed := self.lapses.count(view.scope, policy):
            return Start(
                text, task, view.scope, policy, last, f"{lapsed}; sent to {reference}", None, None, lapsed=True
            )
        before = self.scorer.before(text, view, priced=path.priced)
        scores = [path.score(j.risk, j.saving, before.toss) for j in before.judgements]
        tier = path.first(scores)
        return Start(text, task, view.scope, policy, tier, path.why(scores, tier, self.portfolio.names), path, before)

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
            self.unknown.warn(str(task), self.scopes.subtasks)
        scope = None if view is None else view.scope
        lapsed = "" if scope is None else self.lapses.why(scope)
        reason = f"{why}; sent to {tier}"
        told = f"{reason}; {lapsed}" if lapsed else reason
        return Start(
            text, task, scope, policy, index, told, None, None, forced=True, departure=reason, lapsed=bool(lapsed)
        )

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
            judged = self.scorer.after(start.before, tier, answer, tried, signals, priced=start.policy.priced)
            shown = 1.0 - judged.risk
            if math.isnan(judged.risk):
                return False, shown, f"{name}: a signal the evidence model needs is missing; escalated"
        score = start.policy.score(judged.risk, judged.saving, start.before.toss)
        accepted = start.policy.accepts(tier, score)
        threshold = start.policy.thresholds[tier][1]
        if math.isinf(threshold) and accepted:
            why = start.reason if tier == start.tier else f"{name} is not judged"
            return True, shown, f"{why}; decided before generating, served"
        sign, verdict = (">=", "served") if accepted else ("<", "escalated")
        risk = f"P(bad) {judged.risk:.3f}, " if shown is not None else ""
        return accepted, shown, f"{name}: {risk}score {score:.4f} {sign} {threshold:.4f}; {verdict}"

    def claim(self, start: Start) -> dict[str, Any] | None:
        """What is claimed of the policy a query started under, as plain values.

        None when nothing was shown, it lapsed, or it is interrupted.
        """
        if start.scope is None or start.lapsed:
            return None
        certificate = self.certificates[start.scope, start.policy_name]
        if not certificate.certified or self.interrupted(start):
            return None
        return {
            key: getattr(certificate, key)
            for key in ("scope", "policy", "risk", "alpha", "delta", "n", "bad", "lower_bound")
        }

    def outlives_departure(self, start: Start) -> bool:
        """Whether what was shown still holds when this query goes straight to the reference tier instead."""
        shown = None if start.scope is None else self.certificates.get((start.scope, start.policy_name))
        return shown is None or shown.risk in OUTLIVES_DEPARTURE

    def interrupted(self, start: Start) -> str:
        """Why nothing is claimed just now: other queries depart from the policy. Empty where that harms no claim."""
        if start.scope is None or self.outlives_departure(start):
            return ""
        path = self.policies.get((start.scope, start.policy_name))
        cheap = () if path is None else path.in_force
        away = self.outages.why(self.portfolio.names[k] for k in (*cheap, -1))
        if not away:
            return ""
        return f"{away}; a {self.certificates[start.scope, start.policy_name].risk} certificate then claims nothing"

    @property
    def quick(self) -> bool:
        """Whether a decision takes less time than handing it to another thread would: the static encoder."""
        return self.scorer.encoder.kind == "static"

    def saw(self, tier: str, model_name: str | None) -> bool:
        """Count which model answered for a tier; when it is another than was certified, let certificates lapse.

        Every scope lapses whose policies call the tier, and all of them for the reference tier, in this process for
        as long as it lives.

        Parameters
        ----------
        tier
            Name of the tier that answered.
        model_name
            What the answer says of itself, None when it says nothing.

        Returns
        -------
        bool
            Whether the model changed: this very answer is then no certified one.
        """
        why = self.fingerprints.saw(tier, model_name)
        if not why:
            return False
        index = self.portfolio.index(tier)
        if index == len(self.portfolio.tiers) - 1:
            self.lapses.lapse(None, why)
        for (scope, _), path in self.policies.items():
            if index in path.called:
                self.lapses.lapse(scope, why)
        return True

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Which models answered for each tier, as far as `saw` was told."""
        return Fingerprints(self)

    def price(self, tier: str, prompt: str, answer: "Answer") -> float:
        """US dollars of one attempt; see `router_core.pricing.attempt_price`."""
        return attempt_price(self.portfolio.tiers[self.portfolio.index(tier)], prompt, answer)

    def expected_price(self, tier: int, start: Start, prompt_tokens: int | None = None) -> float:
        """US dollars that one attempt is expected to cost, before it is made.

        Parameters
        ----------
        tier
            Position of the tier.
        start
            The query.
        prompt_tokens
            Tokens it will be sent; estimated at four UTF-8 bytes each of the routed text when None.
        """
        means = self.mean_costs.get(start.scope or "overall") or self.mean_costs.get("overall")
        sent = estimate_tokens(start.text) if prompt_tokens is None else prompt_tokens
        return expected_price(self.portfolio.tiers[tier], sent, None if means is None else means[tier])
