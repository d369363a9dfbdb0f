"""`routenlp watch` over hours: releases come and go, databases too, and audits fail."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from releases import contrary_releases

from router_core.audit_risk import Audited
from router_core.bundle import Bundle
from router_core.lapse import lapse_file, read_lapses
from router_core.promotion import promote, rollback
from router_core.release import Release

Run = Callable[..., Any]


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the small bundle, with room beside it."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Callable[[], object]]], None]:
    """Do these things between looks, one a pause, and interrupt after the last."""

    def planned(steps: Sequence[Callable[[], object]]) -> None:
        left = list(steps)

        def sleep(_: float) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop(0)()

        monkeypatch.setattr(time, "sleep", sleep)

    return planned


def audits(
    path: Path, folder: Path, n: int, seed: int, *, bad: bool = False, failed: str = "", rate: float = 0.1
) -> Path:
    """Append audits of cheap answers of scope "mood" to a file, all alike."""
    fields = ("mood", "mood", "cascade", Bundle.load(folder).id, "small", True, bad, rate)
    with path.open("a") as file:
        for i in range(n):
            file.write(json.dumps(asdict(Audited(1e9 + i, *fields, f"{seed}-{i}", failed=failed))) + "\n")
    return path


def test_a_blind_watch(bundle: Path, run: Run, tmp_path: Path) -> None:
    """Failed audits: exit 3, the counts in a sentence, the interval without an estimate, and no lapse."""
    file = audits(tmp_path / "a.jsonl", bundle, 40, 0, failed="large: TimeoutError")
    said = run("watch", bundle, file)
    words = " ".join(said.out.split())
    assert (said.code, said.err) == (3, "")
    assert "blind" in words
    assert "40 of 40 audits of cheap answers failed (large: TimeoutError: 40)" in words
    assert "- 0.0-100.0" in words
    assert not lapse_file(bundle).exists()
    told = json.loads(run("watch", bundle, file, "--json").out)
    mood = next(c for c in told["certificates"] if (c["scope"], c["policy"]) == ("mood", "cascade"))
    assert (mood["verdict"], mood["failures"], told["lapses"]) == ("blind", {"large: TimeoutError": 40}, [])
    assert (mood["estimates"]["joint"]["failed"], mood["estimates"]["joint"]["worst"]) == (40, 1.0)


def test_each_look_watches_what_serves(
    bundle: Path, run: Run, tmp_path: Path, sleeps: Callable[[Sequence[Callable[[], object]]], None]
) -> None:
    """After a promotion the new release's certificates are watched and lapse, and after a rollback the old one's."""
    root, file, state = contrary_releases(tmp_path / "root", bundle), tmp_path / "a.jsonl", tmp_path / "state.json"
    old, new = Release(root, "r0001").bundle, Release(root, "r0002").bundle
    first, second = Bundle.load(old).id, Bundle.load(new).id
    audits(file, old, 30, 0)
    sleeps([lambda: (promote(root, "r0002"), audits(file, new, 40, 1, bad=True)), lambda: rollback(root)])
    said = run("watch", root, file, "--every", "1", "--state", state)
    assert (said.code, said.err) == (130, "")
    assert f"Bundle {second[:12]} serves in place of {first[:12]}: its evidence begins anew." in " ".join(
        said.out.split()
    )
    assert [lapse.scope for lapse in read_lapses(new, second)] == ["mood"]
    assert not lapse_file(old).exists()
    assert said.out.count("30 new audits") == 2
    # A look now and then: the state of another release is left behind, that of this one is gone on from.
    assert json.loads(run("watch", root, file, "--state", state, "--json").out)["before"] is None
    promote(root, "r0002")
    again = json.loads(run("watch", root, file, "--state", state, "--json").out)
    assert (again["bundle"], again["before"], again["new"]) == (second, first, 40)


def test_a_look_that_fails_is_tried_again(
    bundle: Path, run: Run, tmp_path: Path, sleeps: Callable[[Sequence[Callable[[], object]]], None]
) -> None:
    """The database away, the ROOT away, a full disk: a line on stderr each, and on; the first look ends it."""
    root = contrary_releases(tmp_path / "root", bundle)
    file, away, state = tmp_path / "a.jsonl", tmp_path / "away", tmp_path / "state" / "s.json"
    state.parent.mkdir()
    audits(file, Release(root, "r0001").bundle, 30, 0)
    sleeps(
        [
            lambda: file.rename(away),
            lambda: (away.rename(file), root.rename(away)),
            lambda: (away.rename(root), state.unlink(), state.parent.rmdir()),
            state.parent.mkdir,
        ]
    )
    said = run("watch", root, file, "--every", "5", "--json", "--state", state)
    lines = said.err.splitlines()
    assert said.code == 130
    assert [json.loads(line)["new"] for line in said.out.splitlines()] == [30, 0]
    for line, word in zip(lines, ("no file of audits", "root", "s.json: No such file"), strict=True):
        assert word in line
        assert "looking again in 5 s" in line
    assert state.is_file()
    sleeps([])
    said = run("watch", root, tmp_path / "none.jsonl", "--every", "5")
    assert (said.code, len(said.err.splitlines())) == (2, 1)


def test_a_lowered_rate_does_not_end_the_watch(bundle: Path, run: Run, tmp_path: Path) -> None:
    """With `--state` the evidence goes on and says how; a floor that was named is kept."""
    state, named = tmp_path / "s.json", tmp_path / "n.json"
    high, low = audits(tmp_path / "h.jsonl", bundle, 50, 1), audits(tmp_path / "l.jsonl", bundle, 50, 2, rate=0.02)
    assert run("watch", bundle, high, "--state", state).code == 0
    said = run("watch", bundle, low, "--state", state)
    assert (said.code, said.err) == (0, "")
    assert "smallest so far (0.02, first at audit 51)" in " ".join(said.out.split())
    assert run("watch", bundle, high, "--state", named, "--floor", "0.1").code == 0
    said = run("watch", bundle, low, "--state", named, "--floor", "0.1")
    assert (said.code, "below the floor 0.1" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said_so"),
    [
        (["--every", "inf"], "number of seconds"),
        (["--every", "1e300"], "number of seconds"),
        (["--every", "nan"], "--every"),
        (["--arl", "inf"], "number above 1"),
        (["--arl", "nan"], "number above 1"),
        (["--delta", "1e-310"], "too small"),
    ],
)
def test_numbers_that_are_none(bundle: Path, run: Run, tmp_path: Path, words: list[str], said_so: str) -> None:
    """Exit 2 and one line, for JSON and state too."""
    file = audits(tmp_path / "a.jsonl", bundle, 5, 0)
    said = run("watch", bundle, file, *words, "--json", "--state", tmp_path / "s.json")
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert said_so in said.err
    assert not (tmp_path / "s.json").exists()
