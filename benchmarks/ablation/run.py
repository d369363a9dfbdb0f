"""What every part of the router earns, on all shared routing files: encoders, losses, the label, the judged answer.

    OMP_NUM_THREADS=1 python benchmarks/ablation/run.py [--files a,b] [--variants a,b] [--seeds 5] [--tables]

For every file, variant and seed: the certified cost ratio expected on train (tune or out-of-fold train rows, from which
choices are made) and the median certified cost ratio of 20 salts that re-split calib + test with train fixed
(METHOD.md 2.11), for both policies. Each result is appended to results.jsonl at once and never computed twice, so a run
can be stopped and gone on with. Needs ``routenlp[train]`` (constraints-train.txt) for the transformer variants.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import write_between
from router_core.encoder import Encoder, EncoderTrainer, Examples
from router_core.fitting import FitSettings, fit
from router_core.fitting.static import StaticTrainer
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.records import Records, read_records
from router_core.redraws import pool_of, salted

HERE = Path(__file__).resolve().parent
JOURNAL = HERE / "results.jsonl"
POLICIES = (CASCADE, ROUTE_ONLY)


def _files() -> dict[str, tuple[str, ...] | None]:
    """Files with costs, and their tiers as in benchmarks/cost_quality; None lets `fit` choose them."""
    spec = importlib.util.spec_from_file_location("cost_quality", HERE.parent / "cost_quality" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {**module.FILES, "alpaca_eval_v2": None, "mt_bench": None}


class Unlabelled:
    """A trainer that is not told tasks and subtasks: what task conditioning is compared with."""

    def __init__(self, trainer: EncoderTrainer) -> None:
        self._trainer = trainer
        self.name = f"{trainer.name}, no label"

    def train(self, examples: Examples, *, seed: int) -> Encoder:
        """Fit on the same queries under one label."""
        same = ["" for _ in examples.text]
        return self._trainer.train(replace(examples, task=same, subtask=same), seed=seed)


def variants() -> dict[str, Callable[[], EncoderTrainer]]:
    """Trainers by name; the transformer ones share the features of a text."""
    from exporters.transformer import TransformerOptions, TransformerTrainer
    from exporters.transformer.losses import WITH_RECORDS, LossWeights
    from router_core.fitting.stack import StackTrainer

    # The preference loss is off by default since this ablation.
    losses = LossWeights(preference=WITH_RECORDS)
    three = TransformerTrainer("minilm", TransformerOptions(losses=losses))
    six = TransformerTrainer("minilm", TransformerOptions(layers=None, losses=losses))

    def with_losses(**weights: float) -> EncoderTrainer:
        other = copy.copy(three)
        other.options = replace(three.options, losses=replace(losses, **weights))
        return other

    return {
        "static": StaticTrainer,
        "static, no label": lambda: Unlabelled(StaticTrainer()),
        "minilm, 3 layers": lambda: three,
        "minilm, 6 layers": lambda: six,
        "stack of static and minilm": lambda: StackTrainer([StaticTrainer(), three]),
        "stack, no neighbours": lambda: StackTrainer([StaticTrainer(), three], neighbours=False),
        "minilm, no label": lambda: Unlabelled(three),
        "minilm, no preference": lambda: with_losses(preference=0.0),
        "minilm, no quality": lambda: with_losses(quality=0.0),
        "minilm, tier loss": lambda: with_losses(tier=1.0),
    }


def measure(records: Records, tiers: tuple[str, ...] | None, trainer: EncoderTrainer, seed: int) -> dict[str, Any]:
    """One fit and its figures, both policies of the first promised scope."""
    began = time.perf_counter()
    bundle = fit(records, tiers=tiers, settings=FitSettings(seed=seed), trainers=[trainer])
    scope = bundle.scopes.views[0].scope
    pool = pool_of(bundle, records, scope)
    costs = salted(pool, bundle.settings["alpha"], bundle.settings["delta"])
    return {
        "expected": {name: bundle.report["choices"][scope][name]["expected_cost_ratio"] for name in POLICIES},
        "median": {name: round(float(np.median(costs[name])), 6) for name in POLICIES},
        "seconds": round(time.perf_counter() - began, 1),
    }


def journal() -> dict[tuple[str, str, int], dict[str, Any]]:
    """What was measured before."""
    if not JOURNAL.exists():
        return {}
    rows = [json.loads(line) for line in JOURNAL.read_text().splitlines()]
    return {(row["file"], row["variant"], row["seed"]): row for row in rows}


def table(done: dict[tuple[str, str, int], dict[str, Any]], policy: str, figure: str) -> str:
    """Mean over seeds (standard deviation), a row per variant."""
    names = list(dict.fromkeys(file for file, _, _ in done))
    lines = [f"| {policy}, {figure} | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for variant in dict.fromkeys(variant for _, variant, _ in done):
        cells = []
        for name in names:
            found = [row[figure][policy] for key, row in done.items() if key[:2] == (name, variant)]
            cells.append(f"{np.mean(found):.3f} ({np.std(found):.3f})" if found else "")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_tables(done: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    """Rewrite the tables in the README beside this file."""
    tables = [table(done, policy, figure) for policy in POLICIES for figure in ("expected", "median")]
    write_between(HERE / "README.md", "\n\n".join(tables), "tables")


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/routing"), help="folder of the routing files")
    parser.add_argument("--files", help="comma-separated subset")
    parser.add_argument("--variants", help="semicolon-separated subset")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", action="store_true", help="only rewrite the tables of the README")
    args = parser.parse_args()
    done, files = journal(), _files()
    if args.tables:
        write_tables(done)
        return
    names = args.files.split(",") if args.files else list(files)
    for name in names:
        records, trainers = read_records(args.data / f"{name}.parquet"), variants()
        chosen = args.variants.split(";") if args.variants else list(trainers)
        if len(set(zip(records.task, records.subtask, strict=True))) == 1:
            chosen = [variant for variant in chosen if not variant.endswith("no label")]
        for seed in range(args.seeds):
            for variant in chosen:
                if (name, variant, seed) in done:
                    continue
                found = measure(records, files[name], trainers[variant](), seed)
                row = {"file": name, "variant": variant, "seed": seed, **found}
                done[name, variant, seed] = row
                with JOURNAL.open("a") as journal_file:
                    journal_file.write(json.dumps(row) + "\n")
                print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
