"""`routenlp watch`: exit codes, the lapse file, JSON, the picture; and `inspect` of a lapsed bundle."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_core.audit_risk import Audited
from router_core.bundle import Bundle
from router_core.lapse import Lapse, lapse_file, read_lapses, write_lapses
from router_core.router import Router

Run = Callable[..., Any]
Write = Callable[..., Path]


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the small bundle, with room beside it."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


@pytest.fixture
def write(bundle: Path, tmp_path: Path) -> Write:
    """Append audits of scope "mood" to a file."""
    id_ = Bundle.load(bundle).id

    def written(n: int, risk: float, seed: int = 0, rates: tuple[float, ...] = (0.1,), name: str = "a.jsonl") -> Path:
        rng, path = np.random.default_rng(seed), tmp_path / name
        with path.open("a") as file:
            for i in range(n):
                cheap = rng.random() < 0.5
                bad = cheap and rng.random() < 2 * risk
                fields = ("mood", "mood", "cascade", id_, "small" if cheap else "large", bool(cheap), bool(bad))
                audit = Audited(1e9 + i, *fields, float(rng.choice(rates)), f"{seed}-{i}")
                file.write(json.dumps(asdict(audit)) + "\n")
        return path

    return written


def test_fine(bundle: Path, write: Write, run: Run) -> None:
    """Exit 0, a line for every certificate, and no file is written."""
    said = run("watch", bundle, write(300, 0.04))
    assert (said.code, said.err) == (0, "")
    for word in ("300 new audits", "mood", "sum", "fine", "no audits", "route_only"):
        assert word in said.out
    assert not lapse_file(bundle).exists()
    assert max(map(len, said.out.splitlines())) <= 80


def test_alarm(bundle: Path, write: Write, run: Run) -> None:
    """Exit 3, a lapse file, and a router that obeys it; looking again says the same without writing again."""
    audits = write(600, 0.3)
    said = run("watch", bundle, audits, "--dry-run")
    assert said.code == 3
    assert "nothing was written" in said.out
    assert not lapse_file(bundle).exists()
    said = run("watch", bundle, audits, "--once")
    assert said.code == 3
    assert "Lapsed" in said.out
    assert "exceeds 0.1" in " ".join(said.out.split())
    (lapse,) = read_lapses(bundle, Bundle.load(bundle).id)
    assert (lapse.scope, lapse.kind) == ("mood", "alarm")
    assert Router.load(bundle).decide("hello", "mood").certificate is None
    before = lapse_file(bundle).read_bytes()
    assert run("watch", bundle, audits).code == 3
    assert lapse_file(bundle).read_bytes() == before


def test_json_and_weights(bundle: Path, write: Write, run: Run) -> None:
    """`--json` is JSON alone; propensities that differ make a weighted estimate."""
    said = run("watch", bundle, write(300, 0.05, rates=(0.05, 0.2)), "--json", "--floor", "0.05", "--delta", "0.01")
    told = json.loads(said.out)
    assert (said.code, said.err, told["new"], told["floor"]) == (0, "", 300, 0.05)
    mood = next(c for c in told["certificates"] if (c["scope"], c["policy"]) == ("mood", "cascade"))
    joint = mood["estimates"]["joint"]
    assert (joint["method"], joint["interval"]) == ("hajek", "betting")
    assert 0 <= joint["low"] <= joint["value"] <= joint["high"]
    assert joint["effective_n"] < 300
    assert mood["alarm"]["bar"] == pytest.approx(100)
    assert told["lapses"] == []
    assert "weighted (effective n" in " ".join(run("watch", bundle, bundle.parent / "a.jsonl").out.split())


def test_picture(bundle: Path, write: Write, run: Run, tmp_path: Path) -> None:
    """A whole PNG, also of a watch that has seen nothing."""
    (tmp_path / "none.jsonl").write_text("")
    for audits in (write(400, 0.2), tmp_path / "none.jsonl"):
        run("watch", bundle, audits, "--dry-run", "--plot", tmp_path / "p.png")
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "p.png").unlink()
    assert run("watch", bundle, audits, "--plot", tmp_path / "p.txt").code == 2


def test_state(bundle: Path, write: Write, run: Run, tmp_path: Path) -> None:
    """With `--state` audits that have expired still count, and no audit counts twice."""
    state = tmp_path / "state.json"
    audits = write(200, 0.15)
    assert "200 new audits" in run("watch", bundle, audits, "--state", state, "--dry-run").out
    audits.unlink()
    both = write(200, 0.15, seed=1)
    assert "200 new audits" in run("watch", bundle, both, "--state", state, "--dry-run").out
    told = json.loads(run("watch", bundle, both, "--state", state, "--json", "--dry-run").out)
    assert told["new"] == 0
    assert next(c["n"] for c in told["certificates"] if c["scope"] == "mood") == 400
    assert run("watch", bundle, both, "--state", state, "--delta", "0.01").code == 2
    state.write_text("{")
    said = run("watch", bundle, both, "--state", state)
    assert said.code == 2
    assert "is not JSON" in said.err


def test_again_and_again(bundle: Path, write: Write, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--every` looks again, counts what is new, and writes the lapse when it comes; interrupting it is no error."""
    audits, waits = write(100, 0.02), []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt
        write(600, 0.35, seed=len(waits))

    monkeypatch.setattr(time, "sleep", sleep)
    said = run("watch", bundle, audits, "--every", "5")
    assert (said.code, waits) == (130, [5.0] * 3)
    assert said.out.count("600 new audits") == 2
    assert said.out.count("Written to") == 1
    assert len(read_lapses(bundle, Bundle.load(bundle).id)) == 1


