"""Durable writes: whole or not there, whoever dies, fails, or writes at the same time."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from crashes import killed_at

from router_core import folder as folders
from router_core.durable import rename_folder, sync_folder, sync_tree, write_file, writing
from router_core.folder import read_folder, write_folder

OLD, NEW = b"old" * 1000, b"new" * 1000


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(item.name for item in folder.iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_killed_at_every_step(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it dies, the file is the old one or the new one, whole; what is left beside it is hidden."""
    path, step = tmp_path / "a", 0
    if there:
        path.write_bytes(OLD)
    while killed_at(step, monkeypatch, lambda: write_file(path, NEW)):
        assert (path.read_bytes() if path.exists() else None) in (NEW, OLD if there else None)
        assert all(name == "a" or name.startswith(".a.") for name in names(tmp_path))
        step += 1
    assert step == 3, "a sync of the file, a rename, a sync of the folder"
    assert path.read_bytes() == NEW


def test_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content lasts before its name does, and the name before anybody is told."""
    done: list[str] = []

    def noted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*given: object) -> None:
            done.append(name if name != "fsync" else "folder" if os.path.isdir(f"/dev/fd/{given[0]}") else "file")
            real(*given)

        return call

    for name in ("fsync", "replace", "rename"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    write_file(tmp_path / "a", NEW)
    assert done == ["file", "replace", "folder"]
    done.clear()
    (tmp_path / "b").mkdir()
    rename_folder(tmp_path / "b", tmp_path / "c")
    assert done == ["rename", "folder"]


@pytest.mark.parametrize("broken", ["fsync", "replace", "chmod"])
def test_a_failure_leaves_no_trace_and_names_the_file(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the old file alone; the error tells of the file that was asked for, not of the one beside."""
    path = tmp_path / "a"
    path.write_bytes(OLD)

    def full(*given: object, **named: object) -> None:
        del named
        raise OSError(errno.ENOSPC, "No space left on device", *map(str, given[: broken != "fsync"]))

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_file(path, NEW, mode=0o600)
    monkeypatch.undo()
    assert (caught.value.filename, caught.value.filename2) == (str(path), None)
    assert names(tmp_path) == ["a"]
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EIO, "bad", "/other")])
def test_a_block_that_raises_writes_nothing(error: BaseException, tmp_path: Path) -> None:
    """Whatever ends the block passes as it was raised, and nothing is written."""
    path = tmp_path / "a"
    path.write_bytes(OLD)

    def write() -> None:
        with writing(path) as file:
            file.write(NEW)
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert getattr(error, "filename", "/other") == "/other"
    assert names(tmp_path) == ["a"]
    assert path.read_bytes() == OLD


def test_no_folder_is_named(tmp_path: Path) -> None:
    """Where the folder is not there, the error names the file."""
    path = tmp_path / "no" / "a"
    with pytest.raises(FileNotFoundError) as caught:
        write_file(path, NEW)
    assert caught.value.filename == str(path)


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    """A folder in the file's place stays."""
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_file(tmp_path / "a", NEW)
    assert caught.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(("umask", "mode", "told"), [(0o022, None, 0o644), (0o077, None, 0o600), (0o077, 0o644, 0o644)])
def test_permissions(umask: int, mode: int | None, told: int, tmp_path: Path) -> None:
    """The umask says who may read, unless others must."""
    path = tmp_path / "a"
    path.write_bytes(OLD)
    before = os.umask(umask)
    try:
        write_file(path, NEW, mode)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == told


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    """A pipe stays a pipe, and its reader gets the bytes."""
    pipe, got = tmp_path / "p", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, NEW)
    reader.join()
    assert got == [NEW]
    assert pipe.is_fifo()


def test_written_at_once_by_many(tmp_path: Path) -> None:
    """Threads that write the same file at once never see each other's half; one of them is left, whole."""
    path = tmp_path / "a"
    contents = [bytes([65 + i]) * 100_000 for i in range(8)]
    errors: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(5):
                write_file(path, content)
                assert path.read_bytes() in contents
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(("code", "raised"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_folders_that_cannot_be_synced(
    code: int, raised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without a sync of folders is fine; a disk that fails is told of."""

    def fails(_: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "fsync", fails)
    if not raised:
        sync_folder(tmp_path)
        return
    with pytest.raises(OSError, match="no") as caught:
        sync_folder(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_a_tree_is_synced_to_its_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and every folder is synced, the outermost folder last."""
    (tmp_path / "x" / "y").mkdir(parents=True)
    for name in ("a", "x/b", "x/y/c"):
        (tmp_path / name).write_bytes(OLD)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    sync_tree(tmp_path)
    assert sorted(synced) == sorted(item.stat().st_ino for item in (tmp_path, *tmp_path.rglob("*")))
    assert synced[-1] == tmp_path.stat().st_ino


def test_a_folder_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of hashed files that is written over is the old one or the new one, whole, wherever the writer dies."""
    monkeypatch.setattr(folders, "_ASIDE_S", -1.0)
    target, step = tmp_path / "b", 0
    write_folder(target, {"id": "x"}, {"part": OLD})
    while killed_at(step, monkeypatch, lambda: write_folder(target, {"id": "x"}, {"part": NEW})):
        assert read_folder(target)[1]["part"] in (OLD, NEW)
        write_folder(target, {"id": "x"}, {"part": OLD})
        step += 1
    assert step > 5
    assert read_folder(target)[1]["part"] == NEW
