"""Rounds of a loop without torch: a release that is promoted, and what is refused, refused early or resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")
pytest.importorskip("sklearn", reason="needs routenlp[fit]")
pytest.importorskip("filelock", reason="needs filelock")

import disks
import loops
from loops import TASKS, fake_distil, first_students, know, loop_options, loop_records, stream

import router_core
from exporters.loop import run_round, start
from exporters.loop.folds import Folds, is_student_part, router_rows
from exporters.loop.journal import Journal, locked
from exporters.loop.routing import check_untaught
from exporters.loop.state import State, pairs_keys
from exporters.loop.work import Work
from exporters.students.data import Pair
from router_core.bundle import Bundle
from router_core.certificate import clopper_pearson
from router_core.errors import InputError
from router_core.keys import hash_keys
from router_core.ledger.reader import LedgerReader
from router_core.promotion import rollback
from router_core.release import Release

STEPS = (
    "harvest", "cluster", "select", "teach", "distil@mood", "distil@tone", "answer", "retrain", "certify", "gate",
    "promote", "test", "report",
)  # fmt: skip


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    shutil.copytree(begun, tmp_path / "copy")
    return tmp_path / "copy"


def a_round(folder: Path, **more: Any) -> Any:
    """The next round."""
    given = {"options": loop_options(), "distil": fake_distil, "records": loop_records(), **more}
    return run_round(folder / "root", ledger=f"sqlite:///{folder / 'ledger.db'}", **given)


def test_a_round_promotes_what_was_learned(folder: Path) -> None:
    """Failures are taught, the new release is cheaper on the fresh fold, is certified on it once, and rolls back."""
    root = folder / "root"
    report = a_round(folder)
    assert report.promoted, report.reasons
    assert Release.current(root).id == report.release == "r0002"
    overall = report.told["comparison"]["overall"]
    assert overall["difference_usd"][1] < 0
    assert {one["task"] for one in report.told["clusters"]} == set(TASKS)
    assert overall["new_quality_ratio"][0] <= overall["new_quality"] <= overall["new_quality_ratio"][1]
    assert tuple(overall["new_bad_share"]) == clopper_pearson(overall["new_bad"], overall["n"], 0.9)
    test = report.told["test"]
    assert set(test["before"]) == set(test["after"]) == {"all", *TASKS}
    for when in ("before", "after"):
        one = test[when]["all"]
        assert one["joint_risk_ci"] == list(clopper_pearson(round(one["joint_risk"] * one["n"]), one["n"], 0.95))
        assert sum(one["share"].values()) == pytest.approx(1.0)
    assert test["before"]["all"]["n"] == 40
    url = f"sqlite:///{folder / 'test.db'}"
    stream(root, url, loop_records(), splits=("test",))
    served = [route.tier for route in LedgerReader(url).routes()]
    assert test["after"]["all"]["share"] == {name: served.count(name) / 40 for name in ("small", "large")}
    assert "Before and after on the test split" in (report.folder / "report.md").read_text()
    bundle, state = Bundle.load(Release.current(root).bundle), State(root)
    assert {c.use_count for c in bundle.certificates.values() if c.policy in ("cascade", "route_only")} == {1}
    taught = pairs_keys(state.learned("r0002"))
    assert len(taught)
    assert not np.intersect1d(taught, np.union1d(bundle.keys.train, bundle.keys.tune)).size
    assert "promoted" in (report.folder / "report.md").read_text()
    assert json.loads((report.folder / "report.json").read_text())["outcome"] == "promoted"
    assert rollback(root) == "r0001"
    assert Release.current(root).id == "r0001"


def test_a_student_worse_on_one_task_is_refused(folder: Path) -> None:
    """A task whose student forgot everything gets dearer; that all queries together get cheaper does not help."""

    def forgetful(kind: str, pairs: Any, options: Any = None, **more: Any) -> Any:
        if pairs[0].task == "tone":
            return fake_distil(kind, [], options, **{**more, "replay": ()})
        return know(0, 1, 2)

    report = a_round(folder, distil=forgetful)
    assert report.outcome == "refused"
    assert any("tone" in one for said in report.reasons.values() for one in said)
    assert list(report.reasons) == ["dearer task"]
    assert report.told["comparison"]["overall"]["difference_usd"][1] < 0


def test_a_corrupted_checkpoint_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that changes after the answers were given is found before anything is promoted."""
    from exporters.loop.proving import Proving

    certify = Proving.certify

    def and_corrupt(self: Proving) -> None:
        certify(self)
        graph = self.new["mood"] / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")

    monkeypatch.setattr(Proving, "certify", and_corrupt)
    report = a_round(folder)
    assert report.outcome == "refused"
    assert list(report.reasons) == ["hashes"]
    assert "model.onnx" in report.reasons["hashes"][0]


