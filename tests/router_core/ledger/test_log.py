"""The ledger: what it stores, what it never does to the caller, and what happens when the database is away."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

import disks
from ledgers import accepted, both, escalated, look, url_of

from router_core import Answer, InputError, MissingExtraError, Route
from router_core.keys import hash_keys
from router_core.ledger import Ledger
from router_core.ledger.reader import LedgerReader
from router_core.ledger.rows import FEEDBACK
from router_core.ledger.store import retire
from router_core.ledger.url import BUSY_S, mask
from router_core.splits import hash_key

_HOUR_S = 3_600.0


def test_a_route_comes_back_as_it_went(tmp_path: Path, ledger: Ledger) -> None:
    """Everything of a route, its attempts and its feedback is read back, and the id ties them."""
    hidden = np.arange(4, dtype=np.float64)
    name = ledger.append(
        escalated("mood/long"),
        text="What a lamp!",
        answers=both(),
        models={"large": "large-1"},
        reference="large",
        conversation="thread 7",
        hidden=hidden,
        at=1_000.0,
    )
    ledger.feedback(name, "label", text="bad")
    ledger.feedback(name, "rating", 4)
    assert ledger.flush(10)
    (route,) = LedgerReader(url_of(tmp_path)).routes(hidden=True)
    assert (route.id, route.at, route.task, route.subtask, route.tier) == (name, 1_000.0, "mood", "long", "large")
    assert (route.cost_usd, route.latency_ms, route.certified, route.certificate) == (1e-3 + 1e-5, 220.0, False, None)
    assert (route.text, route.escalated, route.audited, route.audit_probability) == ("What a lamp!", True, False, None)
    assert route.hidden is not None
    assert np.frombuffer(route.hidden, "<f4").tolist() == hidden.tolist()
    assert route.conversation not in (None, "thread 7")
    small, large = route.attempts
    assert (small.tier, small.confidence, small.answer, small.accepted) == ("small", 0.3, "good", False)
    assert small.signals == {"mean_logprob": -0.7}
    assert (large.model_name, large.prompt_tokens, large.completion_tokens) == ("large-1", 12, 3)
    assert [(told.kind, told.value, told.text) for told in route.feedback] == [
        ("label", None, "bad"),
        ("rating", 4.0, None),
    ]


def test_the_key_is_the_one_that_bundles_keep(tmp_path: Path, ledger: Ledger) -> None:
    """The stored hash is that of the group key in a bundle's list of what it was trained on."""
    ledger.append(accepted(), text="What, a LAMP?")
    ledger.flush(10)
    (route,) = LedgerReader(url_of(tmp_path)).routes()
    assert int(route.key or "", 16) == int(hash_keys([hash_key("what a lamp")])[0])


def test_texts_are_kept_only_when_asked(tmp_path: Path) -> None:
    """Without store_text no prompt, answer, feedback text or vector reaches the database, in any table."""
    with Ledger(url_of(tmp_path)) as ledger:
        name = ledger.append(
            escalated(),
            text="SECRET prompt",
            answers=both("SECRET a", "SECRET b"),
            hidden=np.ones(3),
            reference="large",
        )
        ledger.feedback(name, "correction", text="SECRET c")
    dump = "\n".join(sqlite3.connect(tmp_path / "ledger.db").iterdump())
    assert "SECRET" not in dump
    assert look(tmp_path / "ledger.db", "SELECT key IS NOT NULL, hidden FROM routenlp_routes") == [(1, None)]


def test_redaction_comes_before_storing_and_may_fail(tmp_path: Path) -> None:
    """Every text is redacted; one that redaction fails on is not kept, its row is, and stats count it."""

    def redact(text: str) -> str:
        if "odd" in text:
            raise ValueError(text)
        return text.replace("SECRET", "*")

    with Ledger(url_of(tmp_path), store_text=True, redact=redact) as ledger:
        name = ledger.append(escalated(), text="SECRET 1", answers=both("SECRET 2", "odd SECRET"))
        ledger.feedback(name, "correction", text="SECRET 3")
        assert ledger.flush(10)
        assert ledger.stats()["writer"]["unredacted"] == 1
    dump = "\n".join(sqlite3.connect(tmp_path / "ledger.db").iterdump())
    assert "SECRET" not in dump
    rows = look(tmp_path / "ledger.db", "SELECT answer FROM routenlp_attempts ORDER BY position")
    assert rows == [("* 2",), (None,)]


