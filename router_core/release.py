"""A release ROOT, and what is served from it.

::

    ROOT/releases/<id>/bundle/                 what routes
    ROOT/releases/<id>/checkpoints/<tier>/     the cheap tiers that were trained for it, or one folder per task:
    ROOT/releases/<id>/checkpoints/<tier>@<task>/
    ROOT/current                               a text file with the id, replaced by rename
    ROOT/previous                              the id before it, for rollback

This module only reads; `router_core.promotion` writes. Whoever takes a bundle's or a checkpoint's folder takes a ROOT
as well.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from router_core.errors import BundleError
from router_core.folder import MANIFEST

__all__ = [
    "BUNDLE_FOLDER",
    "CHECKPOINTS",
    "CURRENT",
    "PREVIOUS",
    "RELEASES",
    "TASK_MARK",
    "CurrentWatch",
    "Release",
    "bundle_folder",
    "checkpoint_folder",
    "is_name",
    "is_root",
]

RELEASES: Final = "releases"
CURRENT: Final = "current"
PREVIOUS: Final = "previous"
BUNDLE_FOLDER: Final = "bundle"
CHECKPOINTS: Final = "checkpoints"
TASK_MARK: Final = "@"
"""Between a tier and a task in the name of a checkpoint's folder."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]{0,127}")
"""Names that are one folder on every platform: no separator, no leading dot."""
_LONGEST: Final = 1024


@dataclass(frozen=True, slots=True)
class Release:
    """One release of a ROOT.

    Attributes
    ----------
    root
        The ROOT.
    id
        Name of the release.
    """

    root: Path
    id: str

    @classmethod
    def current(cls, root: str | Path) -> Release:
        """Read which release is current.

        Raises
        ------
        BundleError
            When ROOT has no current release, or it names none of its releases.
        """
        root = Path(root)
        try:
            with (root / CURRENT).open("rb") as file:
                found = file.read(_LONGEST).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = type(error).__name__
            msg = f"{root} has no current release ({CURRENT}: {why}); promote one of its {RELEASES}"
            raise BundleError(msg) from error
        if not is_name(found):
            msg = f"{root / CURRENT} holds {found[:80]!r}, which is no name of a release; promote one of {RELEASES}"
            raise BundleError(msg)
        release = cls(root, found)
        _inside(release.folder, root)
        if not release.folder.is_dir():
            msg = f"{root / CURRENT} names the release {found!r}, which is not there; promote another"
            raise BundleError(msg)
        return release

    @classmethod
    def at(cls, path: str | Path) -> Release | None:
        """The release a path stands for: a ROOT's current one, or the release whose folder it is; None for others.

        Raises
        ------
        BundleError
            When a ROOT has no current release.
        """
        path = Path(path)
        if is_root(path):
            return cls.current(path)
        folder = path.absolute()
        if folder.parent.name != RELEASES or (folder / MANIFEST).is_file() or not folder.is_dir():
            return None
        release = cls(folder.parent.parent, folder.name)
        _inside(folder, release.root)
        return release

    @property
    def folder(self) -> Path:
        """Folder of the release."""
        return self.root / RELEASES / self.id

    @property
    def bundle(self) -> Path:
        """Folder of its bundle.

        Raises
        ------
        BundleError
            When it is a link that leads out of ROOT.
        """
        found = self.folder / BUNDLE_FOLDER
        _inside(found, self.root)
        return found

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of its checkpoints' folders, ``<tier>`` or ``<tier>@<task>``, sorted."""
        held = self.folder / CHECKPOINTS
        if not held.is_dir():
            return ()
        return tuple(sorted(item.name for item in held.iterdir() if is_name(item.name) and (item / MANIFEST).is_file()))

    @property
    def tiers(self) -> tuple[str, ...]:
        """Tiers that have a checkpoint, or one per task; sorted."""
        return tuple(sorted({name.partition(TASK_MARK)[0] for name in self.checkpoints}))

    def tasks(self, tier: str) -> tuple[str, ...]:
        """Tasks for which a tier has a checkpoint of its own, sorted; empty when one serves all tasks."""
        split = (name.partition(TASK_MARK) for name in self.checkpoints)
        return tuple(task for name, mark, task in split if name == tier and mark)

    def tier(self, tier: str | None = None) -> str:
        """A tier that has checkpoints: the one that is named, or the only one.

        Raises
        ------
        BundleError
            When there is none, or several and none is named.
        """
        held = self.tiers
        if tier is None and len(held) == 1:
            return held[0]
        if tier is None or tier not in held:
            asked = "several checkpoints or none" if tier is None else f"no checkpoint of tier {tier!r}"
            msg = f"release {self.id} of {self.root} has {asked}; name one of: {', '.join(held) or 'none'}"
            raise BundleError(msg)
        return tier

    def checkpoint(self, tier: str | None = None, task: str | None = None) -> Path:
        """Folder of a tier's checkpoint.

        Parameters
        ----------
        tier
            Name of the tier; None for the only one.
        task
            Which of the tier's tasks; it matters to none but a tier that has a checkpoint per task.

        Raises
        ------
        BundleError
            When there is none, or several and none is named.
        """
        tier = self.tier(tier)
        tasks = self.tasks(tier)
        if task is None and len(tasks) == 1:
            task = tasks[0]
        if tasks and task not in tasks:
            asked = "one checkpoint per task" if task is None else f"no checkpoint for the task {task!r}"
            msg = f"tier {tier} of release {self.id} of {self.root} has {asked}; name one of: {', '.join(tasks)}"
            raise BundleError(msg)
        found = self.folder / CHECKPOINTS / (f"{tier}{TASK_MARK}{task}" if tasks else tier)
        _inside(found, self.root)
        return found


