"""The gate: each planted fault is refused for its own reason, and a gate without that check would let it pass."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from exporters.loop.gate import CHECKS, Claim, Measurements, StudentMeasure, Terms, judge
from exporters.loop.options import Limits
from router_core.fitting.incumbent import Compared, Comparison

GOOD = Compared(
    n=100, reference_usd=1e-3, old_usd=4e-4, new_usd=2e-4, difference_usd=(-3e-4, -1e-4), reference_quality=1.0,
    old_quality=0.98, new_quality=0.98, old_quality_ratio=(0.96, 1.0), new_quality_ratio=(0.96, 1.0),
    shortfall_upper=0.04, old_bad=2, new_bad=2, old_bad_share=(0.004, 0.062), new_bad_share=(0.004, 0.062),
    old_share=(0.7, 0.3), new_share=(0.9, 0.1),
)  # fmt: skip


def fine(**changes: Any) -> Measurements:
    """Measurements that nothing speaks against."""
    given = {
        "candidate": "c1",
        "certified_candidate": "c1",
        "fold_sha256": {"mood": "f1", "tone": "f1"},
        "compared_sha256": "all",
        "claims": tuple(Claim(task, "cascade", True, True, "f1", 1) for task in ("mood", "tone")),
        "comparison": Comparison("old", "all", 0.9, GOOD, {"mood": GOOD, "tone": GOOD}),
        "quality_loss": {"mood": 0.05, "tone": 0.05},
        "students": {"mood": StudentMeasure(20.0, 3.0)},
        "router_ms": 1.0,
    }
    return Measurements(**{**given, **changes})


def with_task(**changes: Any) -> Comparison:
    """A comparison that is good overall and on one task, and changed on the other."""
    return Comparison("old", "all", 0.9, GOOD, {"mood": GOOD, "tone": replace(GOOD, **changes)})


HELD = Terms("joint", 0.05, 0.1, 0.0)


def for_less(**changes: Any) -> Measurements:
    """Measurements of a release that claims something else than the one that serves."""
    return fine(claims=(Claim("mood", "cascade", True, True, "f1", 1, replace(HELD, **changes), HELD),))


useless = Comparison(
    "old", "all", 0.9, replace(GOOD, new_usd=4e-4, difference_usd=(-2e-5, 3e-5)), {"mood": GOOD, "tone": GOOD}
)
FAULTS = {
    "calibration ids leaked": ("leak", fine(leaked=3)),
    "near-duplicates of calibration taught": ("leak", fine(near=2)),
    "corrupted checkpoint": ("hashes", fine(broken=("checkpoint t1 was changed",))),
    "certificate of another candidate": ("certificate", fine(certified_candidate="c0")),
    "certificate of another fold": ("certificate", fine(claims=(Claim("mood", "cascade", True, True, "f0", 1),))),
    "comparison of another fold": ("certificate", fine(compared_sha256="other")),
    "fold used twice": ("certificate", fine(claims=(Claim("mood", "cascade", True, True, "f1", 2),))),
    "shuffled labels: no cheaper": ("cost", fine(comparison=useless)),
    "certificate lost": ("certificates kept", fine(claims=(Claim("mood", "cascade", False, True, "f1", 1),))),
    "larger alpha": ("certificates kept", for_less(alpha=0.5)),
    "larger delta": ("certificates kept", for_less(delta=0.45)),
    "larger tolerance": ("certificates kept", for_less(tolerance=0.2)),
    "another kind of risk": ("certificates kept", for_less(risk="expectation", delta=None)),
    "cheaper overall, dearer on one task": ("dearer task", fine(comparison=with_task(difference_usd=(1e-5, 2e-4)))),
    "cheaper overall, worse on one task": ("quality", fine(comparison=with_task(shortfall_upper=0.07))),
    "too large": ("size", fine(students={"mood": StudentMeasure(300.0, 3.0)})),
    "student too slow": ("latency", fine(students={"mood": StudentMeasure(20.0, 3_000.0)})),
    "router too slow": ("latency", fine(router_ms=500.0)),
}


def test_nothing_against_it_promotes() -> None:
    """Measurements without a fault are promoted, and come back from JSON as they were."""
    assert judge(fine(), Limits()).promoted
    assert Measurements.from_json(fine().to_json()) == fine()
    stronger = for_less(alpha=0.04, delta=0.05)
    assert judge(stronger, Limits()).promoted
    assert Measurements.from_json(json.loads(json.dumps(stronger.to_json()))) == stronger


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_refused_for_its_own_reason(name: str) -> None:
    """The check that is meant refuses, alone; the mutant gate without it promotes."""
    check, measured = FAULTS[name]
    verdict = judge(measured, Limits())
    assert not verdict.promoted
    assert list(verdict.reasons) == [check]
    assert all(verdict.reasons[check])
    assert judge(measured, Limits(), {other: one for other, one in CHECKS.items() if other != check}).promoted
