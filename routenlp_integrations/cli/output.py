"""Where words and files go: results to stdout, complaints and progress to stderr, JSON whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from router_core.durable import write_file
from router_core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["STDOUT", "check_target", "complain", "console", "need_fit", "print_anything", "warn", "write_json"]

STDOUT = "-"
"""The value of ``--json`` that means standard output."""

# Paths may hold bytes that are no text; what is printed of them is their escape, which is JSON's too.
_UNPRINTABLE = "backslashreplace"

_FIT_PACKAGES = ("crepes", "sklearn", "scipy", "numba")


def print_anything() -> None:
    """Let stdout and stderr escape what they cannot encode, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_UNPRINTABLE)


def console(*, quiet: bool = False) -> Console:
    """Console for results, silent when stdout belongs to JSON; honours NO_COLOR and the terminal's width.

    Markup and emoji codes are off: names of models and tasks come from the user and may hold brackets and colons.
    """
    from rich.console import Console

    return Console(quiet=quiet, highlight=False, markup=False, emoji=False)


def complain(message: str, code: int) -> int:
    """Say what was wrong in one line on stderr and hand the exit code back."""
    print(f"routenlp: {_one_line(message)}", file=sys.stderr)  # noqa: T201 - the command line's own voice
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
    print(f"routenlp: warning: {_one_line(str(message))}", file=file or sys.stderr)


def need_fit(purpose: str) -> None:
    """Refuse early where the packages of ``routenlp[fit]`` are not installed.

    Parameters
    ----------
    purpose
        Completes "... is needed to".

    Raises
    ------
    MissingExtraError
        Naming the extra.
    """
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in _FIT_PACKAGES):
        raise MissingExtraError("fit", purpose)


def check_target(
    path: Path | None, option: str, suffixes: tuple[str, ...] = (), taken: Iterable[Path | str | None] = ()
) -> None:
    """Refuse a file that could not be written, or whose writing would destroy another, before any work is done.

    Parameters
    ----------
    path
        The file; None and ``-`` are always fine.
    option
        The option that names it, for the message.
    suffixes
        Endings allowed; any when empty.
    taken
        Files and folders that the command reads, or writes something else to.

    Raises
    ------
    InputError
        When the path is a folder, its folder does not exist, its ending is not allowed, it is one of those taken or
        lies in one, or it lies in a bundle or checkpoint.
    """
    if path is None or (str(path) == STDOUT and not suffixes):
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{option} {path}: the file must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path}: the folder {path.parent} is not writable; name another file")
    if (path.parent / "manifest.json").is_file():
        raise InputError(
            f"{option} {path}: {path.parent} is a bundle or checkpoint, which holds nothing else; name another file"
        )
    whole = path.resolve()
    for other in taken:
        if other is not None and "://" not in str(other) and str(other) != STDOUT:
            used = Path(other).resolve()
            if whole == used or used in whole.parents:
                raise InputError(f"{option} {path} is what this command reads or writes as {other}; name another file")


def write_json(target: Path, value: Any) -> None:
    """Write JSON to a file, whole or not at all, or to stdout for ``-``.

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
    write_file(target, text.encode(errors=_UNPRINTABLE))


def _one_line(text: str) -> str:
    return " ".join(text.split())
