"""How often a router orders two models of a held-out query as their graders did, as JSON on standard output.

A preference is a pair of models with different quality on one test query; a score agrees when it ranks the better one
higher, and by half when it ranks them alike. Everything is fitted on train: the encoder with the tiers as given, its
order by expected quality gap and by pass probability (of which the reference tier's is 1 by definition); and the
neighbours, clusters and factors of `router_core.fitting`, here of every model's quality, on the encoder's hidden
vectors. ``constant`` always prefers the model that is better on train. Intervals are exact where a group has one pair
and nothing counts half, else over 2,000 redraws of the queries' groups; ``over_constant`` is the paired difference.

    OMP_NUM_THREADS=1 python benchmarks/router_quality/preferences.py ../shared/data/routing --encoder minilm
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.certificate import clopper_pearson
from router_core.encoder import EncoderTrainer, Examples, load_encoder
from router_core.fitting.baselines import Lesson, fit_clusters, fit_factors, fit_neighbours
from router_core.fitting.static import StaticTrainer
from router_core.records import read_records
from router_core.splits import Prepared, prepare

Float = NDArray[np.float64]
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mt_bench": ("mt_bench", ("mixtral-8x7b-instruct", "gpt-4-1106-preview")),
    "alpaca_eval_v1": ("alpaca_eval_v1", ("llama-2-7b-chat", "llama-2-70b-chat", "gpt-4")),
    "alpaca_eval_v1, 10 models": (
        "alpaca_eval_v1",
        (
            "phi-2-dpo",
            "llama-2-7b-chat",
            "zephyr-7b-beta",
            "vicuna-13b",
            "llama-2-13b-chat",
            "falcon-40b-instruct",
            "gpt-3.5-turbo-1106",
            "llama-2-70b-chat",
            "claude-2",
            "gpt-4",
        ),
    ),
}
"""Name: file, and models with the reference tier last."""
FOLDS = 5


def trainer_of(name: str) -> EncoderTrainer:
    """The trainer behind ``--encoder``."""
    if name == "static":
        return StaticTrainer()
    from exporters.transformer import TransformerTrainer

    return TransformerTrainer(name)


def read(path: Path, tiers: tuple[str, ...]) -> Prepared:
    """The queries that all of the models answered, split and grouped."""
    records = read_records(path).for_models(tiers)
    whole = np.isfinite(records.quality).all(axis=1) & np.isfinite(records.cost).all(axis=1)
    return prepare(records.take(np.flatnonzero(whole).tolist()))


def scores(prepared: Prepared, trainer: EncoderTrainer, seed: int) -> dict[str, Float]:
    """What each method makes of the models on the test queries, float64 [n, K], higher is better."""
    r, train, test = prepared.records, np.union1d(prepared.train, prepared.tune), prepared.test
    at = train.tolist()
    texts, tasks, subtasks = ([column[i] for i in at] for column in (r.prompt, r.task, r.subtask))
    examples = Examples(texts, tasks, subtasks, r.quality[train], r.cost[train], 0.0, r.models)
    encoder = load_encoder(trainer.train(examples, seed=seed).parts())
    said = [encoder.predict(r.prompt[i], r.task[i], r.subtask[i] or None) for i in test.tolist()]
    digests = [hashlib.sha256(r.group[i].encode()).digest() for i in at]
    lesson = Lesson(
        np.stack([encoder.embed(text) for text in texts]),
        r.quality[train],
        prepared.group_id[train],
        np.asarray([digest[0] % FOLDS for digest in digests], np.intp),
        seed,
    )
    hidden = np.stack([one.hidden for one in said])
    rivals = {"knn": fit_neighbours, "cluster": fit_clusters, "mf": fit_factors}
    return {
        "router, by gap": np.stack([-one.gap for one in said]),
        "router, by pass probability": np.stack([one.pass_probability for one in said]),
        **{name: 1.0 - fit(lesson).risk(hidden) for name, fit in rivals.items()},
        "constant": np.tile(r.quality[train].mean(axis=0), (len(test), 1)),
    }


def agreement(score: Float, quality: Float) -> tuple[Float, NDArray[np.intp]]:
    """Per preference 1, 0.5 or 0, and the row it belongs to."""
    found, rows = [], []
    for one, other in itertools.combinations(range(quality.shape[1]), 2):
        better = np.sign(quality[:, one] - quality[:, other])
        known = np.flatnonzero(better)
        found.append((1.0 + better * np.sign(np.round(score[:, one] - score[:, other], 12)))[known] / 2.0)
        rows.append(known)
    return np.concatenate(found), np.concatenate(rows)


def redraws(found: Float, group: NDArray[np.intp], draws: int = 2_000) -> list[float]:
    """95 % interval of a mean over preferences, whole groups redrawn."""
    _, place = np.unique(group, return_inverse=True)
    total, count = np.bincount(place, found), np.bincount(place).astype(np.float64)
    often = np.random.default_rng(0).multinomial(len(total), np.full(len(total), 1 / len(total)), draws)
    return [float(edge) for edge in np.quantile((often @ total) / (often @ count), [0.025, 0.975])]


def figures(prepared: Prepared, found: dict[str, Float]) -> dict[str, Any]:
    """Share of agreement of every method, with intervals."""
    quality, group = prepared.records.quality[prepared.test], prepared.group_id[prepared.test]
    each = {name: agreement(score, quality) for name, score in found.items()}
    base, rows = each["constant"]
    told: dict[str, Any] = {"train": len(prepared.train), "test": len(quality), "preferences": len(base), "methods": {}}
    for name, (mine, _) in each.items():
        exact = len(np.unique(group[rows])) == len(rows) and set(np.unique(mine)) <= {0.0, 1.0}
        interval = clopper_pearson(int(mine.sum()), len(mine), 0.95) if exact else redraws(mine, group[rows])
        told["methods"][name] = {
            "agreement": round(float(mine.mean()), 4),
            "interval_95": [round(float(edge), 4) for edge in interval],
            "interval": "exact" if exact else "redraws",
            "over_constant": round(float((mine - base).mean()), 4),
            "over_constant_95": [round(edge, 4) for edge in redraws(mine - base, group[rows])],
        }
    return told


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the routing files")
    parser.add_argument("--encoder", default="static", help="static, minilm, or a folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    told: dict[str, Any] = {"encoder": args.encoder}
    for name, (file, tiers) in SETS.items():
        prepared = read(args.data / f"{file}.parquet", tiers)
        told[name] = figures(prepared, scores(prepared, trainer_of(args.encoder), args.seed))
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
