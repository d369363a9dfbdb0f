"""Showing a stream: the time-out that holds until something is shown, and leaving a stream early."""

import asyncio
import time
from collections.abc import Awaitable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from router_core.driving import within

__all__ = ["Deadline", "leaving"]

T = TypeVar("T")


class Deadline:
    """A time-out that holds until something is shown.

    Parameters
    ----------
    seconds
        From now; None for any time.
    """

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds that are left; None for any time."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def lift(self) -> None:
        """Let the rest take any time."""
        self._at = None

    async def of(self, work: Awaitable[T]) -> T:
        """Wait for something.

        Raises
        ------
        TimeoutError
            When the time is up before.
        """
        if self._at is None:
            return await work
        async with asyncio.timeout(self.left):
            return await work

    def next(self, chunks: Iterator[T]) -> T | None:
        """Wait for the next chunk; None after the last.

        Raises
        ------
        TimeoutError
            When the time is up before.
        """
        return within(self.left, lambda: next(chunks, None))


@contextmanager
def leaving(chunks: Generator[T, None, None]) -> Iterator[Generator[T, None, None]]:
    """Close a tier's stream, however it is left; one that is late in another thread is closed when it is collected."""
    try:
        yield chunks
    finally:
        with suppress(ValueError):
            chunks.close()
