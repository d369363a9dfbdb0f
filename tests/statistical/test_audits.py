"""P16 through the ledger: audits chosen by `Auditor`, stored, read back for the watch, and weighted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from ledgers import CERTIFICATE, accepted, url_of

from router_core import Attempt, Route
from router_core.audit_risk import estimate_risk, horvitz_thompson, losses_of
from router_core.audits import AuditDecision, Auditor, AuditPlan
from router_core.certificate import clopper_pearson
from router_core.errors import InputError
from router_core.ledger import Ledger
from router_core.ledger.audits import UNDER_WAY_S, audits_from_ledger
from router_core.ledger.records import records_from_ledger

from .checks import holds, note

pytestmark = pytest.mark.statistical

_DRAWS, _N, _LEVEL = 300, 1_500, 0.95
_TRUTH = 0.15
"""P(bad | doubt) = 0.3 * doubt, doubt uniform on [0, 1]."""


def _traffic(
    auditor: Auditor, draw: np.random.Generator, name: str, spared: list[AuditDecision] | None = None
) -> tuple[list[AuditDecision], list[bool]]:
    """The audits of one stream, doubtful answers chosen more often, and which of them were bad; others are spared."""
    doubt = draw.random(_N)
    bad = draw.random(_N) < 0.3 * doubt
    rates = np.where(doubt > 0.5, 0.3, 0.05)
    decisions = [auditor.decide(float(rates[i]), f"{name}-{i}") for i in range(_N)]
    chosen = [i for i, decision in enumerate(decisions) if decision.chosen]
    if spared is not None:
        spared += [decision for decision in decisions if not decision.chosen]
    return [decisions[i] for i in chosen], [bool(bad[i]) for i in chosen]


def _auditor(ledger: Ledger) -> Auditor:
    return Auditor(ledger, {"large": str}, price=lambda *_: 0.0, plan=AuditPlan(rate=0.05, budget_usd=1.0))


def test_p16_weighted_audits_cover_the_truth(tmp_path: Path) -> None:
    """P16: weighted by its probabilities the estimate is unbiased and its interval covers; unweighted neither."""
    with Ledger(url_of(tmp_path)) as ledger:
        auditor, draw = _auditor(ledger), np.random.default_rng(16)
        weighted, plain, missed, missed_plain = [], [], 0, 0
        for r in range(_DRAWS):
            decisions, bad = _traffic(auditor, draw, str(r))
            chances = [decision.probability for decision in decisions]
            weighted.append(horvitz_thompson(bad, chances, _N))
            plain.append(float(np.mean(bad)))
            told = estimate_risk(bad, chances, _LEVEL)
            missed += not told.low <= _TRUTH <= told.high
            low, high = clopper_pearson(sum(bad), len(bad), _LEVEL)
            missed_plain += not low <= _TRUTH <= high

    def biased(values: list[float]) -> bool:
        note(f"P16 mean {np.mean(values):.4f}, truth {_TRUTH}")
        return bool(abs(np.mean(values) - _TRUTH) > 4 * np.std(values) / np.sqrt(_DRAWS))

    assert not biased(weighted)
    assert biased(plain), "the mutant that forgets the probabilities must show"
    assert holds("P16 interval", missed, _DRAWS, 1 - _LEVEL)
    assert not holds("P16 unweighted interval", missed_plain, _DRAWS, 1 - _LEVEL)


def test_p16_thinned_audits_are_a_plain_sample(tmp_path: Path) -> None:
    """Records for calib thin audits of unequal rates: their share of bad answers is exact; unthinned it is not."""
    with Ledger(url_of(tmp_path), store_text=True) as ledger:
        auditor, draw = _auditor(ledger), np.random.default_rng(17)
        every: list[bool] = []
        spared: list[AuditDecision] = []
        for r in range(12):
            decisions, bad = _traffic(auditor, draw, str(r), spared)
            every += bad
            for decision, wrong in zip(decisions, bad, strict=True):
                ledger.append(accepted(), text=f"query {decision.id}", reference="large", audit=decision)
                reference = ledger.attempt(
                    "large", accepted("good").answer, accepted=False, cost_usd=1e-3, latency_ms=1.0, reason="audit"
                )
                quality = {"small": float(not wrong), "large": 1.0}
                ledger.audited(
                    decision.id, (reference,), position=1, quality=quality, value=quality["small"], text="good"
                )
            ledger.flush(60)
            for decision in spared:
                ledger.append(accepted(), text=f"query {decision.id}", reference="large", audit=decision)
            spared.clear()
    records = records_from_ledger(url_of(tmp_path), split="calib")
    rows = [i for i, split in enumerate(records.split) if split == "calib"]
    wrong = int((records.quality[rows, 0] < 1.0).sum())
    low, high = clopper_pearson(wrong, len(rows), 0.9999)
    note(f"P16 thinned {wrong}/{len(rows)}, unthinned {np.mean(every):.4f}, truth {_TRUTH}")
    assert low <= _TRUTH <= high
    low, high = clopper_pearson(sum(every), len(every), 0.9999)
    assert not low <= _TRUTH <= high
    audits = list(audits_from_ledger(url_of(tmp_path)))
    assert len(audits) == len(every)
    assert sum(audit.bad for audit in audits) == sum(every)


def test_the_watch_reads_what_a_ledger_knows(tmp_path: Path) -> None:
    """Cheap and reference-served audits are listed with their probability, failed ones as such; uncertified are not."""
    sure = Route(
        "large", accepted().answer, (Attempt("large", None, 1e-3, True, "x"),), 1e-3, "mood/x", "mood/*", "cascade",
        "b" * 64, CERTIFICATE, "x",
    )  # fmt: skip
    with Ledger(url_of(tmp_path)) as ledger:
        for name, route, value in (
            ("good", accepted(), 1.0),
            ("fair", accepted(), 0.75),
            ("failed", accepted(), None),
            ("sure", sure, None),
        ):
            ledger.append(route, text=name, reference="large", audit=AuditDecision(name, True, 0.25), at=1.0)
            ledger.audited(name, (), position=1, quality={}, value=value, text=None)
        # An audit that served nothing certified: bad, so that reading it would show.
        ledger.append(
            replace(accepted(), certificate=None),
            reference="large",
            audit=AuditDecision("uncertified", True, 0.25),
            at=1.0,
        )
        ledger.audited("uncertified", (), position=1, quality={}, value=0.0, text=None)
        ledger.append(accepted(), reference="large", audit=AuditDecision("not", False, 0.25))
    told = {audit.key: audit for audit in audits_from_ledger(url_of(tmp_path), tolerance=0.2)}
    assert {key: (audit.cheap, audit.bad, audit.failed) for key, audit in told.items()} == {
        "good": (True, False, ""),
        "fair": (True, True, ""),
        "failed": (True, False, "no grade"),
        "sure": (False, False, ""),
    }
    assert not {a.key: a.bad for a in audits_from_ledger(url_of(tmp_path), tolerance=0.25)}["fair"]
    assert (told["sure"].task, told["sure"].scope, told["sure"].propensity) == ("mood/x", "mood/*", 0.25)
    losses, chances = losses_of(told.values(), "selective")
    assert (sorted(losses), set(chances)) == ([0.0, 0.0, 1.0], {0.25})
    assert len({audit.groups for audit in told.values()}) == 4


def test_an_audit_under_way_has_not_failed(tmp_path: Path) -> None:
    """For minutes it and those after it are waited for; then it failed, as one does whose reference tier raises."""
    with Ledger(url_of(tmp_path)) as ledger:
        broken = ledger.attempt(
            "large", None, accepted=False, cost_usd=0.0, latency_ms=1.0, reason="audit failed: TimeoutError"
        )
        for at, name in enumerate(("broken", "begun", "done", "odd")):
            decision = AuditDecision(name, True, 0.5)
            ledger.append(
                accepted(), text="hello", reference="large", audit=decision, at=1000.0 + at, conversation=f"c{at // 2}"
            )
            if name != "begun":
                attempts = (broken,) if name == "broken" else ()
                value = {"broken": None, "done": 0.0, "odd": 99.0}[name]
                ledger.audited(name, attempts, position=1, quality={}, value=value, text=None)
    url = url_of(tmp_path)
    assert [audit.key for audit in audits_from_ledger(url, now=1000.0 + UNDER_WAY_S)] == ["broken"]
    late = {audit.key: audit for audit in audits_from_ledger(url, now=1001.5 + UNDER_WAY_S)}
    assert {key: (audit.bad, audit.failed) for key, audit in late.items()} == {
        "broken": (False, "large: TimeoutError"),
        "begun": (False, "no result within 15 minutes"),
        "done": (True, ""),
        "odd": (False, "no grade"),
    }
    # The same text in two conversations.
    groups = [audit.groups for audit in late.values()]
    assert groups[0] == groups[1] != groups[2]
    assert len({group for both in groups for group in both}) == 3


def test_an_impossible_probability_is_named(tmp_path: Path) -> None:
    """A row that no audit wrote is named, with what to do about it."""
    with Ledger(url_of(tmp_path)) as ledger:
        ledger.append(accepted(), reference="large", audit=AuditDecision("z10", True, 3.0))
    with pytest.raises(InputError, match=r"route 'z10' has the audit probability 3\.0.*delete or correct"):
        list(audits_from_ledger(url_of(tmp_path)))
