"""What may happen between two calls of a loop: options loosened, a release rolled back, files lost, a start redone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

for _name in ("sqlalchemy", "sklearn", "filelock"):
    pytest.importorskip(_name, reason="needs routenlp[fit,ledger] and filelock")

from loops import TASKS, fake_distil, first_students, know, loop_options, loop_records, stream

from exporters.loop import TaskPlan, run_round, start, starting
from exporters.loop.beginning import read_folds, read_until
from exporters.loop.folds import Folds
from exporters.loop.journal import Journal
from exporters.loop.proving import CHANGED, Proving
from exporters.loop.state import State
from exporters.loop.work import Work
from exporters.students.data import Pair
from router_core.checkpoint import Checkpoint
from router_core.errors import InputError
from router_core.fitting import FitSettings
from router_core.promotion import rollback
from router_core.release import Release


@pytest.fixture
def folder(played: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    shutil.copytree(played, tmp_path / "copy")
    return tmp_path / "copy"


def a_round(folder: Path, **more: Any) -> Any:
    """The next round."""
    given = {"options": loop_options(), "distil": fake_distil, "records": loop_records(), **more}
    return run_round(folder / "root", ledger=f"sqlite:///{folder / 'ledger.db'}", **given)


LOOSER = {
    "settings": {"settings": FitSettings(alpha=0.5, delta=0.45)},
    "student_share": {"student_share": 0.9},
    "folds": {"folds": 4},
    "task mood": {"plans": dict.fromkeys(TASKS, TaskPlan("classifier", grade="agree_with_reference"))},
}


@pytest.mark.parametrize("name", LOOSER)
def test_what_certificates_rest_on_is_fixed_at_the_start(name: str, folder: Path) -> None:
    """Later rounds may not claim less, cut otherwise or grade otherwise."""
    with pytest.raises(InputError, match=name):
        a_round(folder, options=loop_options(**LOOSER[name]))
    assert State(folder / "root").rounds() == [0, 1]


def test_a_loop_that_kept_nothing_fixed_starts_anew(folder: Path) -> None:
    """A ROOT of a version under development does not say what its certificates rest on: no round is run on it."""
    path = State(folder / "root").start
    told = json.loads(path.read_text())
    del told["fixed"]
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"does not say what the certificates rest on.*start anew in another folder"):
        a_round(folder)
    assert State(folder / "root").rounds() == [0, 1]


def test_a_rollback_during_a_round_is_not_overridden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round was compared with a release that no longer serves: refused, its fold spent, the rollback kept."""
    certify = Proving.certify

    def and_back(self: Proving) -> None:
        certify(self)
        rollback(folder / "root")

    monkeypatch.setattr(Proving, "certify", and_back)
    stream(folder / "root", f"sqlite:///{folder / 'ledger.db'}", loop_records())
    report = a_round(folder, distil=lambda *_, **__: know(0, 1, 2))
    assert (report.outcome, report.release) == ("refused", "r0001"), report.reasons
    assert report.reasons["incumbent"] == (CHANGED,)
    assert Release.current(folder / "root").id == "r0001"
    assert CHANGED in (report.folder / "report.md").read_text()
    state = State(folder / "root")
    assert read_until(state) is None
    assert read_folds(state, Work.of(state.root, loop_records(), loop_options())) == {1, 2}


def test_folds_are_known_to_be_used_without_their_list(folder: Path) -> None:
    """Journals of rounds and calib keys of releases each tell; without all three the fold would be taken again."""
    state = State(folder / "root")
    work = Work.of(state.root, loop_records(), loop_options())
    releases, kept = folder / "root" / "releases", folder / "releases"
    shutil.copytree(state.round(1), folder / "round")
    state.spent.unlink()
    assert read_folds(state, work) == {1}
    shutil.rmtree(state.round(1))
    assert read_folds(state, work) == {1}
    (releases / "r0002").rename(kept)
    assert read_folds(state, work) == set()
    (folder / "round").rename(state.round(1))
    assert read_folds(state, work) == {1}


def test_after_a_rollback_its_failures_count_again(folder: Path) -> None:
    """The ledger is read since the round that made what serves now, not since one that was undone."""
    state = State(folder / "root")
    assert read_until(state) == Journal(state.round(1)).begun["until"]
    rollback(state.root)
    assert read_until(state) is None


def test_without_any_round_it_says_so(folder: Path) -> None:
    """ROOT/rounds is gone: one sentence."""
    shutil.rmtree(folder / "root" / "rounds")
    with pytest.raises(InputError, match="holds no round"):
        a_round(folder)


def test_pairs_without_a_checkpoint_are_refused(tmp_path: Path) -> None:
    """Pairs of a task that is not planned, or whose student is not given, would be dropped in silence."""
    pair = Pair("p", "love it", "good")
    for given, pairs in ((first_students(), "taste"), ({"small@mood": know(0)}, "tone")):
        with pytest.raises(InputError, match=f"pairs of '{pairs}'"):
            start(tmp_path / "root", loop_records(), options=loop_options(), checkpoints=given, pairs={pairs: [pair]})
    assert not (tmp_path / "root").exists()


def test_a_killed_start_goes_on_with_the_same_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other checkpoints or pairs are refused; the plan is there already; the same call finishes."""
    root, fit = tmp_path / "root", starting.fit

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def begin(**more: Any) -> Release:
        given = {"options": loop_options(), "checkpoints": first_students(), **more}
        return start(root, loop_records(), distil=fake_distil, plan={"plan": {}}, **given)

    monkeypatch.setattr(starting, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        begin()
    assert State(root).plan.is_file()
    monkeypatch.setattr(starting, "fit", fit)
    with pytest.raises(InputError, match="other checkpoints"):
        begin(checkpoints={f"small@{task}": know(0, 1, 2) for task in TASKS})
    with pytest.raises(InputError, match="other pairs"):
        begin(pairs={"mood": [Pair("p", "love it", "good")]})
    assert Checkpoint.load(begin().checkpoint("small", "mood")).fingerprint == know(0).fingerprint


def test_a_start_that_did_nothing_is_replaced(tmp_path: Path) -> None:
    """A first call that stopped before any step does not hold the folder for its options."""
    pair = Pair(loop_records().query_id[loop_records().split.index("calib")], "love it", "good")
    with pytest.raises(InputError, match="calib"):
        start(
            tmp_path, loop_records(), options=loop_options(folds=4), checkpoints=first_students(),
            pairs={"mood": [pair]},
        )  # fmt: skip
    start(tmp_path, loop_records(), options=loop_options(), checkpoints=first_students())
    assert len(Folds.load(State(tmp_path).folds).ids) == 3


@pytest.mark.parametrize(
    ("key", "value"), [("folds", "four"), ("budget_usd", float("nan")), ("student_share", None), ("least", 1.5)]
)
def test_wrong_numbers_are_named(key: str, value: Any) -> None:
    """Whatever is no number in range is refused by its key."""
    with pytest.raises(InputError, match=f"^{key} is "):
        loop_options(**{key: value})


def test_wrong_plans_of_a_task_are_named() -> None:
    """An unknown metric, and numbers that are none, when the plan is made."""
    with pytest.raises(InputError, match="unknown metric 'nosuch'"):
        TaskPlan("classifier", grade="nosuch")
    with pytest.raises(InputError, match=r"^seed_pairs is 'x'"):
        TaskPlan("classifier", seed_pairs="x")  # type: ignore[arg-type]
