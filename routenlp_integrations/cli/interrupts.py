"""Interrupts that a library turned into an error of its own, as one that is being imported may."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["asyncio_interrupts", "noted_interrupts"]


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Note each SIGINT beside raising `KeyboardInterrupt`; the list is empty while there was none.

    A module that is interrupted while it is imported may raise an ImportError, and what catches that may take its
    package for missing; whoever knows of the interrupt can tell it from a real one. Where SIGINT is handled by
    somebody else, or off the main thread, nothing is noted.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    with _handler(signal.default_int_handler, note):
        yield seen


@contextmanager
def asyncio_interrupts() -> Iterator[None]:
    """Let `asyncio.run` handle SIGINT, which it does where nobody but Python handles it: its tasks end in order."""
    held = signal.getsignal(signal.SIGINT)
    with _handler(held, signal.default_int_handler):
        yield


@contextmanager
def _handler(before: object, during: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not before:
        yield
        return
    signal.signal(signal.SIGINT, during)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
