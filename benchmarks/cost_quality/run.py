"""Certified cost on real records, beside every rival through the same certificate.

    python benchmarks/cost_quality/run.py --data ../shared/data/routing --out benchmarks/cost_quality/results.json

Files, tiers and the figures to beat are those of METHOD.md 2.10. Fits with default settings on train, certifies on
calib, and reports medians over 20 salted re-splits of calib + test with train fixed, coverage under redraws, and
whether the bundle's certificates replay.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.tables import write_between
from router_core.evaluation import evaluate
from router_core.fitting.fit_bundle import FitSettings, fit
from router_core.policy import CASCADE
from router_core.records import read_records
from router_core.redraws import POLICIES, coverage, pool_of, replayed, salted

FILES: dict[str, tuple[str, ...]] = {
    "finance_sentiment": ("llama-2-13b-chat", "gpt-3.5-turbo", "gpt-4"),
    "finance_fomc": ("gpt-3.5-turbo", "gpt-4"),
    "finance_ner_finer_ord": ("llama-3.1-70b-instruct", "llama-3.1-405b-instruct", "gpt-4"),
    "code_crux": (
        "gemini-1.5-flash",
        "deepseek-v2.5",
        "gpt-4o-mini-2024-07-18",
        "qwen2.5-72b-instruct",
        "gpt-4o-2024-08-06",
    ),
    "math_l5": ("qwen2.5-7b-instruct", "gpt-4o-mini-2024-07-18", "claude-3-5-sonnet-20241022"),
    "mmlu": ("mixtral-8x7b-instruct", "gpt-4-1106-preview"),
    "alpaca_eval_v1": ("llama-2-7b-chat", "llama-2-70b-chat", "gpt-4"),
}
NAMES = {"coin": "coin", "isotonic": "isotonic", "knn": "kNN", "mf": "MF", "cluster": "cluster"}
"""What the tables call the rivals, in the order of their columns."""
OTHERS = {"route_only": "route only", **NAMES, "oracle": "oracle"}
PROTOTYPE = {
    "finance_sentiment": 0.178,
    "finance_fomc": 0.705,
    "finance_ner_finer_ord": 0.836,
    "code_crux": 0.682,
    "math_l5": 0.633,
    "mmlu": 0.575,
    "alpaca_eval_v1": 0.144,
}
"""The better of the two prototype columns of METHOD.md 2.10 (one split)."""


def measure(path: Path, tiers: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Everything reported of one file."""
    records = read_records(path)
    settings = FitSettings(seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        bundle = fit(records, out=Path(folder) / "bundle", tiers=tiers, settings=settings)
        wall = time.perf_counter() - began
    scope = bundle.scopes.views[0].scope
    pool = pool_of(bundle, records, scope)
    shown = bundle.certificates[scope, CASCADE]
    costs = salted(pool, settings.alpha, settings.delta)
    medians = {name: float(np.median(values)) for name, values in costs.items()}
    report = evaluate(bundle, records)
    own = report["tasks"][scope]
    return {
        "fit_s": round(wall, 1),
        "n": shown.n,
        "bad": shown.bad,
        "choice": bundle.report["choices"][scope][CASCADE],
        "median_cost_ratio": {name: round(value, 4) for name, value in medians.items()},
        "iqr": {name: [round(float(q), 4) for q in np.quantile(v, [0.25, 0.75])] for name, v in costs.items()},
        "gap_to_oracle_closed": round((1 - medians[CASCADE]) / (1 - medians["oracle"]), 3),
        "file_split": {
            name: {
                key: own["policies"][name][key]
                for key in ("cost_ratio", "quality_ratio", "joint_risk", "joint_risk_ci")
            }
            for name in ("routenlp", "route_only", *(f"{name}_certified" for name in NAMES), "oracle")
        },
        "apgr": {name: part.get("apgr") for name, part in report["tasks"].items() if "apgr" in part},
        "certificates_replay": replayed(bundle, records),
        "coverage": {
            f"{name}@{alpha}": coverage(pool, name, alpha, settings.delta)
            for name in POLICIES[:2]
            for alpha in (0.05, 0.1)
        },
    }


def table_of(results: dict[str, Any]) -> Table:
    """The table of the README."""
    table = Table(title="Certified cost ratio, joint risk <= .05 with delta .1: median of 20 salts")
    for column in ("file", "n", "bad", "ours", "IQR", *OTHERS.values(), "gap closed", "prototype"):
        table.add_column(column, justify="left" if column == "file" else "right", no_wrap=True)
    for name, found in results.items():
        m = found["median_cost_ratio"]
        low, high = found["iqr"][CASCADE]
        table.add_row(
            name,
            str(found["n"]),
            str(found["bad"]),
            f"{m[CASCADE]:.3f}",
            f"{low:.2f}-{high:.2f}",
            *(f"{m[key]:.3f}" for key in OTHERS),
            f"{found['gap_to_oracle_closed']:.2f}",
            f"{PROTOTYPE[name]:.3f}",
        )
    return table


def markdown(results: dict[str, Any]) -> str:
    """The same table for the READMEs."""
    lines = [
        f"| records (reference tier) | calib n / bad | RouteNLP | inter-quartile | {' | '.join(OTHERS.values())} |",
        "| --- " * (4 + len(OTHERS)) + "|",
    ]
    for name, found in results.items():
        m = found["median_cost_ratio"]
        low, high = found["iqr"][CASCADE]
        shown = {key: f"{m[key]:.3f}" for key in (CASCADE, *OTHERS)}
        least = min(one for key, one in shown.items() if key != "oracle")
        bold = {key: f"**{one}**" if one == least and key != "oracle" else one for key, one in shown.items()}
        lines.append(
            f"| {name} ({FILES[name][-1]}) | {found['n']} / {found['bad']} | {bold[CASCADE]} "
            f"| {low:.3f} to {high:.3f} | {' | '.join(bold[key] for key in OTHERS)} |"
        )
    return "\n".join(lines)


def details(results: dict[str, Any]) -> str:
    """Gap to the oracle, the file's own split and coverage, for the benchmark's README."""
    lines = [
        "| records | gap to oracle closed | prototype (METHOD 2.10) | own split: cost, quality, joint risk (95 %) "
        "| violations of 2,000, cascade at .05 / .10 | route only | replays | fit, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        own = found["file_split"]["routenlp"]
        low, high = own["joint_risk_ci"]
        seen = {key: value[0] for key, value in found["coverage"].items()}
        lines.append(
            f"| {name} | {found['gap_to_oracle_closed']:.2f} | {PROTOTYPE[name]:.3f} | {own['cost_ratio']:.3f}, "
            f"{own['quality_ratio']:.3f}, {own['joint_risk']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {seen['cascade@0.05']} / {seen['cascade@0.1']} | {seen['route_only@0.05']} / {seen['route_only@0.1']} "
            f"| {'yes' if found['certificates_replay'] else 'NO'} | {found['fit_s']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all files and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/routing"), help="folder of the routing files")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--files", default=",".join(FILES), help="comma-separated subset")
    parser.add_argument("--tables", action="store_true", help="rewrite the tables in the READMEs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    results = {}
    for name in track(args.files.split(","), description="files"):
        results[name] = measure(args.data / f"{name}.parquet", FILES[name], args.seed)
    Console(width=150).print(table_of(results))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    if args.tables:
        here = Path(__file__).resolve().parent
        write_between(here.parents[1] / "README.md", markdown(results), "table: cost_quality")
        write_between(here / "README.md", markdown(results), "table: cost_quality")
        write_between(here / "README.md", details(results), "table: details")


if __name__ == "__main__":
    main()
