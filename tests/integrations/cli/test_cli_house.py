"""The command line as a whole: what it offers, what it imports, how it writes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from routenlp_integrations.cli import output
from routenlp_integrations.cli.app import app
from routenlp_integrations.cli.progress import progress_bar
from router_core.errors import InputError, MissingExtraError

OFFERED: dict[str, set[str]] = {
    "distill": {
        "pairs",
        "kind",
        "tier",
        "out",
        "teacher",
        "task",
        "replay",
        "parent",
        "bundle",
        "budget",
        "source",
        "finetune",
        "template",
        "max-tokens",
        "balance",
        "export",
        "seed",
        "json",
        "yes",
    },
    "fit": {
        "records",
        "out",
        "portfolio",
        "tiers",
        "risk",
        "alpha",
        "delta",
        "tolerance",
        "certify-by",
        "simultaneous",
        "encoder",
        "finetune",
        "preferences",
        "seed",
        "json",
        "max-age-days",
        "max-decisions",
        "since",
        "until",
    },
    "evaluate": {"bundle", "records", "split", "json", "plot"},
    "calibrate": {
        "bundle",
        "records",
        "out",
        "risk",
        "alpha",
        "delta",
        "certify-by",
        "simultaneous",
        "json",
        "max-age-days",
        "max-decisions",
        "since",
        "until",
    },
    "route": {"bundle", "text", "task", "json"},
    "inspect": {"bundle", "json"},
    "watch": {
        "bundle",
        "ledger",
        "json",
        "once",
        "every",
        "delta",
        "arl",
        "floor",
        "max-age-days",
        "max-decisions",
        "state",
        "plot",
        "dry-run",
    },
    "collect": {
        "prompts",
        "tiers",
        "metric",
        "budget",
        "out",
        "task",
        "gold",
        "limit",
        "concurrency",
        "redact",
        "yes",
        "json",
    },
    "bench": {"bundle", "json"},
    "demo": {"out", "json", "loop"},
    "loop start": {"root", "records", "plan", "checkpoint", "json"},
    "loop round": {"root", "ledger", "teacher", "budget", "records", "plan", "fresh", "since", "until", "json"},
    "rollback": {"root", "json"},
    "ledger stats": {"url", "json"},
    "ledger export": {"url", "out", "what", "since", "until", "split", "metric", "gold"},
    "ledger import": {"source", "into"},
    "ledger retire": {"url", "days"},
}


def _commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {word}": one for word, one in inner.items()}
    return found


def _name(parameter: Any) -> str:
    return str(parameter.opts[0]).removeprefix("--")


def test_exactly_the_contracted_commands_and_options_are_offered() -> None:
    """What later versions bring is not listed before it is there."""
    found = {name: {_name(p) for p in command.params if p.name != "help"} for name, command in _commands().items()}
    assert found == OFFERED


def test_everything_has_a_help_text() -> None:
    """Every command and every parameter says what it is."""
    for command in _commands().values():
        assert command.help
        for parameter in command.params:
            assert parameter.help, (command.name, parameter.name)
    fit = {_name(p): p.help for p in _commands()["fit"].params}
    assert "US dollars per 1M tokens" in fit["portfolio"]
    for option in ("alpha", "delta", "tolerance"):
        assert "0 to 1" in fit[option]


@pytest.mark.parametrize("command", [[], ["ledger"], *(name.split() for name in OFFERED)])
def test_help_is_shown(command: list[str]) -> None:
    """`--help` works everywhere, and no command at all shows the list."""
    done = CliRunner().invoke(app, [*command, "--help"] if command else [])
    assert done.exit_code == 0
    assert "Usage" in done.output


def test_version(run: Callable[..., Any]) -> None:
    """`--version` prints one line and exits 0."""
    said = run("--version")
    assert said.code == 0
    assert said.out.startswith("routenlp")


def test_importing_the_command_line_is_cheap(shell: Callable[..., Any]) -> None:
    """The entry point imports nothing until it is called, and the help imports no statistics."""
    heavy = "{'typer', 'rich', 'numpy', 'sklearn', 'scipy', 'numba', 'matplotlib', 'langchain_core', 'onnxruntime'}"
    probe = "import sys; import routenlp_integrations.cli as c; {}; print(sorted({} & set(sys.modules)))"
    assert _python(shell, probe.format("pass", heavy)) == "[]"
    called = probe.format("c.main(['fit', '--help'])", heavy).replace("print(", "print('|', ")
    assert _python(shell, called).rpartition("| ")[2] in ("['numpy', 'rich', 'typer']", "['rich', 'typer']")


def _python(shell: Callable[..., Any], code: str) -> str:
    import os
    import subprocess

    import router_core

    env = {**os.environ, "PYTHONPATH": str(Path(router_core.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A value that is no JSON leaves the earlier file and no staging file; a good one replaces it."""
    target = tmp_path / "r.json"
    output.write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        output.write_json(target, {"a": float("nan")})
    assert json.loads(target.read_text()) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["r.json"]
    output.write_json(target, {"a": "\u00e4"})
    assert json.loads(target.read_text(encoding="utf-8")) == {"a": "\u00e4"}


def test_a_disk_that_fails_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the bytes cannot be synced, the earlier report stays and the staging file goes."""
    target = tmp_path / "r.json"
    target.write_text("1")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        output.write_json(target, {"a": 1})
    assert target.read_text() == "1"
    assert [item.name for item in tmp_path.iterdir()] == ["r.json"]


def test_targets_are_checked_before_any_work(tmp_path: Path) -> None:
    """Stdout, no file and a plain file are fine; a folder and a file in no folder are not."""
    for fine in (None, Path("-"), tmp_path / "r.json"):
        output.check_target(fine, "--json")
    for wrong in (tmp_path, tmp_path / "no" / "r.json"):
        with pytest.raises(InputError, match="--json"):
            output.check_target(wrong, "--json")
    with pytest.raises(InputError, match=r"\.png"):
        output.check_target(Path("-"), "--plot", (".png",))


def test_missing_statistics_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `routenlp[fit]` is not installed, one line says so."""
    output.need_fit("fit")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"routenlp\[fit\] is needed to fit a router"):
        output.need_fit("fit a router")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_drawn_at_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal sees what is being done; a pipe, and a run whose JSON goes to stdout, see nothing."""
    with progress_bar() as report:
        assert report is None
    screen = _Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(silent=True) as report:
        assert report is None
    with progress_bar() as report:
        assert report is not None
        report("training the encoder", 0, 1)
        report("scoring queries", 3, 10)
    assert "scoring queries" in screen.getvalue()


def test_interrupting_is_one_line(small_bundle: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    """Control-C gives exit 130 and no traceback."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("router_core.router.Router.load", stop)
    assert run("route", small_bundle, "hello").code == 130
