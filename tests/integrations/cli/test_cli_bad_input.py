"""Bad input: one clear sentence on stderr, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import TIERS

import router_core

Rows = list[dict[str, Any]]


def _set(column: str, value: object, at: int = 4) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        rows[at][column] = value
        return rows

    return change


def _drop(column: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows]


def _rename(column: str, name: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{name if k == column else k: v for k, v in row.items()} for row in rows]


def _only(model: str) -> Callable[[Rows], Rows]:
    return lambda rows: [row for row in rows if row["model"] == model]


def _without(split: str) -> Callable[[Rows], Rows]:
    return lambda rows: [row for row in rows if row["split"] != split]


def _repeat(rows: Rows) -> Rows:
    return [*rows, dict(rows[7])]


def _lost(rows: Rows) -> Rows:
    """One test query in ten without an answer of the middle tier."""
    at = [row for row in rows if row["split"] == "test" and row["model"] == TIERS[1]]
    for row in at[::10]:
        row["quality"] = None
    return rows


def _unpriced(rows: Rows) -> Rows:
    return _drop("cost_usd")(rows)


RECORDS = [
    pytest.param(_drop("quality"), [], ["column 'quality'", "missing"], id="a column missing"),
    pytest.param(_rename("quality", "qualty"), [], ["'quality'", "'qualty'"], id="a column misnamed"),
    pytest.param(_set("quality", 1.5), [], ["line 5", "'quality'", "1.5"], id="quality above 1"),
    pytest.param(_set("quality", -0.1), [], ["line 5", "'quality'", "-0.1"], id="quality below 0"),
    pytest.param(_set("quality", math.nan), [], ["line 5", "'quality'", "nan"], id="quality NaN"),
    pytest.param(_set("cost_usd", -1e-6), [], ["line 5", "'cost_usd'"], id="a negative cost"),
    pytest.param(_only(TIERS[0]), [], ["at least two models"], id="one model"),
    pytest.param(None, ["--tiers", "small"], ["at least two tiers"], id="one tier named"),
    pytest.param(
        None, ["--tiers", "small,huge"], ["unknown tier 'huge'", "small, medium, large"], id="an unknown tier"
    ),
    pytest.param(None, ["--tiers", "small,small,large"], ["'small' is named twice"], id="a tier named twice"),
    pytest.param(_repeat, [], ["line 1201", "line 8", "'medium'"], id="a duplicate row"),
    pytest.param(_without("calib"), [], ["split 'calib' is empty"], id="no calib rows"),
    pytest.param(_without("test"), [], ["split 'test' is empty"], id="no test rows"),
    pytest.param(lambda rows: [r | {"split": "dev"} for r in rows], [], ["line 1", "'dev'"], id="an unknown split"),
    pytest.param(_set("split", "test"), [], ["line 5", "line 4", "'split'"], id="a query in two splits"),
    pytest.param(_unpriced, [], ["cost_usd", "portfolio"], id="no costs and no prices"),
    pytest.param(_lost, ["--tiers", ",".join(TIERS)], ["'test'", "more than 5 %"], id="too many dropped"),
    pytest.param(None, ["--alpha", "0"], ["alpha = 0"], id="alpha 0"),
    pytest.param(None, ["--delta", "1.5"], ["delta = 1.5"], id="delta above 1"),
    pytest.param(None, ["--alpha", "nan"], ["alpha = nan"], id="alpha NaN"),
    pytest.param(None, ["--tolerance", "1"], ["tolerance = 1"], id="tolerance 1"),
    pytest.param(None, ["--risk", "none"], ["'none' is unknown", "joint"], id="an unknown risk"),
    pytest.param(
        None, ["--risk", "crc"], ["'crc' is unknown", "conformal risk control does not hold"], id="CRC on selective"
    ),
    pytest.param(None, ["--certify-by", "query"], ["'query' is unknown", "task, leaf or all"], id="an unknown cut"),
    pytest.param(
        None, ["--risk", "expectation", "--simultaneous"], ["no delta to divide"], id="simultaneous in expectation"
    ),
    pytest.param(
        None,
        ["--preferences", "p.jsonl"],
        ["--preferences", "--encoder minilm"],
        id="no such preferences",
    ),
    pytest.param(
        None,
        ["--preferences", "records.jsonl"],
        ["--preferences is for", "--encoder minilm"],
        id="preferences of the static encoder",
    ),
    pytest.param(
        None, ["--preferences", "p.jsonl", "--encoder", "static"], ["p.jsonl", "no such file"], id="preferences nowhere"
    ),
    pytest.param(None, ["--encoder", "."], ["--encoder .", "config.json"], id="a folder that is no encoder"),
    pytest.param(None, ["--portfolio", "nowhere.json"], ["nowhere.json"], id="no such portfolio"),
    pytest.param(
        None, ["--json", "nowhere/report.json"], ["--json", "nowhere does not exist"], id="no folder for the JSON"
    ),
    pytest.param(None, ["--seed", "many"], ["'--seed'", "routenlp fit --help"], id="a seed that is no number"),
    pytest.param(None, ["--finetune"], ["--finetune", "--encoder minilm"], id="fine-tuning the static encoder"),
]


@pytest.mark.parametrize(("change", "options", "told"), RECORDS)
def test_fit_refuses(
    change: Callable[[Rows], Rows] | None,
    options: list[str],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_rows: Rows,
    write_rows: Callable[[Path, Rows], Path],
    run: Callable[..., Any],
) -> None:
    """Every bad input to `fit` gives exit 2 and one sentence that says where and what; no file appears."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "records.jsonl", small_rows if change is None else change(small_rows))
    said = run("fit", "records.jsonl", "--out", "bundle", *options)
    _refused(said, told)
    assert [item.name for item in tmp_path.iterdir()] == ["records.jsonl"]


