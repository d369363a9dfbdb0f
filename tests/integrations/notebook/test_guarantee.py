"""What the notebook on the guarantee says of rules is what METHOD.md, Part 3 found."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from routenlp_integrations.notebook import REFERENCE, Population
from routenlp_integrations.notebook.guarantee import RULES, certified_share, compare, delays, deploy, drift, false_finds
from routenlp_integrations.notebook.guarantee_pictures import picture_risks, picture_rules

DRAWS, ALPHA, DELTA = 500, 0.05, 0.1
LIMIT = int(binom.isf(1e-4, DRAWS, DELTA))


def test_the_certificate_holds_and_the_broken_rules_fail_the_same_check() -> None:
    """At most the limit of violations for the certificate, more for every other rule; means as in METHOD.md."""
    deployed = {rule: deploy(rule, n=500, draws=DRAWS, alpha=ALPHA, delta=DELTA) for rule in RULES}
    broken = {rule: round(one.broken * DRAWS) for rule, one in deployed.items()}
    assert broken.pop("certificate") <= LIMIT
    assert min(broken.values()) > LIMIT
    assert deployed["quantile of correct items"].joint.mean() == pytest.approx(0.139, abs=0.01)
    assert deployed["conformal risk control"].joint.mean() == pytest.approx(0.050, abs=0.002)
    assert deployed["certificate"].joint.mean() == pytest.approx(0.036, abs=0.003)
    assert len(compare(list(deployed.values()))) == len(RULES)
    assert "certificate" in repr(picture_rules(list(deployed.values())))


def test_a_scan_finds_what_is_not_there() -> None:
    """The best of 200 tests fails the check that the fixed sequence passes."""
    scan, sequence = (row["false certificates"] for row in false_finds(draws=DRAWS))
    assert round(sequence * DRAWS) <= LIMIT < round(scan * DRAWS)


def test_more_items_buy_more_cheap_answers() -> None:
    """The share of cheap answers grows with n, below what an oracle may serve."""
    found = certified_share((100, 2_000), draws=100)
    few, many = (one.share.mean() for one, _ in found.values())
    assert few < many < 0.665
    assert [allowed for _, allowed in found.values()] == [1, 87]
    assert "66 % by joint, 54 % by selective" in repr(picture_risks(ALPHA))


def test_the_watch_hears_what_the_score_does_not_see() -> None:
    """Nothing and a shift that the score sees stay silent; answers that got worse unseen are heard after the change."""
    threshold = float(REFERENCE.path(100)[59])
    same = drift("same", threshold, REFERENCE)
    seen = drift("seen", threshold, REFERENCE, harder=True)
    worse = drift("worse", threshold, Population(centre=0.42))
    assert same.raised is None
    assert seen.raised is None
    assert seen.after < seen.before < ALPHA < worse.after
    assert worse.raised is not None
    assert worse.raised > worse.at


def test_delays_count_false_alarms_apart() -> None:
    """Quantiles of the delay are in order, and every stream is heard, missed or false."""
    (row,) = delays(float(REFERENCE.path(100)[59]), Population(centre=0.42), streams=8)
    assert 0 < row["noticed after (10 %)"] <= row["middle"] <= row["90 %"] <= 2_000
    assert row["false, before the change"] + row["never"] < row["streams"] == 8