def test_old_texts_go_and_rows_stay(tmp_path: Path) -> None:
    """Texts past the limit are taken out of every table by the writer; younger ones and all rows stay."""
    day = 86_400.0
    with Ledger(url_of(tmp_path), store_text=True, retention_days=7) as ledger:
        for age in (8, 6):
            ledger.append(
                escalated(), text=f"{age} days", answers=both(), at=time.time() - age * day, hidden=np.ones(2)
            )
        assert ledger.flush(10)
        ledger._retired_at = -_HOUR_S  # as after an hour
        ledger.append(accepted(), text="now")
    rows = look(tmp_path / "ledger.db", "SELECT text, hidden IS NULL FROM routenlp_routes ORDER BY at")
    assert rows == [(None, 1), ("6 days", 0), ("now", 1)]
    assert look(tmp_path / "ledger.db", "SELECT count(*), count(answer) FROM routenlp_attempts") == [(5, 3)]


def test_retention_runs_once_an_hour(tmp_path: Path) -> None:
    """Between two hours nothing is searched for old texts."""
    with Ledger(url_of(tmp_path), store_text=True, retention_days=1) as ledger:
        ledger.append(accepted(), text="first")
        ledger.flush(10)
        ledger.append(accepted(), text="old", at=0.0)
    assert look(tmp_path / "ledger.db", "SELECT text FROM routenlp_routes ORDER BY at") == [("old",), ("first",)]


def test_a_full_queue_drops_counts_and_warns(tmp_path: Path) -> None:
    """With the database away the queue keeps what it holds, counts the rest, warns once, and recovers."""
    home = tmp_path / "home"
    home.mkdir()
    ledger = Ledger(url_of(home), queue=50)
    ledger.append(accepted())
    assert ledger.flush(10)
    home.rename(tmp_path / "away")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(300):
            ledger.append(accepted())
        assert not ledger.flush(0.3)
        deadline = time.monotonic() + 10
        while not told and time.monotonic() < deadline:
            time.sleep(0.05)
    assert [warning.category for warning in told] == [RuntimeWarning]
    assert "dropped" in str(told[0].message)
    lost = ledger.dropped
    # The queue holds 50, and the batch in hand may hold as many and one more.
    assert 199 <= lost <= 250
    assert "gone" in ledger._writer.trouble
    (tmp_path / "away").rename(home)
    assert ledger.flush(20)
    assert look(home / "ledger.db", "SELECT count(*) FROM routenlp_routes") == [(301 - lost,)]
    assert ledger.stats()["writer"] == {
        "written": 301 - lost,
        "queued": 0,
        "dropped": lost,
        "unredacted": 0,
        "trouble": "",
    }
    assert ledger.close()


def test_a_replaced_file_is_noticed(tmp_path: Path, ledger: Ledger) -> None:
    """SQLite would go on writing to a file that was moved away; the ledger opens the one that stands there now."""
    ledger.append(accepted())
    assert ledger.flush(10)
    before = tmp_path / "before.db"
    shutil.move(tmp_path / "ledger.db", before)
    for part in ("-wal", "-shm"):
        (tmp_path / f"ledger.db{part}").unlink(missing_ok=True)
    Ledger(url_of(tmp_path)).close()
    ledger.append(accepted())
    assert ledger.flush(10)
    assert look(tmp_path / "ledger.db", "SELECT count(*) FROM routenlp_routes") == [(1,)]


def test_closing_without_a_database_drops_and_counts(tmp_path: Path) -> None:
    """Closing gives up after its time; what could not be stored is counted."""
    home = tmp_path / "home"
    home.mkdir()
    ledger = Ledger(url_of(home))
    home.rename(tmp_path / "away")
    for _ in range(7):
        ledger.append(accepted())
    assert not ledger.close(timeout=0.2)
    assert ledger.dropped == 7


def test_a_ledger_may_be_used_after_close(tmp_path: Path) -> None:
    """Closing flushes; a later append starts over."""
    ledger = Ledger(url_of(tmp_path))
    ledger.append(accepted())
    assert ledger.close()
    ledger.append(accepted())
    assert ledger.close()
    assert look(tmp_path / "ledger.db", "SELECT count(*) FROM routenlp_routes") == [(2,)]


def test_an_entry_no_column_takes_goes_alone(tmp_path: Path, ledger: Ledger) -> None:
    """One impossible value does not take its batch with it, nor stop the writer."""
    ledger.append(accepted())
    wrong = Route("small", Answer("x", 2**80), accepted().attempts, 0.0, "mood", None, "cascade", "b", None, "why")
    ledger.append(wrong)
    ledger.append(accepted())
    assert ledger.flush(10)
    assert ledger.dropped == 1
    assert look(tmp_path / "ledger.db", "SELECT count(*) FROM routenlp_routes") == [(2,)]


