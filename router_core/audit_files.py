"""Where audits are read from: a file of JSON lines, or a ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from router_core.audit_risk import Audited
from router_core.errors import InputError

__all__ = ["open_audits", "read_audits"]


def open_audits(source: str, tolerance: float = 0.0) -> Iterable[Audited]:
    """Audits of whatever a command names: a .jsonl file, or a ledger's URL.

    Parameters
    ----------
    source
        File or URL.
    tolerance
        Of the bundle; a ledger keeps grades, and this decides which are bad.

    Raises
    ------
    InputError
        When there are none to be read from it.
    """
    if "://" in source:
        from router_core.ledger.audits import audits_from_ledger

        return audits_from_ledger(source, tolerance)
    return read_audits(source)


def read_audits(path: str | Path) -> Iterator[Audited]:
    """Audits of a JSON-lines file, one object of the fields of `Audited` a line, in the order of the lines.

    Raises
    ------
    InputError
        Naming the file and the line that is no audit.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is no file of audits; give a .jsonl file with one audit a line.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield Audited.from_json(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: {error}") from None
