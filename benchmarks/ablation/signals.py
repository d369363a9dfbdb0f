"""Which training signals of the transformer router earn their place: log loss out of fold, train rows only.

    OMP_NUM_THREADS=1 python benchmarks/ablation/signals.py [--files a,b] [--seeds 5] [--tables]

The router is fitted on four fifths of a file's train queries and read on the fifth, with all signals and with one of
them left out (or, for the tier loss, added). Log loss is that of the pass probabilities of the cheap tiers. The rule,
fixed before the run: a signal is on by default if leaving it out raises the log loss, on average over the files, by
more than a one-sided 90 % limit of the files' spread (t distribution); otherwise it is off. Larger files are cut to
2,000 train queries. Results are appended to signals.jsonl, and a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from run import HERE, _files, variants
from scipy.stats import t as student_t
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.tables import write_between
from exporters.transformer.labels import group_folds
from router_core.encoder import EncoderTrainer, Examples, load_encoder
from router_core.records import read_records
from router_core.selection import choose_tiers
from router_core.splits import prepare

Float = NDArray[np.float64]
JOURNAL = HERE / "signals.jsonl"
ALL = "all signals"
FOLDS, MOST = 5, 2_000
TRAINERS = {
    ALL: "minilm, 3 layers",
    "no preference": "minilm, no preference",
    "no quality": "minilm, no quality",
    "no label": "minilm, no label",
    "tier loss added": "minilm, tier loss",
}
"""Variants, and their names in `run.variants`."""


def examples_of(path: Path, tiers: tuple[str, ...] | None) -> Examples:
    """Train and tune queries, at most `MOST`, in hash order of their groups."""
    prepared = prepare(read_records(path))
    learned = np.union1d(prepared.train, prepared.tune)
    prepared, _ = prepared.complete(choose_tiers(prepared.records, learned, tiers))
    r, rows = prepared.records, np.union1d(prepared.train, prepared.tune)
    rows = np.sort(rows[np.argsort([r.query_id[i] for i in rows.tolist()], kind="stable")][:MOST])
    texts, tasks, subtasks, groups = (
        [column[i] for i in rows.tolist()] for column in (r.prompt, r.task, r.subtask, r.group)
    )
    return Examples(texts, tasks, subtasks, r.quality[rows], r.cost[rows], 0.0, r.models, groups)


def out_of_fold(examples: Examples, trainer: EncoderTrainer, fold: NDArray[np.int64], seed: int) -> Float:
    """Pass probabilities of the cheap tiers, float64 ``[n, K - 1]``, none by a router that saw the query."""
    found = np.zeros((len(examples), len(examples.tiers) - 1))
    for held in range(FOLDS):
        encoder = load_encoder(trainer.train(examples.take(np.flatnonzero(fold != held)), seed=seed).parts())
        for i in np.flatnonzero(fold == held).tolist():
            said = encoder.predict(examples.text[i], examples.task[i], examples.subtask[i] or None)
            found[i] = said.pass_probability[:-1]
    return found


def figures(examples: Examples, probability: Float) -> dict[str, float]:
    """Log loss and AUC, mean over the cheap tiers that both pass and fail."""
    passes, losses, areas = examples.passes()[:, :-1], [], []
    for k in range(passes.shape[1]):
        if 0 < passes[:, k].mean() < 1:
            losses.append(log_loss(passes[:, k], np.clip(probability[:, k], 1e-6, 1 - 1e-6)))
            areas.append(roc_auc_score(passes[:, k], probability[:, k]))
    return {"log_loss": round(float(np.mean(losses)), 6), "auc": round(float(np.mean(areas)), 6)}


def journal() -> list[dict[str, Any]]:
    """What was measured before."""
    return [json.loads(line) for line in JOURNAL.read_text().splitlines()] if JOURNAL.exists() else []


def markdown(rows: list[dict[str, Any]]) -> str:
    """Log loss and AUC with all signals; what leaving one out adds to the log loss, and what the rule says."""
    by = {(row["file"], row["variant"], row["seed"]): row for row in rows}
    names = list(dict.fromkeys(row["file"] for row in rows))

    def of(name: str, variant: str, figure: str) -> Float:
        return np.array([by[key][figure] for key in sorted(by) if key[:2] == (name, variant)])

    lines = [f"| | {' | '.join(names)} | mean | 90 % limits, one-sided |", "| --- |" + " --- |" * (len(names) + 2)]
    for figure in ("log_loss", "auc"):
        told = [f"{of(name, ALL, figure).mean():.4f}" for name in names]
        lines.append(f"| {ALL}, {figure.replace('_', ' ')} | {' | '.join(told)} | | |")
    for variant in list(TRAINERS)[1:]:
        cells, means = [], []
        for name in names:
            more = of(name, variant, "log_loss")
            if not len(more):
                cells.append("")
                continue
            more = more - of(name, ALL, "log_loss")[: len(more)]
            means.append(more.mean())
            cells.append(f"{more.mean():+.4f} ({more.std(ddof=1) / np.sqrt(len(more)):.4f})")
        spread = np.std(means, ddof=1) / np.sqrt(len(means)) * student_t.ppf(0.9, len(means) - 1)
        mean = np.mean(means)
        lines.append(
            f"| {variant}: log loss added | {' | '.join(cells)} | {mean:+.4f} "
            f"| {mean - spread:+.4f} to {mean + spread:+.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/routing"), help="folder of the routing files")
    parser.add_argument("--files", help="comma-separated subset")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", action="store_true", help="only rewrite the table of the README")
    args = parser.parse_args()
    rows, files = journal(), _files()
    if args.tables:
        write_between(HERE / "README.md", markdown(rows), "signals")
        return
    done = {(row["file"], row["variant"], row["seed"]) for row in rows}
    for name in args.files.split(",") if args.files else files:
        examples, trainers = examples_of(args.data / f"{name}.parquet", files[name]), variants()
        labels = len(set(zip(examples.task, examples.subtask, strict=True)))
        for seed in range(args.seeds):
            fold = group_folds(examples.text, FOLDS, seed)
            for variant, known_as in TRAINERS.items():
                if (name, variant, seed) in done or (variant == "no label" and labels == 1):
                    continue
                found = figures(examples, out_of_fold(examples, trainers[known_as](), fold, seed))
                row = {"file": name, "variant": variant, "seed": seed, **found}
                with JOURNAL.open("a") as journal_file:
                    journal_file.write(json.dumps(row) + "\n")
                print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
