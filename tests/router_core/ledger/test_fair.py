"""Which audits of a ledger may certify: of the certified models, as they were routed, drawn from all of the traffic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from bundles import PORTFOLIO, small_records
from ledgers import look, url_of

from router_core import Answer, Attempt, InputError, Route
from router_core.audits import AuditDecision
from router_core.bundle import Bundle
from router_core.certificate import clopper_pearson
from router_core.fitting.calibrate_bundle import calibrate
from router_core.ledger import Ledger, fair, new_id
from router_core.ledger.records import records_from_ledger
from router_core.portfolio import Portfolio
from router_core.records import Records

_CHECKPOINT = "5" * 64
_NAMES = {"small": "small-1", "medium": "medium-1-2026-01-02", "large": "large-1"}
_WORDS = ("kettle", "lamp", "violin", "jacket", "garden", "novel", "ferry", "sofa", "clock", "bicycle", "harbour")


def _text(i: int) -> str:
    """A text that is unlike every other one."""
    draw = np.random.default_rng(i)
    return " ".join([*draw.choice(_WORDS, 40), str(i)])


def _log(
    ledger: Ledger, text: str, *, wrong: bool = False, chosen: bool = True, rate: float | None = 1.0, **more: Any
) -> str:
    """A query that every tier answered, the cheap tier wrongly or not, with its audit where chance chose it."""
    answers = {name: Answer("bad" if wrong and name == "small" else "good", 9, 1) for name in PORTFOLIO.names}
    attempts = tuple(Attempt(name, None, 1e-4, name == "large", "x") for name in answers)
    route = Route(
        "large", answers["large"], attempts, 0.0, "mood", "mood", "cascade", more.pop("bundle", "b"), None, "x"
    )
    decision = None if rate is None else AuditDecision(new_id(), chosen, rate)
    name = ledger.append(
        route, text=text, answers=answers, reference="large", audit=decision, models=more.pop("models", _NAMES), **more
    )
    if decision is not None and chosen:
        ledger.audited(name, (), position=3, quality={"small": float(not wrong), "large": 1.0}, value=1.0, text="good")
    return name


def _calib(tmp_path: Path, **more: Any) -> Records:
    found = records_from_ledger(url_of(tmp_path), split="calib", **more)
    return found.take([i for i, split in enumerate(found.split) if split == "calib"])


def _covers(records: Records, truth: float) -> bool:
    bad = int((records.quality[:, 0] < records.quality[:, -1]).sum())
    low, high = clopper_pearson(bad, len(records), 0.9999)
    return bool(low <= truth <= high)


def test_what_other_models_answered_does_not_certify(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audits of the model before it was exchanged are left out and counted; the mutant that takes them understates."""
    draw = np.random.default_rng(5)
    for i in range(400):
        old = i < 250
        models = {**_NAMES, "small": "gpt-9-giant"} if old else _NAMES
        _log(ledger, _text(i), wrong=draw.random() < (0.02 if old else 0.3), models=models)
    assert ledger.flush(20)
    records = _calib(tmp_path, portfolio=PORTFOLIO)
    assert len(records) == 150
    assert "250 answered by another model than the certified one (small as 'gpt-9-giant') left out" in records.source
    assert _covers(records, 0.3)
    monkeypatch.setattr(fair, "fingerprint_changed", lambda *_: False)
    assert not _covers(_calib(tmp_path, portfolio=PORTFOLIO), 0.3)


def test_calibrate_certifies_on_its_own_models_only(small_bundle: Path, tmp_path: Path, ledger: Ledger) -> None:
    """A ledger of another model's answers certifies nothing; routes of other bundles with the same models do."""
    bundle, records = Bundle.load(small_bundle), small_records(seed=5)

    def log(rows: range, bundle_id: str, **models: str) -> None:
        for i in rows:
            answers = {name: Answer(records.response[i][k] or "", 9, 3) for k, name in enumerate(PORTFOLIO.names)}
            attempts = tuple(Attempt(name, None, 1e-4, name == "large", "x") for name in answers)
            task = records.task[i]
            route = Route("large", answers["large"], attempts, 0.0, task, task, "cascade", bundle_id, None, "x")
            audit = AuditDecision(new_id(), True, 1.0)
            ledger.append(
                route, text=records.prompt[i], answers=answers, reference="large", audit=audit,
                models={**_NAMES, **models},
            )  # fmt: skip
            quality = {name: float(records.quality[i, k]) for k, name in enumerate(PORTFOLIO.names)}
            ledger.audited(audit.id, (), position=3, quality=quality, value=1.0, text="x")
        assert ledger.flush(20)

    log(range(100), "another-bundle", small="gpt-9-giant")
    with pytest.raises(InputError, match=r"100 answered by another model .*small as 'gpt-9-giant'.* left out"):
        calibrate(bundle, url_of(tmp_path))
    log(range(100, 220), "another-bundle")
    told = calibrate(bundle, url_of(tmp_path)).report["calibrated"]
    assert told["n"] + told["repeats"] == 120
    assert "100 answered by another model" in told["source"]


