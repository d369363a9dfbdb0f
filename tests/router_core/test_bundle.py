"""The bundle: what comes back is what was saved, and nothing changed, missing, extra or newer is loaded."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import fit_small, small_records
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core import BundleError, InputError, Router
from router_core.arrays import dump_json, sha256
from router_core.bundle import Bundle
from router_core.fitting import fit
from router_core.folder import MANIFEST
from router_core.keys import KeyLedger
from router_core.route_text import ROUTE_TEXT_VERSION


@pytest.fixture
def copy(small_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def _reseal(root: Path, change: dict[str, object]) -> None:
    manifest = json.loads((root / MANIFEST).read_bytes())
    manifest.pop("seal")
    manifest |= change
    manifest["seal"] = sha256(dump_json(manifest))
    (root / MANIFEST).write_bytes(dump_json(manifest))


def test_round_trip(small_bundle: Path, tmp_path: Path) -> None:
    """Saving a loaded bundle gives the same id and the same bytes, and the same decisions."""
    bundle = Bundle.load(small_bundle)
    again = bundle.save(tmp_path / "again")
    assert again.id == bundle.id
    for item in small_bundle.iterdir():
        assert (tmp_path / "again" / item.name).read_bytes() == item.read_bytes()
    records = small_records()
    one, two = Router.from_bundle(bundle), Router.load(tmp_path / "again")
    for i in range(30):
        assert one.decide(records.prompt[i], records.task[i]) == two.decide(records.prompt[i], records.task[i])


def test_fit_is_deterministic(small_bundle: Path, tmp_path: Path) -> None:
    """The same records and seed give the same bundle id."""
    assert fit_small(tmp_path / "b").id == Bundle.load(small_bundle).id


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_refused(
    small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """P12: one changed byte of any file, manifest included, and the bundle is not loaded."""
    names = sorted(item.name for item in small_bundle.iterdir())
    name = data.draw(st.sampled_from(names))
    content = bytearray((small_bundle / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    root = tmp_path_factory.mktemp("flip") / "bundle"
    shutil.copytree(small_bundle, root)
    (root / name).write_bytes(bytes(content))
    with pytest.raises(BundleError):
        Bundle.load(root)


def test_reader_without_hashes_would_miss_it(copy: Path) -> None:
    """P12, mutant: with the hash of the changed part put right, the same change loads; so the hashes are the check."""
    report = json.loads((copy / "report.json").read_bytes())
    (copy / "report.json").write_bytes(dump_json(report | {"source": "forged"}))
    with pytest.raises(BundleError, match="changed after it was certified"):
        Bundle.load(copy)
    parts = json.loads((copy / MANIFEST).read_bytes())["parts"]
    parts |= {"report.json": sha256((copy / "report.json").read_bytes())}
    _reseal(copy, {"parts": parts, "id": sha256(dump_json(parts))})
    assert Bundle.load(copy).report["source"] == "forged"


def test_missing_and_extra_files(copy: Path) -> None:
    """A file too few or too many is named."""
    (copy / "notes.txt").write_text("hello")
    with pytest.raises(BundleError, match=r"notes\.txt does not belong"):
        Bundle.load(copy)
    (copy / "notes.txt").unlink()
    (copy / "policies.npz").unlink()
    with pytest.raises(BundleError, match=r"policies\.npz is missing"):
        Bundle.load(copy)


def test_newer_schema(copy: Path) -> None:
    """A bundle from a newer version is refused with the remedy."""
    _reseal(copy, {"schema": 2})
    with pytest.raises(BundleError, match="upgrade routenlp"):
        Bundle.load(copy)


def test_parts_must_fit_together(copy: Path, small_bundle: Path) -> None:
    """Correct hashes are not enough: id, candidate and route text are compared; a gap is a sentence, no traceback."""
    _reseal(copy, {"route_text": 99})
    with pytest.raises(BundleError, match="route text 99"):
        Bundle.load(copy)
    _reseal(copy, {"route_text": ROUTE_TEXT_VERSION, "id": "0" * 64})
    with pytest.raises(BundleError, match="not that of its parts"):
        Bundle.load(copy)
    shown = json.loads((small_bundle / "certificates.json").read_bytes())
    for changed, message in ((shown | {"candidate": "0" * 64}, "another candidate"), ({}, "fit together")):
        content = dump_json(changed)
        (copy / "certificates.json").write_bytes(content)
        parts = json.loads((small_bundle / MANIFEST).read_bytes())["parts"] | {"certificates.json": sha256(content)}
        _reseal(copy, {"parts": parts, "id": sha256(dump_json(parts))})
        with pytest.raises(BundleError, match=message):
            Bundle.load(copy)


def test_killed_between_two_renames(small_bundle: Path, tmp_path: Path) -> None:
    """A writer killed after it moved the old bundle aside loses nothing: the next reader puts it back."""
    aside = tmp_path / ".b.old.x1y2" / "b"
    aside.parent.mkdir()
    shutil.copytree(small_bundle, aside)
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.load(tmp_path / "b")  # a writer may be between its renames this very moment
    os.utime(aside.parent, (0, 0))
    assert Bundle.load(tmp_path / "b").id == Bundle.load(small_bundle).id
    assert [item.name for item in tmp_path.iterdir()] == ["b"]


def test_output_is_checked_before_the_work(tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the way, a damaged bundle and the current folder are refused before anything is fitted."""
    (tmp_path / "file").write_text("x")
    damaged = Path(shutil.copytree(small_bundle, tmp_path / "damaged"))
    (damaged / "keys.npz").write_bytes(b"")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys.modules["router_core.fitting.fit_bundle"], "choose_encoder", None)
    for out, error in (("file/b", InputError), ("damaged", BundleError), ("here", InputError)):
        with pytest.raises(error):
            fit(small_records(), out=tmp_path / out)


