"""`routenlp evaluate`, `route` and `inspect` on a fitted bundle."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import TIERS, small_records
from rich.console import Console

from routenlp_integrations.cli.scorecard import closed_gap, print_router
from router_core.bundle import Bundle
from router_core.evaluation import evaluate
from router_core.router import Router

POLICIES = {
    "routenlp",
    "route_only",
    "random_same_cost",
    "coin_certified",
    "knn_certified",
    "isotonic_certified",
    "mf_certified",
    "cluster_certified",
    "oracle",
}


def test_evaluate_writes_the_report_and_the_picture(
    small_bundle: Path, records_file: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """The JSON is the core's report with the contract's keys; the text names every policy; the picture is a PNG."""
    said = run("evaluate", small_bundle, records_file, "--json", tmp_path / "r.json", "--plot", tmp_path / "p.png")
    assert said.code == 0
    assert said.err == ""
    told = json.loads((tmp_path / "r.json").read_text())
    expected = json.loads(json.dumps(evaluate(small_bundle, small_records())))
    assert {**told, "router": None} == {**expected, "router": None}
    assert set(told["overall"]["policies"]) == POLICIES | {f"always:{tier}" for tier in TIERS}
    assert set(told["tasks"]) == {"mood", "sum", "*"}
    for name in told["overall"]["policies"]:
        assert name in said.out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["p.png", "r.json"]


def test_evaluate_prints_json_alone_and_reads_other_splits(
    small_bundle: Path, records_file: Path, run: Callable[..., Any]
) -> None:
    """`--json -` is JSON alone, and `--split calib` reports on the calibration rows."""
    said = run("evaluate", small_bundle, records_file, "--split", "calib", "--json", "-")
    told = json.loads(said.out)
    assert (told["split"], told["n"]) == ("calib", 160)
    shown = Bundle.load(small_bundle).certificates["mood", "cascade"]
    assert told["tasks"]["mood"]["certificate"]["bad"] == shown.bad
    assert said.err == ""


def test_evaluate_says_what_a_made_split_left_out(
    small_bundle: Path, small_rows: Any, write_rows: Callable[..., Path], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """Without a split column a fifth is reported on: how many were left out is said, and `--split all` takes all."""
    file = write_rows(tmp_path / "r.jsonl", [{k: v for k, v in row.items() if k != "split"} for row in small_rows])
    part = json.loads(run("evaluate", small_bundle, file, "--json", "-").out)
    assert part["splits_made"]
    assert part["n"] + part["other_splits"] == 400
    assert part["n"] < 120
    text = " ".join(run("evaluate", small_bundle, file).out.split())
    assert f"{part['other_splits']} queries of other splits were left out; --split all reports on every one" in text
    said = run("evaluate", small_bundle, file, "--split", "all", "--json", tmp_path / "all.json")
    whole = json.loads((tmp_path / "all.json").read_text())
    assert (whole["split"], whole["n"], whole["other_splits"]) == ("all", 400, 0)
    assert "on 400 queries of all splits" in said.out
    assert "left out" not in said.out
    assert "trained or tuned on 180 of these queries" in " ".join(said.out.split())


def test_evaluate_says_nothing_of_splits_that_were_given(
    small_bundle: Path, records_file: Path, run: Callable[..., Any]
) -> None:
    """With a split column the split is the user's own."""
    assert "left out" not in run("evaluate", small_bundle, records_file).out


@pytest.mark.parametrize(
    ("ours", "told"), [(0.28, "cost between the reference and the oracle, 90 % is closed"), (0.1, "than the oracle")]
)
def test_a_policy_cheaper_than_the_oracle_closes_no_104_percent(ours: float, told: str) -> None:
    """It is cheaper for serving bad answers, which the oracle does not; that is what is said."""
    screen = Console(file=io.StringIO(), width=200)
    policies = {"routenlp": {"cost_ratio": ours}, "oracle": {"cost_ratio": 0.2}}
    print_router(screen, {"overall": {"policies": policies}, "router": {"p50_ms": 0.1, "p99_ms": 0.2}})
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert told in text
    assert ("is closed" in text) == (ours > 0.2)
    assert closed_gap(policies) == pytest.approx((1 - ours) / 0.8)


def test_route_says_where_and_why(small_bundle: Path, run: Callable[..., Any]) -> None:
    """JSON holds the router's own decision under both policies; the text holds its reason."""
    query = "Quickly add 3 and 4 for ticket 17 of the bridge."
    told = json.loads(run("route", small_bundle, query, "--task", "sum", "--json").out)
    router = Router.load(small_bundle)
    decision = router.decide(query, "sum", "cascade")
    assert told["tier"] == decision.tier
    assert told["reason"] == decision.reason
    assert told["pass_probability"] == decision.pass_probability
    assert told["route_only"]["tier"] == router.decide(query, "sum").tier
    text = run("route", small_bundle, query, "--task", "sum")
    assert text.code == 0
    assert text.out.startswith(f"Start with {decision.tier}\n")
    assert decision.reason in " ".join(text.out.split())


