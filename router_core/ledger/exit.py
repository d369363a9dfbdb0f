"""What is still queued is stored when the process ends: at exit, and on SIGTERM."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import weakref
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router_core.ledger import Ledger

__all__ = ["EXIT_S", "flush_at_exit"]

EXIT_S = 5.0
"""How long the end of a process may wait for a ledger, seconds."""

_OPEN: weakref.WeakSet[Ledger] = weakref.WeakSet()


def flush_at_exit(ledger: Ledger) -> None:
    """Flush this ledger at the end of the process, and on SIGTERM if this is the main thread.

    The earlier SIGTERM handler runs after the flush, and without one the process dies of the signal as it would have.
    A server that sets its own handler later replaces this one; its orderly exit then flushes. SIGKILL, and `os._exit`
    (multiprocessing's forked children end with it), run nothing: flush before.
    """
    _OPEN.add(ledger)
    _at_exit()
    if threading.current_thread() is threading.main_thread():
        _on_term()


@cache
def _at_exit() -> None:
    atexit.register(_flush_all)


def _on_term() -> None:
    earlier = signal.getsignal(signal.SIGTERM)
    # None is a handler that was not set from Python and cannot be called; a process that ignores the signal lives on.
    if earlier is None or earlier is signal.SIG_IGN or getattr(earlier, "of_ledger", False):
        return

    def flush(number: int, frame: FrameType | None) -> Any:
        _flush_all()
        if callable(earlier):
            return earlier(number, frame)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return None

    flush.of_ledger = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, flush)


def _flush_all() -> None:
    for ledger in list(_OPEN):
        ledger.flush(EXIT_S)
