"""The journal of a round: which steps are done, what each wrote, and what it took.

A step writes into a folder beside its place; the folder is synced and renamed into place, then the journal, which
holds the hash of every file, is replaced. So a step is either done or will be done again from the start, whenever the
process was killed. What is taken over from an earlier process is verified first.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporters.loop.files import check_keys, hashes_of, read_json, write_json
from router_core.durable import rename_folder, sync_tree
from router_core.errors import InputError

__all__ = ["JOURNAL", "Journal", "locked"]

JOURNAL = "journal.json"
# What a round was begun with; the start, round 0, is compared with what it is given instead.
_BEGUN: dict[str, type | tuple[type, ...]] = {
    "options": str,
    "round": int,
    "incumbent": str,
    "until": (int, float),
    "fold": (int, type(None)),
}


class Journal:
    """Steps of one round.

    Parameters
    ----------
    folder
        Of the round; made where there is none.
    begun
        What the round was begun with; a journal that is there must have been begun with the same.

    Raises
    ------
    InputError
        When it was begun with something else, or is damaged.
    """

    def __init__(self, folder: Path, begun: Mapping[str, Any] | None = None) -> None:
        self.folder, self._path = folder, folder / JOURNAL
        if self._path.exists():
            told = self._read()
            self.begun: dict[str, Any] = told["begun"]
            self.steps: dict[str, dict[str, Any]] = told["steps"]
            return
        if begun is None:
            raise InputError(f"{folder} has no {JOURNAL}")
        folder.mkdir(parents=True, exist_ok=True)
        self.begun, self.steps = dict(begun), {}
        self._save()

    def _read(self) -> dict[str, Any]:
        number = self.folder.name
        mend = "restore it, or start in another folder"
        if is_round := number.isdigit() and int(number) > 0:
            mend = f"restore it, or remove {self.folder} to lose the round and its calibration fold"
        told: dict[str, Any] = read_json(self._path)
        check_keys(self._path, told, {"begun": dict, "steps": dict}, mend)
        check_keys(self._path, told["begun"], _BEGUN if is_round else {}, mend)
        for step in told["steps"].values():
            check_keys(self._path, step, {"files": dict, "told": dict}, mend)
        return told

    def path(self, step: str) -> Path:
        """Folder of a step's files."""
        return self.folder / step

    def done(self, step: str) -> bool:
        """Whether a step is complete."""
        return step in self.steps

    @property
    def promoted(self) -> str | None:
        """Id of the release that the round made current; None when it made none."""
        found: str | None = self.steps["promote"]["told"]["release"] if self.done("promote") else None
        return found

    def discard(self) -> None:
        """Remove the round, unless more than its fold is done."""
        if not set(self.steps) - {"fold"}:
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, step: str, work: Callable[[Path], Mapping[str, Any] | None]) -> dict[str, Any]:
        """Do a step, or take over what an earlier process did.

        Parameters
        ----------
        step
            Its name, and its folder's.
        work
            Writes the step's files into a folder it is given, and returns what shall stand in the journal:
            JSON values; ``usd`` is what it cost.

        Returns
        -------
        dict
            What `work` returned.

        Raises
        ------
        InputError
            When files of a complete step were changed, or the disk is full.
        """
        place = self.path(step)
        if self.done(step):
            self._verify(step, place)
            told: dict[str, Any] = self.steps[step]["told"]
            return told
        staging = self.folder / f".{step}.new"
        for leftover in (staging, place):
            if leftover.exists():
                shutil.rmtree(leftover)
        staging.mkdir(parents=True)
        began, busy = time.perf_counter(), time.process_time()
        with self._roomy():
            told = dict(work(staging) or {})
            sync_tree(staging)
            rename_folder(staging, place)
            self.steps[step] = {
                "files": hashes_of(place),
                "told": told,
                "seconds": round(time.perf_counter() - began, 3),
                "cpu_seconds": round(time.process_time() - busy, 3),
                "usd": float(told.get("usd", 0.0)),
            }
            self._save()
        return told

    @contextmanager
    def _roomy(self) -> Iterator[None]:
        """Say of a full disk what is to be done."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"{self.folder} cannot be written ({error.strerror}); what is done is kept and the old release serves: "
                "make room and run it again"
            ) from error

    def _verify(self, step: str, place: Path) -> None:
        wanted, found = self.steps[step]["files"], hashes_of(place) if place.is_dir() else {}
        wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        if wrong:
            raise InputError(
                f"{place / wrong[0]} was changed after its step was done; restore it, or remove {self.folder} to lose "
                "the round and its calibration fold"
            )

    def _save(self) -> None:
        write_json(self._path, {"begun": self.begun, "steps": self.steps})


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep other loops off a ROOT.

    Raises
    ------
    InputError
        When one is at work there.
    """
    from filelock import FileLock, Timeout

    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".loop.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{root}: another loop is at work here; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()
