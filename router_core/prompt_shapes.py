"""What one row of a file of prompts is, what it asks, and its gold answer; see `router_core.prompts`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router_core.conversations import Turns, is_conversation, split_answer, text_of, turns_of
from router_core.errors import InputError
from router_core.metrics import Gold
from router_core.route_text import route_text

__all__ = ["Found", "read_row"]

_PROMPTS = ("prompt", "text", "input", "question")
_GOLDS = ("gold", "label", "answer", "ideal")
_ANSWERS = ("output", "answer", "label", "gold", "expected", "response", "content", "generations", "choices", "message")


@dataclass(frozen=True)
class Found:
    """What a row asks, its gold answer, and the row that names its task and split."""

    turns: Turns
    gold: Gold
    row: Mapping[str, Any]


def read_row(row: Mapping[str, Any], gold: str | None, place: str) -> tuple[str, Found | str]:
    """What kind of row it is, and what it asks; or why it cannot be asked as text."""
    kind = _kind(row, place)
    try:
        return kind, _found(kind, row, gold, place)
    except InputError:
        raise
    except ValueError as error:
        if kind == "prompt":
            raise InputError(f"{place}: holds {error}; collect asks with text only") from None
        return kind, str(error)


def _kind(row: Mapping[str, Any], place: str) -> str:
    shapes = {
        "OpenAI batch request": isinstance(row.get("body"), Mapping),
        "LangSmith run": isinstance(row.get("inputs"), Mapping) and "run_type" in row,
        "LangSmith example": isinstance(row.get("inputs"), Mapping),
        "OpenAI eval item": isinstance(row.get("item"), Mapping),
        "OpenAI stored completion": "choices" in row and ("messages" in row or "input" in row),
        "OpenAI evals sample": is_conversation(row.get("input")) and "ideal" in row,
        "OpenAI conversation": "messages" in row,
        "prompt": any(name in row for name in _PROMPTS),
    }
    for kind, fits in shapes.items():
        if fits:
            return kind
    raise InputError(
        f"{place}: has none of the columns {', '.join(_PROMPTS)}, messages, inputs or body; it has "
        f"{', '.join(map(str, row)) or 'nothing'}"
    )


def _found(kind: str, row: Mapping[str, Any], gold: str | None, place: str) -> Found:
    if kind == "OpenAI eval item":
        inner = {**{k: v for k, v in row.items() if k != "item"}, **row["item"]}
        nested = _kind(inner, place)
        return _found(nested, inner, gold, place)
    if kind == "OpenAI batch request":
        body = row["body"]
        return Found(
            _asked(body.get("messages", body.get("input")), "body.messages", place)[0], _gold(row, gold, place), row
        )
    if kind.startswith("LangSmith"):
        turns, _ = _asked(_input_of(row["inputs"], place), "inputs", place)
        return Found(turns, None if kind == "LangSmith run" and gold is None else _outputs(row, gold, place), row)
    name = "messages" if kind in ("OpenAI conversation", "OpenAI stored completion") and "messages" in row else "input"
    if kind == "prompt":
        name = next(name for name in _PROMPTS if name in row)
    turns, answer = _asked(row[name], name, place)
    said = _gold(row, gold, place)
    return Found(turns, answer if said is None and kind == "OpenAI conversation" and gold is None else said, row)


def _asked(value: Any, name: str, place: str) -> tuple[Turns, str | None]:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{place}: column {name!r} is {value}, which is no prompt; write it as text")
        if not str(value).strip():
            raise InputError(f"{place}: column {name!r} is empty; every row needs a prompt")
        return (("human", str(value)),), None
    if not is_conversation(value):
        raise InputError(f"{place}: column {name!r} must be text or a list of messages with role and content")
    turns, answer = split_answer(turns_of(value))
    if not route_text(turns).strip():
        raise InputError(f"{place}: the last human turn in {name!r} is empty; every row needs a prompt")
    return turns, answer


def _input_of(inputs: Mapping[str, Any], place: str) -> Any:
    for name in ("messages", *_PROMPTS, "query"):
        if name in inputs:
            return inputs[name]
    texts = [value for value in inputs.values() if isinstance(value, str) or is_conversation(value)]
    if len(texts) == 1:
        return texts[0]
    raise InputError(f"{place}: which of the inputs {', '.join(inputs) or '(none)'} is the prompt? Name it 'input'")


def _outputs(row: Mapping[str, Any], gold: str | None, place: str) -> Gold:
    outputs = row.get("outputs", row.get("reference_outputs"))
    if gold is not None and gold in row:
        return _gold(row, gold, place)
    if not isinstance(outputs, Mapping):
        return None
    if gold is not None:
        return _gold(outputs, gold, place)
    named = [outputs[name] for name in _ANSWERS if name in outputs]
    if is_conversation(outputs.get("messages")):
        named.append(outputs["messages"][-1])
    found = named or [value for value in outputs.values() if isinstance(value, str)]
    return _answer(found[0], place) if named or len(found) == 1 else None


def _answer(value: Any, place: str) -> Gold:
    """A gold answer from whatever holds it: text, labels, a message, generations."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        for name in ("message", "text", "content", "kwargs", "data", "output"):
            if value.get(name):
                return _answer(value[name], place)
        return None
    return _as_gold(value, "outputs", place)


def _gold(row: Mapping[str, Any], column: str | None, place: str) -> Gold:
    if column is not None:
        return _as_gold(row.get(column), column, place)
    name = next((name for name in _GOLDS if row.get(name) is not None), None)
    return None if name is None else _as_gold(row[name], name, place)


def _as_gold(value: Any, column: str, place: str) -> Gold:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, Sequence) and all(isinstance(one, (str, int, float)) for one in value):
        return tuple(str(one) for one in value)
    try:
        return text_of(value)
    except ValueError:
        raise InputError(
            f"{place}: column {column!r} must be a gold answer: text, a number, or a list of them"
        ) from None
