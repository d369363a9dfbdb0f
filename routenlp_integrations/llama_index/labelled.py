"""Choices and labelled queries as a user gives them, read for the selector that is fitted on them."""

from collections.abc import Sequence

from llama_index.core.tools.types import ToolMetadata

from router_core.choices import Choice
from router_core.errors import InputError

__all__ = ["choices_of", "labelled_of"]


def choices_of(given: Sequence[ToolMetadata | str]) -> list[Choice]:
    """Choices by name and description.

    Raises
    ------
    InputError
        When one is neither metadata nor a description.
    """
    several: Sequence[object] = given
    found = []
    for i, one in enumerate(several):
        if isinstance(one, str):
            found.append(Choice("", one))
        elif isinstance(one, ToolMetadata):
            found.append(Choice(one.name or "", one.description or ""))
        else:
            hint = "give tool.metadata" if hasattr(one, "metadata") else "give a ToolMetadata or a description"
            raise InputError(f"Choice {i} is a {type(one).__name__}; {hint}.")
    return found


def labelled_of(queries: Sequence[tuple[str, int | str]], choices: Sequence[Choice]) -> list[tuple[str, int]]:
    """Labelled queries with the index of their choice.

    Raises
    ------
    InputError
        When one is no pair, or names no choice or several.
    """
    found = []
    for i, query in enumerate(queries):
        if not isinstance(query, Sequence) or isinstance(query, str) or len(query) != 2:
            raise InputError(f"Labelled query {i} is {query!r}; give a pair of its text and its choice.")
        text, label = query
        if isinstance(label, str):
            alike = [at for at, one in enumerate(choices) if one.name == label]
            alike = alike or [at for at, one in enumerate(choices) if one.description == label]
            if len(alike) != 1:
                what = "is not among the choices" if not alike else "is more than one choice; give its index"
                raise InputError(f"Labelled query {i} names {label!r}, which {what}.")
            found.append((text, alike[0]))
        else:
            found.append((text, label))
    return found
