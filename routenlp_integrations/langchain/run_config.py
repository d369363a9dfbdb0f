"""Task, tier and conversation that a run's configuration names, for code that is not handed the configuration."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from langchain_core.runnables import ensure_config

from router_core.errors import InputError

__all__ = ["described", "named", "task_and_tier", "thread"]


F = TypeVar("F", bound=Callable[..., Any])


def described(method: F) -> F:
    """Keep a method's signature with it: LangChain asks for that of `_generate` at every call."""
    method.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return method


def task_and_tier() -> tuple[str | None, str | None]:
    """``configurable["task"]`` and ``configurable["tier"]`` of the run that is under way; None where not named.

    Raises
    ------
    InputError
        When one is not text.
    """
    configurable = ensure_config().get("configurable", {})
    return named(configurable, "task"), named(configurable, "tier")


def named(configurable: Mapping[str, Any], name: str) -> str | None:
    """What a configuration says under a name; None where it says nothing.

    Raises
    ------
    InputError
        When it is not text.
    """
    value = configurable.get(name)
    if value is not None and not isinstance(value, str):
        msg = f"configurable[{name!r}] must be text, not {value!r}"
        raise InputError(msg)
    return value


def thread() -> str | None:
    """``configurable["thread_id"]`` of the run that is under way, None where there is none."""
    named = ensure_config().get("configurable", {}).get("thread_id")
    return None if named is None else str(named)
