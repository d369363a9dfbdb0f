"""How an answer compares with the form that was asked for, in any framework."""

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Verdict", "canonical"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an answer compares with its form.

    Attributes
    ----------
    text
        The answer as evidence: canonical JSON of its calls or of its value, else its text.
    valid
        None when it cannot be told, such as where a tool's own schema is broken.
    why
        What does not fit, without a word of the answer; empty when all does.
    """

    text: str
    valid: bool | None
    why: str = ""


def canonical(value: Any) -> str:
    """Calls or a value as JSON, the same text for the same content."""
    dumped = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    return json.dumps(dumped, sort_keys=True, ensure_ascii=False, default=str)
