"""`routenlp demo`: the whole road, on a small population and on the packaged records."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import PORTFOLIO, small_records

from routenlp_integrations.cli import demo as demo_module
from routenlp_integrations.cli.demo_routes import agree, route_all
from routenlp_integrations.cli.demo_routes import test_rows as rows_of_test
from router_core.bundle import Bundle
from router_core.evaluation import evaluate

PACKAGED = demo_module.DATA


@pytest.fixture
def stand_in(records_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small population in place of the packaged records."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "records.jsonl").write_bytes(records_file.read_bytes())
    (data / "portfolio.json").write_text(json.dumps(PORTFOLIO.to_json()))
    monkeypatch.setattr(demo_module, "DATA", data)
    return data


def test_the_road_from_records_to_answers(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    """It fits into a folder of its own, routes every test query, tells savings and limits, and starts again quickly."""
    monkeypatch.chdir(tmp_path)
    first = run("demo", "--json", "first.json")
    assert first.code == 0
    assert first.err == ""
    told = json.loads(Path("first.json").read_text())
    assert told["fitted_now"] is True
    assert told["routed"]["n"] == told["test"] == 60
    ours = told["evaluation"]["overall"]["policies"]["routenlp"]
    assert told["routed"]["cost_usd"] == pytest.approx(60 * ours["cost"], rel=1e-9)
    text = " ".join(first.out.split())
    for part in (
        "What this says",
        "What it does not say",
        "no frontier model",
        "nominal",
        "evaluation.png",
        "joint risk",
    ):
        assert part in text
    assert sorted(item.name for item in Path("routenlp-demo").iterdir()) == [
        "bundle", "demo.json", "evaluation.json", "evaluation.png",
    ]  # fmt: skip
    second = run("demo", "--json", "-")
    again = json.loads(second.out)
    assert again["fitted_now"] is False
    assert again["bundle"]["bundle"] == told["bundle"]["bundle"]


def test_a_bundle_of_other_records_is_fitted_again(
    stand_in: Path, small_bundle: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """The folder of a demo on other records is used again, but its bundle is not."""
    out = tmp_path / "out"
    shutil.copytree(small_bundle, out / "bundle")
    (out / "demo.json").write_text(json.dumps({"data": "other records", "bundle": Bundle.load(small_bundle).id}))
    told = json.loads(run("demo", "--out", out, "--json", "-").out)
    assert told["fitted_now"] is True
    assert json.loads((out / "demo.json").read_text())["bundle"] == told["bundle"]["bundle"]


def test_without_langchain_the_extra_is_named(tmp_path: Path, shell: Callable[..., Any]) -> None:
    """The demo says which extra it lacks before it does any work."""
    (tmp_path / "langchain_core.py").write_text("raise ModuleNotFoundError('banned', name='langchain_core')\n")
    done = shell("demo", "--out", "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "routenlp[langchain]" in done.stderr
    assert not (tmp_path / "out").exists()


def test_routes_that_differ_from_the_replay_are_noticed(small_bundle: Path) -> None:
    """The check passes on the truth, and fails on a cost, a quality, a share or a count that is a little off."""
    records = small_records()
    rows = rows_of_test(records, records.models)
    routed = route_all(small_bundle, rows, None)
    report = evaluate(small_bundle, records)
    agree(routed, report)
    for change in (
        lambda p: p.update(cost=p["cost"] * (1 + 1e-6)),
        lambda p: p.update(quality=p["quality"] - 1 / 60),
        lambda p: p["share"].update(small=p["share"]["small"] + 1 / 60),
    ):
        mutant = copy.deepcopy(report)
        change(mutant["tasks"]["mood"]["policies"]["routenlp"])
        with pytest.raises(RuntimeError, match="mood"):
            agree(routed, mutant)
    with pytest.raises(RuntimeError, match="overall"):
        agree(routed[1:], report)


def test_the_packaged_demo_end_to_end(tmp_path: Path, run: Callable[..., Any]) -> None:
    """On the data that ship with the package: under a minute, cheaper than the reference, risk within its interval."""
    began = time.perf_counter()
    said = run("demo", "--out", tmp_path / "out", "--json", tmp_path / "demo.json")
    assert said.code == 0
    assert time.perf_counter() - began < 120.0
    told = json.loads((tmp_path / "demo.json").read_text())
    assert len(told["bundle"]["tasks"]) >= 3
    assert len(told["bundle"]["tiers"]) >= 3
    assert told["routed"]["n"] == told["test"] == told["evaluation"]["n"] > 100
    ours = told["evaluation"]["overall"]["policies"]["routenlp"]
    assert ours["cost_ratio"] < 1.0
    assert ours["joint_risk_ci"][0] <= told["bundle"]["settings"]["alpha"]
    assert any(shown["certified"] for shown in told["bundle"]["certificates"])
