"""Processes around one ledger: killed, told to end, forked, two at once."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from ledgers import look, start, url_of

_BEGIN = "import os, sys, time, signal\nfrom ledgers import *\nfrom router_core.ledger import Ledger\n"
_IDS = "SELECT id FROM routenlp_routes"
_OPEN = _BEGIN + "ledger = Ledger(sys.argv[1])\n"


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _count(folder: Path) -> int:
    (found,) = look(folder / "ledger.db", "SELECT count(*) FROM routenlp_routes")
    return int(found[0])


def test_kill_9_after_flush_loses_nothing(tmp_path: Path) -> None:
    """What was flushed is there when the process dies of SIGKILL, attempts and all, and the database is sound."""
    code = _OPEN + (
        "for _ in range(1500): ledger.append(escalated(), answers=both())\n"
        "assert ledger.flush(60)\nprint('flushed', flush=True)\n"
        "while True: ledger.append(escalated(), answers=both()); time.sleep(0.001)\n"
    )
    process = start(code, url_of(tmp_path))
    assert _line(process) == "flushed"
    time.sleep(0.2)
    process.kill()
    process.communicate()
    assert _count(tmp_path) >= 1_500
    assert look(tmp_path / "ledger.db", "PRAGMA integrity_check") == [("ok",)]
    halves = (
        "SELECT count(*) FROM routenlp_routes r WHERE (SELECT count(*) FROM routenlp_attempts WHERE route = r.id) != 2"
    )
    assert look(tmp_path / "ledger.db", halves) == [(0,)]


@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.4])
def test_kill_9_without_flush_loses_only_what_was_not_flushed(tmp_path: Path, wait_s: float) -> None:
    """Killed at any moment, the database opens and holds at least everything flushed."""
    code = _OPEN + (
        "n = 0\n"
        "while True:\n"
        "    for _ in range(50): ledger.append(accepted())\n"
        "    assert ledger.flush(60)\n"
        "    n += 50\n    print(n, flush=True)\n"
        "    for _ in range(37): ledger.append(accepted())\n    n += 37\n"
    )
    process = start(code, url_of(tmp_path))
    flushed = int(_line(process))
    time.sleep(wait_s)
    process.kill()
    rest, _ = process.communicate()
    flushed = int((rest.split() or [flushed])[-1])
    assert flushed <= _count(tmp_path) <= flushed + 37 + 50
    assert look(tmp_path / "ledger.db", "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "raise ValueError"])
def test_the_queue_is_flushed_at_exit(tmp_path: Path, end: str) -> None:
    """However Python ends by itself, nothing that was appended is lost."""
    process = start(_OPEN + f"for _ in range(300): ledger.append(accepted())\n{end}\n", url_of(tmp_path))
    process.communicate(timeout=60)
    assert _count(tmp_path) == 300


def test_sigterm_flushes_and_still_kills(tmp_path: Path) -> None:
    """Without a handler of its own the process flushes, then dies of the signal as it would have."""
    code = _OPEN + "for _ in range(300): ledger.append(accepted())\nprint('ready', flush=True)\ntime.sleep(60)\n"
    process = start(code, url_of(tmp_path))
    assert _line(process) == "ready"
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert _count(tmp_path) == 300


def test_sigterm_runs_the_earlier_handler_after_the_flush(tmp_path: Path) -> None:
    """A handler that was there first runs, once, and finds the queue stored; two ledgers make no second layer."""
    code = _BEGIN + (
        f"QUERY = {_IDS!r}\n"
        "def mine(number, frame):\n"
        "    print(len(look(path, QUERY)), flush=True)\n    sys.exit(7)\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGTERM, mine)\n"
        "path = Path(sys.argv[1].removeprefix('sqlite:///'))\n"
        "ledger, other = Ledger(sys.argv[1]), Ledger(sys.argv[1] + '2')\n"
        "for _ in range(200): ledger.append(accepted())\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    process = start(code, url_of(tmp_path))
    assert _line(process) == "ready"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out.split()) == (7, ["200"]), err


def test_a_process_that_ignores_sigterm_still_does(tmp_path: Path) -> None:
    """An ignored signal stays ignored, and a ledger made in another thread installs nothing."""
    code = _BEGIN + (
        "import threading\n"
        "before = signal.getsignal(signal.SIGTERM)\n"
        "thread = threading.Thread(target=Ledger, args=(sys.argv[1],))\nthread.start()\nthread.join()\n"
        "assert signal.getsignal(signal.SIGTERM) is before\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nLedger(sys.argv[1])\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint('alive')\n"
    )
    out, err = start(code, url_of(tmp_path)).communicate(timeout=30)
    assert out.strip() == "alive", err


def test_two_processes_write(tmp_path: Path) -> None:
    """Two processes start at once on a file that is not there yet; every row of both arrives."""
    code = _OPEN + (
        "for i in range(3000):\n    ledger.append(escalated(), answers=both(), reference='large')\n"
        "    if i % 20 == 0: time.sleep(0.002)\n"
        "assert ledger.flush(60)\nprint(ledger.dropped)\n"
    )
    processes = [start(code, url_of(tmp_path)) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert out.strip() == "0", err
    assert _count(tmp_path) == 6_000
    assert look(tmp_path / "ledger.db", "PRAGMA integrity_check") == [("ok",)]


def test_a_forked_child_writes_on_its_own(tmp_path: Path) -> None:
    """What the parent queued is stored once, by the parent; the child starts a writer of its own."""
    code = _OPEN + (
        "ledger.append(accepted())\nledger.flush(30)\n"
        "for _ in range(100): ledger.append(accepted())\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    assert ledger.stats()['writer']['queued'] == 0\n"
        "    for _ in range(10): ledger.append(escalated())\n"
        "    os._exit(0 if ledger.flush(30) else 1)\n"
        "_, status = os.waitpid(child, 0)\n"
        "for _ in range(5): ledger.append(accepted())\n"
        "assert ledger.flush(30)\nprint(status, ledger.dropped)\n"
    )
    out, err = start(code, url_of(tmp_path)).communicate(timeout=60)
    assert out.split() == ["0", "0"], err
    assert _count(tmp_path) == 116
    assert look(tmp_path / "ledger.db", "SELECT count(*) FROM routenlp_routes WHERE tier = 'large'") == [(10,)]
    assert look(tmp_path / "ledger.db", "PRAGMA integrity_check") == [("ok",)]
