"""Ctrl-C: exit code 130 and one line, whatever a library makes of the interrupt."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from routenlp_integrations.cli.interrupts import asyncio_interrupts, noted_interrupts
from router_core.errors import MissingExtraError


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    """Python's own handler, as at a terminal: what a shell starts in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def swallowing(error: Exception) -> Callable[..., Any]:
    """A library that is interrupted and says something else."""

    def work(*_: Any) -> Any:
        try:
            interrupt()
        except KeyboardInterrupt:
            raise error from None

    return work


@pytest.mark.parametrize("error", [ImportError("initialization failed"), MissingExtraError("fit", "go on")], ids=repr)
def test_what_an_interrupted_library_says_is_an_interrupt(
    error: Exception, small_bundle: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback, and nothing is called missing; without the interrupt each error is what it is."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("router_core.router.Router.load", swallowing(error))
    said = run("route", small_bundle, "hello")
    assert (said.code, said.out, said.err) == (130, "", "routenlp: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before

    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("router_core.router.Router.load", fails)
    if isinstance(error, ImportError) and not isinstance(error, MissingExtraError):
        with pytest.raises(ImportError):
            run("route", small_bundle, "hello")
    else:
        assert run("route", small_bundle, "hello").code == 2


def test_a_plain_interrupt(small_bundle: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where nothing swallows it."""
    monkeypatch.setattr("router_core.router.Router.load", lambda *_: interrupt())
    said = run("route", small_bundle, "hello")
    assert (said.code, said.out, said.err) == (130, "", "routenlp: interrupted\n")


def test_asyncio_still_ends_its_tasks() -> None:
    """Tasks are cancelled at the place where they wait; with our handler alone they would not be."""
    ended: list[str] = []

    async def work() -> None:
        asyncio.get_running_loop().call_later(0.01, interrupt)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with noted_interrupts() as seen:
        with asyncio_interrupts(), pytest.raises(KeyboardInterrupt):
            asyncio.run(work())
        assert ended == ["cancelled"]
        assert seen == []
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert seen == [signal.SIGINT]