def test_limits(bundle: Path, write: Write, run: Run) -> None:
    """Age and decisions lapse by the watch."""
    said = run("watch", bundle, write(300, 0.0), "--max-decisions", "2000", "--dry-run")
    assert said.code == 3
    assert "about 3000 decisions" in " ".join(said.out.split())
    assert run("watch", bundle, bundle.parent / "a.jsonl", "--max-age-days", "1", "--dry-run").code == 0
    assert run("watch", bundle, bundle.parent / "a.jsonl", "--max-age-days", "1e-9", "--dry-run").code == 3


@pytest.mark.parametrize(
    ("words", "said_so"),
    [
        (["{b}", "nowhere.jsonl"], "no file of audits"),
        (["{b}", "sqlite:///x.db"], "no such database"),
        (["nowhere", "{a}"], "not a bundle"),
        (["{b}", "{a}", "--delta", "2"], "between 0 and 1"),
        (["{b}", "{a}", "--arl", "0"], "run length"),
        (["{b}", "{a}", "--floor", "0.5"], "below the floor"),
        (["{b}", "{a}", "--once", "--every", "1"], "exclude each other"),
        (["{b}", "{a}", "--max-decisions", "-1"], "at least 1"),
        (["{b}", "{a}", "--max-age-days", "0"], "above 0"),
        (["{b}", "{a}", "--max-decisions", "0"], "at least 1"),
    ],
)
def test_bad_input(bundle: Path, write: Write, run: Run, words: list[str], said_so: str) -> None:
    """Exit 2 with one line on stderr, and no lapse is written."""
    audits = write(20, 0.1)
    said = run("watch", *(word.format(b=bundle, a=audits) for word in words))
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    assert said_so in said.err
    assert not lapse_file(bundle).exists()


def test_a_damaged_lapse_file_is_not_written_over(bundle: Path, write: Write, run: Run) -> None:
    """The watch refuses, and inspect says what routers make of it."""
    lapse_file(bundle).write_text("{")
    said = run("watch", bundle, write(600, 0.3))
    assert said.code == 2
    assert "damaged" in said.err
    assert lapse_file(bundle).read_text() == "{"
    assert json.loads(run("inspect", bundle, "--json").out)["lapses"][0]["kind"] == "damaged"


def test_inspect_shows_lapses(bundle: Path, run: Run) -> None:
    """Lapses of this bundle are shown with their date, those of another are not; a ROOT is read through."""
    assert "LAPSED" not in run("inspect", bundle).out
    write_lapses(bundle, "other", [Lapse("sum", "alarm", "not mine", 0.0)])
    assert "LAPSED" not in run("inspect", bundle).out
    write_lapses(bundle, Bundle.load(bundle).id, [Lapse("mood", "alarm", "audits say so", 1.6e9)])
    said = run("inspect", bundle)
    assert "LAPSED" in said.out
    assert "mood: audits say so (2020-09-13 12:26 UTC)" in said.out
    told = json.loads(run("inspect", bundle, "--json").out)
    assert [lapse["reason"] for lapse in told["lapses"]] == ["audits say so"]
    assert told["certified_at"] > 1.6e9
    root = bundle.parent / "root"
    (root / "releases" / "r1").mkdir(parents=True)
    (root / "current").write_text("r1")
    shutil.copytree(bundle, root / "releases" / "r1" / "bundle")
    assert run("inspect", root).code == 0
