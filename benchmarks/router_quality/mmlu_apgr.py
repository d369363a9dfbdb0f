"""Router quality and latency of an encoder on MMLU, as JSON on standard output.

APGR as RouteLLM (Ong et al., 2024) defines it: queries are sorted by the router's score for the strong model;
for a share of calls to it from 0 to 100 % the performance gap recovered is (quality - weak) / (strong - weak);
APGR is the area under that curve (a random order gives .5). Ties are averaged over their orders. Trained on
the train rows, measured on the test rows of the file's own split. Choices of the model were made by
cross-validation on train (``--cv``).

    OMP_NUM_THREADS=1 python benchmarks/router_quality/mmlu_apgr.py ../shared/data/routing/mmlu.parquet --encoder minilm
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routenlp_integrations.cli.encoders import trainers_of
from router_core.encoder import Encoder, Examples, load_encoder

Float = NDArray[np.float64]
TIERS = ("mixtral-8x7b-instruct", "gpt-4-1106-preview")
FOLDS = 5


def apgr(score: Float, weak: Float, strong: Float) -> float:
    """Area under the performance-gap-recovered curve over the share of strong calls."""
    gain = strong - weak
    distinct, place = np.unique(-score, return_inverse=True)
    mean_gain = np.bincount(place, gain) / np.bincount(place, minlength=len(distinct))
    curve = np.concatenate(([0.0], np.cumsum(mean_gain[np.sort(place)]))) / gain.sum()
    return float(((curve[1:] + curve[:-1]) / 2.0).mean())


def read_split(path: Path, split: str) -> Examples:
    """Read the queries of one split that both tiers answered."""
    import pyarrow.parquet as pq

    found: dict[str, dict[str, Any]] = {}
    for row in pq.read_table(path).to_pylist():
        if row["split"] == split and row["model"] in TIERS:
            found.setdefault(row["query_id"], {})[row["model"]] = row
    rows = [one for _, one in sorted(found.items()) if len(one) == len(TIERS)]
    labels = [one[TIERS[0]]["task"].split("/") for one in rows]
    return Examples(
        [one[TIERS[0]]["prompt"] for one in rows],
        [label[0] for label in labels],
        [label[1] for label in labels],
        np.array([[one[tier]["quality"] for tier in TIERS] for one in rows], dtype=np.float64),
        np.array([[one[tier]["cost_usd"] for tier in TIERS] for one in rows], dtype=np.float64),
        0.0,
        TIERS,
    )


def scores(encoder: Encoder, test: Examples) -> dict[str, Float]:
    """Scores for the strong model: by expected gap and by pass probability, subtask named and masked."""
    named, masked = [], []
    for text, task, subtask in zip(test.text, test.task, test.subtask, strict=True):
        named.append(encoder.predict(text, task, subtask))
        masked.append(encoder.predict(text, None, None))
    return {
        "named_by_gap": np.array([one.gap[0] for one in named]),
        "named_by_pass": np.array([1.0 - one.pass_probability[0] for one in named]),
        "masked_by_gap": np.array([one.gap[0] for one in masked]),
        "masked_by_pass": np.array([1.0 - one.pass_probability[0] for one in masked]),
    }


def bootstrap(score: Float, weak: Float, strong: Float, draws: int = 500) -> list[float]:
    """95 % interval of the APGR over resampled test queries."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, len(score), len(score)) for _ in range(draws)]
    found = [apgr(score[one], weak[one], strong[one]) for one in rows]
    return [round(float(edge), 4) for edge in np.quantile(found, [0.025, 0.975])]


def latency(encoder: Encoder, texts: list[str]) -> dict[str, dict[str, float]]:
    """Median and 99th percentile of one prediction, in milliseconds, at two lengths."""
    out = {}
    for name, characters in (("16_tokens", 80), ("128_tokens", 600)):
        near = [text for text in texts if 0.9 * characters < len(text) < 1.1 * characters][:100]
        times = []
        for again in range(20):
            # An encoder may remember texts, so none is asked twice.
            for text in [f"{one} {again}" for one in near]:
                start = time.perf_counter()
                encoder.predict(text, "mmlu", "anatomy")
                times.append(1e3 * (time.perf_counter() - start))
        out[name] = {
            "p50_ms": round(float(np.median(times)), 4), "p99_ms": round(float(np.quantile(times, 0.99)), 4)
        }  # fmt: skip
    return out


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--cv", action="store_true", help="cross-validate on train instead of measuring on test")
    parser.add_argument("--encoder", default="static", help="static, minilm, minilm6, stack, or a folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    (trainer,) = trainers_of([args.encoder])
    train = read_split(args.records, "train")
    start = time.perf_counter()
    encoder = load_encoder(trainer.train(train, seed=args.seed).parts())
    seconds = time.perf_counter() - start
    if args.cv:
        test = train
        fold = np.random.default_rng(5).permutation(len(train)) % FOLDS
        pieces: dict[str, Float] = {}
        for held in range(FOLDS):
            rows = np.flatnonzero(fold == held)
            fitted = trainer.train(train.take(np.flatnonzero(fold != held)), seed=args.seed)
            for name, values in scores(fitted, train.take(rows)).items():
                pieces.setdefault(name, np.zeros(len(train)))[rows] = values
    else:
        test = read_split(args.records, "test")
        pieces = scores(encoder, test)
    weak, strong = test.quality[:, 0], test.quality[:, 1]
    header = json.loads(encoder.parts()["encoder.json"])
    figures = {
        "encoder": args.encoder,
        "measured_on": "train, 5-fold cross-validation" if args.cv else "test",
        "n_train": len(train),
        "n": len(test),
        "apgr": {name: round(apgr(score, weak, strong), 4) for name, score in pieces.items()},
        "apgr_interval_95": {name: bootstrap(score, weak, strong) for name, score in pieces.items()},
        "train_seconds": round(seconds, 2),
        "latency": latency(encoder, train.text),
        "told": header.get("told"),
        "bytes": sum(len(part) for part in encoder.parts().values()),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
