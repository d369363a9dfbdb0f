"""Checks of a student that hold whatever framework asks it: refusals, threads, and releases that come and go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import PrivateAttr
from releases import moved
from tiny_student import promote as promote_unchecked
from tiny_student import tiny_checkpoint, tiny_student

from routenlp_integrations.student import FINGERPRINT, StudentModel
from router_core import BundleError, InputError
from router_core.promotion import promote, rollback
from router_core.records import Records
from router_core.served import ServedRoot
from router_core.student import Student


class Gated(StudentModel):
    """What makes a framework's student answer when it may; `_waiting` counts who waits."""

    _gate: threading.Event = PrivateAttr(default_factory=threading.Event)
    _waiting: threading.Semaphore = PrivateAttr(default_factory=lambda: threading.Semaphore(0))

    def _answer(self, asked: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        self._waiting.release()
        assert self._gate.wait(60)
        found: dict[str, Any] = super()._answer(asked, params)  # type: ignore[misc]
        return found


class Unpinned(Gated):
    """Mutant: makes it answer from whatever release is current."""

    def _answer(self, asked: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        return super()._answer(asked, {**params, FINGERPRINT: None})


def under_way(root: Path, small: Gated, ask: Callable[[], Any], count: int) -> list[Any]:
    """Answers to queries that all waited for the student while r0002 was promoted."""
    with ThreadPoolExecutor(count) as pool:
        pending = [pool.submit(ask) for _ in range(count)]
        for _ in range(count):
            assert small._waiting.acquire(timeout=60)
        moved(root, "r0002")
        small._gate.set()
        return [one.result(60) for one in pending]


async def in_waves(root: Path, ask: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Answers to 256 queries on an event loop, 64 at a time, releases coming and going meanwhile."""
    found: list[Any] = []
    for wave in range(4):
        asked = [asyncio.ensure_future(ask()) for _ in range(64)]
        await asyncio.sleep(0)
        if wave % 2:
            rollback(root)
        else:
            promote(root, "r0002")
        found += await asyncio.gather(*asked)
        assert await asyncio.to_thread(ServedRoot.of(root).settle)
    return found


def mood_queries(records: Records) -> list[str]:
    """Test queries of the task "mood"."""
    rows = zip(records.prompt, records.task, records.split, strict=True)
    return [prompt for prompt, task, split in rows if (task, split) == ("mood", "test")]


def promoted_under_load(root: Path, settle: Callable[[], object], ask: Callable[[], Any]) -> list[Any]:
    """256 answers during promotions among two contrary students, those of `contrary_names`.

    Parameters
    ----------
    root
        A ROOT whose release r1 is `tiny_checkpoint`.
    settle
        Waits until what is current is served.
    ask
        Asks once.
    """
    second = tiny_checkpoint(labels=("bad", "good"))
    second.save(root / "releases" / "r2" / "checkpoints" / "small")
    with ThreadPoolExecutor(16) as pool:
        pending = []
        for number in range(256):
            if number % 32 == 0:
                promote_unchecked(root, ("r1", "r2")[number // 32 % 2])
                assert settle()
            pending.append(pool.submit(ask))
        return [one.result() for one in pending]


def contrary_names() -> dict[str, str]:
    """What the students of `promoted_under_load` say, by their names."""
    return {tiny_student().name: "good", tiny_student(labels=("bad", "good")).name: "bad"}


def check_folders(kind: Callable[..., Any], nowhere: Path, root: Path, bundle: Path) -> None:
    """Check that a wrong folder is a plain error of ours, and no validation error of pydantic's."""
    with pytest.raises(BundleError, match="is not a checkpoint"):
        kind(nowhere)
    with pytest.raises(BundleError, match="is not a checkpoint"):
        kind(bundle)
    with pytest.raises(BundleError, match="no checkpoint of tier 'large'"):
        kind(root, tier="large")
    with pytest.raises(InputError, match="nothing to watch"):
        kind(root / "releases" / "r1" / "checkpoints" / "small", watch=True)


def answering_threads(student: Student, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Threads that students of this kind answer on from now on."""
    seen: set[int] = set()
    real: Any = type(student)._answer

    def spied(self: Any, text: str) -> Any:
        seen.add(threading.get_ident())
        return real(self, text)

    monkeypatch.setattr(type(student), "_answer", spied)
    return seen


def check_unsignalled(attempts: list[dict[str, Any]]) -> None:
    """Check that no answer of a student without its signals was served."""
    asked = [attempt for attempt in attempts if attempt["tier"] == "small"]
    assert asked
    assert not any(attempt["accepted"] for attempt in asked)
    assert all("a signal the evidence model needs is missing" in attempt["reason"] for attempt in asked)
