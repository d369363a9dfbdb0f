"""Portfolio files as plain objects: JSON, TOML or a CSV price list. `router_core.portfolio` checks them."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

from router_core.errors import InputError

__all__ = ["REMARKS", "read_portfolio_file"]

# A price list usually says where a price was read; that is worth keeping in the file and needs no room
# elsewhere.
REMARKS = frozenset({"source", "comment", "note", "notes"})


def read_portfolio_file(path: Path) -> Any:
    """Read the content of a ``.json``, ``.toml`` or ``.csv`` file; a CSV becomes ``{"tiers": [...]}``.

    Raises
    ------
    InputError
        If the file is of another kind, unreadable or malformed. The file is not named; the caller does that.
    """
    readers = {".json": _read_json, ".toml": _read_toml, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"a portfolio is a .json, .toml or .csv file, not {path.suffix!r}")
    try:
        return reader(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"not valid {path.suffix[1:].upper()} ({error})") from None


def _read_json(path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # A repeated name would otherwise silently win over the first.
        for key, _ in pairs:
            if sum(key == other for other, _ in pairs) > 1:
                raise InputError(f"tier or key {key!r} is listed twice; names must differ")
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)


def _read_toml(path: Path) -> Any:
    return tomllib.loads(path.read_text(encoding="utf-8-sig"))


def _read_csv(path: Path) -> Any:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = {"name", "tier", "model", *REMARKS}
    tiers = []
    for number, row in enumerate(rows, start=1):
        tier: dict[str, Any] = {}
        for key, text in row.items():
            if key is None or text is None:
                raise InputError(f"row {number} has {'more' if key is None else 'fewer'} fields than the header")
            if key.strip() in texts or not text.strip():
                tier.update({key.strip(): text.strip()} if text.strip() else {})
                continue
            try:
                tier[key.strip()] = float(text)
            except ValueError:
                tier[key.strip()] = text
        tiers.append(tier)
    return {"tiers": tiers}
