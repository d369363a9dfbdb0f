"""Small files of the loop: written whole or not at all, and hashed when another step builds on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from router_core.arrays import dump_json
from router_core.durable import write_file, writing
from router_core.errors import InputError

__all__ = ["check_keys", "hashes_of", "read_json", "read_lines", "write_json", "write_lines"]


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, dump_json(value))


def read_json(path: Path) -> Any:
    """Read JSON that the loop wrote.

    Raises
    ------
    InputError
        When it is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is missing or damaged ({type(error).__name__}); restore it") from None


def check_keys(path: Path, told: Any, keys: Mapping[str, type | tuple[type, ...]], mend: str) -> None:
    """Refuse JSON that the loop cannot have written.

    Parameters
    ----------
    path
        Where it was read, for the message.
    told
        What was read.
    keys
        What must be in it, and of which types.
    mend
        What to do about it, for the message.

    Raises
    ------
    InputError
        Naming the file, what is wrong in it, and what to do.
    """
    if not isinstance(told, dict):
        raise InputError(f"{path} is damaged (it holds no object); {mend}")
    for key, kind in keys.items():
        if not isinstance(told.get(key), kind) or isinstance(told[key], bool):
            raise InputError(f"{path} is damaged (it has no {key!r} as the loop writes it); {mend}")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, one at a time, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines that the loop wrote; none where there is no file.

    Raises
    ------
    InputError
        When it is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except ValueError:
        raise InputError(f"{path} is damaged; restore it") from None


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
