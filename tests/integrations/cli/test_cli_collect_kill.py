"""`routenlp collect` in a process of its own over a real socket: killed, interrupted, refused, resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, loopback_only

import router_core
from router_core.records import read_records

pytestmark = pytest.mark.network_loopback
N = 60


@pytest.fixture(autouse=True)
def loopback() -> Iterator[None]:
    """Allow the loopback interface and nothing else."""
    with loopback_only():
        yield


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A server slow enough to be caught in the middle."""
    with ChatServer(delay=0.05) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path, server: ChatServer) -> Callable[[], subprocess.Popen[str]]:
    """Start the command on 60 prompts and two tiers; call again to resume."""
    price = "input_usd_per_m: 1, output_usd_per_m: 1"
    params = f'{{base_url: "{server.url}", max_tokens: 8}}'
    (tmp_path / "tiers.yaml").write_text(
        "".join(f'- {{name: {name}, model: "openai:{name}", params: {params}, {price}}}\n' for name in ("a", "b"))
    )
    (tmp_path / "p.csv").write_text("prompt,label\n" + "".join(f"question {i},yes\n" for i in range(N)))
    words = ["collect", "p.csv", "--tiers", "tiers.yaml", "--metric", "exact", "--budget", "1", "--out", "r.parquet"]
    code = "from routenlp_integrations.cli import main; import sys; sys.exit(main())"
    home = str(Path(router_core.__file__).parents[1])

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - our own words
            [sys.executable, "-c", code, *words, "--yes"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": home, "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A run in the background ignores Ctrl-C, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads yet
        )

    return begin


def _wait_for(server: ChatServer, calls: int) -> None:
    end = time.monotonic() + 60
    while len(server.calls) < calls:
        assert time.monotonic() < end, "the command never got going"
        time.sleep(0.01)


def _asked(server: ChatServer) -> Counter[tuple[str, str]]:
    return Counter((call["model"], call["messages"][-1]["content"]) for call in server.calls)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(
    kill: signal.Signals, start: Callable[[], Any], server: ChatServer, tmp_path: Path
) -> None:
    """At most the calls in flight are made twice, and the second run writes everything."""
    first = start()
    _wait_for(server, 30)
    first.send_signal(kill)
    _, err = first.communicate(timeout=60)
    assert first.returncode == (-9 if kill == signal.SIGKILL else 130)
    if kill == signal.SIGINT:
        assert "run the same command again to go on" in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "r.parquet").exists()
    before = len(server.calls)
    assert before < 2 * N
    second = start()
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    again = sum(count - 1 for count in _asked(server).values())
    assert again <= 4
    assert len(_asked(server)) == 2 * N
    assert read_records(tmp_path / "r.parquet").quality.all()
    assert f"{2 * N} records of {N} queries" in out


def test_a_second_process_is_refused(start: Callable[[], Any], server: ChatServer) -> None:
    """While one writes, another says so in one line; the first is not disturbed."""
    first = start()
    _wait_for(server, 4)
    second = start()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "another routenlp collect is writing here" in err
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert max(_asked(server).values()) == 1


def test_refusals_are_retried_and_keys_are_not_sent_or_shown(
    tmp_path: Path, start: Callable[[], Any], server: ChatServer
) -> None:
    """A 429 with Retry-After is waited out; the server's own message with a key in it reaches no file."""
    server.delay = 0.0
    server.refusals = [(429, {"Retry-After": "0"})] * 3 + [(400, {})] * 2
    done = start()
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    assert len(server.calls) == 2 * N + 3
    assert "2 queries" in out or out.count("1 queries") == 2
    assert set(server.keys) == {"Bearer none"}
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir()).decode("utf-8", "ignore") + out + err
    assert "sk-live" not in stored
