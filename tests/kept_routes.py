"""What a ledger kept of scripted tiers' answers, and checks of it that hold whatever framework asked."""

from __future__ import annotations

from typing import Any

import pytest
from bundles import DOUBTFUL, TIERS

from router_core.audits import AuditPlan
from router_core.ledger import Ledger
from router_core.ledger.reader import LedgerReader, LoggedRoute

PLAN = AuditPlan(rate=1.0, budget_usd=1.0)
UNSURE: dict[str, dict[str, Any]] = {name: {"reply": DOUBTFUL} for name in ("small", "medium")}


def kept(ledger: Ledger) -> list[LoggedRoute]:
    """What a ledger stored, once it is."""
    assert ledger.flush(20)
    return list(LedgerReader(ledger._address).routes())


def check_whole(ledger: Ledger, route: dict[str, Any], text: str) -> None:
    """Check the only row, of a "mood" query in a conversation, against the answer's route and one correction."""
    ledger.feedback(route["id"], "correction", text="It is good.")
    (row,) = kept(ledger)
    assert row.id == route["id"]
    assert (row.tier, row.task, row.bundle, row.reference) == (route["tier"], "mood", route["bundle"], "large")
    assert [(a.tier, a.accepted) for a in row.attempts] == [(a["tier"], a["accepted"]) for a in route["attempts"]]
    assert [a.model_name for a in row.attempts] == [f"{a.tier}-1" for a in row.attempts]
    assert all(a.answer for a in row.attempts)
    assert row.cost_usd == pytest.approx(route["cost_usd"])
    assert row.certified == (route["certificate"] is not None)
    assert row.text == text
    assert row.conversation is not None
    (told,) = row.feedback
    assert (told.kind, told.text) == ("correction", "It is good.")


def check_left(ledger: Ledger, count: int) -> None:
    """Check the rows of streams that were left: what was shown, uncertified, and an audit that asked all tiers."""
    rows = kept(ledger)
    assert len(rows) == count
    for row in rows:
        assert row.attempts[0].answer
        assert "left before its end" in str(row.reason)
        assert (row.certified, row.audited, row.audit_probability) == (False, True, 1.0)
        whole = {one.tier: one for one in row.attempts if one.whole}
        assert [(name, one.audit) for name, one in whole.items()] == [(name, True) for name in TIERS]
        assert row.cost_usd


def check_audited(ledger: Ledger, route: dict[str, Any]) -> None:
    """Check the only row, whose cheap answer an audit by all tiers found bad."""
    assert route["tier"] == "small"
    (row,) = kept(ledger)
    assert (row.audited, row.audit_probability) == (True, 1.0)
    assert [(a.tier, a.audit, a.quality) for a in row.attempts] == [
        ("small", False, 0.0),
        ("medium", True, 0.0),
        ("large", True, 1.0),
    ]
    assert [told.value for told in row.feedback] == [0.0]
    assert row.cost_usd == pytest.approx(route["cost_usd"])