def test_a_route_unlike_any_other_is_dropped_not_raised(ledger: Ledger) -> None:
    """Whatever a caller hands in, appending counts it and returns."""
    assert ledger.append(None, text="x")  # type: ignore[arg-type]
    assert ledger.append(accepted(), answers={"small": "no answer"})  # type: ignore[dict-item]
    assert ledger.dropped == 2
    assert ledger.stats()["writer"]["trouble"] == "AttributeError"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system on which all that is not dropped fits, in the database and in its log."""
    with disks.small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


def test_a_full_disk_costs_rows_and_nothing_else(small_disk: Path) -> None:
    """On a full disk appends are dropped and counted, without an exception; with room again all goes on."""
    ledger = Ledger(url_of(small_disk), store_text=True, queue=100)
    filler = disks.fill(small_disk, 250_000)
    for _ in range(800):
        ledger.append(accepted(), text="x" * 2_000)
        time.sleep(0.0005)
    assert not ledger.flush(1)
    assert ledger.dropped > 100
    assert "full" in ledger._writer.trouble or "I/O" in ledger._writer.trouble
    filler.unlink()
    assert ledger.flush(60), ledger._writer.trouble
    kept = 800 - ledger.dropped
    assert look(small_disk / "ledger.db", "SELECT count(*) FROM routenlp_routes") == [(kept,)]
    assert look(small_disk / "ledger.db", "PRAGMA integrity_check") == [("ok",)]
    assert ledger.close()


def test_many_threads_lose_nothing(tmp_path: Path, ledger: Ledger) -> None:
    """Eight threads append at once; every id is there once."""
    names: list[str] = []

    def work() -> None:
        names.extend([ledger.append(escalated(), answers=both()) for _ in range(200)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.flush(20)
    found = [name for (name,) in look(tmp_path / "ledger.db", "SELECT id FROM routenlp_routes")]
    assert sorted(found) == sorted(names)
    assert len(set(names)) == 1_600
    assert look(tmp_path / "ledger.db", "SELECT count(*) FROM routenlp_attempts") == [(3_200,)]


def test_sqlite_is_in_wal_mode(tmp_path: Path, ledger: Ledger) -> None:
    """Readers and the writer do not block each other."""
    assert look(tmp_path / "ledger.db", "PRAGMA journal_mode") == [("wal",)]
    reading = sqlite3.connect(tmp_path / "ledger.db")
    reading.execute("BEGIN")
    reading.execute("SELECT count(*) FROM routenlp_routes").fetchall()
    ledger.append(accepted())
    assert ledger.flush(5)
    reading.close()


def test_stats_add_up(tmp_path: Path, ledger: Ledger) -> None:
    """Counts, shares and dollars of what is there."""
    for _ in range(3):
        ledger.append(accepted(), text="a", reference="large", at=0.0)
    name = ledger.append(escalated(None), text="b", answers=both(), reference="large", at=86_400.0)
    ledger.feedback(name, "preference", 1)
    ledger.flush(10)
    told = ledger.stats()
    assert (told["routes"], told["attempts"], told["certified"], told["escalated"], told["texts"]) == (4, 5, 3, 1, 4)
    assert told["tiers"] == {"large": 1, "small": 3}
    assert told["tasks"] == {"mood": 3}
    assert told["feedback"] == {"preference": 1}
    assert told["cost_usd"] == pytest.approx(3e-5 + 1e-3 + 1e-5)
    assert (told["first"], told["last"]) == ("1970-01-01T00:00:00+00:00", "1970-01-02T00:00:00+00:00")
    assert told["audits"] == {"chosen": 0, "done": 0, "failed": 0, "unaffordable": 0, "cost_usd": 0.0}
    json.dumps(told)


def test_time_bounds_and_pages(tmp_path: Path, ledger: Ledger) -> None:
    """More routes than a page come in order, once each, whatever times they share; bounds are half open."""
    for i in range(1_203):
        ledger.append(accepted(), at=float(i // 7))
    ledger.flush(20)
    reader = LedgerReader(url_of(tmp_path))
    found = list(reader.routes())
    assert len({route.id for route in found}) == 1_203
    assert [route.at for route in found] == sorted(route.at for route in found)
    assert sum(1 for _ in reader.routes(since=10.0, until=12)) == 14
    assert sum(1 for _ in reader.routes(since="1970-01-01T00:00:10", until="1970-01-01T00:00:11+00:00")) == 7
    with pytest.raises(InputError, match="no date"):
        list(reader.routes(since="yesterday"))


FEEDBACK_WRONG = [("praise", 1.0), ("rating", float("nan")), ("label", float("inf")), ("label", "good")]


@pytest.mark.parametrize(("kind", "value"), FEEDBACK_WRONG)
def test_wrong_feedback_is_refused(ledger: Ledger, kind: str, value: Any) -> None:
    """Kinds are fixed, values are finite numbers."""
    with pytest.raises(InputError, match="feedback"):
        ledger.feedback("x", kind, value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=40),
    st.text(max_size=40),
    st.floats() | st.none(),
    st.dictionaries(st.text(max_size=5), st.floats(), max_size=3),
    st.sampled_from(FEEDBACK),
)
def test_whatever_is_appended_is_stored(
    ledger: Ledger, text: str, answer: str, confidence: float | None, signals: dict[str, float], kind: str
) -> None:
    """Any text, number and signal is stored, if need be without what no database takes."""
    before, route = ledger._writer.written, accepted(answer, confidence=confidence)  # type: ignore[arg-type]
    name = ledger.append(route, text=text, answers={"small": Answer(answer, signals=signals)}, conversation=text)
    ledger.feedback(name, kind, text=answer)
    assert ledger.flush(10)
    assert ledger._writer.written == before + 2
    assert ledger.dropped == 0


def test_newer_ledgers_and_other_databases_are_refused(tmp_path: Path) -> None:
    """A newer schema, a database of something else, a file that is none, and no file: one sentence each."""
    Ledger(url_of(tmp_path)).close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE routenlp_schema SET value = '99'")
    connection.close()
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    (tmp_path / "text.db").write_text("not a database at all, just words" * 100)
    for name, said in (
        ("ledger.db", "schema 99.*upgrade"),
        ("other.db", "not a ledger"),
        ("text.db", "not a ledger"),
        ("none.db", "no such database"),
    ):
        with pytest.raises(InputError, match=said):
            LedgerReader(url_of(tmp_path, name))
    for name in ("ledger.db", "text.db"):
        with pytest.raises(InputError):
            Ledger(url_of(tmp_path, name))
    with pytest.raises(InputError, match="does not exist"):
        Ledger(url_of(tmp_path / "no"))
    assert not (tmp_path / "none.db").exists()


def test_columns_and_tables_of_others_are_left_alone(tmp_path: Path) -> None:
    """A ledger moves into a database with tables of its own; columns that a later version adds are not in the way."""
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("CREATE TABLE routes (mine)")
    connection.close()
    with Ledger(url_of(tmp_path)) as ledger:
        ledger.append(accepted())
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("ALTER TABLE routenlp_routes ADD COLUMN mood TEXT")
        connection.execute("ALTER TABLE routenlp_attempts ADD COLUMN temper INTEGER")
    connection.close()
    assert len(list(LedgerReader(url_of(tmp_path)).routes())) == 1
    with Ledger(url_of(tmp_path)) as ledger:
        ledger.append(accepted())
    assert look(tmp_path / "ledger.db", "SELECT count(*) FROM routenlp_routes") == [(2,)]


URLS = [
    "sqlite://",
    "sqlite:///:memory:",
    "mysql://me:hunter2@host/db",
    "postgresql://me:hunter2@[::1/db",
    "postgresql://me:hunter2@host:port/db",
    "ledger.db",
]


@pytest.mark.parametrize("url", URLS)
def test_wrong_urls_are_refused_without_their_password(url: str) -> None:
    """One sentence, and never the password."""
    with pytest.raises(InputError) as told:
        Ledger(url)
    assert "hunter2" not in str(told.value)


def test_passwords_are_masked_wherever_they_stand() -> None:
    """User names and passwords in any part of a URL, and @ inside a password."""
    for url in ("postgresql://me:p@ss@host/db", "postgresql://host/db?user=me&password=p@ss&x=1", "x password=p@ss y"):
        assert "p@ss" not in mask(url)
        assert "ss@" not in mask(url)


def test_missing_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SQLAlchemy or the driver one line says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"routenlp\[postgres\]"):
        Ledger("postgresql://host/db")
    monkeypatch.setitem(__import__("sys").modules, "sqlalchemy.engine", None)
    with pytest.raises(MissingExtraError, match=r"routenlp\[ledger\]"):
        Ledger(url_of(tmp_path))


def test_parameters_are_checked(tmp_path: Path) -> None:
    """A retention that is none and a queue that holds nothing are refused."""
    with pytest.raises(InputError, match="retention_days"):
        Ledger(url_of(tmp_path), retention_days=0)
    with pytest.raises(InputError, match="queue"):
        Ledger(url_of(tmp_path), queue=0)


def test_a_ledger_of_an_earlier_version(tmp_path: Path) -> None:
    """It is read as it is; a writer adds the columns it lacks, and what is there stays."""
    file = tmp_path / "ledger.db"
    with Ledger(url_of(tmp_path)) as ledger:
        ledger.append(accepted(), text="old")
    for table, column in (("routes", "budget"), ("attempts", "retries"), ("attempts", "redacted")):
        change(file, f"ALTER TABLE routenlp_{table} DROP COLUMN {column}")
    (old,) = LedgerReader(url_of(tmp_path)).routes(hidden=True)
    assert (old.budget, old.attempts[0].retries, old.attempts[0].redacted) == (None, None, None)
    route = replace(accepted(), budget={"usd": 1.0, "per": "run", "spent_usd": 0.5, "stopped": False})
    route = replace(route, attempts=tuple(replace(attempt, retries=2) for attempt in route.attempts))
    with Ledger(url_of(tmp_path)) as ledger:
        ledger.append(route, text="new")
    first, second = LedgerReader(url_of(tmp_path)).routes()
    assert first == replace(old, hidden=None)
    assert (second.budget, second.attempts[0].retries) == (route.budget, 2)


def change(file: Path, statement: str) -> None:
    """Run one statement, without any of our code."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()


