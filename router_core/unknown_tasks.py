"""Tasks that were never calibrated: each is warned about once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["UnknownTasks"]

_REMEMBERED = 1_000
"""Tasks remembered as warned about; a caller who makes up names must not fill the memory."""


class UnknownTasks:
    """The tasks that were warned about; safe across threads."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def warn(self, task: str, known: Iterable[str]) -> None:
        """Warn about a task, once; the warning names the caller's caller."""
        with self._lock:
            if task in self._warned:
                return
            if len(self._warned) < _REMEMBERED:
                self._warned.add(task)
        warnings.warn(
            f"task {task!r} was never calibrated (known: {', '.join(known)}); its queries go to the reference tier",
            stacklevel=3,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock, which belongs to one process."""
        return {"_warned": self._warned}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
