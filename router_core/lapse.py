"""When a certificate ends while it is in use: lapses, the file that tells of them, and who reads it.

A lapse never changes a bundle. It is a line in ``<bundle>.lapse.json`` beside the bundle's folder, written by whoever
watches (`router_core.monitor`) and read by every running router at most once a second: the queries of a scope that has
lapsed go to the reference tier, and nothing is claimed of them. Lines name the bundle by its id, so those of another
bundle do not count. Taking the file away ends the lapse; a file that cannot be read is a lapse of everything, since it
may have said so. Source: DESIGN.md, Release; METHOD.md 2.6, 2.7.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from router_core.durable import write_file
from router_core.errors import BundleError, InputError

__all__ = ["DAY_S", "Lapse", "LapseWatch", "Validity", "lapse_file", "read_lapses", "write_lapses"]

DAY_S: Final = 86_400.0
_SUFFIX: Final = ".lapse.json"
_SCHEMA: Final = 1
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Lapse:
    """One reason why a certificate no longer holds.

    Attributes
    ----------
    scope
        The scope that lapsed; None for all of them.
    kind
        ``"alarm"``, ``"shift"``, ``"age"``, ``"decisions"``, ``"fingerprint"`` or the caller's own word.
    reason
        One clause that says so to a reader.
    at
        When it was found, seconds since 1970 (UTC).
    numbers
        What it was found by.
    """

    scope: str | None
    kind: str
    reason: str
    at: float
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Lapse:
        """Rebuild from the fields; raises ValueError, KeyError or TypeError on anything else."""
        scope, numbers = data["scope"], data["numbers"]
        if not isinstance(scope, str | None) or not isinstance(numbers, dict):
            raise TypeError("scope or numbers")
        return cls(scope, str(data["kind"]), str(data["reason"]), float(data["at"]), numbers)


@dataclass(frozen=True, slots=True)
class Validity:
    """How long a certificate is used.

    Attributes
    ----------
    max_age_days
        Days after it was made; None for no limit.
    max_decisions
        Decisions under it, counted by each process for itself (`routenlp watch` counts those it is told of); None for
        no limit.
    """

    max_age_days: float | None = None
    max_decisions: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that are not above 0."""
        if self.max_age_days is not None and not (math.isfinite(self.max_age_days) and self.max_age_days > 0):
            raise InputError(f"max_age_days = {self.max_age_days} must be a number of days above 0.")
        if self.max_decisions is not None and self.max_decisions < 1:
            raise InputError(f"max_decisions = {self.max_decisions} must be at least 1.")

    def too_old(self, made_at: float | None, now: float) -> str:
        """Why a certificate made then has lapsed by age now; empty when it has not."""
        if self.max_age_days is None:
            return ""
        if made_at is None:
            return f"the bundle does not say when it was certified, and max_age_days is {self.max_age_days:g}"
        age = (now - made_at) / DAY_S
        return f"certified {age:.1f} days ago, more than {self.max_age_days:g}" if age > self.max_age_days else ""


def lapse_file(folder: str | Path) -> Path:
    """Where the lapses of the bundle in a folder are told: beside it."""
    folder = Path(folder).resolve()
    return folder.with_name(folder.name + _SUFFIX)


def read_lapses(folder: str | Path, bundle_id: str) -> tuple[Lapse, ...]:
    """Lapses of this bundle, in the order they were found; none when there is no file.

    Raises
    ------
    BundleError
        When the file cannot be read, is damaged, or newer than this reader; all certificates are then to be taken
        as lapsed.
    """
    return tuple(lapse for id_, lapse in _lines(lapse_file(folder)) if id_ == bundle_id)


def write_lapses(folder: str | Path, bundle_id: str, lapses: Iterable[Lapse]) -> tuple[Lapse, ...]:
    """Add lapses to the file beside a bundle: written beside it, synced, renamed into place.

    What the file holds, of this bundle and of others, stays; a scope that has lapsed by the same kind is not told
    again.

    Returns
    -------
    tuple
        The lapses that are new.

    Raises
    ------
    BundleError
        When the file there is damaged: it means that everything lapsed, which a new one would unsay.
    OSError
        When it cannot be written.
    """
    path, wanted = lapse_file(folder), list(lapses)
    added: tuple[Lapse, ...] = ()
    # Another writer may rename its own file over ours in between, so what was written is read back.
    for _ in range(_TRIES):
        held = list(_lines(path))
        known = {(id_, lapse.scope, lapse.kind) for id_, lapse in held}
        missing = tuple(lapse for lapse in wanted if (bundle_id, lapse.scope, lapse.kind) not in known)
        if not missing:
            break
        added = missing
        lines = [{"bundle": id_, **asdict(lapse)} for id_, lapse in (*held, *((bundle_id, one) for one in missing))]
        told = json.dumps({"schema": _SCHEMA, "lapses": lines}, indent=1, allow_nan=False) + "\n"
        # Those who serve the bundle may be other users than the one who watches it.
        write_file(path, told.encode(), mode=0o644)
    return added