def test_a_vector_is_kept_beside_its_own_text_only(tmp_path: Path) -> None:
    """Where redaction fails on a text, or changes it, or none is given, its vector would tell what is not kept."""

    def redact(text: str) -> str:
        if "odd" in text:
            raise ValueError(text)
        return text.replace("SECRET", "*")

    with Ledger(url_of(tmp_path), store_text=True, redact=redact) as ledger:
        for i, text in enumerate(("odd", "SECRET", None, "plain")):
            ledger.append(accepted(), text=text, hidden=np.ones(8), at=float(i))
    rows = look(tmp_path / "ledger.db", "SELECT text, length(hidden) FROM routenlp_routes ORDER BY at")
    assert rows == [(None, None), ("*", None), (None, None), ("plain", 32)]


def test_a_vector_without_its_text_retires_too(tmp_path: Path) -> None:
    """Rows of earlier versions may hold a vector alone; it goes with the texts of its age, in steps."""
    with Ledger(url_of(tmp_path), store_text=True) as ledger:
        for i in range(5):
            ledger.append(accepted(), text="x", hidden=np.ones(8), at=float(i))
    change(tmp_path / "ledger.db", "UPDATE routenlp_routes SET text = NULL WHERE at < 4")
    with LedgerReader(url_of(tmp_path)).connect() as connection:
        # Three vectors, and the answers of the same three routes.
        assert retire(connection, 3.0) == 6
    rows = look(tmp_path / "ledger.db", "SELECT text, hidden IS NULL FROM routenlp_routes ORDER BY at")
    assert rows == [(None, 1)] * 3 + [(None, 0), ("x", 0)]


