"""Students on the shared tasks.

    OMP_NUM_THREADS=1 python benchmarks/students/run.py [--only NAME ...] [--out FILE]

Trains on the official train rows with the default options (frozen packaged MiniLM, int8) and scores the served
checkpoint on all test rows, one thread. Needs routenlp[train], seqeval and ../shared/data/tasks. About ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow import parquet

from exporters.students import EncoderOptions, Pair, distil
from router_core.checkpoint import Checkpoint
from router_core.metrics import set_f1
from router_core.student import make_student

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("ROUTENLP_SHARED", HERE.parents[2] / "shared")) / "data/tasks"


def rows(task: str, split: str) -> list[dict[str, Any]]:
    """Rows of a task file."""
    table = parquet.read_table(SHARED / f"{task.partition('/')[0]}.parquet").to_pylist()
    return [row for row in table if row["split"] == split]


def tagged(row: dict[str, Any]) -> Pair:
    """A sentence with its tags, ``PER_B`` turned into ``B-PER``."""
    told = json.loads(row["label"])
    tags = tuple("-".join(reversed(tag.split("_"))) if "_" in tag else tag for tag in told["tags"])
    return Pair(row["id"], " ".join(told["tokens"]), "", tags=tags)


MAKE: dict[str, tuple[str, Callable[[dict[str, Any]], Pair]]] = {
    "cs_intent": ("classifier", lambda row: Pair(row["id"], row["text"], row["label"])),
    "finance_ner": ("tagger", tagged),
    "legal_risk": ("classifier", lambda row: Pair(row["id"], row["text"], json.loads(row["label"])["risk"])),
    "legal_clause/whole": (
        "classifier",
        lambda row: Pair(row["id"], row["text"], json.dumps(sorted(set(json.loads(row["label"]))))),
    ),
    "legal_clause": (
        "multilabel",
        lambda row: Pair(row["id"], row["text"], json.dumps(sorted(set(json.loads(row["label"]))))),
    ),
}


def few(pairs: Sequence[Pair], per_label: int, seed: int) -> list[Pair]:
    """So many pairs of every label."""
    found: dict[str, list[Pair]] = {}
    for i in np.random.default_rng(seed).permutation(len(pairs)).tolist():
        found.setdefault(pairs[i].answer, []).append(pairs[i])
    return [pair for held in found.values() for pair in held[:per_label]]


def score(kind: str, made: Checkpoint, test: Sequence[Pair]) -> dict[str, float]:
    """Scores and latency of the served student on test."""
    student = make_student(made)
    said, sure, ms = [], [], []
    tags = []
    for pair in test:
        start = time.perf_counter()
        found = student.answer(pair.prompt)
        ms.append((time.perf_counter() - start) * 1000)
        said.append(found.text)
        sure.append(found.signals["own_confidence"])
        if kind == "tagger":
            tags.append(student.tags(pair.prompt)[1])  # type: ignore[attr-defined]
    told = {"test": len(test), "mean_confidence": round(float(np.mean(sure)), 4)}
    told |= {"p50_ms": round(float(np.median(ms)), 2), "p99_ms": round(float(np.quantile(ms, 0.99)), 2)}
    if kind == "tagger":
        from seqeval.metrics import f1_score, precision_score, recall_score

        gold = [list(pair.tags or ()) for pair in test]
        for name, of in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            told[name] = round(float(of(gold, tags)), 4)
        return told
    gold = [pair.answer for pair in test]
    told["accuracy"] = round(float(np.mean([a == b for a, b in zip(said, gold, strict=True)])), 4)
    if kind == "multilabel":
        sets = [set_f1(json.loads(a), json.loads(b)) for a, b in zip(said, gold, strict=True)]
        told["set_f1"] = round(float(np.mean(sets)), 4)
    else:
        from sklearn.metrics import f1_score as macro

        told["macro_f1"] = round(float(macro(gold, said, average="macro", zero_division=0)), 4)
    return told


def runs() -> dict[str, tuple[str, int, EncoderOptions, int]]:
    """Name -> task, pairs per label (0 = all), options, seed."""
    intent = EncoderOptions(max_tokens=64)
    found = {"cs_intent": ("cs_intent", 0, intent, 0)}
    for count in (5, 10):
        found |= {f"cs_intent/{count} per label/draw {seed}": ("cs_intent", count, intent, seed) for seed in range(3)}
    small = EncoderOptions(max_tokens=64, layers=(0, 1, 2), distil=1)
    return found | {
        "cs_intent/3 layers": ("cs_intent", 0, small, 0),
        "finance_ner": ("finance_ner", 0, EncoderOptions(), 0),
        "legal_risk": ("legal_risk", 0, EncoderOptions(), 0),
        "legal_risk/balance 0.5": ("legal_risk", 0, EncoderOptions(balance=0.5), 0),
        "legal_clause": ("legal_clause", 0, EncoderOptions(), 0),
        "legal_clause/threshold 0.3": ("legal_clause", 0, EncoderOptions(threshold=0.3), 0),
        "legal_clause/list as one label": ("legal_clause/whole", 0, EncoderOptions(), 0),
        "finance_ner/finetune 4": (
            "finance_ner", 0, EncoderOptions(finetune=4, finetune_rate=2e-4, finetune_batch=16, tagged_layers=(-1,)), 0,
        ),
    }  # fmt: skip


def main() -> None:
    """Run and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of runs")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name, (task, count, options, seed) in runs().items():
        if given.only is not None and name not in given.only:
            continue
        kind, make = MAKE[task]
        train, test = ([make(row) for row in rows(task, split)] for split in ("train", "test"))
        train = few(train, count, seed) if count else train
        start = time.perf_counter()
        made = distil(kind, train, options, tier="student", seed=seed)
        took = time.perf_counter() - start
        results[name] = {
            "kind": kind, "train": len(train), "train_seconds": round(took, 1), "mb": made.metrics["bytes"] / 1e6,
            "agreement": made.metrics["agreement"], "held_out": made.metrics["held_out"],
            "held_out_right": made.metrics["tune_right"],
            "calibration_error": made.metrics["tune_calibration_error"], **score(kind, made, test),
        }  # fmt: skip
        print(name, json.dumps(results[name]), flush=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
