"""Releases written, promoted and rolled back; whatever is killed, the old one serves."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashes import killed_at
from releases import naming, release_of, small_release
from tiny_student import tiny_checkpoint

from router_core import BundleError, InputError, Router
from router_core import promotion as promoting
from router_core.promotion import new_release_id, promote, publish, rollback
from router_core.release import Release
from router_core.student_set import StudentSet


@pytest.fixture
def root(tmp_path: Path, small_bundle: Path) -> Path:
    """A ROOT with the releases r0001, which is current, and r0002."""
    root = tmp_path / "root"
    small_release(root, small_bundle)
    small_release(root, small_bundle, max_tokens=32)
    promote(root, "r0001")
    return root


def ids(root: Path) -> tuple[str, str | None]:
    """What ``current`` and ``previous`` say."""
    before = root / "previous"
    return (root / "current").read_text().strip(), before.read_text().strip() if before.exists() else None


def test_ids_count_up(tmp_path: Path, root: Path) -> None:
    """The next id is one above the highest there, whatever else lies beside it."""
    assert new_release_id(tmp_path / "nowhere") == "r0001"
    (root / "releases" / "r0041").mkdir()
    (root / "releases" / ".r0099.new.x").mkdir()
    (root / "releases" / "other").mkdir()
    assert new_release_id(root) == "r0042"


def test_promote_and_one_step_back(root: Path, small_bundle: Path) -> None:
    """Promotion remembers what served before; a rollback goes there once."""
    promote(root, "r0002")
    promote(root, "r0002")
    assert ids(root) == ("r0002", "r0001")
    small_release(root, small_bundle, max_tokens=16)
    promote(root, "r0003")
    assert rollback(root) == "r0002"
    assert ids(root) == ("r0002", None)
    with pytest.raises(InputError, match="nothing to go back to"):
        rollback(root)
    promote(root, "r0003")
    assert ids(root) == ("r0003", "r0002")
    assert Router.load(root).bundle_id


def test_a_release_is_never_changed(root: Path, small_bundle: Path) -> None:
    """The same release again is fine, another one under its id is refused, and nothing is left beside them."""
    again = publish(root, "r0001", root / "releases" / "r0001" / "bundle", {"small": tiny_checkpoint()})
    assert again.folder == root / "releases" / "r0001"
    with pytest.raises(InputError, match="is another release"):
        publish(root, "r0001", small_bundle, {})
    assert sorted(os.listdir(root / "releases")) == ["r0001", "r0002"]


def test_what_is_published_is_what_was_given(root: Path, small_bundle: Path) -> None:
    """A bundle and a checkpoint's folder are copied byte by byte."""
    given = tiny_checkpoint().save(root.parent / "given").folder
    assert given is not None
    release = publish(root, "r0009", small_bundle, {"small": given})
    for source, target in ((small_bundle, release.bundle), (given, release.checkpoint("small"))):
        assert {f.name: f.read_bytes() for f in source.iterdir()} == {f.name: f.read_bytes() for f in target.iterdir()}


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "small@", "x" * 200])
def test_names_that_are_no_folder(root: Path, small_bundle: Path, name: str) -> None:
    """Neither a release nor a checkpoint is written outside its place."""
    with pytest.raises(InputError, match="cannot name"):
        publish(root, name, small_bundle, {})
    with pytest.raises(InputError, match="cannot name"):
        publish(root, "r0009", small_bundle, {name: tiny_checkpoint()})
    with pytest.raises(InputError, match="has no release"):
        promote(root, name)
    assert ids(root)[0] == "r0001"


def test_checkpoints_that_contradict(root: Path, small_bundle: Path) -> None:
    """One for all tasks beside one for a task, and one of another tier, are refused."""
    both = {"small": tiny_checkpoint(), "small@mood": tiny_checkpoint()}
    with pytest.raises(InputError, match="one for all tasks, or one for each"):
        publish(root, "r0009", small_bundle, both)
    with pytest.raises(InputError, match="is of tier 'small'"):
        publish(root, "r0009", small_bundle, {"medium": tiny_checkpoint()})


