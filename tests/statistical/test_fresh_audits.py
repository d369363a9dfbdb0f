"""A fold of fresh audits certifies: coverage over traffic drawn anew, and the folds that look like it and do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from router_core.audits import Auditor, AuditPlan
from router_core.ledger import Ledger
from router_core.ledger.sample import Logged, uniform_sample

from .checks import ALPHA, DELTA, holds, last_steps
from .population import REFERENCE, path_bad_counts

pytestmark = pytest.mark.statistical

_DRAWS, _GROUPS, _RATE = 250, 900, 0.25
_CAREFUL = 0.25
"""The incumbent accepts below this uncertainty, where answers are rarely bad."""
_LONG = 0.43
"""Conversations above it, which no valid policy accepts, have six turns, all others one."""


class Traffic:
    """One stream: conversations whose turns share their uncertainty, and B of each turn.

    Attributes
    ----------
    logged
        Every turn, audits decided by the production rule.
    u, bad
        Of each turn, by its place in `logged`.
    sampled
        Places of the turns that make the fold.
    """

    def __init__(self, auditor: Auditor, rng: np.random.Generator, name: str) -> None:
        u, bad = REFERENCE.draw(rng, _GROUPS)
        self.logged: list[Logged] = []
        self.u, self.bad = [], []
        for group in range(_GROUPS):
            for turn in range(6 if u[group] > _LONG else 1):
                decision = auditor.decide(id=f"{name}-{group}-{turn}")
                told = decision.id, float(len(self.logged)), f"g{group}", decision.probability, decision.chosen
                self.logged.append(Logged(*told))
                self.u.append(float(u[group]))
                self.bad.append(bool(bad[group]))
        ids = uniform_sample(lambda: self.logged).ids
        self.sampled = [i for i, one in enumerate(self.logged) if one.id in ids]

    def risky(self, rows: list[int]) -> bool:
        """Whether the policy that a fold of these rows certifies breaks its promise."""
        u, bad = np.array(self.u)[rows], np.array(self.bad)[rows]
        step = int(last_steps(path_bad_counts(u[None], bad[None], REFERENCE.path()), len(rows))[0])
        return step > 0 and bool(_risks()[step - 1] > ALPHA)


@cache
def _risks() -> np.ndarray:
    """True risk of every step of the path."""
    return REFERENCE.joint_risk(REFERENCE.path())


def _accepted_only(traffic: Traffic) -> list[int]:
    """Escalations have the reference's answer anyhow, so only what was accepted is taken."""
    return [i for i in traffic.sampled if traffic.u[i] <= _CAREFUL]


def _answered_only(traffic: Traffic) -> list[int]:
    """Audits of hard queries fail more often, and those that failed are dropped."""
    return [i for i in traffic.sampled if not (traffic.bad[i] and int(traffic.logged[i].group[1:]) % 2)]


def _any_turn(traffic: Traffic) -> list[int]:
    """Of a conversation any audited turn: long ones come in too often, and dilute the others."""
    first = {one.group: i for i, one in reversed(list(enumerate(traffic.logged))) if one.audited}
    return sorted(first.values())


def _every_turn(traffic: Traffic) -> list[int]:
    """Every audited turn counts as a query of its own."""
    return [i for i, one in enumerate(traffic.logged) if one.audited]


def _learned(traffic: Traffic) -> list[int]:
    """A fold that was taught: what the student got wrong in it, it gets right now, there and nowhere else."""
    for i in traffic.sampled:
        traffic.bad[i] = False
    return traffic.sampled


_MUTANTS: dict[str, Callable[[Traffic], list[int]]] = {
    "accepted only": _accepted_only,
    "answered only": _answered_only,
    "any turn": _any_turn,
    "every turn": _every_turn,
    "learned": _learned,
}


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Auditor:
    """Decides; nothing is asked."""
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('fresh') / 'ledger.db'}")
    return Auditor(ledger, {"large": str}, price=lambda *_: 0.0, plan=AuditPlan(_RATE, budget_usd=1.0))


def test_a_fold_of_fresh_audits_covers_and_its_mutants_do_not(auditor: Auditor) -> None:
    """P(certified and risk > alpha) <= delta over traffic; biased, dropped, repeated and learned folds exceed it."""
    rng = np.random.default_rng(2026)
    broken = dict.fromkeys(("fresh audits", *_MUTANTS), 0)
    for r in range(_DRAWS):
        traffic = Traffic(auditor, rng, str(r))
        broken["fresh audits"] += traffic.risky(traffic.sampled)
        for name, rule in _MUTANTS.items():
            broken[name] += traffic.risky(rule(traffic))
    assert holds("fresh audits", broken.pop("fresh audits"), _DRAWS, DELTA)
    kept = [name for name, count in broken.items() if holds(f"fresh audits, {name}", count, _DRAWS, DELTA)]
    assert not kept, f"these mutants must show: {kept}"
