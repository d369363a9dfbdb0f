"""The writer over a store of the test's own: order, retries, giving up, one thread at a time."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.ledger.rows import FeedbackEntry
from router_core.ledger.store import StoreError
from router_core.ledger.writer import Writer


class _Address:
    shown = "a store"


class FakeStore:
    """Keeps what it is given; fails, hangs and refuses when told to."""

    address = _Address()

    def __init__(self, failures: int = 0, refused: frozenset[str] = frozenset()) -> None:
        self.failures, self.refused = failures, refused
        self.kept: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.inside = self.most = self.closed = 0

    def write(self, entries: list[Any]) -> int:
        """Keep entries, or fail."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            assert self.go_on.wait(20)
            if self.failures:
                self.failures -= 1
                raise StoreError("away")
            wanted = [entry.id for entry in entries if entry.id not in self.refused]
            self.kept += wanted
            return len(entries) - len(wanted)
        finally:
            self.inside -= 1

    def close(self) -> None:
        """Count it."""
        self.closed += 1


def _entry(name: object) -> FeedbackEntry:
    return FeedbackEntry(str(name), "r", 0.0, "rating", 1.0, None)


def _writer(store: FakeStore, limit: int = 10_000) -> Writer:
    return Writer(store, limit, lambda: None)  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_300), st.integers(0, 2), st.frozensets(st.integers(0, 1_300).map(str), max_size=5))
def test_everything_is_kept_in_order_or_counted(count: int, failures: int, refused: frozenset[str]) -> None:
    """Whatever fails on the way, what was put is stored once, in order, and the rest is counted."""
    store = FakeStore(failures, refused)
    writer = _writer(store)
    for i in range(count):
        assert writer.put(_entry(i))
    assert writer.flush(20)
    wanted = [str(i) for i in range(count) if str(i) not in refused]
    assert store.kept == wanted
    assert (writer.written, writer.dropped) == (len(wanted), count - len(wanted))
    assert writer.stop(20)


def test_the_queue_is_bounded() -> None:
    """No more than the limit waits, beside the batch in hand."""
    store = FakeStore()
    store.go_on.clear()
    writer = _writer(store, limit=3)
    put = [writer.put(_entry(i)) for i in range(50)]
    assert not writer.flush(0.2)
    put += [writer.put(_entry(i)) for i in range(50, 60)]
    assert writer.queued <= 3 + 1  # a flush's mark waits too
    store.go_on.set()
    assert writer.flush(20)
    assert len(store.kept) == sum(put)
    assert writer.dropped == 60 - sum(put)
    assert writer.stop(20)


def test_a_store_serves_one_thread_at_a_time() -> None:
    """A writer that was stopped while its store hung, and is used again, waits for the old thread to end."""
    store = FakeStore()
    store.go_on.clear()
    writer = _writer(store)
    writer.put(_entry("first"))
    assert not writer.stop(0.2)
    writer.put(_entry("second"))
    assert not writer.flush(0.2)
    store.go_on.set()
    assert writer.flush(20)
    assert store.kept == ["first", "second"]
    assert store.most == 1
    assert writer.stop(20)


def test_stopping_is_final_for_the_thread_only() -> None:
    """Nothing waits: flush and stop are done at once; the store's connection goes with the thread."""
    store = FakeStore()
    writer = _writer(store)
    assert writer.flush(0)
    assert writer.stop(0)
    writer.put(_entry(1))
    assert writer.stop(20)
    assert store.closed == 1


@pytest.mark.parametrize("chores", [1, 3])
def test_a_failing_chore_stops_nothing(chores: int) -> None:
    """What the writer does besides must not cost a row."""

    def chore() -> None:
        raise ValueError

    store = FakeStore()
    writer = Writer(store, 10, chore)  # type: ignore[arg-type]
    for i in range(chores):
        writer.put(_entry(i))
        assert writer.flush(20)
    assert len(store.kept) == chores
    assert writer.stop(20)
