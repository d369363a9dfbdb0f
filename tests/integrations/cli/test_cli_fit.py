"""`routenlp fit`: what it writes and what it tells."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bundles import PORTFOLIO, TIERS

from router_core.bundle import Bundle
from router_core.certificate import allowed_bad, minimum_n

Rows = list[dict[str, Any]]
FIT = ("--tiers", ",".join(TIERS), "--alpha", "0.1", "--encoder", "static")


class Fitted(NamedTuple):
    """A bundle made by the command line, the JSON it wrote and what it said."""

    path: Path
    told: dict[str, Any]
    text: str


@pytest.fixture(scope="module")
def fitted(records_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """One fit, shared by the tests that only look."""
    from routenlp_integrations.cli import main

    folder = tmp_path_factory.mktemp("fit")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["fit", str(records_file), "--out", str(folder / "b"), *FIT, "--json", str(folder / "fit.json")])
    assert code == 0
    assert sorted(item.name for item in folder.iterdir()) == ["b", "fit.json"]
    return Fitted(folder / "b", json.loads((folder / "fit.json").read_text()), " ".join(said.getvalue().split()))


def test_the_json_tells_what_the_bundle_holds(fitted: Fitted, records_file: Path) -> None:
    """Certificates, settings, splits and tiers of the JSON are those of the bundle, with the bad counts n permits."""
    path, told, _ = fitted
    bundle = Bundle.load(path)
    assert told["bundle"] == bundle.id
    assert told["settings"] == {
        "risk": "joint", "alpha": 0.1, "delta": 0.1, "tolerance": 0.0, "seed": 0,
        "delta_each": 0.1, "certify_by": "task", "simultaneous": False,
    }  # fmt: skip
    assert [tier["name"] for tier in told["tiers"]] == list(TIERS)
    assert told["reference"] == "large"
    assert told["records"] == str(records_file)
    assert "train 180, tune 0, calib 160, test 60" in told["splits"]
    assert told["cost_basis"] == "recorded"
    assert {(c["scope"], c["policy"]) for c in told["certificates"]} == set(bundle.certificates)
    for shown in told["certificates"]:
        kept = bundle.certificates[shown["scope"], shown["policy"]]
        assert (shown["n"], shown["bad"], shown["step"]) == (kept.n, kept.bad, kept.step)
        assert shown["allowed"] == allowed_bad(kept.n, 0.1, 0.1)
        assert shown["bad"] <= shown["allowed"]
        assert 0.0 < shown["cost_ratio"] <= 1.0


def test_the_text_tells_what_was_done(fitted: Fitted) -> None:
    """Drops, splits, straddlers, what bad means, certificates, uses and the next step are on the screen."""
    for part in ("dropped for a missing quality or cost", "train 0 of 180", "0 straddlers", "below large's", "Next:"):
        assert part in fitted.text
    for shown in fitted.told["certificates"]:
        if shown["policy"] in ("cascade", "route_only"):
            counts = f"{shown['n']} {shown['bad']}/{shown['allowed']} {shown['step']}/{shown['steps']}"
            assert f"{shown['scope']} {shown['policy']} {counts}" in fitted.text
    assert "use no. 1" in fitted.text


def test_a_second_fit_replaces_the_bundle_and_counts_the_use(
    fitted: Fitted, records_file: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """Fitting again into the same folder is use no. 2; with `--json -` stdout is JSON alone and stderr is empty."""
    shutil.copytree(fitted.path, tmp_path / "b")
    said = run("fit", records_file, "--out", tmp_path / "b", *FIT, "--json", "-")
    assert said.code == 0
    assert said.err == ""
    told = json.loads(said.out)
    assert told["bundle"] == Bundle.load(tmp_path / "b").id != fitted.told["bundle"]
    assert {shown["use_count"] for shown in told["certificates"]} == {2}
    assert [item.name for item in tmp_path.iterdir()] == ["b"]


def test_assumed_costs_are_said_loudly(
    small_rows: Rows, write_rows: Callable[[Path, Rows], Path], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """Records without costs work with a portfolio that assumes lengths, and fit and inspect both say ASSUMED."""
    bare = [{k: v for k, v in row.items() if k not in ("cost_usd", "completion_tokens")} for row in small_rows]
    tiers = [tier | {"assumed_completion_tokens": 7} for tier in PORTFOLIO.to_json()["tiers"]]
    (tmp_path / "p.json").write_text(json.dumps({"tiers": tiers}))
    file = write_rows(tmp_path / "r.jsonl", bare)
    said = run("fit", file, "--portfolio", tmp_path / "p.json", "--out", tmp_path / "b", *FIT)
    assert said.code == 0
    assert "The costs are ASSUMED (completion tokens: small 7, medium 7, large 7)" in " ".join(said.out.split())
    assert "The costs are ASSUMED" in " ".join(run("inspect", tmp_path / "b").out.split())
    assert Bundle.load(tmp_path / "b").report["cost_basis"] == "assumed"


def test_a_task_too_small_to_certify_is_listed_with_what_it_needs(
    small_rows: Rows, write_rows: Callable[[Path, Rows], Path], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """Ten calibration items of one task are no error: the task escalates and is listed with the n it needs."""
    seen = 0
    kept = []
    for row in small_rows:
        few = row["split"] == "calib" and row["task"] == "sum"
        seen += few and row["model"] == TIERS[0]
        if not few or seen <= 10:
            kept.append(row)
    file = write_rows(tmp_path / "r.jsonl", kept)
    said = run("fit", file, "--out", tmp_path / "b", *FIT, "--json", tmp_path / "fit.json")
    assert said.code == 0
    need = minimum_n(0.1, 0.1)
    assert f"sum: 10 calibration items, needs at least {need} ({need - 10} more)" in " ".join(said.out.split())
    told = json.loads((tmp_path / "fit.json").read_text())
    assert told["missing"] == [{"scope": "sum", "n": 10, "minimum_n": need}]
    routed = json.loads(run("route", tmp_path / "b", "Quickly add 1 and 2.", "--task", "sum", "--json").out)
    assert (routed["tier"], routed["certificate"]) == ("large", None)


def test_shared_file_end_to_end(shared: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """One real file: fit, inspect and evaluate agree on what was certified, and routing saves money."""
    file = shared / "routing/finance_fomc.parquet"
    bundle, report = tmp_path / "b", tmp_path / "report.json"
    assert run("fit", file, "--out", bundle, "--tiers", "gpt-3.5-turbo,gpt-4", "--encoder", "static").code == 0
    assert run("evaluate", bundle, file, "--json", report, "--plot", tmp_path / "p.png").code == 0
    told = json.loads(report.read_text())
    shown = next(
        c for c in json.loads(run("inspect", bundle, "--json").out)["certificates"] if c["policy"] == "cascade"
    )
    kept = told["tasks"]["finance_fomc"]["certificate"]
    assert (kept["n"], kept["bad"], kept["certified"]) == (shown["n"], shown["bad"], True)
    assert shown["bad"] <= allowed_bad(shown["n"], 0.05, 0.1)
    assert told["overall"]["policies"]["routenlp"]["cost_ratio"] < 1.0
    assert told["n"] == 238