def test_calibration_queries_are_never_taught(tmp_path: Path) -> None:
    """A calibration query among the first students' pairs stops the start; one in the ledger is left out."""
    records = loop_records()
    leaked = records.split.index("calib")
    pair = Pair(records.query_id[leaked], records.prompt[leaked], "good", "mood")
    with pytest.raises(InputError, match="calib"):
        start(
            tmp_path, records, options=loop_options(), checkpoints=first_students(), pairs={"mood": [pair]},
            distil=fake_distil,
        )  # fmt: skip
    assert not (tmp_path / "current").exists()


def test_logged_calibration_queries_are_left_out(folder: Path) -> None:
    """Production repeats a calibration query: it is counted, and neither clustered nor taught."""
    records = loop_records()
    stream(folder / "root", f"sqlite:///{folder / 'ledger.db'}", records, splits=("calib",))
    report = a_round(folder)
    assert report.told["harvest"]["left_out"]["calibration queries"] > 0
    found = (report.folder / "harvest" / "failures.jsonl").read_text()
    calib = {query for query, split in zip(records.query_id, records.split, strict=True) if split == "calib"}
    assert not calib & {json.loads(line)["query_id"] for line in found.splitlines()}


def test_routers_never_see_answers_to_taught_queries() -> None:
    """The router's rows share no key with the student part; the mutant that ignores the parts is refused."""
    work = Work.of("unused", loop_records(), loop_options())
    records = work.prepared.records
    taught_rows = [i for i in work.prepared.train.tolist() if is_student_part(records.group[i], 0.5)]
    taught = hash_keys(records.group[i] for i in taught_rows)
    fine = router_rows(work.prepared, 0.5, taught)
    assert fine
    check_untaught(records.take(fine), taught)
    with pytest.raises(InputError, match="what students were taught share"):
        check_untaught(records.take(work.prepared.train), taught)


def test_folds_are_whole_equal_and_never_rewritten(tmp_path: Path) -> None:
    """Groups stay whole, tasks are dealt equally, and other folds are not written over these."""
    work = Work.of("unused", loop_records(), loop_options())
    folds = Folds.allocate(work.prepared, 4)
    assert [len(part) for part in folds.ids] == [80] * 4
    assert len({query for part in folds.ids for query in part}) == 320
    folds.save(tmp_path / "folds.json")
    assert Folds.load(tmp_path / "folds.json") == folds
    with pytest.raises(InputError, match="folds of other records"):
        Folds.allocate(work.prepared, 5).save(tmp_path / "folds.json")
    content = (tmp_path / "folds.json").read_text()
    (tmp_path / "folds.json").write_text(content.replace(folds.ids[0][0], "other", 1))
    with pytest.raises(InputError, match="was changed"):
        Folds.load(tmp_path / "folds.json")


def test_out_of_folds(folder: Path) -> None:
    """With every fold read the loop says so and changes nothing."""
    state = State(folder / "root")
    state.spent.write_text('{"1": 1.0, "2": 2.0}')
    report = a_round(folder)
    assert report.outcome == "no fold left"
    assert "calibration folds are used" in report.told["why"]
    assert Release.current(folder / "root").id == "r0001"
    assert state.rounds() == [0]


def test_two_loops_on_one_root(folder: Path) -> None:
    """The second is told that another is at work."""
    with locked(folder / "root"), pytest.raises(InputError, match="another loop is at work"):
        a_round(folder)


def test_ledger_without_texts(folder: Path) -> None:
    """Without texts queries are found by their key in the records; strangers without text are explained."""
    (folder / "ledger.db").unlink()
    url = f"sqlite:///{folder / 'ledger.db'}"
    stream(folder / "root", url, loop_records(), store_text=False)
    assert sum(a_round(folder).told["harvest"]["found"].values()) > 20
    shutil.rmtree(folder / "root" / "rounds" / "0001")
    (folder / "ledger.db").unlink()
    stream(folder / "root", url, loop_records(seed=5), store_text=False)
    with pytest.raises(InputError, match="store_text=True"):
        a_round(folder)


