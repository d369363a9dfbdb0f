"""The teacher: what the reference tier answers, under a dollar budget, and never paid for twice.

Answers that an escalation already paid for are used as they are. All others are asked for and kept in a journal, a
JSON-lines file that is only ever added to: before a call its worst price is written (``ask``), what comes back closes
it (``answer``). A call of unknown outcome, because it failed or the process was killed, may have been billed and
stays counted at its worst price.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from exporters.fence import NO_KEYS, Keys, item_keys, refuse_calib
from router_core.durable import sync_folder
from router_core.errors import InputError, TierError

if TYPE_CHECKING:
    from router_core.fitting.tables import Progress

__all__ = ["Ask", "Lesson", "Question", "Taught", "paid", "teach"]

_HEAD = {"routenlp": "teacher", "journal": 1}
_FAILURES = 3
"""Failed calls in a row after which the teacher is given up."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One answer of the teacher.

    Attributes
    ----------
    text
        The answer.
    cost_usd
        What it cost, US dollars.
    soft
        The teacher's probability of labels, or None.
    """

    text: str
    cost_usd: float
    soft: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One query to be taught.

    Attributes
    ----------
    query_id, prompt
        As logged.
    known
        The reference tier's answer where the escalation already paid for it.
    group
        Group key, ``""`` for none.
    """

    query_id: str
    prompt: str
    known: Lesson | None = None
    group: str = ""


Ask = Callable[[str], Lesson]
"""The teacher: a prompt to its answer; raises `TierError` where there is none."""


@dataclass(frozen=True)
class Taught:
    """What was learned from the teacher.

    Attributes
    ----------
    lessons
        By query id, in the order asked for.
    reused, asked
        How many answers were already paid for, and how many the journal holds of the others.
    spent_usd
        US dollars the journal counts, failed calls at their worst price; answers already paid for are not in it.
    stopped
        ``""`` when all were answered, ``"budget"``, or why the teacher was given up.
    """

    lessons: Mapping[str, Lesson] = field(repr=False)
    reused: int
    asked: int
    spent_usd: float
    stopped: str


def teach(
    questions: Sequence[Question],
    ask: Ask,
    *,
    budget_usd: float,
    worst_usd: Callable[[str], float],
    journal: str | Path,
    calib: Keys = NO_KEYS,
    concurrency: int = 1,
    progress: Progress | None = None,
) -> Taught:
    """Get the teacher's answers; the same call goes on where it was stopped or killed.

    Parameters
    ----------
    questions
        In order of importance: the first are asked first.
    ask
        The teacher; called from `concurrency` threads.
    budget_usd
        US dollars that may be spent in all, earlier runs into the same journal included.
    worst_usd
        Most that the answer to a prompt may cost, US dollars.
    journal
        File of the journal.
    calib
        Hashed keys of calibration items; a question that has one is refused.
    concurrency
        Calls in flight at once.
    progress
        Called with what is done, answers there and questions in all.

    Raises
    ------
    InputError
        For a calibration item, or a journal that is damaged, another program's, or in use.
    """
    if not budget_usd >= 0 or concurrency < 1:
        raise InputError(f"the budget {budget_usd} must not be negative, and concurrency {concurrency} at least 1")
    refuse_calib("questions to the teacher", _keys(questions), calib)
    found = {one.query_id: one.known for one in questions if one.known is not None}
    reused = len(found)
    with _Journal(Path(journal)) as book:
        left = []
        for one in questions:
            if one.query_id not in found:
                kept = book.lessons.get(_key(one))
                if kept is None:
                    left.append(one)
                else:
                    found[one.query_id] = kept
        run = _Run(ask, book, budget_usd, worst_usd, len(found), len(questions), progress)
        with ThreadPoolExecutor(concurrency) as pool:
            for one, lesson in zip(left, pool.map(run.one, left), strict=True):
                if lesson is not None:
                    found[one.query_id] = lesson
        ordered = {one.query_id: found[one.query_id] for one in questions if one.query_id in found}
        return Taught(ordered, reused, len(ordered) - reused, book.spent, run.stopped)


