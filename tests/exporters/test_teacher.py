"""The teacher: a budget that holds, answers never paid for twice, and a run that is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs routenlp[train]")

from exporters.students.teacher import Lesson, Question, Taught, teach
from router_core.errors import InputError, TierError
from router_core.groups import hash_key
from router_core.keys import hash_keys

WORST, COST = 0.02, 0.01


def questions(count: int = 10, known: int = 0) -> list[Question]:
    """Questions, the first of them answered by an escalation."""
    return [Question(f"q{i}", f"What is {i}?", Lesson(f"paid {i}", 0.5) if i < known else None) for i in range(count)]


class Teacher:
    """Counts its calls."""

    def __init__(self, fail: int = 0) -> None:
        self.asked: list[str] = []
        self.fail = fail
        self.lock = threading.Lock()

    def __call__(self, prompt: str) -> Lesson:
        """Answer."""
        with self.lock:
            self.asked.append(prompt)
        if len(self.asked) <= self.fail:
            raise TierError("no answer")
        return Lesson(f"answer to {prompt}", COST, {"a": 0.9, "b": 0.1})


def run(teacher: Teacher, journal: Path, asked: list[Question], budget: float = 1.0, threads: int = 1) -> Taught:
    """Teach with the prices of this module."""
    return teach(
        asked, teacher, budget_usd=budget, worst_usd=lambda _: WORST, journal=journal, concurrency=threads
    )  # fmt: skip


def test_paid_answers_are_used_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    """Escalated answers come as they are; a second run asks nothing and spends nothing."""
    teacher = Teacher()
    first = run(teacher, tmp_path / "j", questions(10, known=4))
    assert (first.reused, first.asked, first.stopped) == (4, 6, "")
    assert first.lessons["q0"] == Lesson("paid 0", 0.5)
    assert first.lessons["q9"].soft == {"a": 0.9, "b": 0.1}
    assert first.spent_usd == pytest.approx(6 * COST)
    assert list(first.lessons) == [f"q{i}" for i in range(10)]
    again = run(teacher, tmp_path / "j", questions(10, known=4))
    assert again == first
    assert len(teacher.asked) == 6
    changed = [Question("q5", "What is another?")]
    assert run(teacher, tmp_path / "j", changed).lessons["q5"].text == "answer to What is another?"


@pytest.mark.parametrize("threads", [1, 4])
def test_budget_holds_over_runs_and_threads(tmp_path: Path, threads: int) -> None:
    """A call starts only where its worst price still fits, counting earlier runs; the order is kept."""
    teacher = Teacher()
    found = run(teacher, tmp_path / "j", questions(50), budget=0.1, threads=threads)
    assert found.stopped == "budget"
    assert found.spent_usd <= 0.1
    assert 5 <= len(found.lessons) <= 9
    assert run(teacher, tmp_path / "j", questions(50), budget=0.1).asked <= 9
    more = run(teacher, tmp_path / "j", questions(50), budget=10.0)
    assert more.stopped == ""
    assert more.spent_usd == pytest.approx(50 * COST)


def test_mutant_budget_on_what_was_billed_overspends(tmp_path: Path) -> None:
    """Had the rule been spent <= budget, without the worst price of the next call, the bound would break."""
    found = run(Teacher(), tmp_path / "j", questions(50), budget=0.095)
    assert found.spent_usd <= 0.095
    spent, asked = 0.0, 0
    while spent <= 0.095:
        spent, asked = spent + COST, asked + 1
    assert spent > 0.095


def test_failures_stay_counted_and_stop_the_run(tmp_path: Path) -> None:
    """A failed call may have been billed; three in a row end the run, and the next one goes on."""
    found = run(Teacher(fail=1), tmp_path / "one", questions(5))
    assert len(found.lessons) == 4
    assert found.spent_usd == pytest.approx(4 * COST + WORST)
    found = run(Teacher(fail=9), tmp_path / "two", questions(5))
    assert found.stopped.startswith("the teacher failed 3 times in a row (no answer)")
    assert not found.lessons
    assert len(run(Teacher(), tmp_path / "two", questions(5)).lessons) == 5


def test_killed_and_resumed(tmp_path: Path) -> None:
    """A kill -9 while asking loses no answer that came; the call in flight stays counted at its worst price."""
    code = textwrap.dedent("""
        import sys, time
        from exporters.students.teacher import Lesson, Question, teach
        def ask(prompt):
            if prompt == "What is 5?":
                print("here", flush=True)
                time.sleep(60)
            return Lesson("first " + prompt, 0.01)
        teach([Question(f"q{i}", f"What is {i}?") for i in range(10)], ask, budget_usd=1.0,
              worst_usd=lambda _: 0.02, journal=sys.argv[1])
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, str(tmp_path / "j")], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    teacher = Teacher()
    found = run(teacher, tmp_path / "j", questions(10))
    assert teacher.asked == [f"What is {i}?" for i in range(5, 10)]
    assert found.lessons["q4"].text == "first What is 4?"
    assert found.spent_usd == pytest.approx(10 * COST + WORST)


