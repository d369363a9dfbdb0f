"""A release ROOT: which release is current, what it holds, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_student import promote, tiny_checkpoint, write_release

from routenlp_integrations.cli import main
from router_core import BundleError, Router
from router_core.bundle import Bundle
from router_core.release import CurrentWatch, Release, bundle_folder, checkpoint_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A ROOT whose current release has a checkpoint of the tier small."""
    return write_release(tmp_path / "root", "r1", small=tiny_checkpoint())


def test_a_bundle_is_found_by_its_root(root: Path, small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`Bundle.load`, `Router.load` and the command line take a ROOT where they take a bundle."""
    shutil.copytree(small_bundle, root / "releases" / "r1" / "bundle")
    found = Bundle.load(small_bundle).id
    assert Bundle.load(root).id == Router.load(root).bundle_id == found
    assert main(["route", str(root), "I love this lamp", "--task", "mood", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"] == found
    (root / "current").write_text("../r1")
    assert main(["inspect", str(root)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_is_itself(tmp_path: Path, small_bundle: Path) -> None:
    """A bundle, a checkpoint and a folder that is neither are left as they are."""
    for folder in (small_bundle, tmp_path, tmp_path / "nowhere"):
        assert bundle_folder(folder) == checkpoint_folder(folder, "any") == folder


def test_promotion_changes_what_is_found(root: Path) -> None:
    """The release that ``current`` names is found, white space around the name left out."""
    write_release(root, "r2", small=tiny_checkpoint(max_tokens=32), medium=tiny_checkpoint(tier="medium"))
    assert Release.current(root).id == "r2"
    assert Release.current(root).tiers == ("medium", "small")
    assert checkpoint_folder(root, "medium") == root / "releases" / "r2" / "checkpoints" / "medium"
    (root / "current").write_text("  r1\r\n")
    assert Release.current(root).id == "r1"
    assert checkpoint_folder(root) == root / "releases" / "r1" / "checkpoints" / "small"


@pytest.mark.parametrize(
    ("current", "message"),
    [
        ("r9", "names the release 'r9', which is not there"),
        ("", "is no name of a release"),
        ("../../elsewhere", "is no name of a release"),
        ("..", "is no name of a release"),
        (".hidden", "is no name of a release"),
        ("/etc", "is no name of a release"),
        ("r1\nr2", "is no name of a release"),
        ("r1\0", "is no name of a release"),
        ("a" * 5000, "is no name of a release"),
    ],
)
def test_current_that_names_no_release(root: Path, current: str, message: str) -> None:
    """A ``current`` that points nowhere or outside is one sentence, for bundles and checkpoints alike."""
    (root / "current").write_text(current)
    for find in (Bundle.load, checkpoint_folder):
        with pytest.raises(BundleError, match=message):
            find(root)


def test_current_that_cannot_be_read(root: Path) -> None:
    """Bytes that are no text, and no file at all, are refused."""
    (root / "current").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="has no current release"):
        Release.current(root)
    (root / "current").unlink()
    with pytest.raises(BundleError, match="has no current release"):
        Bundle.load(root)


def test_links_that_lead_out_are_refused(root: Path, tmp_path: Path) -> None:
    """A release or a checkpoint that is a link to a folder outside ROOT is not followed."""
    outside = Path(shutil.copytree(root / "releases" / "r1", tmp_path / "outside"))
    (root / "releases" / "r2").symlink_to(outside)
    promote(root, "r2")
    with pytest.raises(BundleError, match="leads out of"):
        Release.current(root)
    promote(root, "r1")
    (root / "releases" / "r1" / "checkpoints" / "medium").symlink_to(outside / "checkpoints" / "small")
    with pytest.raises(BundleError, match="leads out of"):
        checkpoint_folder(root, "medium")


@pytest.mark.parametrize("tier", ["large", "../small", "", "small/../small", "."])
def test_a_tier_without_a_checkpoint(root: Path, tier: str) -> None:
    """The error lists the tiers that have one."""
    with pytest.raises(BundleError, match="name one of: small"):
        checkpoint_folder(root, tier)


def test_a_tier_must_be_named_where_there_are_several(root: Path) -> None:
    """Without a name only a single checkpoint is found."""
    tiny_checkpoint(tier="medium").save(root / "releases" / "r1" / "checkpoints" / "medium")
    with pytest.raises(BundleError, match="name one of: medium, small"):
        checkpoint_folder(root)


def test_a_watch_tells_once(root: Path) -> None:
    """Another release is told once; the same one again, none, or one looked for too soon is not."""
    watch, lazy = CurrentWatch(root, every_s=0.0), CurrentWatch(root, every_s=3600.0)
    promote(root, "r1")
    assert not watch.changed()
    promote(root, "r2")
    assert [watch.changed(), watch.changed()] == [True, False]
    assert not lazy.changed()
    (root / "current").unlink()
    assert not watch.changed()
    promote(root, "r1")
    assert watch.changed()
