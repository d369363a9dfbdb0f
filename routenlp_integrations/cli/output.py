"""Where words and files go: results to stdout, complaints and progress to stderr, JSON whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from router_core.durable import write_file
from router_core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "STDOUT",
    "check_folder",
    "check_outside",
    "check_target",
    "complain",
    "console",
    "need_fit",
    "print_anything",
    "warn",
    "write_json",
]

STDOUT = "-"
"""The value of ``--json`` that means standard output."""

# Paths may hold bytes that are no text; what is printed of them is their escape, which is JSON's too.
_UNPRINTABLE = "backslashreplace"

_ANOTHER = "name another file or folder"

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
        Files, folders and URLs of ledgers that the command reads, or writes something else to.

    Raises
    ------
    InputError
        When the path is a folder, its folder does not exist, its ending is not allowed, it is one of those taken or
        lies in one, or it is a part of a bundle, a checkpoint, a release or a ROOT, be it through a link.
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
    places = _places(path)
    for other in taken:
        for used in _files_of(other):
            if any(place == used or used in place.parents for place in places):
                raise InputError(f"{option} {path} is what this command reads or writes as {other}; name another file")
    check_outside(path, option)


def check_outside(path: Path, option: str) -> None:
    """Refuse a file or folder to write that would become, or replace, a part of what routenlp made.

    Parameters
    ----------
    path
        The file or folder.
    option
        The option that names it, for the message.

    Raises
    ------
    InputError
        When it lies in a bundle, a checkpoint, a release or a ROOT, or tells the lapses of a bundle.
    """
    from router_core.folder import MANIFEST
    from router_core.lapse import lapse_file

    for place in _places(path):
        if (place.parent / MANIFEST).is_file():
            raise InputError(
                f"{option} {path}: {place.parent} is a bundle or checkpoint, which holds nothing else; {_ANOTHER}"
            )
        if within := next((folder for folder in place.parents if _is_kept(folder)), None):
            raise InputError(
                f"{option} {path}: {within} is a release or a ROOT of them, which promotion and the loop alone "
                f"write to; {_ANOTHER}"
            )
        bundle = place.parent / place.name.removesuffix(lapse_file("b").name[1:])
        if bundle != place and (bundle / MANIFEST).is_file():
            raise InputError(f"{option} {path} is where the lapses of {bundle} are told; {_ANOTHER}")


def check_folder(path: Path, option: str, taken: Iterable[Path | str | None]) -> None:
    """Refuse a folder to write that lies in what routenlp made, or in which one of the command's inputs lies.

    Parameters
    ----------
    path
        The folder, which is replaced as a whole.
    option
        The option that names it, for the message.
    taken
        Files and folders that the command reads.

    Raises
    ------
    InputError
        Naming the folder.
    """
    check_outside(path, option)
    whole = Path(os.path.realpath(path))
    for other in taken:
        if any(whole in used.parents for used in _files_of(other)):
            raise InputError(f"{option} {path} is replaced as a whole, and this command reads {other}; {_ANOTHER}")


def _places(path: Path) -> set[Path]:
    """Where a path is, and where it leads to if it is a link."""
    # realpath, as a link that leads to itself makes Path.resolve raise.
    return {Path(os.path.realpath(path.parent)) / path.name, Path(os.path.realpath(path))}


def _files_of(given: Path | str | None) -> Iterator[Path]:
    """Places that an input stands for; of a ledger in a file that and what SQLite keeps beside it."""
    from router_core.ledger.url import is_ledger_url

    if given is None or str(given) == STDOUT:
        return
    if not is_ledger_url(given):
        yield from _places(Path(given))
        return
    name = str(given).partition(":///")[2].partition("?")[0]
    if str(given).lower().startswith("sqlite") and name:
        file = Path(name)
        for end in ("", "-wal", "-shm", "-journal"):
            yield from _places(file.parent / (file.name + end))


def _is_kept(folder: Path) -> bool:
    """Whether a folder is a release, or a ROOT of releases or of a loop that has begun."""
    from router_core.release import BUNDLE_FOLDER, CURRENT, PREVIOUS, RELEASES

    if folder.parent.name == RELEASES and (folder / BUNDLE_FOLDER).is_dir():
        return True
    serves = (folder / RELEASES).is_dir() and any((folder / name).is_file() for name in (CURRENT, PREVIOUS))
    return serves or (folder / "loop" / "folds.json").is_file()


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
