"""Faults planted in rounds that would be promoted: the gate's own measurements find each, and nothing else does.

Whatever stands before the gate is made blind to the fault, so that breaking the measurement lets it through.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

for _name in ("sqlalchemy", "sklearn", "filelock"):
    pytest.importorskip(_name, reason="needs routenlp[fit,ledger] and filelock")

from loops import TASKS, fake_distil, know, loop_options, loop_records, stream
from tiny_student import MOODS

from exporters.fence import NO_KEYS
from exporters.loop import LoopOptions, beginning, proving, run_round
from exporters.loop.learning import Learning
from exporters.loop.options import Limits
from exporters.loop.proving import Proving
from exporters.loop.state import State
from exporters.students.data import Pair
from router_core import bundle as bundles
from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.fitting.incumbent import Incumbent
from router_core.folder import parts_id, read_folder, write_folder
from router_core.records import Records
from router_core.release import Release
from router_core.router import Router
from router_core.student import Student

Patch = pytest.MonkeyPatch


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy of a started loop and its ledger, whose next round is promoted (`test_rounds`)."""
    shutil.copytree(begun, tmp_path / "copy")
    return tmp_path / "copy"


def a_round(folder: Path, **more: Any) -> Any:
    """The next round."""
    given = {"options": loop_options(), "distil": fake_distil, "records": loop_records(), **more}
    return run_round(folder / "root", ledger=f"sqlite:///{folder / 'ledger.db'}", **given)


def refused(folder: Path, check: str, **more: Any) -> str:
    """Run a round that one check alone must refuse; what it says. What served goes on serving."""
    root = folder / "root"
    before = Release.current(root).id
    report = a_round(folder, **more)
    assert report.outcome == "refused", report.outcome
    assert list(report.reasons) == [check], report.reasons
    assert Release.current(root).id == before
    return " ".join(report.reasons[check])


def test_shuffled_labels(folder: Path) -> None:
    """A student that was taught the right queries with answers dealt at random saves nothing."""
    draw = random.Random(0)  # noqa: S311 - a plant, not a secret

    def shuffled(kind: str, pairs: Any, options: Any = None, **more: Any) -> Any:
        mixed = [replace(pair, answer=draw.choice(MOODS)) for pair in [*pairs, *more["replay"]]]
        return fake_distil(kind, mixed, options, **{**more, "replay": ()})

    report = a_round(folder, distil=shuffled)
    assert report.outcome == "refused"
    assert "not shown to be cheaper" in " ".join(report.reasons["cost"])
    assert Release.current(folder / "root").id == "r0001"
    assert not (folder / "root" / "releases" / "r0002").exists()


def other_fold(work: Any) -> list[int]:
    """Rows of a fold that this round does not certify on."""
    rows: list[int] = work.folds.rows(work.prepared.records, 2)
    return rows


def test_a_router_that_learned_calibration_queries(folder: Path, monkeypatch: Patch) -> None:
    """Queries of another fold among what the router is fitted on: those folds are to certify later rounds."""
    sheet = Proving.sheet.func  # type: ignore[attr-defined]

    def leaky(self: Proving) -> Records:
        right, every = sheet(self), self.work.prepared.records
        place = {query: i for i, query in enumerate(every.query_id)}
        more = other_fold(self.work)[:5]
        made = every.take([*(place[query] for query in right.query_id), *more])
        return replace(made, split=[*right.split, *("train" for _ in more)])

    monkeypatch.setattr(Proving, "sheet", property(leaky))
    said = refused(folder, "leak")
    assert "keys of calibration queries were learned from" in said
    assert "near-duplicates" not in said


def test_a_student_that_was_taught_calibration_queries(folder: Path, monkeypatch: Patch) -> None:
    """The same among what students were taught, by their ids."""
    learned = Learning.learned

    def leaky(self: Learning) -> dict[str, list[Pair]]:
        every, (row, *_) = self.work.prepared.records, other_fold(self.work)
        leaked = Pair(every.query_id[row], "words that are in no record", "good", "mood")
        return {**learned(self), "mood": [*learned(self)["mood"], leaked]}

    monkeypatch.setattr(Learning, "learned", leaky)
    assert "1 keys of calibration queries were learned from" in refused(folder, "leak")


def test_a_certificate_of_another_candidate(folder: Path, monkeypatch: Patch) -> None:
    """Certificates that were made of another router than lies beside them, where the reader does not look."""
    save = Bundle.save

    def stale(self: Bundle, path: Path) -> Bundle:
        saved = save(self, path)
        if Path(path).parent.name != ".certify.new":
            return saved
        shown = read_folder(Path(path))[1]["certificates.json"]
        save(replace(self, settings={**self.settings, "max_age_days": 99.0}), path)
        manifest, parts = read_folder(Path(path))
        parts["certificates.json"] = shown
        told = {key: value for key, value in manifest.items() if key not in ("parts", "seal", "schema")}
        write_folder(Path(path), {**told, "id": parts_id(parts)}, parts)
        return saved

    monkeypatch.setattr(Bundle, "save", stale)
    monkeypatch.setattr(bundles, "_check_whole", lambda *_: None)
    assert "the certificates are of candidate" in refused(folder, "certificate")


