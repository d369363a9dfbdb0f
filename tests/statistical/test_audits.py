"""P16: accepted traffic has labels from audits only; audits of unequal probability must be weighted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.audit_estimate import estimate_risk
from router_core.audits import Auditor, AuditPlan
from router_core.certificate import clopper_pearson
from router_core.errors import InputError
from router_core.ledger import Ledger

from .checks import holds, note

pytestmark = pytest.mark.statistical

_DRAWS, _N, _LEVEL = 300, 1_500, 0.95


def test_p16_weighted_audits_cover_the_truth(tmp_path: Path) -> None:
    """P16: doubtful answers are audited more often; weighting is unbiased, unweighted audits overstate the risk."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'unused.db'}")
    auditor = Auditor(ledger, {"large": str}, price=lambda *_: 0.0, plan=AuditPlan(rate=0.05, budget_usd=1.0))
    draw = np.random.default_rng(16)
    truth = float(0.3 * 0.5)  # P(bad | doubt) = 0.3 * doubt, doubt uniform on [0, 1]
    estimates, plain, missed, missed_plain = [], [], 0, 0
    for r in range(_DRAWS):
        doubt = draw.random(_N)
        bad = draw.random(_N) < 0.3 * doubt
        rates = np.where(doubt > 0.5, 0.3, 0.05)
        decisions = [auditor.decide(float(rates[i]), f"{r}-{i}") for i in range(_N)]
        rows = [i for i, decision in enumerate(decisions) if decision.chosen]
        told = estimate_risk(
            [decisions[i].id for i in rows], bad[rows], [decisions[i].probability for i in rows], _N, _LEVEL
        )
        estimates.append(told.risk)
        missed += not told.interval[0] <= truth <= told.interval[1]
        low, high = clopper_pearson(int(bad[rows].sum()), len(rows), _LEVEL)
        plain.append(bad[rows].mean())
        missed_plain += not low <= truth <= high
    for name, values in (("weighted", estimates), ("unweighted", plain)):
        note(f"P16 {name}: mean {np.mean(values):.4f}, truth {truth:.4f}")
    error = np.std(estimates) / np.sqrt(_DRAWS)
    assert abs(np.mean(estimates) - truth) < 4 * error
    assert abs(np.mean(plain) - truth) > 4 * np.std(plain) / np.sqrt(_DRAWS), "the mutant must be biased"
    assert holds("P16 exact interval", missed, _DRAWS, 1 - _LEVEL)
    assert not holds("P16 unweighted interval", missed_plain, _DRAWS, 1 - _LEVEL)
    ledger.close()


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 1.0)), min_size=1, max_size=40), st.integers(0, 50))
def test_p16_the_estimate_is_the_weighted_sum(audits: list[tuple[bool, float]], more: int) -> None:
    """The estimate is the sum of 1 / probability over bad audits, by all queries; at one rate nothing is thinned."""
    bad, chances = [b for b, _ in audits], [p for _, p in audits]
    names, total = [f"id{i}" for i in range(len(audits))], len(audits) + more
    told = estimate_risk(names, bad, chances, total)
    assert told.risk == pytest.approx(sum(b / p for b, p in audits) / total)
    assert 1 <= told.thinned + (told.thinned == 0) <= len(audits)
    same = estimate_risk(names, bad, [0.2] * len(bad), total)
    assert same.thinned == len(bad)
    assert same.interval == pytest.approx(clopper_pearson(sum(bad), len(bad), 0.95))


@pytest.mark.parametrize(
    ("bad", "chances", "total"),
    [([], [], 5), ([1], [0.0], 5), ([1], [1.5], 5), ([2], [0.5], 5), ([1, 0], [0.5, 0.5], 1), ([1], [0.5, 0.5], 5)],
)
def test_audits_that_cannot_be_are_refused(bad: list[int], chances: list[float], total: int) -> None:
    """Impossible labels, probabilities and counts."""
    with pytest.raises(InputError, match="audits"):
        estimate_risk([str(i) for i in range(len(bad))], bad, chances, total)