def test_a_corrupted_part_is_not_promoted(root: Path) -> None:
    """A flipped byte in the bundle or in the checkpoint, or a file too many, keeps the old release serving."""
    release = Release(root, "r0002")
    for part in (release.bundle / "policies.npz", release.checkpoint("small") / "model.onnx"):
        good = part.read_bytes()
        part.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(BundleError, match="was changed"):
            promote(root, "r0002")
        part.write_bytes(good)
    extra = release.bundle / "extra"
    extra.touch()
    with pytest.raises(BundleError, match="does not belong"):
        promote(root, "r0002")
    extra.unlink()
    assert ids(root) == ("r0001", None)
    promote(root, "r0002")


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "other/", "checkpoints/stray.txt", "checkpoints/small@x/"])
def test_what_does_not_belong_to_a_release(root: Path, small_bundle: Path, name: str) -> None:
    """Beside the bundle and among the checkpoints it is refused; a lapse, half-written too, is no part and stays."""
    folder = root / "releases" / "r0002"
    for told in ("bundle.lapse.json", ".bundle.lapse.json.x7"):
        (folder / told).touch()
    stray = folder / name
    (stray.mkdir if name.endswith("/") else stray.touch)()
    for act in (
        lambda: promote(root, "r0002"),
        lambda: publish(root, "r0002", folder / "bundle", {"small": Release(root, "r0002").checkpoint("small")}),
    ):
        with pytest.raises(BundleError, match=f"{name.rstrip('/')} does not belong"):
            act()
    assert ids(root) == ("r0001", None)
    (stray.rmdir if name.endswith("/") else stray.unlink)()
    promote(root, "r0002")
    assert ids(root) == ("r0002", "r0001")


@pytest.mark.parametrize(
    ("named", "held", "message"),
    [
        ({}, {"small": tiny_checkpoint()}, "but the bundle was certified with small-1"),
        ({"small": "0" * 64}, {"small": tiny_checkpoint()}, "but the bundle was certified with 000000000000"),
        ({"small": "0" * 64}, {}, "no checkpoint of tier 'small', which its bundle names"),
        ({}, {"tiny": tiny_checkpoint(tier="tiny")}, "which its bundle does not know"),
        ({"small": tiny_checkpoint().fingerprint}, {"small@mood": tiny_checkpoint(max_tokens=9)}, "but the bundle"),
    ],
)
def test_students_the_bundle_does_not_name(
    root: Path, small_bundle: Path, named: dict[str, str], held: dict[str, Any], message: str
) -> None:
    """A bundle is promoted only with the students it was certified with (mutant: a promotion that hashes alone)."""
    publish(root, "r0009", naming(small_bundle, root.parent / "other", named), held)
    with pytest.raises(BundleError, match=message):
        promote(root, "r0009")
    assert ids(root) == ("r0001", None)


def test_a_previous_release_that_is_damaged(root: Path) -> None:
    """A rollback to what cannot be served is refused; what serves goes on."""
    promote(root, "r0002")
    shutil.rmtree(root / "releases" / "r0001" / "bundle")
    with pytest.raises(BundleError):
        rollback(root)
    assert ids(root) == ("r0002", "r0001")


def test_a_bundle_that_leads_out(root: Path, tmp_path: Path) -> None:
    """A release whose bundle is a link to a folder outside ROOT is neither served nor promoted."""
    held = root / "releases" / "r0001" / "bundle"
    outside = shutil.move(held, tmp_path / "outside")
    held.symlink_to(outside)
    for act in (lambda: Router.load(root), lambda: promote(root, "r0001")):
        with pytest.raises(BundleError, match="leads out of"):
            act()


