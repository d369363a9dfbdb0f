"""Training pairs from files: labelled rows or a teacher's answers, and records in the house schema.

A row has a prompt (``prompt`` or ``text``, or a list ``tokens``), an answer (``answer``, ``label``, ``response`` or
``gold``; of a tagger also a list ``tags``), and optionally ``soft`` (an object of label: probability), ``split``,
``query_id`` (``id``), ``group``, ``task``, ``weight`` and ``cost_usd``. A file with ``model`` and ``quality`` is one
of records, whose answers are those of the teacher that is named.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from exporters.fence import NO_KEYS, Keys
from exporters.students.data import Pair
from router_core.errors import InputError
from router_core.keys import hash_keys
from router_core.records import Records, read_records
from router_core.selection import SPLITS
from router_core.splits import prepare
from router_core.tables import Table, read_table

__all__ = ["PairFile", "is_answered", "pairs_from_records", "read_pairs", "within_budget"]

_PROMPTS = ("prompt", "text")
_ANSWERS = ("answer", "label", "response", "gold")
_LEARNED = ("", "train", "tune")


@dataclass(frozen=True, eq=False)
class PairFile:
    """What files hold.

    Attributes
    ----------
    pairs
        In file order.
    set_aside
        Why rows are not learned from, and how many.
    calib
        Hashed keys of the calibration items among the rows.
    teacher
        Whose answers they are, ``""`` if the file does not say.
    """

    pairs: tuple[Pair, ...]
    set_aside: Mapping[str, int] = field(default_factory=dict)
    calib: Keys = field(default_factory=lambda: NO_KEYS)
    teacher: str = ""


def read_pairs(
    paths: Sequence[str | Path],
    kind: str,
    *,
    teacher: str | None = None,
    task: str | None = None,
    asked: bool = False,
) -> PairFile:
    """Read training pairs from Parquet, CSV or JSON-lines files.

    Parameters
    ----------
    paths
        All of them records, or none.
    kind
        Kind of the student.
    teacher
        Of records: the model whose answers are learned.
    task
        Learn rows of this task alone.
    asked
        A live teacher will be asked for what is missing: rows without an answer are kept, with an empty one.

    Raises
    ------
    InputError
        Naming file, row and column, for what cannot be read.
    """
    if not paths:
        raise InputError("no pairs given; name at least one .parquet, .csv or .jsonl file")
    tables = [read_table(path) for path in paths]
    of_records = [{"model", "quality"} <= set(table.columns) for table in tables]
    if asked and any(of_records):
        raise InputError(f"{tables[0].source} holds records, whose answers are there; name one of their models")
    if all(of_records):
        if teacher is None:
            raise InputError(f"{tables[0].source} holds records of several models; name the teacher with --teacher")
        return pairs_from_records(read_records(list(paths)), teacher, task=task)
    if any(of_records) or teacher is not None:
        odd = tables[of_records.index(True)] if any(of_records) else tables[0]
        raise InputError(f"{odd.source}: a teacher is named of records alone, and records do not mix with other files")
    aside: Counter[str] = Counter()
    held: list[str] = []
    pairs: list[Pair] = []
    for table in tables:
        for place, row in _rows(table):
            split = str(row.get("split") or "").strip()
            if task is not None and str(row.get("task") or "default").split("/")[0] != task:
                aside["another task"] += 1
            elif split in _LEARNED:
                pairs.append(_pair(row, kind, place, split, asked=asked))
            elif split in SPLITS:
                aside[f"split {split}"] += 1
                held += _pair(row, kind, place, "", asked=asked).keys if split == "calib" else ()
            else:
                raise InputError(f"{place}: column 'split' is {split!r}; it must be one of {', '.join(SPLITS)}")
    _some(pairs, tables[0].source, aside)
    named = sum(bool(pair.split) for pair in pairs)
    if 0 < named < len(pairs) or not any(pair.split == "tune" for pair in pairs):
        # Without a TUNE of its own, or rows without a split, the trainer sets some aside.
        pairs = [replace(pair, split="") if pair.split == "train" else pair for pair in pairs]
    return PairFile(tuple(pairs), dict(aside), hash_keys(held))


def pairs_from_records(records: Records, teacher: str, *, task: str | None = None) -> PairFile:
    """Pairs of the teacher's answers in records, of train and tune alone.

    Raises
    ------
    InputError
        When the teacher is no model of the records, or answered none of them.
    """
    if teacher not in records.models:
        raise InputError(f"{records.source}: unknown teacher {teacher!r}; the records have {', '.join(records.models)}")
    prepared = prepare(records, require=("train",))
    found, column = prepared.records, records.models.index(teacher)
    tune = set(prepared.tune.tolist())
    aside: Counter[str] = Counter()
    pairs = []
    for i in sorted({*prepared.train.tolist(), *tune}):
        answer = found.response[i][column]
        if task is not None and found.task[i] != task:
            aside["another task"] += 1
        elif answer is None or not answer.strip():
            aside["no answer of the teacher"] += 1
        else:
            cost = float(found.cost[i, column])
            pairs.append(
                Pair(
                    found.query_id[i], found.prompt[i], answer.strip(), found.task[i], found.group[i],
                    ("tune" if i in tune else "train") if tune else "", cost_usd=cost if np.isfinite(cost) else 0.0,
                )
            )  # fmt: skip
    for name in ("calib", "test", "audit"):
        if count := len(getattr(prepared, "calib_all" if name == "calib" else name)):
            aside[f"split {name}"] = count
    _some(pairs, records.source, aside)
    calib = hash_keys([found.group[i] for i in prepared.calib_all.tolist()])
    return PairFile(tuple(pairs), dict(aside), calib, teacher)


def within_budget(pairs: Sequence[Pair], budget_usd: float) -> list[Pair]:
    """The first pairs whose answers cost no more than the budget together, US dollars.

    Raises
    ------
    InputError
        When it pays for none.
    """
    kept, spent = [], 0.0
    for pair in pairs:
        if spent + pair.cost_usd > budget_usd:
            break
        spent += pair.cost_usd
        kept.append(pair)
    if not kept:
        raise InputError(f"the budget of {budget_usd:g} USD pays for no answer; the first cost {pairs[0].cost_usd:g}")
    return kept


def is_answered(pair: Pair) -> bool:
    """Whether there is anything to learn of a pair yet."""
    return bool(pair.answer.strip() or pair.soft or pair.tags)


def _some(pairs: Sequence[Pair], source: str, aside: Mapping[str, int]) -> None:
    if not pairs:
        why = ", ".join(f"{count} of {reason}" for reason, count in aside.items()) or "the file is empty"
        raise InputError(f"{source}: no row can be learned from ({why})")


def _rows(table: Table) -> list[tuple[str, dict[str, Any]]]:
    columns = {name: cells if isinstance(cells, list) else cells.to_pylist() for name, cells in table.columns.items()}
    return [
        (table.place(i), {name: cells[i] for name, cells in columns.items() if cells[i] is not None})
        for i in range(len(table.numbers_of))
    ]


def _pair(row: Mapping[str, Any], kind: str, place: str, split: str, *, asked: bool) -> Pair:
    tags = row.get("tags") if kind == "tagger" else None
    try:
        return Pair(
            query_id=str(row.get("query_id", row.get("id", place))), prompt=_prompt(row, place),
            answer=_answer(row, kind, place, asked=asked), task=str(row.get("task") or "default").split("/")[0],
            group=str(row.get("group") or ""), split=split, soft=_soft(row, place),
            tags=None if tags is None else tuple(_listed(tags, "tags", place)),
            weight=float(row.get("weight", 1.0)), cost_usd=float(row.get("cost_usd", 0.0)),
        )  # fmt: skip
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(place) else f"{place}: {error}") from None
    except (TypeError, ValueError):
        raise InputError(f"{place}: columns 'weight' and 'cost_usd' must be numbers") from None


def _prompt(row: Mapping[str, Any], place: str) -> str:
    if "tokens" in row:
        return " ".join(_listed(row["tokens"], "tokens", place))
    for name in _PROMPTS:
        if name in row:
            if not isinstance(row[name], str):
                raise InputError(f"{place}: column {name!r} must be text")
            return str(row[name])
    raise InputError(
        f"{place}: has none of the columns {', '.join(_PROMPTS)}, tokens; it has {', '.join(map(str, row))}"
    )


def _answer(row: Mapping[str, Any], kind: str, place: str, *, asked: bool) -> str:
    name = next((name for name in _ANSWERS if name in row), None)
    if name is None:
        if asked or "soft" in row or (kind == "tagger" and "tags" in row):
            return ""
        raise InputError(f"{place}: has none of the columns {', '.join(_ANSWERS)}; it has {', '.join(map(str, row))}")
    value = row[name]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and kind in ("multilabel", "tagger"):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{place}: column {name!r} must be text{', or a list' if kind != 'classifier' else ''}")


def _soft(row: Mapping[str, Any], place: str) -> dict[str, float] | None:
    told = row.get("soft")
    if told is None:
        return None
    try:
        told = json.loads(told) if isinstance(told, str) else told
        # Parquet gives every row all labels of the file, those it lacks as null.
        return {str(label): float(value) for label, value in told.items() if value is not None}
    except (ValueError, TypeError, AttributeError):
        raise InputError(f"{place}: column 'soft' must be an object of label: probability") from None


def _listed(value: Any, name: str, place: str) -> list[str]:
    try:
        told = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        told = None
    if not isinstance(told, list) or not all(isinstance(one, str) and (one.split() == [one]) for one in told):
        raise InputError(f"{place}: column {name!r} must be a list of words")
    return told
