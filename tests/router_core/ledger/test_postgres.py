"""The ledger in a real PostgreSQL, started here on loopback from the Debian package."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")
pytest.importorskip("psycopg", reason="needs routenlp[postgres]")

from ledgers import accepted, both, escalated, start, url_of

from router_core import Answer, InputError
from router_core.audits import AuditDecision
from router_core.ledger import Ledger, new_id
from router_core.ledger.files import route_rows
from router_core.ledger.importing import import_into
from router_core.ledger.reader import LedgerReader
from router_core.ledger.records import records_from_ledger
from router_core.ledger.sample import logged_queries, uniform_sample
from router_core.ledger.store import retire

pytestmark = [pytest.mark.slow, pytest.mark.network_loopback]

_PASSWORD = "hunter2"  # noqa: S105 - of a server that lives for one test


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server of our own."""

    programs: Path
    folder: Path
    port: int
    more: dict[str, Any]

    @property
    def url(self) -> str:
        """URL of its database, with the password."""
        return f"postgresql://postgres:{_PASSWORD}@127.0.0.1:{self.port}/postgres"

    def control(self, *words: str) -> None:
        """Start or stop it."""
        command = [self.programs / "pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", *words]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self.more)  # noqa: S603


def _programs() -> Path | None:
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server on a free port of the loopback interface; skips where the programs are not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    more: dict[str, Any] = {}
    # Its programs refuse to run as root, and its user must reach the folder.
    folder = Path(tempfile.mkdtemp(prefix="routenlp-pg-"))
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres to run the server as; apt-get install postgresql")
        os.chown(folder, user.pw_uid, user.pw_gid)
        more = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    secret = folder / "password"
    secret.write_text(_PASSWORD)
    secret.chmod(0o644)
    made = Server(programs, folder, port, more)
    command = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8"]
    try:
        subprocess.run(  # noqa: S603
            [*command, f"--pwfile={secret}"], check=True, capture_output=True, cwd=folder, **more
        )
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"\nport = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n")
        made.control("start")
        yield made
    finally:
        subprocess.run(  # noqa: S603
            [programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"],
            check=False,
            capture_output=True,
            cwd=folder,
            **more,
        )
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """The server's database, without tables of ours."""
    import sqlalchemy as sa

    from router_core.ledger.schema import tables
    from router_core.ledger.url import Address

    yield server.url
    engine = Address(server.url).engine()
    tables().metadata.drop_all(engine)
    with engine.connect() as connection:
        assert not [name for name in sa.inspect(connection).get_table_names() if name.startswith("routenlp")]


def test_routes_audits_and_feedback(url: str) -> None:
    """What goes in comes out, texts with NUL and half characters included."""
    with Ledger(url, store_text=True) as ledger:
        decision = AuditDecision(new_id(), True, 0.1)
        ledger.append(accepted(), text="a\x00b\ud800", reference="large", audit=decision, at=5.0)
        ledger.audited(decision.id, (), position=1, quality={"small": 0.5}, value=0.5, text="ref")
        name = ledger.append(escalated("mood/x"), text="c", answers=both(), reference="large")
        ledger.feedback(name, "label", text="bad")
        assert ledger.flush(20)
        told = ledger.stats()
    assert (told["routes"], told["audits"]["done"], told["feedback"]) == (2, 1, {"audit": 1, "label": 1})
    first, second = LedgerReader(url).routes(hidden=True)
    assert (first.text, first.audit_probability, first.attempts[0].quality) == ("ab?", 0.1, 0.5)
    assert first.certificate is not None
    assert second.attempts[0].signals == {"mean_logprob": -0.7}
    assert [told.text for told in second.feedback] == ["bad"]
    reader = LedgerReader(url)
    (corrected,) = reader.routes(since=6.0, feedback=("label", "correction"))
    assert corrected.id == name
    (sampled,) = logged_queries(reader, ["mood"], until=6.0)
    assert (sampled.id, sampled.probability, sampled.audited) == (decision.id, 0.1, True)
    assert uniform_sample(lambda: [sampled]).ids == {decision.id}


def test_a_ledger_of_an_earlier_version(url: str) -> None:
    """What is missing is added when a writer opens it, by two at once too."""
    from router_core.ledger.schema import open_ledger
    from router_core.ledger.url import Address

    open_ledger(Address(url), create=True).dispose()
    with Address(url).engine().begin() as connection:
        connection.exec_driver_sql("ALTER TABLE routenlp_attempts DROP COLUMN retries, DROP COLUMN redacted")
        connection.exec_driver_sql("ALTER TABLE routenlp_routes DROP COLUMN budget")
    assert list(LedgerReader(url).routes()) == []
    threads = [threading.Thread(target=open_ledger, args=(Address(url),), kwargs={"create": True}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger(url) as ledger:
        ledger.append(accepted(), text="a")
    (row,) = LedgerReader(url).routes()
    assert (row.attempts[0].retries, row.attempts[0].redacted) == (0, None)


def test_answers_that_redaction_changed_are_marked(url: str) -> None:
    """An answer that was kept says whether redaction changed it; one that was not kept says nothing."""
    with Ledger(url, store_text=True, redact=lambda text: text.replace("sorry", "***")) as ledger:
        said = {"small": Answer("sorry", 8, 1), "large": Answer("fine", 8, 1)}
        ledger.append(escalated(), text="a", answers=said, reference="large")
        assert ledger.flush(20)
    (row,) = LedgerReader(url).routes()
    assert {one.tier: (one.answer, one.redacted) for one in row.attempts} == {
        "small": ("***", True),
        "large": ("fine", False),
    }


def test_records_retention_and_import(url: str, tmp_path: Path) -> None:
    """A SQLite ledger moves to PostgreSQL and gives the same records; a second import and a retirement work too."""
    with Ledger(url_of(tmp_path), store_text=True) as ledger:
        for i in range(1_200):
            ledger.append(escalated(), text=f"query {i}", answers=both(), reference="large", at=float(i // 5))
    assert import_into(str(tmp_path / "ledger.db"), url) == {"read": 1_200, "new": 3_600}
    assert import_into(url_of(tmp_path), url)["new"] == 0
    here, there = records_from_ledger(url), records_from_ledger(url_of(tmp_path))
    assert here.query_id == there.query_id
    assert here.response == there.response
    assert _PASSWORD not in here.source
    with LedgerReader(url).connect() as connection:
        assert retire(connection, 100.0) == 500 + 1_000
    assert LedgerReader(url).stats()["texts"] == 700


def test_imports_grades_and_vectors(url: str, tmp_path: Path) -> None:
    """An import changes no grade and takes no impossible value; vectors retire with or without their texts."""
    import sqlalchemy as sa

    with Ledger(url, store_text=True) as ledger:
        decision = AuditDecision(new_id(), True, 0.5)
        ledger.append(
            escalated(), text="a", answers=both(), reference="large", audit=decision, hidden=np.ones(4), at=1.0
        )
        ledger.audited(decision.id, (), position=2, quality={"small": 0.0, "large": 1.0}, value=1.0, text="x")
    reader = LedgerReader(url)
    (row,) = route_rows(reader)
    file = tmp_path / "in.jsonl"
    row["attempts"][0]["quality"] = 1.0
    file.write_text(json.dumps(row))
    assert import_into(str(file), url)["new"] == 0
    (route,) = reader.routes(hidden=True)
    assert (route.attempts[0].quality, len(route.hidden or b"")) == (0.0, 16)
    assert records_from_ledger(url, split="calib").split == ["calib"]
    file.write_text(json.dumps({**row, "id": "fine"}) + "\n" + json.dumps({**row, "id": "x" * 65}))
    with pytest.raises(InputError, match="line 2: 'id' must be at most 64"):
        import_into(str(file), url)
    assert LedgerReader(url).stats()["routes"] == 1
    with reader.connect() as connection:
        connection.execute(sa.text("UPDATE routenlp_routes SET text = NULL"))
        connection.execute(sa.text("DROP INDEX routenlp_routes_hidden"))
        connection.commit()
    Ledger(url).close()
    with reader.connect() as connection:
        assert "routenlp_routes_hidden" in {
            one["name"] for one in sa.inspect(connection).get_indexes("routenlp_routes")
        }
        connection.rollback()
        # The vector, and the answers of the same time.
        assert retire(connection, 100.0) == 1 + 2
    (route,) = reader.routes(hidden=True)
    assert route.hidden is None


def test_two_processes_start_and_write_at_once(url: str) -> None:
    """Both make the tables at the same moment; every row of both arrives."""
    code = (
        "import sys\nfrom ledgers import *\nfrom router_core.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "for i in range(2000): ledger.append(escalated(), answers=both())\n"
        "assert ledger.flush(60)\nprint(ledger.dropped)\n"
    )
    processes = [start(code, url) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert out.strip() == "0", err
    assert LedgerReader(url).stats()["routes"] == 6_000


def test_the_server_goes_and_comes_back(server: Server, url: str) -> None:
    """While the server is down rows wait, then are dropped and counted; all that waited arrives."""
    ledger = Ledger(url, queue=100)
    ledger.append(accepted())
    assert ledger.flush(20)
    server.control("-m", "immediate", "stop")
    for _ in range(400):
        ledger.append(accepted())
    assert not ledger.flush(1)
    with pytest.raises(InputError) as told:
        ledger.stats()
    assert _PASSWORD not in str(told.value)
    server.control("start")
    assert ledger.flush(30)
    lost = ledger.dropped
    # The queue holds 100, and the batch in hand may hold as many and one more.
    assert 199 <= lost <= 300
    assert ledger.stats()["routes"] == 401 - lost
    assert ledger.close()


def test_a_wrong_password_is_never_echoed(server: Server) -> None:
    """The message names the server and not the password."""
    wrong = server.url.replace(_PASSWORD, "opensesame")
    with pytest.raises(InputError) as told:
        Ledger(wrong)
    assert "password authentication failed" in str(told.value)
    assert "opensesame" not in str(told.value)
    with pytest.raises(InputError, match="not a ledger"):
        LedgerReader(server.url)


def test_appending_does_not_wait_for_the_server(server: Server, url: str) -> None:
    """With the server frozen, appends return at once; they are stored when it goes on."""
    import sqlalchemy as sa

    from router_core.ledger.url import Address

    ledger = Ledger(url)
    ledger.append(accepted())
    assert ledger.flush(20)
    engine = Address(url).engine()
    with engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE routenlp_routes IN ACCESS EXCLUSIVE MODE"))
        began = time.monotonic()
        for _ in range(500):
            ledger.append(accepted())
        assert time.monotonic() - began < 2
        assert not ledger.flush(0.5)
        connection.rollback()
    assert ledger.flush(20)
    assert ledger.dropped == 0
    assert ledger.close()
