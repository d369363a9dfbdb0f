"""The writer: a bounded queue in front of a store, emptied in batches by a thread of its own.

The calling thread only puts an entry into the queue, or counts it as dropped when the queue is full. The thread keeps
a batch until it is stored, with growing pauses while the database is away. After a fork the child starts with an
empty queue and, when it first writes, a thread and a connection of its own; what the parent queued, the parent stores.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from router_core.ledger.store import Entry, Store, StoreError

__all__ = ["Writer"]

_BATCH = 500
_GATHER_S = 0.05
_PAUSES_S = (0.05, 2.0)
_REPORT_S = 60.0

_WRITERS: weakref.WeakSet[Writer] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class _Mark:
    """Stands in the queue where a flush was asked for."""

    done: threading.Event = field(default_factory=threading.Event)
    stop: bool = False


class Writer:
    """Stores entries in the background.

    Parameters
    ----------
    store
        Where to.
    limit
        Entries that may wait; further ones are dropped and counted.
    chore
        Called by the thread after each batch, and when nothing came for a while.
    """

    def __init__(self, store: Store, limit: int, chore: Callable[[], None]) -> None:
        self._store, self._limit, self._chore = store, limit, chore
        self.written = 0
        self._start_over()
        _register()
        _WRITERS.add(self)

    def _start_over(self) -> None:
        # Entries are put without a lock of ours: a signal may come between any two instructions.
        self._queue: queue.SimpleQueue[Entry | _Mark] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last: threading.Thread | None = None
        self._give_up = threading.Event()
        self._refused = self._lost = self._told = 0
        self._told_at = -_REPORT_S
        self.trouble = ""

    def forked(self) -> None:
        """Forget the parent's queue, thread and connection; called in the child."""
        self._store.abandon()
        self._start_over()
        self.written = 0

    @property
    def queued(self) -> int:
        """Entries that wait, without the batch that is being stored."""
        return self._queue.qsize()

    @property
    def dropped(self) -> int:
        """Entries dropped so far: the queue was full, or the database will never take them."""
        return self._refused + self._lost

    def put(self, entry: Entry) -> bool:
        """Queue an entry; False when it was dropped. Never waits, never raises."""
        if self._queue.qsize() >= self._limit or (self._thread is None and not self._begin()):
            self.refuse()
            return False
        self._queue.put(entry)
        return True

    def refuse(self) -> None:
        """Count an entry that was dropped before it was queued."""
        with self._lock:
            self._refused += 1

    def flush(self, timeout: float | None) -> bool:
        """Wait until everything put before by this thread is stored; False when that took too long.

        Takes no lock, so that a signal handler may call it.
        """
        if self._thread is None:
            return self._queue.empty()
        mark = _Mark()
        self._queue.put(mark)
        return mark.done.wait(timeout)

    def stop(self, timeout: float | None) -> bool:
        """Flush and end the thread; what cannot be stored in time is dropped and counted."""
        thread = self._thread
        if thread is None:
            return self._queue.empty()
        mark = _Mark(stop=True)
        self._queue.put(mark)
        stored = mark.done.wait(timeout)
        self._give_up.set()
        if thread is not threading.current_thread():
            thread.join(_PAUSES_S[1])
        self._thread = None
        return stored

    def _begin(self) -> bool:
        with self._lock:
            if self._thread is None:
                self._give_up = threading.Event()
                given = self._last, self._give_up
                thread = threading.Thread(target=self._run, args=given, name="routenlp-ledger", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is going down
                    return False
                self._thread = self._last = thread
        return True

    def _run(self, earlier: threading.Thread | None, give_up: threading.Event) -> None:
        if earlier is not None:
            # One that was told to give up may still hang in the database; the store serves one thread.
            earlier.join()
        waiting, stop = self._queue, False
        while not stop:
            items = []
            # Woken now and then for its chores even if nothing comes.
            with contextlib.suppress(queue.Empty):
                items.append(waiting.get(timeout=_REPORT_S))
            if items and not isinstance(items[0], _Mark) and waiting.qsize() < _BATCH:
                time.sleep(_GATHER_S)
            with contextlib.suppress(queue.Empty):
                while items and len(items) < _BATCH:
                    items.append(waiting.get_nowait())
            entries = [item for item in items if not isinstance(item, _Mark)]
            stored = not entries or self._keep(entries, give_up)
            for item in items:
                if isinstance(item, _Mark):
                    stop |= item.stop
                    if stored:
                        item.done.set()
            stop |= give_up.is_set()
            self._report()
            if not stop:
                with contextlib.suppress(Exception):
                    self._chore()
        self._store.close()

    def _keep(self, entries: list[Entry], give_up: threading.Event) -> bool:
        """Store a batch, however long it takes; False when told to give up."""
        pause = _PAUSES_S[0]
        while True:
            try:
                lost = self._store.write(entries)
            except StoreError as error:
                self.trouble = str(error)
            except Exception as error:
                # Nothing may end this thread: without it nothing is stored any more, and nobody is told.
                self.trouble = type(error).__name__
            else:
                self.trouble = ""
                self._lost += lost
                self.written += len(entries) - lost
                return True
            self._report()
            if give_up.wait(pause):
                with contextlib.suppress(queue.Empty):
                    while True:
                        if not isinstance(item := self._queue.get_nowait(), _Mark):
                            entries.append(item)
                self._lost += len(entries)
                return False
            pause = min(2 * pause, _PAUSES_S[1])

    def _report(self) -> None:
        """Warn of new drops, at most once a minute; from the thread, where a warning made an error hurts nobody."""
        dropped, now = self.dropped, time.monotonic()
        if dropped == self._told or now - self._told_at < _REPORT_S:
            return
        new, self._told, self._told_at = dropped - self._told, dropped, now
        why = f" ({self.trouble})" if self.trouble else ""
        with contextlib.suppress(Warning):
            warnings.warn(
                f"the ledger dropped {new} entries, {dropped} in all, for {self._store.address.shown}{why}",
                RuntimeWarning,
                stacklevel=1,
            )


@cache
def _register() -> None:
    """Have a forked child start over; once per process."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    for writer in list(_WRITERS):
        writer.forked()