@pytest.mark.parametrize(
    "text", ["?", "x" * 100_000, "a\0b", "\U0001f600 [bold]:smile:", "\u0645\u0631\u062d\u0628\u0627", "\ud800"]
)
def test_route_takes_any_text(text: str, small_bundle: Path, run: Callable[..., Any]) -> None:
    """Very long, NUL, emoji, right-to-left and broken text all get a decision."""
    said = run("route", small_bundle, text, "--json")
    assert said.code == 0
    assert json.loads(said.out)["tier"] in TIERS
    assert run("route", small_bundle, text).code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [([""], "the query is empty"), (["  \n"], "the query is empty"), (["a", "--task", " "], "--task")],
)
def test_route_refuses_what_is_empty(words: list[str], told: str, small_bundle: Path, run: Callable[..., Any]) -> None:
    """A query or task of nothing is a slip, and gets no certified start."""
    said = run("route", small_bundle, *words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert told in said.err


@pytest.mark.filterwarnings("default")
def test_route_of_an_unknown_task_warns_in_one_line(small_bundle: Path, run: Callable[..., Any]) -> None:
    """A task that was never calibrated goes to the reference, with one plain warning and exit 0."""
    said = run("route", small_bundle, "hello", "--task", "chess[/bold]", "--json")
    assert said.code == 0
    told = json.loads(said.out)
    assert (told["tier"], told["certificate"], told["scope"]) == ("large", None, None)
    assert said.err.count("\n") == 1
    assert said.err.startswith("routenlp: warning: task 'chess[/bold]' was never calibrated")
    assert "never calibrated" in run("route", small_bundle, "hello", "--task", "chess[/bold]").out


def test_what_cannot_be_printed_is_escaped(small_bundle: Path, shell: Callable[..., Any]) -> None:
    """An ASCII terminal and bytes that are no text give escapes and plain lines, never a traceback."""
    for task in (os.fsdecode(b"\xff"), "\u00e4\U0001f600"):
        done = shell("route", small_bundle, "\u0645", "--task", task, PYTHONIOENCODING="ascii:strict")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    told = json.loads(shell("route", small_bundle, "a", "--task", os.fsdecode(b"\xff"), "--json").stdout)
    assert told["task"] == "\udcff"


def test_inspect_says_what_was_shown_and_what_ends_it(small_bundle: Path, run: Callable[..., Any]) -> None:
    """Every certificate's own sentence is printed, with what ends it and the minimum n."""
    said = run("inspect", small_bundle)
    assert said.code == 0
    text = " ".join(said.out.split())
    bundle = Bundle.load(small_bundle)
    for (_, policy), shown in bundle.certificates.items():
        assert (shown.describe() in text) == (policy in ("cascade", "route_only"))
    for part in (bundle.id, "schema 1", "small = small-1", "What ends it", "coin", "any change of router", "minimum n"):
        assert part in text
    told = json.loads(run("inspect", small_bundle, "--json").out)
    assert told["bundle"] == bundle.id
    assert told["fingerprints"] == {"small": "small-1", "medium": "medium-1", "large": "large-1"}
    assert told["choices"].keys() == {"mood", "sum", "*"}
    assert told["keys"]["calib"] == 160


def test_inspect_says_where_no_model_is_stated(small_bundle: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """A tier whose model the portfolio does not name is told as such, not by its own name."""
    bundle = Bundle.load(small_bundle)
    tiers = (replace(bundle.portfolio.tiers[0], model=None), *bundle.portfolio.tiers[1:])
    replace(bundle, portfolio=replace(bundle.portfolio, tiers=tiers)).save(tmp_path / "b")
    text = " ".join(run("inspect", tmp_path / "b").out.split())
    assert "small = model not stated: the first name that answers is taken, medium = medium-1" in text


@pytest.mark.parametrize("command", ["inspect", "evaluate", "route"])
def test_tables_read_well_at_80_columns_without_colour(
    command: str, small_bundle: Path, records_file: Path, run: Callable[..., Any]
) -> None:
    """No line is wider than the terminal, nothing is elided, and NO_COLOR leaves no escape codes."""
    rest = {"inspect": [], "evaluate": [records_file], "route": ["hello"]}[command]
    said = run(command, small_bundle, *rest)
    assert max(len(line) for line in said.out.splitlines()) <= 80
    assert "\x1b" not in said.out
    assert "\u2026" not in said.out


def test_serving_commands_need_no_statistics(small_bundle: Path, tmp_path: Path, shell: Callable[..., Any]) -> None:
    """`route` and `inspect` work where none of the statistics, plotting and framework packages can be imported."""
    for name in ("scipy", "sklearn", "crepes", "numba", "pandas", "matplotlib", "torch", "langchain_core"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('banned')\n")
    for command in (["route", small_bundle, "hello"], ["inspect", small_bundle]):
        done = shell(*command)
        assert done.returncode == 0, done.stderr
    # The mutant: evaluate does need them, so the ban is real.
    assert shell("evaluate", small_bundle, "records.jsonl").returncode != 0
