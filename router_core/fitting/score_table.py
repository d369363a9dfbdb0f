"""Scores of logged queries, as every path compares them: out of fold or held out, before and after each answer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router_core.kernels import bad_served, sweep
from router_core.policy import CASCADE, Ordering, Policy
from router_core.risks import Served

__all__ = ["ScoreTable"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Everything a path may compare, for n queries under one view.

    Attributes
    ----------
    risk
        float64 [n, K-1], P(bad) before any answer.
    saving, toss
        float64 [n].
    after
        For each (tier, tried set): P(bad | evidence) and saving, float64 [2, n].
    judged
        Per cheap tier, whether its answers can be judged.
    cost
        float64 [n, K], US dollars.
    bad
        uint8 [n, K].
    quality
        float64 [n, K].
    failed
        bool [n, K-1], answers that are blank: serving sends such a query to the reference tier.
    missing
        bool [n, K-1], answers or signals the records lack although they can be judged.
    """

    risk: Floats
    saving: Floats
    toss: Floats
    after: dict[tuple[int, tuple[int, ...]], Floats]
    judged: tuple[bool, ...]
    cost: Floats
    bad: NDArray[np.uint8]
    quality: Floats
    failed: NDArray[np.bool_]
    missing: NDArray[np.bool_]

    def take(self, rows: NDArray[np.intp]) -> ScoreTable:
        """The given rows."""
        after = {key: value[:, rows] for key, value in self.after.items()}
        return ScoreTable(
            self.risk[rows],
            self.saving[rows],
            self.toss[rows],
            after,
            self.judged,
            self.cost[rows],
            self.bad[rows],
            self.quality[rows],
            self.failed[rows],
            self.missing[rows],
        )

    def scored_by(self, risk: Floats) -> ScoreTable:
        """The same rows under a rival's P(bad), float64 [n, K-1], that decides before generating."""
        unjudged = (False,) * risk.shape[1]
        return replace(self, risk=risk, after={}, judged=unjudged, missing=np.zeros_like(self.missing))

    def at_worst(self, policy: Policy) -> ScoreTable:
        """The same rows with every doubt counted against the policy.

        A row that lacks an answer or a signal the policy would judge is taken to be accepted at once, bad and
        worthless: nobody knows what serving, which has them, would do with it.
        """
        judged = [tier for tier in policy.called if self.judged[tier] and policy.name == CASCADE]
        unknown = self.missing[:, judged].any(axis=1) if policy.ordering != "coin" else np.zeros(len(self.risk), bool)
        if not unknown.any():
            return self
        cheap, last = np.arange(self.cost.shape[1]) < self.cost.shape[1] - 1, np.finfo(np.float64).max
        bad, quality, failed = self.bad.copy(), self.quality.copy(), self.failed.copy()
        bad[np.ix_(unknown, cheap)], quality[np.ix_(unknown, cheap)], failed[unknown] = 1, 0.0, False
        after = {key: np.where(unknown, np.array([[-last], [1.0]]), value) for key, value in self.after.items()}
        return replace(self, bad=bad, quality=quality, failed=failed, after=after)

    def scores(self, policy: Policy) -> tuple[Floats, Floats]:
        """Start scores [n, K-1] and accept scores [n, K-1, K-1] of a policy, as `kernels.sweep` takes them."""
        cheap = self.risk.shape[1]
        start = _order(policy.ordering, policy.offset, self.risk, self.saving[:, None], self.toss[:, None])
        accept = np.repeat(start[:, None, :], cheap, axis=1)
        if policy.name == CASCADE and policy.ordering != "coin":
            called = policy.called
            for first, last in itertools.combinations_with_replacement(range(len(called)), 2):
                tier = called[last]
                if self.judged[tier]:
                    risk, saving = self.after[tier, called[first:last]]
                    accept[:, called[first], tier] = _order(policy.ordering, policy.offset, risk, saving, self.toss)
        return start, accept

    def replay(self, policy: Policy) -> tuple[NDArray[np.int8], Floats]:
        """Served tier [G, n] and cost [G, n] of every step of a path."""
        return sweep(*self.scores(policy), policy.start, policy.accept, self.cost, self.failed)

    def outcomes(self, policy: Policy) -> tuple[Served, Floats]:
        """What every step of a path serves, as `router_core.risks` tests it, and its cost [G, n]."""
        served, cost = self.replay(policy)
        at = np.arange(served.shape[1])
        cheap = np.asarray(served < self.cost.shape[1] - 1)
        return Served(bad_served(served, self.bad), cheap, self.quality[at, served], self.quality[:, -1]), cost


def _order(ordering: Ordering, offset: float, risk: Floats, saving: Floats, toss: Floats) -> Floats:
    """The same arithmetic as `Policy.score`, on arrays."""
    if ordering == "coin":
        return np.broadcast_to(1.0 - toss, np.broadcast_shapes(risk.shape, toss.shape)).copy()
    if ordering == "confidence":
        return np.asarray(1.0 - risk)
    return np.asarray(-(risk + offset) / saving)