def test_students_of_another_release_do_not_certify(tmp_path: Path, ledger: Ledger) -> None:
    """A tier that learns is known by its checkpoint: another one's answers, and unnamed ones elsewhere, go."""
    small, *others = PORTFOLIO.tiers
    portfolio = Portfolio((replace(small, model=_CHECKPOINT), *others))
    mine = _log(ledger, _text(0), models={**_NAMES, "small": f"student-{_CHECKPOINT[:12]}"})
    _log(ledger, _text(1), models={**_NAMES, "small": f"student-{'6' * 12}"})
    _log(ledger, _text(2), models={"large": "large-1"}, bundle="before")
    unnamed = _log(ledger, _text(3), models={"large": "large-1"}, bundle="this")
    assert ledger.flush(10)
    reader = fair.LedgerReader(url_of(tmp_path))
    found = fair.fair_audits(reader, portfolio=portfolio, bundles=["this"])
    assert found.ids == {mine, unnamed}
    assert sorted(why.partition(" (")[0] for why in found.left_out) == [
        "answered by a model that is not named, under another bundle",
        "answered by another model than the certified one",
    ]


def test_one_model_for_each_tier(tmp_path: Path, ledger: Ledger) -> None:
    """Where nobody declares a tier's model, two of them certify nothing; one does, and so does a time of one."""
    _log(ledger, _text(0), models={"small": "a"}, at=1.0)
    _log(ledger, _text(1), models={"small": "b"}, at=2.0)
    assert ledger.flush(10)
    with pytest.raises(InputError, match=r"several models answered for 'small' \(a, b\)"):
        _calib(tmp_path)
    assert len(_calib(tmp_path, since=2.0)) == 1
    assert set(records_from_ledger(url_of(tmp_path)).split) == {"train"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("UPDATE routenlp_routes SET text = NULL WHERE id = ?", "have no text"),
        ("UPDATE routenlp_routes SET text = '***' WHERE id = ?", "redaction changed the text or an answer"),
        ("UPDATE routenlp_attempts SET redacted = 1 WHERE route = ?", "redaction changed the text or an answer"),
        ("UPDATE routenlp_attempts SET redacted = NULL WHERE route = ?", "does not say whether redaction changed"),
        ("UPDATE routenlp_routes SET audit_probability = NULL, audited = 0 WHERE id = ?", "could not be audited"),
        ("UPDATE routenlp_routes SET audit_probability = 0, audited = 0 WHERE id = ?", "budget or backlog"),
    ],
)
def test_what_is_no_sample_certifies_nothing(tmp_path: Path, ledger: Ledger, fault: str, said: str) -> None:
    """A query that was not kept as routed, or had no chance, refuses calib; without a wish every row is train."""
    names = [_log(ledger, _text(i)) for i in range(60)]
    assert ledger.flush(10)
    assert len(_calib(tmp_path)) == 60
    _change(tmp_path, fault, names[7])
    with pytest.raises(InputError, match=said):
        _calib(tmp_path)
    found = records_from_ledger(url_of(tmp_path))
    assert set(found.split) == {"train"}
    assert "all train, as this is no sample of the traffic" in found.source


def _change(tmp_path: Path, statement: str, name: str) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute(statement, [name]).rowcount
        connection.commit()


def test_large_groups_of_near_duplicates_count_once(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A form letter is drawn as often as a single question; the mutants that settle late, or never, dilute the bad."""
    draw = np.random.default_rng(11)
    for group in range(600):
        letter = group % 3 == 0
        for copy in range(12 if letter else 1):
            text = f"{_text(group)} n{copy}"
            _log(ledger, text, wrong=not letter and draw.random() < 0.5, chosen=bool(draw.random() < 0.3), rate=0.3)
    assert ledger.flush(60)
    assert _covers(_calib(tmp_path), 1 / 3)
    monkeypatch.setattr(fair, "_settled", lambda every: [replace(one, group=one.id, text=None) for one in every])
    late = _calib(tmp_path)
    assert not _covers(late, 1 / 3)
    first = {text[:60]: i for i, text in enumerate(late.prompt)}
    assert not _covers(late.take(sorted(first.values())), 1 / 3)


def test_too_many_to_settle_are_refused(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a shorter time is asked for."""
    for i in range(4):
        _log(ledger, _text(i), at=float(i))
    assert ledger.flush(10)
    monkeypatch.setattr("router_core.ledger.sample._MOST", 3)
    with pytest.raises(InputError, match="more than 3 queries were logged"):
        _calib(tmp_path)
    assert len(_calib(tmp_path, since=1.0)) == 3


def test_escalations_without_every_answer_do_not_stop_a_calibration(
    small_bundle: Path, tmp_path: Path, ledger: Ledger
) -> None:
    """They certify nothing, so what they lack is no reason to refuse."""
    for i in range(80):
        _log(ledger, _text(i), rate=0.5, chosen=i % 2 == 0)
    _change_all(ledger, tmp_path)
    made = calibrate(Bundle.load(small_bundle), url_of(tmp_path))
    assert made.report["calibrated"]["n"] == 40


def _change_all(ledger: Ledger, tmp_path: Path) -> None:
    """Escalations jumped over the middle tier."""
    import sqlite3
    from contextlib import closing

    assert ledger.flush(20)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute(
            "DELETE FROM routenlp_attempts WHERE tier = 'medium' AND route IN "
            "(SELECT id FROM routenlp_routes WHERE NOT audited)"
        )
        connection.commit()
    assert look(tmp_path / "ledger.db", "SELECT count(*) FROM routenlp_attempts WHERE tier = 'medium'") == [(40,)]
