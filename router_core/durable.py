"""Files and folders that are whole or not there, and that last through a loss of power.

What is written goes beside its place, is synced, and is renamed into it; then the folder is synced, without which the
rename may be lost. A process that is killed leaves what was there before, and at most a hidden file beside it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

__all__ = ["rename_folder", "sync_folder", "sync_tree", "write_file", "writing"]

_UNSYNCABLE: Final = {errno.EINVAL, errno.EBADF, errno.ENOTSUP}


@contextmanager
def writing(path: Path, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open a file that takes its place when the block ends, and leaves no trace when the block raises.

    A pipe or a device, which a rename would take away, is written to as it is.

    Parameters
    ----------
    path
        The file, in a folder that exists; one that is there is replaced.
    mode
        Permissions; those of the umask when None.

    Raises
    ------
    OSError
        When it cannot be written; its ``filename`` is the path.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        # A name of its own, and never one that is there: threads and processes may write the same file at once.
        staging = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        try:
            with staging.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if mode is not None:
                staging.chmod(mode)
            staging.replace(path)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise
    except OSError as error:
        # An error about another file, that the block reads, keeps its name.
        if error.filename is None or Path(str(error.filename)).name.startswith(f".{path.name}."):
            error.filename, error.filename2 = str(path), None
        raise
    sync_folder(path.parent)


def write_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file at once, as `writing` does."""
    with writing(path, mode) as file:
        file.write(content)


def rename_folder(source: Path, target: Path) -> None:
    """Rename a synced folder into a place where there is none, durably."""
    source.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last, where the platform can.

    Raises
    ------
    OSError
        When the disk fails; its ``filename`` is the folder.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        # Windows opens no folders, and some may be written and not read.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSYNCABLE:
            error.filename = str(folder)
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make everything in a folder last."""
    # Windows syncs only what is open for writing; elsewhere files that may only be read are synced too.
    way = "r+b" if os.name == "nt" else "rb"
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open(way) as file:
                os.fsync(file.fileno())
    sync_folder(folder)
