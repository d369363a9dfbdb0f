"""Prompts to ask: from a table with a prompt column, or from what LangSmith and OpenAI export.

What a row is follows from its shape:

=====================================  ====================================================================
a row with                             is
=====================================  ====================================================================
``prompt``, ``text``, ``input`` or     a prompt (text, or a list of messages), with optional ``task``,
``question``                           ``gold`` (``label``, ``answer``, ``ideal``), ``group``, ``query_id``,
                                       ``split``
``body``                               a request of an OpenAI batch file
``messages``, no ``choices``           a conversation, such as a line of OpenAI fine-tuning data; its last
                                       assistant turn is the gold answer
``choices`` and ``messages``/``input`` a stored completion; what the model said is no gold answer
``input`` (messages) and ``ideal``     a sample of OpenAI evals
``item``                               an item of an OpenAI eval's data, read as a row of its own
``inputs``                             a LangSmith example, its outputs the gold answer; or, with ``run_type``,
                                       a LangSmith run, whose outputs are no gold answer
=====================================  ====================================================================

Of a conversation the turns up to the last human one are asked, and `route_text` of them is the prompt of the record. A
row of an export that cannot be asked as text (images, tool calls) is set aside and counted; a row that cannot be
read is an error with its place.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router_core.conversations import Turns, is_conversation
from router_core.errors import InputError
from router_core.metrics import Gold
from router_core.prompt_shapes import Found, read_row
from router_core.route_text import route_text
from router_core.selection import SPLITS
from router_core.tables import read_table

__all__ = ["Prompt", "PromptFile", "read_prompts"]


@dataclass(frozen=True)
class Prompt:
    """One query to ask every tier.

    Attributes
    ----------
    query_id
        As given, else made from the text.
    turns
        What the tiers are asked, (role, text) in order.
    text
        What is routed: `route_text` of the turns.
    task, group, split
        ``""`` where not given.
    gold
        The gold answer or answers, or None.
    place
        Where it stands, for messages.
    """

    query_id: str
    turns: Turns
    text: str
    task: str
    group: str
    split: str
    gold: Gold
    place: str


@dataclass(frozen=True)
class PromptFile:
    """What a file of prompts holds.

    Attributes
    ----------
    prompts
        In file order.
    kinds
        How many rows of each kind were found.
    set_aside
        Why rows cannot be asked as text, and how many.
    """

    prompts: tuple[Prompt, ...]
    kinds: Mapping[str, int]
    set_aside: Mapping[str, int]


def read_prompts(path: str | Path, *, gold: str | None = None, task: str | None = None) -> PromptFile:
    """Read the prompts of a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file.

    Parameters
    ----------
    path
        The file.
    gold
        Column, or key of a LangSmith example's outputs, that holds the gold answer.
    task
        Task of every prompt that names none.

    Raises
    ------
    InputError
        Naming file, row and column, for a file or row that cannot be read.
    MissingExtraError
        For Parquet without pyarrow.
    """
    path = Path(path)
    kinds: Counter[str] = Counter()
    aside: Counter[str] = Counter()
    prompts: list[Prompt] = []
    ids: dict[str, str] = {}
    columns: list[str] = []
    for place, row in _rows(path):
        columns = columns or [str(name) for name in row]
        kind, found = read_row(row, gold, place)
        kinds[kind] += 1
        if isinstance(found, str):
            aside[found] += 1
            continue
        prompt = _prompt(row, found, task, place, ids)
        ids[prompt.query_id] = place
        prompts.append(prompt)
    if not prompts:
        why = "; ".join(f"{count} with {reason}" for reason, count in aside.items()) or "the file is empty"
        raise InputError(f"{path}: no prompt can be asked as text ({why})")
    if gold is not None and all(prompt.gold is None for prompt in prompts):
        raise InputError(
            f"{path}: --gold {gold!r} names no column with a value; the first row has {', '.join(columns)}"
        )
    named = sum(bool(prompt.split) for prompt in prompts)
    if 0 < named < len(prompts):
        bare = next(prompt for prompt in prompts if not prompt.split)
        raise InputError(
            f"{bare.place}: column 'split' is empty, though other rows have one; give every row one or none"
        )
    return PromptFile(tuple(prompts), dict(kinds), dict(aside))


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() == ".json":
        return _json_rows(path)
    table = read_table(path)
    columns = {
        name: values if isinstance(values, list) else values.to_pylist() for name, values in table.columns.items()
    }
    return [
        (table.place(i), {name: _unpacked(values[i]) for name, values in columns.items() if values[i] is not None})
        for i in range(len(table.numbers_of))
    ]


def _json_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        told = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if isinstance(told, dict):
        told = next((told[name] for name in ("examples", "runs", "data") if isinstance(told.get(name), list)), [told])
    for number, row in enumerate(told, start=1) if isinstance(told, list) else ():
        if not isinstance(row, dict):
            raise InputError(f"{path}: item {number} is not a JSON object")
    if not isinstance(told, list) or not told:
        raise InputError(f"{path}: holds no list of prompts")
    return [(f"{path}: item {number}", dict(row)) for number, row in enumerate(told, start=1)]


def _unpacked(cell: Any) -> Any:
    """Tables hold conversations and objects as JSON text."""
    if isinstance(cell, str) and cell[:2] in ("[{", '{"', "[["):
        try:
            told = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if isinstance(told, dict) or is_conversation(told):
            return told
    return cell


def _prompt(row: Mapping[str, Any], found: Found, task: str | None, place: str, ids: Mapping[str, str]) -> Prompt:
    told = {**row, **found.row}

    def text(name: str) -> str:
        value = told.get(name)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise InputError(f"{place}: column {name!r} must be text, not {type(value).__name__}")
        return str(value).strip()

    label = text("task") or (task or "").strip() or "default"
    if label.split("/")[0] in ("", "*") or label.endswith("/*"):
        raise InputError(f"{place}: task {label!r} is reserved or has no name before '/'; rename it")
    split = text("split")
    if split and split not in SPLITS:
        raise InputError(f"{place}: column 'split' is {split!r}; it must be one of {', '.join(SPLITS)}")
    content = json.dumps([label, found.turns], ensure_ascii=True)
    try:
        "".join(part for _, part in found.turns).encode()
    except UnicodeEncodeError:
        raise InputError(f"{place}: the prompt holds half a character (an unpaired surrogate)") from None
    given = text("query_id") or text("custom_id") or (text("id") if "inputs" in told else "")
    if given and given in ids:
        raise InputError(f"{place}: query_id {given!r} was already given at {ids[given]}; keep one of the two")
    made = hashlib.sha256(content.encode()).hexdigest()[:16]
    repeat = 1
    while not given and made in ids:
        # The same question asked again is another query of the same group; the tiers are asked once for both.
        repeat += 1
        made = f"{made[:16]}-{repeat}"
    return Prompt(given or made, found.turns, route_text(found.turns), label, text("group"), split, found.gold, place)