def paid(questions: Sequence[Question], journal: str | Path) -> tuple[float, list[Question]]:
    """What a journal counts as spent, US dollars, and the questions it does not answer; the file is not made.

    Raises
    ------
    InputError
        For a journal that is damaged, another program's, or in use.
    """
    if not Path(journal).exists():
        return 0.0, [one for one in questions if one.known is None]
    with _Journal(Path(journal)) as book:
        return book.spent, [one for one in questions if one.known is None and _key(one) not in book.lessons]


class _Run:
    """Asks one question after the other, from several threads, until all is answered or it has to stop."""

    def __init__(
        self, ask: Ask, book: _Journal, budget: float, worst: Callable[[str], float], done: int, total: int,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self.ask, self.book, self.budget, self.worst = ask, book, budget, worst
        self.done, self.total, self.progress = done, total, progress
        self.stopped, self.failures = "", 0
        self.lock = threading.Lock()

    def one(self, question: Question) -> Lesson | None:
        key, worst = _key(question), self.worst(question.prompt)
        with self.lock:
            if not self.stopped and self.book.spent + worst > self.budget:
                self.stopped = "budget"
            if self.stopped:
                return None
            self.book.asking(key, worst)
        try:
            lesson = self.ask(question.prompt)
        except TierError as error:
            with self.lock:
                self.failures += 1
                if self.failures >= _FAILURES and not self.stopped:
                    self.stopped = f"the teacher failed {self.failures} times in a row ({error})"
            return None
        with self.lock:
            self.book.answered(key, lesson)
            self.failures = 0
            self.done += 1
            if self.progress is not None:
                self.progress(f"teacher, {self.book.spent:.4f} USD spent", self.done, self.total)
        return lesson


class _Journal:
    """Answers so far and what was spent on them."""

    def __init__(self, path: Path) -> None:
        from filelock import FileLock, Timeout

        self.path, self.spent = path, 0.0
        self.lessons: dict[str, Lesson] = {}
        self._open: dict[str, list[float]] = {}
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{path}: another process is asking the teacher here; wait for it") from None
        try:
            self._file = self._opened()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> _Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        self._lock.release()

    def asking(self, key: str, usd: float) -> None:
        self._write({"ask": key, "usd": usd})

    def answered(self, key: str, lesson: Lesson) -> None:
        told: dict[str, Any] = {"answer": key, "usd": lesson.cost_usd, "text": lesson.text}
        self._write(told | ({"soft": dict(lesson.soft)} if lesson.soft else {}))

    def _write(self, row: dict[str, Any]) -> None:
        self._take(row)
        # Unbuffered, so that a killed process leaves every line it wrote.
        self._file.write((json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n").encode())

    def _take(self, row: Mapping[str, Any]) -> None:
        usd = float(row["usd"])
        if "ask" in row:
            self._open.setdefault(str(row["ask"]), []).append(usd)
            self.spent += usd
            return
        key = str(row["answer"])
        self.spent += usd - (self._open[key].pop() if self._open.get(key) else 0.0)
        self.lessons[key] = Lesson(str(row["text"]), usd, row.get("soft"))

    def _opened(self) -> BinaryIO:
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                if number == 1 and row != _HEAD:
                    raise InputError(f"{self.path} is no journal of a teacher; name another file")
                if number > 1:
                    self._take(row)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    f"{self.path}: line {number} is damaged; remove it to ask its question again"
                ) from None
        file = self.path.open("r+b" if content else "wb", buffering=0)
        with ExitStack() as failed:
            failed.callback(file.close)
            file.truncate(len(whole))
            file.seek(len(whole))
            if not whole:
                file.write((json.dumps(_HEAD) + "\n").encode())
                # Without this a loss of power may take the new file's name, and with it what was paid for.
                sync_folder(self.path.parent)
            failed.pop_all()
        return file


def _key(question: Question) -> str:
    return hashlib.sha256(f"{question.query_id}\n{question.prompt}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _keys(questions: Sequence[Question]) -> Iterable[str]:
    return (key for one in questions for key in item_keys(one.query_id, one.group, one.prompt))
