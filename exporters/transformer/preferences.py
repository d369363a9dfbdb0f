"""Preference records: which of two tiers answered a prompt better, without grades."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.errors import InputError
from router_core.groups import normalise

__all__ = ["Preference", "for_examples", "pairs_of", "read_preferences"]

_COLUMNS = ("query_id", "task", "prompt", "winner", "loser")


@dataclass(frozen=True)
class Preference:
    """One comparison.

    Attributes
    ----------
    query_id, task, prompt
        Of the query; the task may name a subtask after a slash.
    winner, loser
        Names of the two tiers.
    """

    query_id: str
    task: str
    prompt: str
    winner: str
    loser: str


def read_preferences(path: str | Path, tiers: Sequence[str] | None = None) -> tuple[Preference, ...]:
    """Read preference records from a file (.jsonl, .csv, .parquet).

    Parameters
    ----------
    path
        The file, with the columns query_id, task, prompt, winner, loser.
    tiers
        Names that may stand as winner and loser; not checked when None.

    Raises
    ------
    InputError
        If the file cannot be read, a column is missing, a tier is unknown, records contradict each other, or all
        comparisons of a task have the same outcome.
    """
    path = Path(path)
    found = []
    for number, row in enumerate(_rows(path), start=1):
        missing = [name for name in _COLUMNS if not isinstance(row.get(name), str) or not row[name]]
        if missing:
            raise InputError(f"{path}, record {number}: {missing[0]} is missing; {', '.join(_COLUMNS)} are needed.")
        found.append(Preference(*(row[name] for name in _COLUMNS)))
    check_preferences(found, tiers, str(path))
    return tuple(found)


def check_preferences(preferences: Sequence[Preference], tiers: Sequence[str] | None, where: str) -> None:
    """Refuse preferences no router can learn from.

    Raises
    ------
    InputError
        As `read_preferences` says.
    """
    if not preferences:
        raise InputError(f"{where} holds no preference records.")
    outcome: dict[tuple[str, frozenset[str]], str] = {}
    classes: dict[str, set[tuple[str, str]]] = {}
    for one in preferences:
        for name in (one.winner, one.loser):
            if tiers is not None and name not in tiers:
                raise InputError(
                    f"{where}: query {one.query_id} names the unknown tier {name!r}; the tiers are {', '.join(tiers)}."
                )
        pair = frozenset((one.winner, one.loser))
        if len(pair) < 2 or outcome.setdefault((one.query_id, pair), one.winner) != one.winner:
            raise InputError(
                f"{where}: the records of query {one.query_id} contradict each other: {one.winner!r} and "
                f"{one.loser!r} each win; keep one of them."
            )
        classes.setdefault(one.task.partition("/")[0], set()).add((one.winner, one.loser))
    for task, seen in classes.items():
        if not any((loser, winner) in seen for winner, loser in seen):
            winner, loser = sorted(seen)[0]
            raise InputError(
                f"{where}: task {task} has one class only: {winner!r} wins every comparison with {loser!r}; add "
                "comparisons with the other outcome or leave the task out."
            )


def for_examples(
    preferences: Sequence[Preference], texts: Sequence[str], graded: Collection[str]
) -> tuple[list[tuple[int, Preference]], list[Preference]]:
    """Tell which preferences may be learned from, beside the graded queries of one training.

    Parameters
    ----------
    preferences
        All of them.
    texts
        Prompts of the training.
    graded
        Prompts of all records, held-out ones included, normalised (`router_core.groups.normalise`). A preference
        about a graded query that is not in the training is held out, too: it would tell of calib, test or a fold.

    Returns
    -------
    tuple
        Pairs (row of `texts`, preference), and the preferences about prompts that stand in no record.
    """
    row = {normalise(text): i for i, text in reversed(list(enumerate(texts)))}
    at, extra = [], []
    for one in preferences:
        key = normalise(one.prompt)
        if key in row:
            at.append((row[key], one))
        elif key not in graded:
            extra.append(one)
    return at, extra


def pairs_of(quality: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Comparisons made from grades: who beats whom (1, 1/2 for a tie, 0), and which are counted, ``[n, K, K]``."""
    here, there = quality[:, :, None], quality[:, None, :]
    beats = np.where(here > there, 1.0, np.where(here == there, 0.5, 0.0))
    k = quality.shape[1]
    return beats, np.broadcast_to(np.triu(np.ones((k, k)), 1), beats.shape).copy()


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.read_table(path).to_pylist())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as preference records ({error}).") from error
    raise InputError(f"{path}: preference records are .jsonl, .csv or .parquet files.")
