"""Files that a command writes: never one of its inputs, and never a part of a bundle, a release or a ROOT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import routenlp_integrations.cli.distill as distilling
import routenlp_integrations.cli.loop as commands
from exporters.loop.files import hashes_of
from routenlp_integrations.cli.output import check_folder, check_target
from router_core.errors import InputError


@pytest.fixture
def place(tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a ROOT, a bundle, inputs of every kind, and links to some of them."""
    for name in ("bundle", "root/releases/r0001/bundle"):
        shutil.copytree(small_bundle, tmp_path / name)
    for name in ("current", "previous"):
        (tmp_path / "root" / name).write_text("r0001")
    (tmp_path / "begun" / "loop").mkdir(parents=True)
    (tmp_path / "begun" / "loop" / "folds.json").write_text("{}")
    (tmp_path / "root" / "loop").mkdir()
    (tmp_path / "root" / "loop" / "start.json").write_text("{}")
    for name in (
        "records.jsonl", "pairs.jsonl", "replay.jsonl", "plan.toml", "prices.json", "tiers.yaml", "ledger.db",
        "prompts.jsonl.journal.jsonl", "prompts.jsonl", "bundle.lapse.json", "student.teacher.jsonl",
    ):  # fmt: skip
        (tmp_path / name).write_text("precious")
    (tmp_path / "plan.toml").write_text('portfolio = "prices.json"\n')
    (tmp_path / "link.json").symlink_to(tmp_path / "records.jsonl")
    (tmp_path / "into").symlink_to(tmp_path / "root" / "loop")
    (tmp_path / "part.json").symlink_to(tmp_path / "bundle" / "manifest.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "need_loop", lambda: None)
    monkeypatch.setattr(distilling, "_PACKAGES", ())
    return tmp_path


START = ["loop", "start", "new", "records.jsonl", "--plan", "plan.toml"]
ROUND = ["loop", "round", "root", "--ledger", "sqlite:///ledger.db", "--records", "records.jsonl", "--plan"]
ROUND += ["plan.toml", "--teacher", "tiers.yaml"]
DISTILL = ["distill", "pairs.jsonl", "--kind", "classifier", "--tier", "small", "--out", "student"]
ASKED = [*DISTILL, "--teacher", "tiers.yaml", "--replay", "replay.jsonl", "--budget", "1"]
COLLECT = ["collect", "prompts.jsonl", "--tiers", "tiers.yaml", "--metric", "exact", "--budget", "1", "--out"]
EVALUATE = ["evaluate", "bundle", "records.jsonl"]
WRITES = [
    *([*given, "--json", target] for given, targets in (
        (["rollback", "root"], ["root/current", "root/previous", "root/loop/start.json", "root/new.json", "into/x"]),
        (["rollback", "begun"], ["begun/loop/folds.json", "root/current"]),
        (START, ["records.jsonl", "link.json", "plan.toml", "prices.json", "new", "begun/x.json", "root/current"]),
        ([*START, "--checkpoint", "small@mood=bundle"], ["bundle", "bundle/x.json"]),
        (ROUND, ["root/loop/folds.json", "records.jsonl", "plan.toml", "prices.json", "tiers.yaml", "ledger.db-wal"]),
        (DISTILL, ["pairs.jsonl", "student", "student.teacher.jsonl", "root/releases/x.json"]),
        (ASKED, ["replay.jsonl", "tiers.yaml"]),
        (["bench", "bundle"], ["bundle/manifest.json", "part.json", "bundle.lapse.json", "root/current"]),
        (EVALUATE, ["records.jsonl", "root/releases/r0001/bundle/x.json", "bundle.lapse.json", "part.json"]),
        (["evaluate", "bundle", "sqlite:///ledger.db"], ["ledger.db"]),
        (["fit", "records.jsonl", "--out", "made"], ["records.jsonl", "made", "root/current"]),
        (["calibrate", "bundle", "records.jsonl", "--out", "made"], ["records.jsonl", "bundle/x", "root/current"]),
        ([*COLLECT, "o.jsonl"], ["prompts.jsonl", "tiers.yaml", "o.jsonl.journal.jsonl", "root/current"]),
        (["demo", "--out", "begun"], ["begun/loop/folds.json", "root/current"]),
    ) for target in targets),
    [*EVALUATE, "--plot", "root/loop/x.png"],
    [*COLLECT, "root/loop/x.jsonl"],
    ["collect", "prompts.jsonl.journal.jsonl", *COLLECT[2:], "prompts.jsonl"],
    [*COLLECT, "."],
    [*COLLECT, "/"],
    ["ledger", "export", "sqlite:///ledger.db", "--out", "root/loop/x.jsonl"],
    ["fit", "records.jsonl", "--out", "root/releases/r0001/bundle"],
    ["calibrate", "bundle", "records.jsonl", "--out", "root/releases/r0001/bundle"],
    ["fit", "records.jsonl", "--out", "bundle/inner"],
    [*DISTILL[:-1], "root/releases/r0001/checkpoints/small@mood"],
    [*DISTILL[:-1], "bundle/student"],
    ["distill", "student.teacher.jsonl", *ASKED[2:]],
]  # fmt: skip


@pytest.mark.parametrize("words", WRITES, ids=" ".join)
def test_no_command_writes_over_what_it_reads_or_what_is_kept(
    words: list[str], place: Path, run: Callable[..., Any]
) -> None:
    """One sentence, exit code 2, and every file is what it was."""
    before = hashes_of(place)
    said = run(*words)
    assert said.code == 2
    assert said.err.count("\n") == 1, said.err
    whys = ("name another file", "is a folder; name a file in it", "does not exist; make it", "the file must end in")
    assert any(why in said.err for why in whys), said.err
    assert hashes_of(place) == before
    assert not (place / "new").exists()


def test_other_files_may_be_written(place: Path) -> None:
    """Beside an input, a bundle and a ROOT, in a folder that only looks like one, and over an earlier report."""
    (place / "report.json").write_text("{}")
    (place / "site" / "releases").mkdir(parents=True)
    for name in ("new.json", "report.json", "site/x.json", "site/releases/x.json", "other.lapse.json"):
        check_target(place / name, "--json", taken=[place / "records.jsonl", "sqlite:///ledger.db", place / "root"])
    (place / "ring.json").symlink_to("ring.json")
    check_target(place / "ring.json", "--json", taken=[place / "records.jsonl"])
    check_target(Path("-"), "--json", taken=[Path("-")])
    check_folder(place / "student", "--out", [place / "pairs.jsonl", place / "student"])
    (place / "student").mkdir()
    with pytest.raises(InputError, match="replaced as a whole"):
        check_folder(place / "student", "--out", [place / "student" / "pairs.jsonl"])


def test_a_picture_and_a_report_are_two_files(place: Path, run: Callable[..., Any]) -> None:
    """One file for both would keep only the second."""
    assert "name another file" in run(*EVALUATE, "--plot", "both.png", "--json", "both.png").err
    assert not (place / "both.png").exists()
    assert json.loads((place / "bundle" / "manifest.json").read_bytes())["parts"]