def is_name(name: str) -> bool:
    """Whether a name may be that of a release or of a checkpoint: one folder on every platform."""
    return bool(_NAME.fullmatch(name))


def is_root(path: Path) -> bool:
    """Whether a folder is a ROOT, not a bundle or a checkpoint."""
    return not (path / MANIFEST).is_file() and ((path / CURRENT).is_file() or (path / RELEASES).is_dir())


def bundle_folder(path: str | Path) -> Path:
    """Folder of a bundle, given itself or a ROOT.

    Raises
    ------
    BundleError
        When a ROOT has no current release.
    """
    path = Path(path)
    return Release.current(path).bundle if is_root(path) else path


def checkpoint_folder(path: str | Path, tier: str | None = None, task: str | None = None) -> Path:
    """Folder of a checkpoint, given itself or a ROOT (or a release's folder), the tier and the task.

    Raises
    ------
    BundleError
        When a ROOT has no current release, or that has no checkpoint of the tier.
    """
    release = Release.at(path)
    return Path(path) if release is None else release.checkpoint(tier, task)


class CurrentWatch:
    """Tells when another release becomes current, for one look at the file system in a while.

    Parameters
    ----------
    root
        The ROOT.
    every_s
        Seconds between two looks.
    """

    def __init__(self, root: str | Path, every_s: float = 1.0) -> None:
        self._file, self._every_s = Path(root) / CURRENT, every_s
        self._lock = threading.Lock()
        self._seen = self._look()
        self._due = time.monotonic() + every_s

    def changed(self) -> bool:
        """Whether ``current`` names another release than at the last look; one of several threads is told."""
        if time.monotonic() < self._due or not self._lock.acquire(blocking=False):
            return False
        try:
            self._due = time.monotonic() + self._every_s
            now = self._look()
            if now is None or now == self._seen:
                return False
            self._seen = now
            return True
        finally:
            self._lock.release()

    def _look(self) -> bytes | None:
        # The content, not the time: two promotions within one tick of the file system's clock are told apart.
        try:
            with self._file.open("rb") as file:
                return file.read(_LONGEST).strip()
        except OSError:
            return None


def _inside(folder: Path, root: Path) -> None:
    """Refuse a link that leads out of the ROOT."""
    if not folder.resolve().is_relative_to((root / RELEASES).resolve()):
        msg = f"{folder} leads out of {root}; a release is a folder inside {RELEASES}"
        raise BundleError(msg)
