"""`routenlp ledger`, and the commands that read records from a ledger."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from bundles import TIERS, small_records
from ledgers import both, escalated, look, url_of

from router_core import Answer, Attempt, Route
from router_core.audits import AuditDecision
from router_core.bundle import Bundle
from router_core.ledger import Ledger, new_id


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A ledger with one escalation and one rating."""
    with Ledger(url_of(tmp_path), store_text=True) as ledger:
        name = ledger.append(escalated(), text="What a lamp!", answers=both(), reference="large", at=0.0)
        ledger.feedback(name, "rating", 3)
    return url_of(tmp_path)


def _whole(folder: Path, seed: int) -> str:
    """A ledger of `bundles.small_records`, every query audited with all tiers."""
    records, url = small_records(seed), url_of(folder, f"seed{seed}.db")
    with Ledger(url, store_text=True) as ledger:
        for i in range(len(records)):
            answers = {
                name: Answer(
                    records.response[i][k] or "",
                    int(records.prompt_tokens[i, k]),
                    int(records.completion_tokens[i, k]),
                )
                for k, name in enumerate(TIERS)
            }
            attempts = tuple(
                Attempt(name, None, float(records.cost[i, k]), k == 2, "x") for k, name in enumerate(TIERS)
            )
            task = records.task[i]
            route = Route("large", answers["large"], attempts, 0.0, task, task, "cascade", "b", None, "x")
            decision = AuditDecision(new_id(), True, 1.0)
            ledger.append(route, text=records.prompt[i], answers=answers, reference="large", audit=decision)
            quality = {name: float(records.quality[i, k]) for k, name in enumerate(TIERS)}
            ledger.audited(decision.id, (), position=3, quality=quality, value=1.0, text="x")
    return url


def test_stats(url: str, run: Callable[..., Any]) -> None:
    """As text and as JSON."""
    said = run("ledger", "stats", url)
    assert said.code == 0
    assert "1, 1970-01-01" in said.out
    assert "large 1" in said.out
    told = json.loads(run("ledger", "stats", url, "--json").out)
    assert (told["routes"], told["feedback"], told["escalated"]) == (1, {"rating": 1}, 1)


