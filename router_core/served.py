"""What a process serves of a release ROOT, and how it moves on to the next release without losing a query.

Routers and students of one ROOT move together: when another release becomes current, a thread loads everything that
this process serves of it, and only then one assignment puts it in force. A query takes the router once and asks for the
students that this router was certified with, so it has one release from start to end; the release before is kept for
queries under way. Source: DESIGN.md, Release.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

from router_core.errors import BundleError, InputError
from router_core.release import CurrentWatch, Release, is_root

__all__ = ["ServedRoot", "Source"]

T = TypeVar("T")

_RETRY_S: Final = 30.0
"""After this long a release that could not be loaded is tried again, for one that was mended in place."""


@dataclass(slots=True)
class _Served:
    """One release in memory: what each source made of it."""

    release: Release
    parts: dict[Hashable, Any] = field(default_factory=dict)


class ServedRoot:
    """The release that a process serves of one ROOT; safe across threads. Use `of`, so that all sources share it.

    Parameters
    ----------
    root
        The ROOT.

    Raises
    ------
    BundleError
        When it has no current release.
    """

    _all: ClassVar[weakref.WeakValueDictionary[Path, ServedRoot]] = weakref.WeakValueDictionary()
    _opening: ClassVar = threading.Lock()

    def __init__(self, root: Path) -> None:
        self.root = root
        # The watch is made before anything is loaded, so that a promotion between the two is seen.
        self._watch = CurrentWatch(root)
        self._now = _Served(Release.current(root))
        self._before: _Served | None = None
        self._sources: weakref.WeakSet[Source[Any]] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._again = False
        self._due = math.inf
        self._warned = ""

    @classmethod
    def of(cls, root: str | Path) -> ServedRoot:
        """The one of this process.

        Raises
        ------
        InputError
            When the folder is no ROOT.
        BundleError
            When it has no current release.
        """
        path = Path(root).resolve()
        if not is_root(path):
            msg = f"{root} is not a release ROOT, so there is nothing to watch; give a ROOT or leave watch off"
            raise InputError(msg)
        with cls._opening:
            found = cls._all.get(path)
            if found is None:
                found = cls._all[path] = cls(path)
        return found

    def add(self, source: Source[Any]) -> None:
        """Load what a source serves of the release in force, now, and of later ones when they come."""
        with self._lock:
            if source.key not in self._now.parts:
                self._now.parts[source.key] = source.load(self._now.release, None)
            self._sources.add(source)

    def part(self, key: Hashable, fingerprint: str | None = None) -> Any:
        """What is in force for a source; with a fingerprint that of the release before if it alone has it."""
        if self._watch.changed() or time.monotonic() >= self._due:
            self._follow()
        found, before = self._now.parts[key], self._before
        if fingerprint is not None and before is not None and found.fingerprint != fingerprint:
            held = before.parts.get(key)
            if held is not None and held.fingerprint == fingerprint:
                return held
        return found

    def settle(self, timeout: float = 30.0) -> bool:
        """Look now, and wait until what is current is served or refused; False when it took longer."""
        self._follow(wait=True)
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _follow(self, *, wait: bool = False) -> None:
        """Have the current release loaded in the background; returns at once, unless told to wait for the lock."""
        self._due = time.monotonic() + 1.0  # until one of us has seen to it
        if not self._lock.acquire(blocking=wait):
            return
        try:
            self._due = math.inf
            # A thread that is not alive and has not signed off was left behind by a fork.
            if self._thread is not None and self._thread.is_alive():
                self._again = True
                return
            thread = threading.Thread(target=self._load, name="routenlp-release", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is going down
                thread.start()
                self._thread = thread
        finally:
            self._lock.release()

    def _load(self) -> None:
        while True:
            try:
                release = Release.current(self.root)
                if release.id != self._now.release.id:
                    self._switch(release)
            except Exception as error:
                self._refuse(error)
            with self._lock:
                if not self._again:
                    self._thread = None
                    return
                self._again = False

    def _switch(self, release: Release) -> None:
        new, old = _Served(release), self._now
        with self._lock:
            sources = list(self._sources)
        for source in sources:
            self._make(new, source, old)
        with self._lock:
            for source in list(self._sources):
                self._make(new, source, old)
            self._before, self._now = old, new
            self._warned = ""

    @staticmethod
    def _make(new: _Served, source: Source[Any], old: _Served) -> None:
        if source.key not in new.parts:
            new.parts[source.key] = source.load(new.release, old.parts.get(source.key))

    def _refuse(self, error: Exception) -> None:
        """Go on with what serves; say so once."""
        self._due = time.monotonic() + _RETRY_S
        why = str(error) or type(error).__name__
        if why == self._warned:
            return
        self._warned = why
        # From a thread of ours: a warning made an error hurts no query.
        with contextlib.suppress(Warning):
            warnings.warn(f"{self.root}: release {self._now.release.id} stays: {why}", stacklevel=1)


class Source(ABC, Generic[T]):
    """What is served of a ROOT: the same object as long as one release is in force.

    A ROOT that cannot be watched where a pickle is read leaves the source with what the pickle held.
    """

    key: Hashable

    def __init__(self, root: ServedRoot | None, still: T | None = None) -> None:
        self.root, self._still = root, still
        if root is not None:
            root.add(self)

    @abstractmethod
    def load(self, release: Release, before: T | None) -> T:
        """Load from a release; `before` is what it would replace.

        Raises
        ------
        BundleError
            When it cannot be served, or not in the place of what is served now.
        """

    def held(self, fingerprint: str | None = None) -> T:
        """What is in force; see `ServedRoot.part`."""
        found: T | None = self._still if self.root is None else self.root.part(self.key, fingerprint)
        if found is None:
            raise AssertionError("unreachable: a source without a ROOT holds what it serves")
        return found

    def rejoin(self, path: Path, still: T) -> None:
        """Watch again after a pickle was read, where that is possible; else go on with what the pickle held."""
        self.root, self._still = None, still
        with contextlib.suppress(BundleError, InputError, OSError):
            served = ServedRoot.of(path)
            served.add(self)
            self.root = served

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