def test_an_earlier_ledger_gets_the_index_that_finds_vectors(tmp_path: Path) -> None:
    """A writer adds it; without it every old row would be read each hour."""
    named = "SELECT count(*) FROM sqlite_master WHERE name = 'routenlp_routes_hidden'"
    Ledger(url_of(tmp_path)).close()
    assert look(tmp_path / "ledger.db", named) == [(1,)]
    change(tmp_path / "ledger.db", "DROP INDEX routenlp_routes_hidden")
    Ledger(url_of(tmp_path)).close()
    assert look(tmp_path / "ledger.db", named) == [(1,)]


def test_a_locked_file_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader waits as long as the database does, and does not begin to wait again."""
    waits: list[float] = []
    Ledger(url_of(tmp_path)).close()
    change(tmp_path / "ledger.db", "PRAGMA journal_mode=DELETE")

    class Clock:
        """Time that passes only where the database waits."""

        now = 0.0

        @classmethod
        def monotonic(cls) -> float:
            return cls.now

        sleep = staticmethod(lambda _: None)

    def check(connection: Any) -> None:
        del connection
        waits.append(BUSY_S)
        Clock.now += BUSY_S
        raise OperationalError("", {}, sqlite3.OperationalError("database is locked"))

    from sqlalchemy.exc import OperationalError

    monkeypatch.setattr("router_core.ledger.schema.time", Clock)
    monkeypatch.setattr("router_core.ledger.schema.check_ledger", check)
    with pytest.raises(InputError, match="database is locked"):
        LedgerReader(url_of(tmp_path))
    assert waits == [BUSY_S]
