"""Importing: what is there stays as it is, and what no ledger could have written is refused whole."""

from __future__ import annotations

import base64
import copy
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from ledgers import accepted, both, escalated, look, url_of

from router_core import InputError
from router_core.audits import AuditDecision
from router_core.ledger import Ledger
from router_core.ledger.files import route_rows, write_rows
from router_core.ledger.importing import import_into
from router_core.ledger.reader import LedgerReader
from router_core.ledger.records import records_from_ledger

_GRADES = "SELECT tier, quality FROM routenlp_attempts ORDER BY position"


@pytest.fixture
def audited(tmp_path: Path) -> dict[str, Any]:
    """An exported route with an audit; the ledger it is of is ledger.db."""
    with Ledger(url_of(tmp_path), store_text=True) as ledger:
        ledger.append(
            escalated(), text="What a lamp!", answers=both(), reference="large", audit=AuditDecision("x1", True, 0.5)
        )
        ledger.audited("x1", (), position=2, quality={"small": 0.0, "large": 1.0}, value=1.0, text="good")
    (row,) = route_rows(LedgerReader(url_of(tmp_path)))
    return row


def _file(tmp_path: Path, *rows: Any) -> str:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_grades_that_are_there_stay(tmp_path: Path, audited: dict[str, Any]) -> None:
    """An import changes no grade; it fills in those that a ledger lacks, which had the route before its audit."""
    told = copy.deepcopy(audited)
    told["attempts"][0]["quality"] = 1.0
    assert import_into(_file(tmp_path, told), url_of(tmp_path))["new"] == 0
    assert look(tmp_path / "ledger.db", _GRADES) == [("small", 0.0), ("large", 1.0)]
    before = copy.deepcopy(audited)
    before["feedback"] = []
    for attempt in before["attempts"]:
        attempt["quality"] = None
    import_into(_file(tmp_path, before), url_of(tmp_path, "other.db"))
    assert look(tmp_path / "other.db", _GRADES) == [("small", None), ("large", None)]
    import_into(_file(tmp_path, audited), url_of(tmp_path, "other.db"))
    assert look(tmp_path / "other.db", _GRADES) == [("small", 0.0), ("large", 1.0)]


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Set the last of the path at the place that those before it name."""
    *way, name, value = path

    def change(row: Any) -> None:
        for step in way:
            row = row[step]
        row[name] = value

    return change


IMPOSSIBLE = [
    pytest.param(_set("audit_probability", 3.0), "'audit_probability' must be between 0 and 1", id="probability"),
    pytest.param(_set("audit_probability", -0.1), "'audit_probability' must be between 0 and 1", id="negative"),
    pytest.param(_set("audit_probability", 0), "'audit_probability' must be above 0", id="no chance"),
    pytest.param(_set("attempts", 0, "quality", 7.5), "'quality' must be between 0 and 1", id="quality"),
    pytest.param(_set("feedback", 0, "value", 99.0), "'value' must be between 0 and 1.*'audit'", id="audit"),
    pytest.param(_set("at", 1_764_000_000_000.0), "'at' must be in seconds since 1970", id="milliseconds"),
    pytest.param(_set("at", 1e300), "'at' must be in seconds since 1970", id="no year"),
    pytest.param(_set("at", -1.0), "'at' must be in seconds since 1970", id="before 1970"),
    pytest.param(_set("attempts", 1, "at", 1e15), "'at' must be in seconds since 1970", id="attempt"),
    pytest.param(_set("at", 10**400), "'at' must be a finite number", id="huge"),
    pytest.param(_set("cost_usd", -1.0), "'cost_usd' must be 0 or more", id="cost"),
    pytest.param(_set("attempts", 0, "signals", {"p": "x"}), "'signals' must be an object of finite", id="signals"),
    pytest.param(_set("attempts", 0, "position", 2**40), "'position' must be a count", id="position"),
    pytest.param(_set("feedback", 5), "'feedback' must be a list", id="feedback"),
    pytest.param(_set("feedback", [5]), "feedback must be an object", id="one feedback"),
    pytest.param(_set("attempts", [5]), "attempt must be an object", id="one attempt"),
    pytest.param(_set("tier", ""), "'tier' must be a text that is not empty", id="no tier"),
    pytest.param(_set("id", "x" * 65), "'id' must be at most 64 characters", id="long id"),
]


@pytest.mark.parametrize(("change", "said"), IMPOSSIBLE)
def test_impossible_values_import_nothing(
    tmp_path: Path, audited: dict[str, Any], change: Callable[[Any], None], said: str
) -> None:
    """The message names file, line and column, and not even the rows before it are stored."""
    wrong = {**copy.deepcopy(audited), "id": "x2"}
    change(wrong)
    with pytest.raises(InputError, match=rf"in\.jsonl: line 2: .*{said}"):
        import_into(_file(tmp_path, audited, wrong), url_of(tmp_path, "new.db"))
    assert not (tmp_path / "new.db").exists()


def _spoil(tmp_path: Path, statement: str, *values: float) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute(statement, values)
        connection.commit()


def test_a_ledger_with_an_impossible_row_is_refused_whole(tmp_path: Path, audited: dict[str, Any]) -> None:
    """Of another ledger too everything is checked first, and the route is named."""
    del audited
    with Ledger(url_of(tmp_path)) as ledger:
        ledger.append(accepted(), id="fine", at=5.0)
    _spoil(tmp_path, "UPDATE routenlp_attempts SET quality = 7.5 WHERE route = 'x1' AND position = 0")
    with pytest.raises(InputError, match=r"ledger\.db: route x1: 'quality' must be between 0 and 1"):
        import_into(str(tmp_path / "ledger.db"), url_of(tmp_path, "new.db"))
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("at", [1_764_000_000_000.0, 1e300])
def test_a_time_that_is_none_stops_no_statistics(tmp_path: Path, audited: dict[str, Any], at: float) -> None:
    """A ledger that holds such a row already is counted, and says so."""
    del audited
    _spoil(tmp_path, "UPDATE routenlp_routes SET at = ?", at)
    told = LedgerReader(url_of(tmp_path)).stats()
    assert told["routes"] == 1
    assert "which is no time" in told["last"]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE routenlp_routes SET audit_probability = 3.0", "audit probability 3, which is none"),
        ("UPDATE routenlp_attempts SET quality = 7.5 WHERE position = 0", "graded 7.5"),
    ],
)
def test_impossible_rows_certify_nothing(tmp_path: Path, audited: dict[str, Any], statement: str, said: str) -> None:
    """Such rows of a ledger that took them earlier make no records."""
    del audited
    _spoil(tmp_path, statement)
    with pytest.raises(InputError, match=said):
        records_from_ledger(url_of(tmp_path), split="calib")


def test_a_vector_comes_in_with_its_text_only(tmp_path: Path, audited: dict[str, Any]) -> None:
    """An exported vector without its text is not taken."""
    vector = base64.b64encode(b"\0" * 8).decode()
    bare = {**audited, "id": "bare", "text": None, "hidden": vector, "feedback": []}
    import_into(_file(tmp_path, {**audited, "hidden": vector}, bare), url_of(tmp_path, "new.db"))
    rows = look(tmp_path / "new.db", "SELECT id, length(hidden) FROM routenlp_routes ORDER BY id DESC")
    assert rows == [("x1", 8), ("bare", None)]


def test_what_a_ledger_wrote_comes_in_again(tmp_path: Path, audited: dict[str, Any]) -> None:
    """Every kind of feedback a ledger takes can be imported; grades outside [0, 1] it does not take."""
    with Ledger(url_of(tmp_path), store_text=True) as ledger:
        for kind, value in (("label", 0.5), ("rating", -3.0), ("preference", 0.0), ("correction", None)):
            ledger.feedback(audited["id"], kind, value, "text")
        for kind in ("label", "preference", "audit"):
            with pytest.raises(InputError, match="between 0 and 1"):
                ledger.feedback(audited["id"], kind, 5.0)
    file, reader = tmp_path / "out.jsonl", LedgerReader(url_of(tmp_path))
    assert write_rows(file, lambda: route_rows(reader), nested=True) == 1
    assert import_into(str(file), url_of(tmp_path, "new.db"))["new"] == 1 + 2 + 5