def test_a_torn_last_line_is_dropped_and_other_damage_is_told(tmp_path: Path) -> None:
    """Half a line at the end is what a kill leaves; damage within, another file, or a second writer is refused."""
    path = tmp_path / "j"
    run(Teacher(), path, questions(3))
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    teacher = Teacher()
    assert len(run(teacher, path, questions(3)).lessons) == 3
    assert teacher.asked == ["What is 2?"]
    path.write_bytes(content.replace(b'"usd":0.02', b'"usd":nope', 1))
    with pytest.raises(InputError, match="line 2 is damaged"):
        run(Teacher(), path, questions(3))
    path.write_bytes(json.dumps({"some": "thing"}).encode() + b"\n")
    with pytest.raises(InputError, match="is no journal of a teacher"):
        run(Teacher(), path, questions(3))

    def nested(prompt: str) -> Lesson:
        with pytest.raises(InputError, match="another process is asking"):
            run(Teacher(), tmp_path / "k", questions(1))
        return Lesson("x", 0.0)

    found = teach(questions(1), nested, budget_usd=1, worst_usd=lambda _: 0, journal=tmp_path / "k")
    assert found.asked == 1


def test_calibration_items_are_not_asked(tmp_path: Path) -> None:
    """A question that is a calibration item is refused before anything is spent."""
    teacher = Teacher()
    with pytest.raises(InputError, match="questions to the teacher and calib share 1"):
        teach(
            questions(5), teacher, budget_usd=1, worst_usd=lambda _: WORST, journal=tmp_path / "j",
            calib=hash_keys([hash_key("What is 3?")]),
        )  # fmt: skip
    assert not teacher.asked
    assert not (tmp_path / "j").exists()
    with pytest.raises(InputError, match="must not be negative"):
        run(Teacher(), tmp_path / "j", questions(1), budget=-1.0)


def test_progress_tells_dollars(tmp_path: Path) -> None:
    """The callback gets what was spent, answers there, and questions in all."""
    told: list[tuple[str, int, int]] = []
    start = time.monotonic()
    teach(
        questions(3, known=1), Teacher(), budget_usd=1, worst_usd=lambda _: WORST, journal=tmp_path / "j",
        progress=lambda what, done, total: told.append((what, done, total)),
    )  # fmt: skip
    assert [(done, total) for _, done, total in told] == [(2, 3), (3, 3)]
    assert told[-1][0] == "teacher, 0.0200 USD spent"
    assert time.monotonic() >= start


def test_the_name_of_a_new_journal_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new journal's folder is synced once, or a loss of power takes the file; an old one's is not."""
    synced: list[Path] = []
    monkeypatch.setattr("exporters.students.teacher.sync_folder", synced.append)
    for _ in range(2):
        run(Teacher(), tmp_path / "j", questions(2))
    assert synced == [tmp_path]