def test_export_and_import(url: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    """Records and routes to files; routes back into another ledger, twice, with one result."""
    said = run("ledger", "export", url, "--out", tmp_path / "records.csv", "--split", "calib")
    assert said.code == 0, said.err
    assert (tmp_path / "records.csv").read_text().count("train") == 2
    assert run("ledger", "export", url, "--out", tmp_path / "routes.jsonl", "--what", "routes").code == 0
    for new in ("4 rows new", "0 rows new"):
        said = run("ledger", "import", tmp_path / "routes.jsonl", "--into", url_of(tmp_path, "copy.db"))
        assert new in said.out
    assert look(tmp_path / "copy.db", "SELECT text FROM routenlp_routes") == [("What a lamp!",)]


def test_retire(url: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    """Old texts go, rows stay."""
    assert "taken out" in run("ledger", "retire", url, "--days", "30").out
    assert look(tmp_path / "ledger.db", "SELECT text FROM routenlp_routes") == [(None,)]
    assert look(tmp_path / "ledger.db", "SELECT count(*) FROM routenlp_attempts") == [(2,)]


def test_fit_calibrate_and_evaluate_read_a_ledger(tmp_path: Path, run: Callable[..., Any]) -> None:
    """A bundle is fitted on one ledger, reported on, and certified again on another."""
    first, second, bundle = _whole(tmp_path, 0), _whole(tmp_path, 5), tmp_path / "bundle"
    said = run("fit", first, "--out", bundle, "--tiers", ",".join(TIERS), "--encoder", "static", "--alpha", "0.1")
    assert said.code == 0, said.err
    assert run("evaluate", bundle, first).code == 0
    said = run("calibrate", bundle, second, "--out", tmp_path / "again")
    assert said.code == 0, said.err
    assert "calib" in said.out
    assert "a uniform sample of 400 logged queries" in " ".join(said.out.split())
    for bound, told in (("2000-01-01", "nothing was audited"), ("once", "'once' is no date")):
        said = run("calibrate", bundle, second, "--out", tmp_path / "none", "--until", bound)
        assert said.code == 2
        assert told in said.err
    said = run("fit", first, "--out", tmp_path / "none", "--until", "2000-01-01")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert not (tmp_path / "none").exists()
    (tmp_path / "records.jsonl").write_text("")
    said = run("calibrate", bundle, tmp_path / "records.jsonl", "--out", tmp_path / "none", "--since", "2000-01-01")
    assert (said.code, "bounds in time of a ledger" in said.err) == (2, True)


def test_watch_reads_a_ledger(small_bundle: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """Audits in a ledger are what the watch judges a certificate by."""
    bundle = Bundle.load(small_bundle)
    url = url_of(tmp_path, "watched.db")
    (scope, policy), shown = next((key, one) for key, one in bundle.certificates.items() if one.certified)
    task = scope.partition("/")[0]
    with Ledger(url) as ledger:
        for i in range(40):
            attempts = (Attempt("small", 0.9, 1e-5, True, "x"),)
            claim = {"scope": scope, "n": shown.n}
            route = Route("small", Answer("x"), attempts, 1e-5, task, scope, policy, bundle.id, claim, "x")
            decision = AuditDecision(f"id{i}", True, 0.5)
            ledger.append(route, reference="large", audit=decision)
            ledger.audited(decision.id, (), position=1, quality={"small": 1.0}, value=1.0, text=None)
    folder = tmp_path / "bundle"
    shutil.copytree(small_bundle, folder)  # an alarm writes beside the bundle
    said = run("watch", folder, url, "--json")
    assert said.code == 0, said.err
    assert '"n": 40' in said.out


BAD = [
    pytest.param(["stats", "sqlite:///none.db"], ["none.db", "no such database"], id="no database"),
    pytest.param(["stats", "sqlite:///other.db"], ["not a ledger"], id="not a ledger"),
    pytest.param(["stats", "sqlite:///words.db"], ["not a ledger"], id="not a database"),
    pytest.param(["stats", "words.db"], ["no ledger URL", "sqlite:///"], id="no URL"),
    pytest.param(["stats", "mysql://me:hunter2@host/db"], ["no ledger URL", "***"], id="another database"),
    pytest.param(
        ["stats", "postgresql://me:hunter2@127.0.0.1:9/db"], ["cannot be opened", "***@127.0.0.1"], id="no server"
    ),
    pytest.param(["export", "URL", "--out", "x.txt"], ["--out x.txt", ".jsonl"], id="ending"),
    pytest.param(["export", "URL", "--out", "no/x.jsonl"], ["no does not exist"], id="folder"),
    pytest.param(["export", "URL", "--out", "x.jsonl", "--what", "all"], ["--what 'all'"], id="what"),
    pytest.param(["export", "URL", "--out", "x.jsonl", "--split", "best"], ["unknown split 'best'"], id="split"),
    pytest.param(["export", "URL", "--out", "x.jsonl", "--metric", "vibes"], ["unknown metric"], id="metric"),
    pytest.param(["export", "URL", "--out", "x.jsonl", "--since", "once"], ["'once' is no date"], id="since"),
    pytest.param(["export", "URL", "--out", "x.jsonl", "--since", "2999-01-01"], ["nothing to write"], id="nothing"),
    pytest.param(
        ["import", "none.jsonl", "--into", "sqlite:///new.db"], ["none.jsonl", "cannot be read"], id="no file"
    ),
    pytest.param(["import", "a.txt", "--into", "sqlite:///new.db"], ["a.txt", ".jsonl"], id="kind of file"),
    pytest.param(["import", "sqlite:///none.db", "--into", "sqlite:///new.db"], ["no such database"], id="no source"),
    pytest.param(["retire", "URL", "--days", "-1"], ["--days -1"], id="days"),
]


@pytest.mark.parametrize(("arguments", "told"), BAD)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    told: list[str],
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., Any],
) -> None:
    """Exit 2, one line, no password, nothing written."""
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("other.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    Path("words.db").write_text("only words " * 100)
    before = {item.name for item in tmp_path.iterdir()}
    said = run("ledger", *[url if word == "URL" else word for word in arguments])
    assert said.code == 2, said.out
    assert said.err.startswith("routenlp: ")
    assert said.err.count("\n") == 1
    assert "hunter2" not in said.out + said.err
    for part in told:
        assert part in said.err
    assert {item.name for item in tmp_path.iterdir()} == before


def test_commands_that_read_records_mask_passwords(tmp_path: Path, run: Callable[..., Any]) -> None:
    """`fit` on a ledger that cannot be reached."""
    said = run("fit", "postgresql://me:hunter2@127.0.0.1:9/db", "--out", tmp_path / "b")
    assert said.code == 2
    assert "hunter2" not in said.err
    assert "cannot be opened" in said.err