class LapseWatch:
    """What a running router knows of lapses: those of the file, of how long they may be used, and of what it saw.

    Parameters
    ----------
    folder
        The bundle's folder; None for a bundle in memory, which has no file beside it.
    bundle_id
        Its id.
    validity
        How long certificates are used.
    made_at
        When they were made, seconds since 1970.
    every_s
        Seconds between two looks at the file.
    """

    def __init__(
        self,
        folder: Path | None = None,
        bundle_id: str = "",
        validity: Validity | None = None,
        made_at: float | None = None,
        every_s: float = 1.0,
    ) -> None:
        self._file = None if folder is None else lapse_file(folder)
        self._id, self._validity, self._made_at, self._every_s = bundle_id, validity or Validity(), made_at, every_s
        self._own: dict[str | None, str] = {}
        self._begin()

    def _begin(self) -> None:
        self._counts: dict[tuple[str, str], Iterator[int]] = {}
        self._lock = threading.Lock()
        self._told: dict[str | None, str] = {}
        self._lapsed: dict[str | None, str] = {}
        self._seen: tuple[int, int, int] | None = None
        idle = self._file is None and self._validity.max_age_days is None
        self._due = math.inf if idle else -math.inf
        self.why(None)

    def why(self, scope: str | None) -> str:
        """Why nothing is claimed of this scope any more; empty while its certificate stands."""
        now = time.monotonic()
        if now >= self._due:
            self._look(now)
        lapsed = self._lapsed
        if not lapsed:
            return ""
        return lapsed.get(scope) or lapsed.get(None, "")

    @property
    def lapsed(self) -> tuple[str | None, ...]:
        """Scopes whose certificates lapsed, None for all of them; the keys of what was kept under them are void."""
        self.why(None)
        return tuple(sorted(self._lapsed, key=str))

    def count(self, scope: str, policy: str) -> str:
        """`why`, for one more decision under a certificate."""
        most = self._validity.max_decisions
        if most is not None:
            counter = self._counts.setdefault((scope, policy), itertools.count(1))
            if next(counter) > most:
                self.lapse(scope, f"{most} decisions under the certificate of {scope!r} ({policy}), as many as allowed")
        return self.why(scope)

    def lapse(self, scope: str | None, reason: str) -> None:
        """Let a scope, or everything, lapse in this process, for as long as it lives."""
        with self._lock:
            if scope not in self._own:
                self._own = {**self._own, scope: _said(reason)}
                self._lapsed = {**self._lapsed, **self._own}

    def _look(self, now: float) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._due = now + self._every_s
            self._read()
            old = self._validity.too_old(self._made_at, time.time())
            self._lapsed = {**({None: _said(old)} if old else {}), **self._told, **self._own}
        finally:
            self._lock.release()

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            found = self._file.stat()
        except FileNotFoundError:
            self._told, self._seen = {}, None
            return
        except OSError:
            # Where the folder is out of reach for a moment, what is known stands.
            return
        seen = found.st_mtime_ns, found.st_size, found.st_ino
        if seen == self._seen:
            return
        try:
            lapses = [lapse for id_, lapse in _lines(self._file) if id_ == self._id]
        except BundleError as error:
            if None not in self._told:
                warnings.warn(f"{error}; every query goes to the reference tier", stacklevel=4)
            self._told = {None: _said(str(error))}
            return
        self._told, self._seen = {}, seen
        for lapse in lapses:
            self._told.setdefault(lapse.scope, _said(lapse.reason))

    def __getstate__(self) -> dict[str, Any]:
        """What it was made of, and what this process itself found; not the lock."""
        return {name: self.__dict__[f"_{name}"] for name in ("file", "id", "validity", "made_at", "every_s", "own")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update({f"_{name}": value for name, value in state.items()})
        self._begin()


def _said(reason: str) -> str:
    return f"certificate lapsed: {reason}"


def _lines(path: Path) -> Iterator[tuple[str, Lapse]]:
    """Bundle id and lapse of every line of a file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        msg = f"the lapse file {path} cannot be read ({error.strerror or type(error).__name__})"
        raise BundleError(msg) from error
    try:
        told = json.loads(content)
        if told["schema"] != _SCHEMA:
            raise ValueError("schema")
        found = [(str(line["bundle"]), Lapse.from_json(line)) for line in told["lapses"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"the lapse file {path} is damaged or newer than this version; certify anew, then remove it"
        raise BundleError(msg) from error
    yield from found