def test_a_set_is_one_tier(root: Path, small_bundle: Path) -> None:
    """Students per task are promoted under one fingerprint, and each answers its task."""
    parts = {"small@mood": tiny_checkpoint(), "small@topic": tiny_checkpoint("multilabel")}
    release = release_of(root, small_bundle, parts)
    promote(root, release.id)
    found = StudentSet.load(root, "small")
    assert release.tiers == ("small",)
    assert found.fingerprint == StudentSet.load(release.folder).fingerprint
    assert found.fingerprint not in {one.fingerprint for one in found.students.values()}
    assert found.name == f"routenlp-student/small@{found.fingerprint[:12]}"
    assert found.answer("I love this", "mood/short").text == "good"
    assert found.answer("I love this", "topic").text == '["love"]'
    for task in ("sum", None):
        with pytest.raises(InputError, match="name one of: mood, topic"):
            found.answer("I love this", task)


def test_a_lone_student_answers_any_task(root: Path) -> None:
    """One student for the tier takes any task, from a ROOT, a release or its own folder, by its own fingerprint."""
    for place in (root, root / "releases" / "r0001", Release(root, "r0001").checkpoint("small")):
        found = StudentSet.load(place)
        assert (found.tier, found.tasks) == ("small", ())
        assert found.fingerprint == tiny_checkpoint().fingerprint
        assert found.answer("I love this", "any").text == found.answer("I love this").text == "good"


@pytest.mark.parametrize("what", ["publish", "promote", "rollback"])
def test_killed_at_every_step(root: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Wherever it dies, a whole release serves, the one before or the new one, and trying again succeeds."""
    promote(root, "r0002")
    bundle = root.parent / "bundle-r0002"
    acts: dict[str, Callable[[], object]] = {
        "publish": lambda: publish(root, "r0003", bundle, {"small": tiny_checkpoint(max_tokens=32)}),
        "promote": lambda: promote(root, "r0001"),
        "rollback": lambda: rollback(root),
    }
    at_start = ids(root)
    step = 0
    while killed_at(step, monkeypatch, acts[what]):
        now = ids(root)
        assert now[0] in ("r0001", "r0002")
        assert what != "publish" or now == at_start
        promoting._verify(root, now[0])
        new = root / "releases" / "r0003"
        if new.exists():
            promoting._verify(root, "r0003")
            shutil.rmtree(new)
        promoting._write(root / "current", at_start[0])
        promoting._write(root / "previous", "r0001")
        step += 1
    assert step > 2
    assert ids(root)[0] == ("r0002" if what == "publish" else "r0001")


def test_disk_errors_are_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk refuses the promotion and leaves no trace of it."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(os.listdir(root))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); r0001 serves$"):
        promote(root, "r0002")
    monkeypatch.undo()
    assert ids(root) == ("r0001", None)
    assert {*os.listdir(root)} - {*before} <= {".lock"}


def test_killed_between_the_names_a_step_back_is_left(
    root: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`previous` is written first; killed then, what could be gone back to before still can."""
    small_release(root, small_bundle, max_tokens=16)
    promote(root, "r0002")
    write = promoting._write

    def killed(path: Path, text: str) -> None:
        if path.name == "current":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(promoting, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        promote(root, "r0003")
    monkeypatch.undo()
    assert rollback(root) == "r0001"


def test_what_was_compared_must_still_serve(root: Path) -> None:
    """A release that was gated against one that no longer serves is refused."""
    with pytest.raises(InputError, match="has changed"):
        promote(root, "r0002", expected="r0007")
    assert ids(root) == ("r0001", None)
    promote(root, "r0002", expected="r0001")
    assert ids(root) == ("r0002", "r0001")


def test_promotions_at_once(root: Path) -> None:
    """Of many promotions and rollbacks at once each is whole: current and previous name different releases."""

    def work(name: str) -> None:
        for _ in range(4):
            promote(root, name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("r0001", "r0002") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(ids(root)) == {"r0001", "r0002"}
    assert not [name for name in os.listdir(root) if name.startswith((".current", ".previous"))]