def test_not_a_bundle(tmp_path: Path) -> None:
    """An empty folder, a missing one and a foreign manifest are not bundles."""
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.load(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.load(tmp_path / "nowhere")
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(BundleError, match="manifest"):
        Bundle.load(tmp_path)


def test_output_folder_that_is_no_bundle(tmp_path: Path) -> None:
    """Nothing that is not a bundle is overwritten, and nothing is left beside it."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        fit(small_records(), out=tmp_path / "thesis")
    assert [item.name for item in tmp_path.rglob("*")] == ["thesis", "chapter.txt"]


def test_refit_over_a_bundle_counts_the_use(tmp_path: Path) -> None:
    """Certifying on the same calib again is counted and said."""
    first, second = fit_small(tmp_path / "b"), fit_small(tmp_path / "b")
    shown = second.certificates["mood", "cascade"]
    assert first.certificates["mood", "cascade"].use_count == 1
    assert shown.use_count == 2
    assert "use no. 2" in shown.describe()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["b"]


def test_key_ledger() -> None:
    """Uses are counted per key and carried forward."""
    none = np.zeros(0, np.uint64)
    ledger = KeyLedger(none, none, none, np.zeros(0, np.int64))
    one, two = np.array([1, 2], np.uint64), np.array([2, 3], np.uint64)
    assert ledger.used(one) == 0
    ledger = ledger.with_calib(one).with_calib(two)
    assert ledger.used(np.array([2], np.uint64)) == 2
    assert ledger.used(np.array([1, 3], np.uint64)) == 1
    assert ledger.used(np.array([9], np.uint64)) == 0


def test_ledgers_merge_by_the_larger_count() -> None:
    """Calib keys of two ledgers are joined; a key in both keeps the larger count."""
    none = np.zeros(0, np.uint64)
    empty = KeyLedger(none, none, none, np.zeros(0, np.int64))
    one = empty.with_calib(np.array([1, 2], np.uint64)).with_calib(np.array([2], np.uint64))
    two = empty.with_calib(np.array([2, 3], np.uint64))
    for merged in (one.merged(two), two.merged(one)):
        assert dict(zip(merged.calib.tolist(), merged.uses.tolist(), strict=True)) == {1: 1, 2: 2, 3: 1}
