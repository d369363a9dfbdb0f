"""Conversations as other tools export them: OpenAI and LangChain messages as (role, text) turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Turns", "is_conversation", "split_answer", "text_of", "turns_of"]

Turns = tuple[tuple[str, str], ...]
"""(role, text) in order; roles are ``"human"``, ``"ai"``, ``"system"`` and ``"tool"``."""

_ROLES = {
    "user": "human", "human": "human", "HumanMessage": "human", "HumanMessageChunk": "human",
    "assistant": "ai", "ai": "ai", "AIMessage": "ai", "AIMessageChunk": "ai", "model": "ai",
    "system": "system", "developer": "system", "SystemMessage": "system",
    "tool": "tool", "function": "tool", "ToolMessage": "tool", "FunctionMessage": "tool",
}  # fmt: skip
_TEXT_KINDS = ("text", "input_text", "output_text")


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages, or such a list in a list, as chat models' runs hold it."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    return isinstance(value, list) and bool(value) and all(_role(item) is not None for item in value)


def turns_of(value: Any) -> Turns:
    """The turns of a conversation (`is_conversation`).

    Raises
    ------
    ValueError
        Saying what a message holds besides text: such a conversation cannot be asked as text.
    """
    if len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    return tuple((str(_role(item)), _message_text(item)) for item in value)


def split_answer(turns: Turns) -> tuple[Turns, str | None]:
    """The turns up to the last human one, and the answer to it if the conversation holds one."""
    last = max((i for i, (role, _) in enumerate(turns) if role == "human"), default=len(turns) - 1)
    answers = [text for role, text in turns[last + 1 :] if role == "ai" and text.strip()]
    return turns[: last + 1], answers[-1] if answers else None


def text_of(content: Any) -> str:
    """The text of a message's content: text, a list of text blocks, or None.

    Raises
    ------
    ValueError
        Naming the first block that is no text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ValueError(f"content of type {type(content).__name__}")
    parts = []
    for block in content:
        if isinstance(block, str):
            parts.append(block)
        elif isinstance(block, Mapping) and block.get("type") in _TEXT_KINDS and isinstance(block.get("text"), str):
            parts.append(block["text"])
        else:
            kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
            raise ValueError(f"{kind!r} content")
    return "".join(parts)


def _fields(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a message keeps its content: itself, or what LangChain's serialisations wrap."""
    for name in ("kwargs", "data"):
        if isinstance(message.get(name), Mapping):
            inner: Mapping[str, Any] = message[name]
            return inner
    return message


def _role(message: Any) -> str | None:
    if not isinstance(message, Mapping):
        return None
    named = message.get("id")
    of_class = named[-1] if message.get("lc") and isinstance(named, list) and named else None
    for said in (message.get("role"), of_class, message.get("type"), _fields(message).get("type")):
        if isinstance(said, str) and said in _ROLES:
            return _ROLES[said]
    return None


def _message_text(message: Mapping[str, Any]) -> str:
    inner = _fields(message)
    extra = inner.get("additional_kwargs")
    if any(
        inner.get(name) or (isinstance(extra, Mapping) and extra.get(name)) for name in ("tool_calls", "function_call")
    ):
        raise ValueError("tool calls")
    if _role(message) == "tool":
        raise ValueError("tool results")
    return text_of(inner.get("content"))
