"""Carrying out what a walk asks for: wait, call, give up after a time-out.

A walk only says what to do next. These few functions do it, synchronously or not, so that every framework's driver is
a loop of three lines.
"""

import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import TypeVar

from router_core.route import Answer, Route

__all__ = ["Reply", "Step", "Steps", "advance", "aperform", "break_off", "perform", "walking", "within"]

T = TypeVar("T")

Reply = Answer | Exception
"""What a tier returned, or what it raised."""


class Step(str):
    """Name of the tier to call next, and how.

    Attributes
    ----------
    wait_seconds
        How long to wait before calling.
    timeout_seconds
        How long the call may take; None for any time.
    final
        Whether its answer is served whatever it is, if it is one.
    """

    __slots__ = ("final", "timeout_seconds", "wait_seconds")

    wait_seconds: float
    timeout_seconds: float | None
    final: bool

    def __new__(
        cls, tier: str, wait_seconds: float = 0.0, timeout_seconds: float | None = None, final: bool = False
    ) -> "Step":
        """Make a step of a tier's name."""
        step = super().__new__(cls, tier)
        step.wait_seconds, step.timeout_seconds, step.final = wait_seconds, timeout_seconds, final
        return step


Steps = Generator[Step, Reply, Route]


def advance(steps: Steps, reply: Reply | None = None) -> Step | Route:
    """Take one step of a `walk`: the next tier to call, or the finished route.

    Parameters
    ----------
    steps
        From `walk`.
    reply
        What the tier called last returned or raised; None to begin.
    """
    try:
        return next(steps) if reply is None else steps.send(reply)
    except StopIteration as stop:
        route: Route = stop.value
        return route


class walking:  # noqa: N801 - a context manager
    """Close a walk at the end, however it ends, so that nothing stays reserved for a query that was abandoned.

    A walk that is still being advanced in another thread (an executor, after its task was cancelled) cannot be closed
    from here; it is when it is collected.
    """

    __slots__ = ("_steps",)

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __enter__(self) -> Steps:
        return self._steps

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):
            self._steps.close()


def break_off(steps: Steps, error: Exception) -> None:
    """End a walk because the tier called last failed after something of its answer was shown.

    The failure counts for the tier's circuit breaker; no other tier is asked, since the answer cannot be taken back.
    """
    with suppress(Exception):
        steps.throw(error)


def perform(step: Step, call: Callable[[], T], sleep: Callable[[float], object] = time.sleep) -> T | Exception:
    """Wait, call, and give up after the time-out.

    Parameters
    ----------
    step
        From `advance`.
    call
        Calls the tier.
    sleep
        Waits so many seconds.

    Returns
    -------
    object
        What the tier returned, or the exception it raised; `TimeoutError` when it took too long.
    """
    if step.wait_seconds:
        sleep(step.wait_seconds)
    try:
        return within(step.timeout_seconds, call)
    except Exception as error:
        return error


async def aperform(
    step: Step, call: Callable[[], Awaitable[T]], sleep: Callable[[float], Awaitable[object]] | None = None
) -> T | Exception:
    """`perform` without blocking the event loop (`sleep` is asyncio's when None); a late call is cancelled."""
    import asyncio

    if step.wait_seconds:
        await (sleep or asyncio.sleep)(step.wait_seconds)
    try:
        if step.timeout_seconds is None:
            return await call()
        async with asyncio.timeout(step.timeout_seconds):
            return await call()
    except Exception as error:
        return error


def within(seconds: float | None, call: Callable[[], T]) -> T:
    """Call something that must return within a number of seconds.

    A thread cannot be stopped from outside. With a time-out the call runs in a daemon thread of its own, in a copy of
    the caller's context; when the time is up that thread is left to finish in the background, where its result is
    dropped. Without one the call runs here.

    Raises
    ------
    TimeoutError
        When it takes longer.
    """
    if seconds is None:
        return call()
    from concurrent.futures import Future

    result: Future[T] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            result.set_result(context.run(call))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, name="routenlp-timeout", daemon=True).start()
    return result.result(seconds)