def _refused(said: Any, told: list[str]) -> None:
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("routenlp: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    for part in told:
        assert part in said.err


FILES = [
    pytest.param("r.parquet", b"PAR1 this is not one PAR1", ["not a readable Parquet file"], id="unreadable Parquet"),
    pytest.param("r.jsonl", b'{"query_id": "a"\n', ["line 1", "not valid JSON"], id="unreadable JSONL"),
    pytest.param(
        "r.jsonl", b'{"query_id": "a"}\n\n[1]\n', ["line 3", "not a JSON object"], id="JSONL that is no object"
    ),
    pytest.param("r.jsonl", b'{"query_id": "a"}\n"\xff"\n', ["line 2", "not UTF-8"], id="JSONL that is not UTF-8"),
    pytest.param("r.csv", b"query_id,prompt\na\n", ["row 1 has 1 fields"], id="a ragged CSV"),
    pytest.param("r.txt", b"a", [".parquet, .csv, .jsonl"], id="an unknown ending"),
    pytest.param("r.jsonl", b"", ["holds no records"], id="an empty file"),
    pytest.param("r.jsonl", None, ["No such file"], id="no file"),
]


def test_a_bundle_is_no_encoder(
    small_bundle: Path, records_file: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """A bundle's folder as `--encoder` is named as what it is, whatever is installed."""
    said = run("fit", records_file, "--out", tmp_path / "b", "--encoder", small_bundle)
    _refused(said, [f"--encoder {small_bundle}", "a bundle or checkpoint", "config.json"])


def test_the_package_runs_as_a_module(shell: Callable[..., Any], tmp_path: Path) -> None:
    """`python -m routenlp` is `routenlp`, exit codes too."""
    words = [sys.executable, "-m", "routenlp", "fit", "no.jsonl", "--out", "b"]
    env = {**os.environ, "PYTHONPATH": str(Path(router_core.__file__).parents[1]), "NO_COLOR": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 2
    assert done.stderr == shell("fit", "no.jsonl", "--out", "b").stderr


@pytest.mark.parametrize(("name", "content", "told"), FILES)
def test_fit_refuses_unreadable_files(
    name: str, content: bytes | None, told: list[str], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """A file that cannot be read is named, with the line where there are lines."""
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    _refused(run("fit", file, "--out", tmp_path / "bundle"), [str(file), *told])
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("kind", ["folder with a file", "file"])
def test_fit_leaves_what_is_not_a_bundle(
    kind: str, records_file: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """An output path that holds something else is refused before any work, and stays as it is."""
    out = tmp_path / "mine"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("precious")
    _refused(run("fit", records_file, "--out", out), [str(out), "is not a bundle"])
    kept = out if kind == "file" else out / "notes.txt"
    assert kept.read_text() == "precious"


def _changed(folder: Path) -> None:
    file = folder / "encoder.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _manifest_changed(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(re.sub(r'"route_text": ?\d+', '"route_text":99', text))


def _newer(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "schema": 99}))


BUNDLES = [
    pytest.param(_changed, ["encoder.npz", "changed"], id="a changed file"),
    pytest.param(_manifest_changed, ["manifest.json", "changed"], id="a changed manifest"),
    pytest.param(lambda folder: (folder / "keys.npz").unlink(), ["keys.npz", "missing"], id="a missing file"),
    pytest.param(lambda folder: (folder / "extra.txt").write_text("x"), ["extra.txt"], id="an extra file"),
    pytest.param(_newer, ["schema 99", "upgrade"], id="a newer schema"),
    pytest.param(lambda folder: (folder / "manifest.json").unlink(), ["is not a bundle"], id="no manifest"),
    pytest.param(shutil.rmtree, ["is not a bundle"], id="no folder"),
]


@pytest.mark.parametrize("command", ["inspect", "route", "evaluate"])
@pytest.mark.parametrize(("damage", "told"), BUNDLES)
def test_a_bundle_that_is_not_whole_is_refused(
    command: str,
    damage: Callable[[Path], object],
    told: list[str],
    small_bundle: Path,
    records_file: Path,
    tmp_path: Path,
    run: Callable[..., Any],
) -> None:
    """Changed, missing, extra, newer, none: every command that reads a bundle refuses it."""
    folder = tmp_path / "bundle"
    shutil.copytree(small_bundle, folder)
    damage(folder)
    rest = {"inspect": [], "route": ["hello"], "evaluate": [records_file, "--json", tmp_path / "report.json"]}[command]
    _refused(run(command, folder, *rest), told)
    assert not (tmp_path / "report.json").exists()


EVALUATE = [
    pytest.param(None, ["--split", "holdout"], ["'holdout'", "test"], id="an unknown split"),
    pytest.param(_without("test"), [], ["split 'test'"], id="an empty split"),
    pytest.param(_only(TIERS[0]), [], ["at least two models"], id="one model"),
    pytest.param(
        lambda rows: [r for r in rows if r["model"] != TIERS[1]], [], ["unknown model 'medium'"], id="a tier missing"
    ),
    pytest.param(
        lambda rows: [r | {"task": "chess"} for r in rows], [], ["mood, sum"], id="tasks the bundle does not know"
    ),
    pytest.param(None, ["--plot", "picture.gif"], ["--plot picture.gif", ".png"], id="a picture of another kind"),
    pytest.param(
        None, ["--plot", "nowhere/p.png"], ["--plot", "nowhere does not exist"], id="no folder for the picture"
    ),
    pytest.param(None, ["--json", "."], ["--json", "folder"], id="a folder for the JSON"),
]


@pytest.mark.parametrize(("change", "options", "told"), EVALUATE)
def test_evaluate_refuses(
    change: Callable[[Rows], Rows] | None,
    options: list[str],
    told: list[str],
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_rows: Rows,
    write_rows: Callable[[Path, Rows], Path],
    run: Callable[..., Any],
) -> None:
    """Bad records and options of `evaluate` give one sentence and no report."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "records.jsonl", small_rows if change is None else change(small_rows))
    _refused(run("evaluate", small_bundle, "records.jsonl", *options), told)
    assert [item.name for item in tmp_path.iterdir()] == ["records.jsonl"]


def test_shared_records_without_costs_are_refused(shared: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """`llmrouter_mix` has neither costs nor token counts: it needs a portfolio, and the sentence says so."""
    file = shared / "routing/llmrouter_mix.parquet"
    _refused(run("fit", file, "--out", tmp_path / "b"), ["no row has a cost_usd", "assumed_completion_tokens"])


def test_a_demo_folder_that_is_something_else_is_refused(tmp_path: Path, run: Callable[..., Any]) -> None:
    """The demo never writes into a folder that holds anything but a demo."""
    (tmp_path / "notes.txt").write_text("precious")
    _refused(run("demo", "--out", tmp_path), ["not the folder of a demo"])
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["distil"], ["distil", "routenlp --help"]),
        (["fit"], ["records", "routenlp fit --help"]),
        (["route", "bundle"], ["text", "routenlp route --help"]),
        (["inspect", "a", "b"], ["b", "routenlp inspect --help"]),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], told: list[str], run: Callable[..., Any]) -> None:
    """A command line that makes no sense names the help to read."""
    said = run(*arguments)
    assert said.code == 2
    assert said.err.count("\n") == 1
    for part in told:
        assert part.lower() in said.err.lower()


def test_the_process_exits_with_2_and_no_traceback(shell: Callable[..., Any], tmp_path: Path) -> None:
    """The same through a real process, as a shell sees it."""
    done = shell("fit", "no.jsonl", "--out", "b")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "routenlp: no.jsonl: cannot be read (No such file or directory)\n"
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ours_is_not_dressed_up_as_bad_input(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    """The mutant of the rule: an unexpected error keeps its traceback instead of exit 2."""
    monkeypatch.setattr("router_core.router.Router.decide", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("route", small_bundle, "hello")


def test_fit_names_the_extra_of_the_transformer_router(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_rows: Rows,
    write_rows: Callable[[Path, Rows], Path],
    run: Callable[..., Any],
) -> None:
    """Without torch, `--encoder minilm` gives exit 2 and names routenlp[train]."""
    monkeypatch.setattr("routenlp_integrations.cli.encoders._PACKAGES", ("no_such_package",))
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "records.jsonl", small_rows)
    said = run("fit", "records.jsonl", "--out", "bundle", "--encoder", "minilm")
    _refused(said, ["routenlp[train]"])
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("target", ["{records}", "{bundle}/manifest.json", "{bundle}/x.json"])
def test_json_never_destroys_what_is_read(run: Any, small_bundle: Path, records_file: Path, target: str) -> None:
    """A report is refused where it would replace the records, or a part of a bundle; nothing is touched."""
    before = records_file.read_bytes()
    named = target.format(records=records_file, bundle=small_bundle)
    said = run("evaluate", small_bundle, records_file, "--json", named)
    assert said.code == 2
    assert "name another file" in said.err
    assert len(said.err.splitlines()) == 1
    assert records_file.read_bytes() == before