def test_other_records_or_options_are_refused(folder: Path) -> None:
    """A round takes the records of the start, and a loop is started once."""
    with pytest.raises(InputError, match="not the records"):
        a_round(folder, records=loop_records(seed=3))
    with pytest.raises(InputError, match="started here"):
        start(folder / "root", loop_records(), options=loop_options(), checkpoints=first_students())


_KILLED = """
import os, signal, sys
from pathlib import Path
import exporters.loop.journal as journal
from test_support import a_round
where, step, late = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "late"
sync, save = journal.sync_tree, journal.Journal._save
def die(): os.kill(os.getpid(), signal.SIGKILL)
def synced(folder):
    sync(folder)
    if not late and folder.name == f".{step}.new": die()
def saved(self):
    if late and step in self.steps: die()
    save(self)
journal.sync_tree, journal.Journal._save = synced, saved
a_round(where)
"""


def test_killed_at_each_step_it_resumes_to_the_same_release(folder: Path, tmp_path: Path) -> None:
    """SIGKILL in every step, before or after its rename; what is finished then is what an undisturbed round makes."""
    twin = tmp_path / "twin"
    shutil.copytree(folder, twin)
    a_round(twin)
    undisturbed = Release.current(twin / "root")
    (tmp_path / "test_support.py").write_text(
        "from loops import *\nfrom exporters.loop import run_round\n"
        "def a_round(folder):\n"
        "    return run_round(folder / 'root', ledger=f\"sqlite:///{folder / 'ledger.db'}\", options=loop_options(),\n"
        "                     distil=fake_distil, records=loop_records())\n"
    )
    home = os.pathsep.join(map(str, (Path(router_core.__file__).parents[1], Path(loops.__file__).parent, tmp_path)))
    for number, step in enumerate(STEPS):
        words = [sys.executable, "-W", "ignore", "-c", _KILLED, str(folder), step, ("early", "late")[number % 2]]
        env = {**os.environ, "PYTHONPATH": home}
        done = subprocess.run(words, env=env, check=False, capture_output=True, text=True)  # noqa: S603
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        if step != "promote":
            serving = "r0002" if step in ("test", "report") else "r0001"
            assert Release.current(folder / "root").id == serving
        assert not Journal(folder / "root" / "rounds" / "0001").done(step)
    assert a_round(folder).promoted
    resumed = Release.current(folder / "root")
    assert resumed.id == undisturbed.id
    assert resumed.checkpoints == undisturbed.checkpoints
    assert Bundle.load(resumed.bundle).id == Bundle.load(undisturbed.bundle).id


def test_a_full_disk_stops_a_round_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    """At the first step and in the middle: one sentence, the old release serves; with room again the round goes on."""
    with disks.small_disk(tmp_path / "disk", "20m") as disk:
        shutil.copytree(folder / "root", disk / "root")
        shutil.copy(folder / "ledger.db", tmp_path / "ledger.db")
        root, url = disk / "root", f"sqlite:///{tmp_path / 'ledger.db'}"
        for leaving, done in ((8_000, "harvest"), (200_000, "retrain")):
            disks.fill(disk, leaving)
            with pytest.raises(InputError, match=r"No space left on device.*make room and run it again"):
                run_round(root, ledger=url, records=loop_records(), options=loop_options(), distil=fake_distil)
            assert Release.current(root).id == "r0001"
            assert not (State(root).round(1) / done).exists()
        (disk / "filler").unlink()
        steps = set(Journal(State(root).round(1)).steps)
        assert {"harvest", "teach", "distil@mood"} <= steps
        report = run_round(root, ledger=url, records=loop_records(), options=loop_options(), distil=fake_distil)
        assert report.promoted


def test_a_changed_output_stops_the_resumed_round(folder: Path) -> None:
    """What a killed round left is verified before it is taken over."""
    a_round(folder)
    journal = Journal(folder / "root" / "rounds" / "0001")
    del journal.steps["report"]
    journal._save()
    with (journal.path("teach") / "lessons.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"lessons\.jsonl was changed"):
        a_round(folder)
