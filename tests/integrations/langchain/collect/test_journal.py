"""The journal: nothing paid for is forgotten, a torn end is dropped, two processes are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import router_core
from routenlp_integrations.langchain.collect import Entry, Journal
from router_core.errors import InputError

ENTRY = Entry("an answer\nin two lines", 3, 4, True, {"mean_logprob": -0.5}, "")


def test_answers_and_what_they_cost_are_read_back(tmp_path: Path) -> None:
    """An answered call costs its price, a refused one nothing, one without an end its worst price."""
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.asking("a", 1.0)
        journal.answered("a", 0.25, ENTRY)
        journal.asking("b", 1.0)
        journal.free("b")
        journal.asking("b", 1.0)
        journal.asking("c", 2.0)
        journal.asking("c", 2.0)
        journal.answered("c", 0.5, ENTRY)
        assert journal.spent == pytest.approx(0.25 + 1.0 + 2.0 + 0.5)
    with Journal(path) as again:
        assert again.spent == pytest.approx(3.75)
        assert again.get("a") == ENTRY
        assert again.get("b") is None
        assert len(again) == 2


def test_every_cut_of_the_file_is_read(tmp_path: Path) -> None:
    """Wherever a kill cuts the file, whole lines are kept, and what is written next is whole again."""
    path = tmp_path / "j"
    with Journal(path) as journal:
        for key in "abc":
            journal.asking(key, 1.0)
            journal.answered(key, 0.5, ENTRY)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        lines = content[:size].count(b"\n") - 1
        with Journal(path) as journal:
            assert len(journal) == max(lines, 0) // 2
            assert journal.spent == pytest.approx(0.5 * (max(lines, 0) // 2) + max(lines, 0) % 2)
            journal.asking("z", 0.125)
            journal.free("z")
            kept = len(journal)
        with Journal(path) as again:
            assert len(again) == kept


def test_a_journal_nothing_was_written_to_is_no_file(tmp_path: Path) -> None:
    """Looking at the price leaves the folder as it was, but for the hidden lock."""
    Journal(tmp_path / "j").close()
    assert [item.name for item in tmp_path.iterdir() if not item.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n', "no journal of this version"),
        ('{"routenlp": "collect", "journal": 2}\n', "no journal of this version"),
        ('{"routenlp": "collect", "journal": 1}\n{"ask": "a", "usd"\n{"free": "a"}\n', "line 2 is damaged"),
        ('{"routenlp": "collect", "journal": 1}\n{"other": "a"}\n', "line 2 is damaged"),
    ],
)
def test_a_damaged_journal_is_refused_and_left(content: str, said: str, tmp_path: Path) -> None:
    """What is damaged within is for its owner to mend; the lock is let go."""
    path = tmp_path / "j"
    path.write_text(content)
    for _ in range(2):
        with pytest.raises(InputError, match=said):
            Journal(path)
    assert path.read_text() == content


def test_two_processes_are_refused_and_a_dead_one_is_forgotten(tmp_path: Path) -> None:
    """The second is refused while the first lives; once it is killed its lock holds nobody up."""
    path = tmp_path / "j"
    code = (
        "import sys; from routenlp_integrations.langchain.collect import Journal\n"
        f"j = Journal({str(path)!r}); j.asking('a', 1.0); print('open', flush=True); sys.stdin.read()"
    )
    home = str(Path(router_core.__file__).parents[1])
    holder = subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": home}
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match="another routenlp collect is writing here"):
            Journal(path)
    finally:
        holder.kill()
        holder.communicate()
    with Journal(path) as journal:
        assert journal.spent == 1.0


def test_the_name_of_a_new_journal_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new journal's folder is synced once, or a loss of power takes the file; an old one's is not."""
    synced: list[Path] = []
    monkeypatch.setattr("routenlp_integrations.langchain.collect.journal.sync_folder", synced.append)
    for _ in range(2):
        with Journal(tmp_path / "j.jsonl") as journal:
            journal.asking("a", 0.1)
    assert synced == [tmp_path]