@pytest.mark.parametrize("what", ["claims", "comparison"])
def test_a_certificate_of_other_queries(what: str, folder: Path, monkeypatch: Patch) -> None:
    """Certificates, or the comparison, that were made on a part of the fold."""
    certify = proving.certify_bundle

    def on_other_queries(bundle: Bundle, records: Records, incumbent: Incumbent, **more: Any) -> Any:
        calib = [i for i, split in enumerate(records.split) if split == "calib"]
        fewer = records.take([i for i in range(len(records)) if i not in calib[:6]])
        right, wrong = (certify(bundle, one, incumbent, **more) for one in (records, fewer))
        return (wrong[0], right[1]) if what == "claims" else (right[0], wrong[1])

    monkeypatch.setattr(proving, "certify_bundle", on_other_queries)
    said = refused(folder, "certificate")
    assert f"what was shown of {'the comparison' if what == 'comparison' else '*'} is of other calibration" in said


def test_a_fold_that_was_used(played: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """With the list of folds gone a fold is taken again; the release that serves knows that it was used."""
    folder = tmp_path / "copy"
    shutil.copytree(played, folder)
    stream(folder / "root", f"sqlite:///{folder / 'ledger.db'}", loop_records())
    State(folder / "root").spent.unlink()
    monkeypatch.setattr(beginning, "read_folds", lambda *_: set())
    assert "the fold was used 2 times" in refused(folder, "certificate", distil=lambda *_, **__: know(0, 1, 2))


def test_a_student_that_is_too_large(folder: Path) -> None:
    """Two megabytes more in its graph than it needs."""

    def padded(kind: str, pairs: Any, options: Any = None, **more: Any) -> Any:
        made = fake_distil(kind, pairs, options, **more)
        # An ONNX model's doc_string: field 6, its length as a varint, the text.
        note = b"\x32" + bytes([0x80 | (2_000_000 & 0x7F), 0x80 | (2_000_000 >> 7 & 0x7F), 2_000_000 >> 14])
        graph = made.weights["model.onnx"] + note + b" " * 2_000_000
        return replace(made, weights={**made.weights, "model.onnx": graph})

    said = refused(folder, "size", distil=padded, options=loop_options(limits=Limits(student_mb=1.0)))
    assert all(f"the student of {task} has 2.0 MB, more than 1" in said for task in TASKS)


def slowly(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same, six milliseconds later."""

    def late(*given: Any, **more: Any) -> Any:
        time.sleep(0.006)
        return work(*given, **more)

    return late


@pytest.mark.parametrize(
    ("slow", "limit", "said"),
    [
        ((Student, "answer"), {"student_ms": 5.0, "router_ms": 1e6}, "the student of mood takes"),
        ((Router, "decide"), {"router_ms": 5.0, "student_ms": 1e6}, "the router takes"),
    ],
)
def test_one_too_slow(slow: Any, limit: dict[str, float], said: str, folder: Path, monkeypatch: Patch) -> None:
    """A student, or a router, that takes longer than the limit where it is served."""
    gate, (kind, name) = Proving.gate, slow

    def while_slow(self: Proving) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, name, slowly(getattr(kind, name)))
            return gate(self)

    monkeypatch.setattr(Proving, "gate", while_slow)
    assert said in refused(folder, "latency", options=loop_options(limits=Limits(**limit)))


def test_a_task_of_which_too_little_is_shown(folder: Path, monkeypatch: Patch) -> None:
    """Fewer than 3 in 100 answers of the fold are bad, but so few of them do not show that of all answers."""
    monkeypatch.setattr(LoopOptions, "quality_loss", lambda _, task: 0.03 if task == "tone" else 0.2)
    assert "task tone: the quality served may lie 0.0" in refused(folder, "quality")
    told = json.loads((folder / "root" / "rounds" / "0001" / "certify" / "comparison.json").read_text())["tasks"]
    assert told["tone"]["new_bad"] / told["tone"]["n"] < 0.03 < told["tone"]["shortfall_upper"]


def test_a_saving_that_may_be_chance(folder: Path, monkeypatch: Patch) -> None:
    """New students that know no more, where the old ones happened to escalate two queries of the fold."""
    before = Proving.answered_before.func  # type: ignore[attr-defined]

    def unlucky(self: Proving) -> Records:
        found: Records = before(self)
        rows = [i for i, split in enumerate(found.split) if split == "calib"]
        unknown = next(i for i in rows if found.prompt[i].startswith("save"))
        known = [i for i in rows if found.prompt[i].startswith("love")][:2]
        signals = {name: values.copy() for name, values in found.signals.items()}
        for values in signals.values():
            values[known] = values[unknown]
        return replace(found, signals=signals)

    monkeypatch.setattr(Proving, "answered_before", property(unlucky))
    said = refused(folder, "cost", distil=lambda *_, **__: know(0))
    told = json.loads((folder / "root" / "rounds" / "0001" / "certify" / "comparison.json").read_text())["overall"]
    assert told["new_usd"] < told["old_usd"], said


def test_a_router_is_never_fitted_on_what_its_students_were_taught(folder: Path, monkeypatch: Patch) -> None:
    """The step that fits it looks itself, whatever rows it was handed."""
    sheet = proving.router_sheet

    def all_rows(prepared: Any, options: Any, fold: Any, taught: Any, **more: Any) -> Records:
        return sheet(prepared, replace(options, student_share=1e-9), fold, NO_KEYS, **more)

    monkeypatch.setattr(proving, "router_sheet", all_rows)
    with pytest.raises(InputError, match="the router's training and what students were taught share"):
        a_round(folder)
    assert not (State(folder / "root").round(1) / "retrain").exists()
    assert not State(folder / "root").spent.exists()


def test_a_fold_is_written_down_before_it_is_read(folder: Path, monkeypatch: Patch) -> None:
    """Killed at the first look at the fold, the round has used it."""

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(proving, "certify_bundle", killed)
    with pytest.raises(KeyboardInterrupt):
        a_round(folder)
    assert list(json.loads(State(folder / "root").spent.read_text())) == ["1"]
