"""Answers on disk as they come, so that a killed run goes on where it stopped and nothing paid for is forgotten.

A journal is a JSON-lines file that is only ever added to. Before a call its worst price is written (``ask``); what
comes back closes it, as an answer with what it cost (``answer``) or as a call that cost nothing (``free``). A call
that was neither answered nor refused, because it timed out or the process was killed, may have been billed: it
stays counted at its worst price.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from router_core.durable import sync_folder
from router_core.errors import InputError, MissingExtraError

__all__ = ["Entry", "Journal"]

_HEAD = {"routenlp": "collect", "journal": 1}
_SYNC_S = 1.0


@dataclass(frozen=True)
class Entry:
    """One answer.

    Attributes
    ----------
    text
        The answer, redacted.
    prompt_tokens, completion_tokens
        As billed, or estimated where the provider reports no usage.
    measured
        Whether the provider reported usage.
    signals
        Numbers that came with it.
    missing
        Why it does not count as an answer (filtered, a tool call), or ``""``.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    measured: bool
    signals: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""


class Journal:
    """The answers so far, and what was spent on them.

    Parameters
    ----------
    path
        The file; it is made if it is not there. A last line that a kill cut short is dropped.

    Attributes
    ----------
    spent
        US dollars, calls of unknown outcome at their worst price.

    Raises
    ------
    InputError
        When another process writes to it, it is no journal, or a line within it is damaged.
    MissingExtraError
        Where filelock is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._entries: dict[str, Entry] = {}
        self._open: dict[str, list[float]] = {}
        self._new = False
        self.spent = 0.0
        self._lock = _locked(self._path)
        try:
            self._file = self._opened()
        except BaseException:
            self._lock.release()
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """The answer kept under a key."""
        return self._entries.get(key)

    def asking(self, key: str, usd: float) -> None:
        """Keep that a call starts which may cost this much."""
        self._write({"ask": key, "usd": usd})

    def answered(self, key: str, usd: float, entry: Entry) -> None:
        """Keep what came back, and what it cost."""
        told: dict[str, Any] = {
            "text": entry.text,
            "prompt_tokens": entry.prompt_tokens,
            "completion_tokens": entry.completion_tokens,
            "measured": entry.measured,
        }
        told |= {"signals": dict(entry.signals)} if entry.signals else {}
        told |= {"missing": entry.missing} if entry.missing else {}
        self._write({"answer": key, "usd": usd, **told})
        if time.monotonic() - self._synced > _SYNC_S:
            self._sync()

    def free(self, key: str) -> None:
        """Keep that the call last started for a key was refused, so that nothing was billed."""
        self._write({"free": key})

    def close(self) -> None:
        """Sync and let go."""
        try:
            if not self._file.closed:
                self._sync()
        finally:
            self._file.close()
            if self._new:
                # Nothing was asked: leave the folder as it was.
                self._path.unlink(missing_ok=True)
            self._lock.release()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _write(self, row: dict[str, Any]) -> None:
        self._take(row)
        self._new = False
        # Unbuffered, so that a killed process leaves every line it wrote.
        self._file.write((json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n").encode())

    def _take(self, row: Mapping[str, Any]) -> None:
        if "ask" in row:
            self._open.setdefault(row["ask"], []).append(float(row["usd"]))
            self.spent += float(row["usd"])
            return
        key = row["answer"] if "answer" in row else row["free"]
        self.spent += float(row.get("usd", 0.0)) - (self._open[key].pop() if self._open.get(key) else 0.0)
        if "answer" in row:
            self._entries[key] = Entry(
                str(row["text"]),
                int(row["prompt_tokens"]),
                int(row["completion_tokens"]),
                bool(row["measured"]),
                {str(name): float(value) for name, value in row.get("signals", {}).items()},
                str(row.get("missing", "")),
            )

    def _opened(self) -> BinaryIO:
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            self._read(line, number)
        file = self._path.open("r+b" if content else "wb", buffering=0)
        with ExitStack() as failed:
            failed.callback(file.close)
            file.truncate(len(whole))
            file.seek(len(whole))
            self._new = not content
            if not whole:
                file.write((json.dumps(_HEAD) + "\n").encode())
                # Without this a loss of power may take the new file's name, and with it what was paid for.
                sync_folder(self._path.parent)
            failed.pop_all()
        return file

    def _read(self, line: bytes, number: int) -> None:
        taken: Callable[[Any], None] = self._check_head if number == 1 else self._take
        try:
            taken(json.loads(line))
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{self._path}: line {number} is damaged; remove the line to ask its call again, or the file to "
                "start anew"
            ) from None

    def _check_head(self, row: Any) -> None:
        if row != _HEAD:
            raise InputError(
                f"{self._path} is no journal of this version of routenlp collect; move it or choose another --out"
            )


def _locked(path: Path) -> Any:
    """The lock beside the journal. The system lets go of it when its holder ends, however it ends."""
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise MissingExtraError("collect", "keep a journal") from None
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{path}: another routenlp collect is writing here; wait for it, or choose another --out"
        ) from None
    return lock
