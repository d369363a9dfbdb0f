"""Where words and files go: stdout for results, stderr for complaints and progress, JSON written whole or not."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from router_core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["STDOUT", "check_target", "complain", "console", "need_fit", "warn", "write_json"]

STDOUT = "-"
"""The value of ``--json`` that means standard output."""

_FIT_EXTRA = ("crepes", "sklearn", "scipy", "numba")


def console(*, quiet: bool = False) -> Console:
    """Console for results; `quiet` when stdout belongs to JSON. Honours NO_COLOR and the terminal's width."""
    from rich.console import Console

    return Console(quiet=quiet, highlight=False, soft_wrap=False)


def complain(message: str, code: int) -> int:
    """Say what was wrong in one line on stderr and hand the exit code back."""
    print(f"routenlp: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201 - this is the command line's voice
    return code


def warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as one line without the place in the code; stands in for `warnings.showwarning`."""
    del category, filename, lineno, line
    print(f"routenlp: warning: {' '.join(str(message).split())}", file=file or sys.stderr)  # noqa: T201


def need_fit(purpose: str) -> None:
    """Refuse early where the packages of ``routenlp[fit]`` are not installed.

    Raises
    ------
    MissingExtraError
        Naming the extra.
    """
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in _FIT_EXTRA):
        raise MissingExtraError("fit", purpose)


def check_target(path: Path | None, option: str) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises
    ------
    InputError
        When the path is a folder or its folder does not exist.
    """
    if path is None or str(path) == STDOUT:
        return
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: the folder {path.parent} does not exist; make it first")


def write_json(target: Path, value: Any) -> None:
    """Write JSON to a file, whole or not at all (beside it, synced, renamed), or to stdout for ``-``.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if str(target) == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes it private; a report is an ordinary file.
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
