"""Writing releases, making one current, and going back a step.

Whatever is killed, and whenever, the release that served goes on serving: a release is written beside its place,
synced and renamed into it, and ``current`` and ``previous`` are replaced by rename. One process at a time changes which
release is current (a lock on ROOT); readers never wait. Source: DESIGN.md, Release.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from router_core.checkpoint import CHECKPOINT, Checkpoint
from router_core.durable import rename_folder, sync_folder, sync_tree, write_file
from router_core.errors import BundleError, InputError
from router_core.folder import BUNDLE, MANIFEST, FolderKind, read_folder
from router_core.lapse import lapse_file
from router_core.release import (
    BUNDLE_FOLDER,
    CHECKPOINTS,
    CURRENT,
    PREVIOUS,
    RELEASES,
    TASK_MARK,
    Release,
    is_name,
)
from router_core.student_set import set_fingerprint

__all__ = ["new_release_id", "promote", "publish", "rollback"]

_NUMBERED: Final = re.compile(r"r(\d{4,})")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LOCK: Final = ".lock"
_STALE_S: Final = 24 * 3600.0


def new_release_id(root: str | Path) -> str:
    """Name for the next release of a ROOT: ``"r0001"``, ``"r0002"``, ..."""
    releases = Path(root) / RELEASES
    names = [item.name for item in releases.iterdir()] if releases.is_dir() else []
    taken = [int(found[1]) for name in names if (found := _NUMBERED.fullmatch(name))]
    return f"r{max(taken, default=0) + 1:04d}"


def publish(
    root: str | Path, release_id: str, bundle_folder: str | Path, checkpoints: Mapping[str, Checkpoint | Path]
) -> Release:
    """Write a release; it is whole or not there. It serves nobody until it is promoted.

    A release that is there already is never changed. If it is the same one, as after a crash, it is returned.

    Parameters
    ----------
    root
        The ROOT, made where there is none.
    release_id
        From `new_release_id`.
    bundle_folder
        The bundle, copied as it is.
    checkpoints
        In memory or folders, by ``"<tier>"`` or ``"<tier>@<task>"``.

    Raises
    ------
    InputError
        When the id or a checkpoint's name cannot be a folder's, a tier has a checkpoint for all tasks and one for a
        task, another release has the id, or ROOT cannot be written.
    BundleError
        When the bundle or a checkpoint is damaged, or the release that is there holds what does not belong to it.
    """
    root = Path(root).absolute()
    _check_names(release_id, checkpoints)
    release = Release(root, release_id)
    releases = root / RELEASES
    with _writing(root):
        releases.mkdir(parents=True, exist_ok=True)
        _sweep(releases)
        staging = Path(tempfile.mkdtemp(prefix=f".{release_id}.new.", dir=releases))
        try:
            _fill(staging, Path(bundle_folder), checkpoints)
            if release.folder.exists():
                if _ids(staging) != _ids(release.folder):
                    msg = f"{release.folder} is another release; releases are never changed, take another id"
                    raise InputError(msg)
                _check_entries(release)
                return release
            staging.chmod(0o755)
            rename_folder(staging, release.folder)
            sync_folder(root)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return release


def promote(root: str | Path, release_id: str, expected: str | None = None) -> None:
    """Make a release current; running models pick it up within a second or so, and finish their queries first.

    Every hash is verified before, and that the bundle was certified with these checkpoints.

    Parameters
    ----------
    root
        The ROOT.
    release_id
        Name of a published release.
    expected
        Id of the release that must be current, the one that this was compared with; None asks for none.

    Raises
    ------
    InputError
        When ROOT has no such release, another than `expected` is current, or ROOT cannot be written.
    BundleError
        When a part is changed, missing or extra, or the checkpoints are not those that the bundle names; the current
        release goes on serving.
    """
    root = Path(root)
    _verify(root, release_id)
    with _writing(root), _alone(root):
        now = _read(root / CURRENT)
        if now == release_id:
            return
        if expected is not None and now != expected:
            msg = f"the release that serves has changed: {root} has {now}, not {expected}; {release_id} is not promoted"
            raise InputError(msg)
        before = _previous(root)
        if now is not None:
            # Both names until it is done: killed between the two renames, the one before is still known.
            _write(root / PREVIOUS, "\n".join(name for name in (now, before) if name is not None))
        _write(root / CURRENT, release_id)
        if now is not None and before is not None:
            _write(root / PREVIOUS, now)


def rollback(root: str | Path) -> str:
    """Make the release before the current one current again; one step, of which there is no second.

    Returns
    -------
    str
        Id of the release that is now current.

    Raises
    ------
    InputError
        When there is no release before, or ROOT cannot be written.
    BundleError
        When that one is damaged.
    """
    root = Path(root)
    with _writing(root), _alone(root):
        before = _previous(root)
        if before is None:
            msg = f"{root} has nothing to go back to: {PREVIOUS} names no other release"
            raise InputError(msg)
        _verify(root, before)
        _write(root / CURRENT, before)
        (root / PREVIOUS).unlink()
        sync_folder(root)
    return before


def _check_names(release_id: str, checkpoints: Mapping[str, Checkpoint | Path]) -> None:
    for name in (release_id, *checkpoints):
        if not is_name(name) or name.endswith(TASK_MARK):
            msg = f"{name!r} cannot name a release or a checkpoint; use letters, digits, '.', '_', '+', '-'"
            raise InputError(msg)
    for name in checkpoints:
        tier, mark, _ = name.partition(TASK_MARK)
        if mark and tier in checkpoints:
            msg = f"tier {tier} has a checkpoint for all tasks and {name}; give one for all tasks, or one for each"
            raise InputError(msg)


def _fill(staging: Path, bundle: Path, checkpoints: Mapping[str, Checkpoint | Path]) -> None:
    _copy(bundle, staging / BUNDLE_FOLDER, BUNDLE)
    held = staging / CHECKPOINTS
    held.mkdir()
    for name, given in checkpoints.items():
        if isinstance(given, Checkpoint):
            given.save(held / name)
        else:
            _copy(Path(given), held / name, CHECKPOINT)
        tier = Checkpoint.load(held / name).tier
        if tier not in (name, name.partition(TASK_MARK)[0]):
            msg = f"the checkpoint given as {name!r} is of tier {tier!r}; name it after its tier"
            raise InputError(msg)
    sync_tree(staging)


def _copy(source: Path, target: Path, kind: FolderKind) -> None:
    """Copy a folder byte by byte, verified."""
    _, parts = read_folder(source, kind)
    target.mkdir()
    for name, content in {**parts, MANIFEST: (source / MANIFEST).read_bytes()}.items():
        (target / name).write_bytes(content)
    read_folder(target, kind)


def _verify(root: Path, release_id: str) -> None:
    """Make sure that a release can be served, and is what its bundle was certified with."""
    from router_core.bundle import Bundle

    release = Release(root, release_id)
    if not is_name(release_id) or not release.folder.is_dir():
        msg = f"{root} has no release {release_id!r}; publish it first"
        raise InputError(msg)
    _check_entries(release)
    bundle = Bundle.load(release.bundle)
    named = {tier.name: tier.model or "" for tier in bundle.portfolio.tiers}
    held = {tier: _fingerprint(release, tier) for tier in release.tiers}
    for tier, found in held.items():
        if tier not in named:
            msg = f"release {release_id} of {root} has a checkpoint of tier {tier!r}, which its bundle does not know"
            raise BundleError(msg)
        if named[tier] != found:
            told = named[tier][:12] or "no model"
            msg = (
                f"release {release_id} of {root}: tier {tier} is {found[:12]}, but the bundle was certified with {told}"
            )
            raise BundleError(msg)
    if missing := [tier for tier, model in named.items() if _DIGEST.fullmatch(model) and tier not in held]:
        msg = f"release {release_id} of {root} has no checkpoint of tier {missing[0]!r}, which its bundle names"
        raise BundleError(msg)


def _check_entries(release: Release) -> None:
    """Refuse what no release has; lapses beside the bundle, also half-written ones, are no part of it."""
    lapses = lapse_file(release.bundle).name
    unknown = [
        item.name
        for item in release.folder.iterdir()
        if item.name not in (BUNDLE_FOLDER, CHECKPOINTS, lapses) and not item.name.startswith(f".{lapses}")
    ]
    held = release.folder / CHECKPOINTS
    known = set(release.checkpoints)
    if held.is_dir():
        unknown += [f"{CHECKPOINTS}/{item.name}" for item in held.iterdir() if item.name not in known]
    if unknown:
        msg = f"release {release.id} of {release.root}: {min(unknown)} does not belong to it; remove it"
        raise BundleError(msg)


def _fingerprint(release: Release, tier: str) -> str:
    tasks = release.tasks(tier)
    if tasks and tier in release.checkpoints:
        msg = f"release {release.id}: tier {tier} has a checkpoint for all tasks and some for one; remove either"
        raise BundleError(msg)
    loaded = {task: Checkpoint.load(release.checkpoint(tier, task)) for task in tasks or ("",)}
    for task, checkpoint in loaded.items():
        if tier not in (checkpoint.tier, checkpoint.tier.partition(TASK_MARK)[0]):
            msg = f"release {release.id}: the checkpoint of {tier} {task} is of tier {checkpoint.tier!r}"
            raise BundleError(msg)
    return set_fingerprint({task: checkpoint.fingerprint for task, checkpoint in loaded.items()})


def _ids(folder: Path) -> dict[str, bytes]:
    """Manifests of a release, which name every part by its hash."""
    return {str(path.parent.relative_to(folder)): path.read_bytes() for path in folder.glob(f"**/{MANIFEST}")}


def _read(path: Path) -> str | None:
    return next(iter(_names(path)), None)


def _previous(root: Path) -> str | None:
    """Name the release before the current one; a promotion that was killed may have left the current one's name."""
    now = _read(root / CURRENT)
    return next((name for name in _names(root / PREVIOUS) if name != now), None)


def _names(path: Path) -> list[str]:
    try:
        found = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []
    return found if all(map(is_name, found)) else []


def _write(path: Path, text: str) -> None:
    # Those who serve a release may be other users than the one who promotes it.
    write_file(path, f"{text}\n".encode(), mode=0o644)


def _sweep(releases: Path) -> None:
    """Remove what writers killed more than a day ago left half-written."""
    for item in releases.glob(".*.new.*"):
        with suppress(OSError):
            if time.time() - item.stat().st_mtime > _STALE_S:
                shutil.rmtree(item, ignore_errors=True)


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Say in one sentence that a folder cannot be written, and what serves; a rename may be done and not synced."""
    try:
        yield
    except OSError as error:
        now = _read(root / CURRENT)
        msg = f"{root} cannot be written ({error.strerror or type(error).__name__}); {now or 'no release'} serves"
        raise InputError(msg) from error


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock of a ROOT; it goes with the process. Where the platform has none, the last rename wins."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
