"""`routenlp calibrate`, and the options of `fit` that say what is certified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import TIERS

from router_core import Router
from router_core.bundle import Bundle

Rows = list[dict[str, Any]]


def _fresh(rows: Rows) -> Rows:
    """The same population as queries the bundle has never seen, without a split column."""
    return [
        {key: value for key, value in row.items() if key != "split"}
        | {"query_id": f"new {row['query_id']}", "prompt": f"{row['prompt']} (once more)"}
        for row in rows
    ]


@pytest.mark.parametrize(
    ("risk", "told", "sentence"),
    [
        ("joint", "joint risk at most 0.2, confidence 0.9", "of all queries receive a cheap answer that is bad"),
        ("selective", "selective risk at most 0.2, confidence 0.9", "of the queries that receive a cheap answer"),
        ("retention", "mean quality at least 0.8 of the reference's", "is at least 0.8 times the reference tier's"),
        ("expectation", "joint risk at most 0.2 in expectation", "in expectation over the draw of the calibration"),
    ],
)
def test_each_risk_is_told_everywhere(
    risk: str,
    told: str,
    sentence: str,
    small_bundle: Path,
    small_rows: Rows,
    write_rows: Callable[[Path, Rows], Path],
    tmp_path: Path,
    run: Callable[..., Any],
) -> None:
    """calibrate, inspect, evaluate and route name the new risk, its levels and what was shown."""
    file, out = write_rows(tmp_path / "fresh.jsonl", _fresh(small_rows)), tmp_path / "b"
    said = run("calibrate", small_bundle, file, "--out", out, "--risk", risk, "--alpha", 0.2, "--json", tmp_path / "c")
    assert said.code == 0, said.err
    text = " ".join(said.out.split())
    assert told in text
    assert "use no. 1 of these calibration items" in text
    assert "400, one per group" in text
    assert "near-duplicates 0 queries left out" in text
    summary = json.loads((tmp_path / "c").read_text())
    assert summary["settings"]["risk"] == risk
    assert summary["calibrated"]["paths"] == "laid again from the scores on tune"
    inspected = " ".join(run("inspect", out).out.split())
    assert told in inspected
    assert sentence in inspected
    evaluated = run("evaluate", out, write_rows(tmp_path / "old.jsonl", small_rows), "--json", tmp_path / "e",
                    "--plot", tmp_path / "p.svg")  # fmt: skip
    assert evaluated.code == 0, evaluated.err
    assert told in " ".join(evaluated.out.split())
    shown = json.loads((tmp_path / "e").read_text())["tasks"]["mood"]["certificate"]
    assert shown["risk"] == risk
    assert (shown["bad"] is None, shown["lower_bound"]) == ((True, 0.8) if risk == "retention" else (False, None))
    assert (shown["delta"] is None) == (risk == "expectation")
    assert told in " ".join(run("route", out, small_rows[0]["prompt"], "--task", "mood").out.split())


def test_delta_is_said_to_be_unused(
    small_bundle: Path, records_file: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """A delta given with expectation is ignored, and stderr says so in one line."""
    said = run(
        "calibrate", small_bundle, records_file, "--out", tmp_path / "b", "--risk", "expectation", "--delta", 0.2
    )
    assert said.code == 0
    assert said.err.count("\n") == 1
    assert "--delta is not used" in said.err


def test_all_and_simultaneous(small_bundle: Path, records_file: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """`--certify-by all` and `--simultaneous` fill the overall certificate, and the second use is counted."""
    for option, scopes in ((("--certify-by", "all"), {"all", "*"}), (("--simultaneous",), {"mood", "sum", "*"})):
        said = run("calibrate", small_bundle, records_file, "--out", tmp_path / "b", *option, "--json", "-")
        assert said.code == 0, said.err
        summary = json.loads(said.out)
        assert {shown["scope"] for shown in summary["certificates"]} == scopes
        assert summary["overall"]["certified"]
        assert summary["overall"]["delta"] == 0.1
    assert summary["settings"]["delta_each"] == pytest.approx(0.1 / 6)
    assert {shown["use_count"] for shown in summary["certificates"]} == {3}
    text = run("inspect", tmp_path / "b").out
    assert "All 6 hold at once with confidence 0.9" in " ".join(text.split())
    report = run("evaluate", tmp_path / "b", records_file)
    assert "All tasks together: joint risk at most 0.1" in " ".join(report.out.split())


def test_fit_certifies_by_leaf(
    small_rows: Rows, write_rows: Callable[[Path, Rows], Path], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """`fit --certify-by leaf --risk retention` reaches the bundle and its report."""
    rows = [row | {"task": f"job/{row['task']}"} for row in small_rows]
    file = write_rows(tmp_path / "r.jsonl", rows)
    said = run("fit", file, "--out", tmp_path / "b", "--tiers", ",".join(TIERS), "--certify-by", "leaf", "--risk",
               "retention", "--alpha", 0.2, "--encoder", "static")  # fmt: skip
    assert said.code == 0, said.err
    bundle = Bundle.load(tmp_path / "b")
    assert {scope for scope, _ in bundle.certificates} == {"job/mood", "job/sum", "job/*"}
    assert bundle.settings["risk"] == "retention"
    assert run("evaluate", tmp_path / "b", file, "--plot", tmp_path / "p.svg").code == 0


REFUSED = [
    pytest.param(lambda rows: [r | {"split": "calib"} for r in rows], [], "180 of 400", id="train queries"),
    pytest.param(lambda rows: [r | {"task": "chess"} for r in rows], [], "mood, sum", id="unknown tasks"),
    pytest.param(lambda rows: [r for r in rows if r["split"] != "calib"], [], "'calib' is empty", id="no calib rows"),
    pytest.param(None, ["--risk", "crc"], "'crc' is unknown", id="an unknown risk"),
    pytest.param(None, ["--certify-by", "query"], "task, leaf or all", id="an unknown cut"),
    pytest.param(None, ["--alpha", "2"], "alpha = 2", id="alpha above 1"),
    pytest.param(None, ["--risk", "expectation", "--simultaneous"], "no delta to divide", id="no delta to divide"),
]


@pytest.mark.parametrize(("change", "options", "told"), REFUSED)
def test_calibrate_refuses(
    change: Callable[[Rows], Rows] | None,
    options: list[str],
    told: str,
    small_bundle: Path,
    small_rows: Rows,
    write_rows: Callable[[Path, Rows], Path],
    tmp_path: Path,
    run: Callable[..., Any],
) -> None:
    """Bad input gives exit 2, one sentence, and no bundle."""
    file = write_rows(tmp_path / "r.jsonl", small_rows if change is None else change(small_rows))
    said = run("calibrate", small_bundle, file, "--out", tmp_path / "b", *options)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert told in said.err
    assert not (tmp_path / "b").exists()


def test_how_long_certificates_are_used(
    small_bundle: Path,
    small_rows: Rows,
    write_rows: Callable[[Path, Rows], Path],
    tmp_path: Path,
    run: Callable[..., Any],
) -> None:
    """Limits are kept in the bundle, obeyed by its router, told by inspect, and refused where they make no sense."""
    file, out = write_rows(tmp_path / "fresh.jsonl", _fresh(small_rows)), tmp_path / "b"
    words = ("calibrate", small_bundle, file, "--out", out)
    assert run(*words, "--max-age-days", 30, "--max-decisions", 1).code == 0
    said = " ".join(run("inspect", out).out.split())
    assert "age: 30 days (20" in said
    assert "decisions: 1 under one certificate" in said
    router = Router.load(out)
    assert [router.decide("hello", "mood").certificate is None for _ in range(2)] == [False, True]
    assert "age:" not in run("inspect", small_bundle).out
    assert "max_age_days" not in Bundle.load(small_bundle).settings
    refused = run(*words, "--max-age-days", 0)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    fitted = run("fit", write_rows(tmp_path / "r.jsonl", small_rows), "--out", tmp_path / "c", "--max-decisions", 0)
    assert (fitted.code, len(fitted.err.splitlines())) == (2, 1)
