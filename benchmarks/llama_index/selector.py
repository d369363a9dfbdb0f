"""`ConformalSelector` beside LlamaIndex's `EmbeddingSingleSelector` on one embedding: accuracy, sets, time.

    python -m benchmarks.llama_index.selector --export encoders          # once, where torch is (routenlp[train])
    OMP_NUM_THREADS=1 python -m benchmarks.llama_index.selector --encoders encoders [--out results.json] [--tables]

Data: ``tool_queries.jsonl`` (queries over 8 tools, written for this benchmark), and banking77, the file cs_intent of
the shared data, as 77 choices whose descriptions are the names of the intents. The split of the tool queries is a hash
of the text (half to fit, a quarter to calibrate, a quarter to test); cs_intent has its own. Both selectors answer the
same test queries. Model and encoder never see calibration or test queries.

Coverage is tested on redraws: the model stays, calibration queries and one test query are drawn with replacement from
calib and test together, and the sets that miss are counted. A valid rule exceeds the limit once in 10,000 seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.selectors import EmbeddingSingleSelector
from llama_index.core.tools.types import ToolMetadata
from scipy.stats import binom

from benchmarks.tables import write_between
from routenlp_integrations.llama_index import ConformalSelector
from router_core.bench import machine
from router_core.groups import hash_key, unit_interval

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "../shared/data/tasks/cs_intent.parquet"
ALPHA = 0.1
REDRAWS = 20_000
TESTED = 1000
TIMED = 50
RESPLITS = 20

Labelled = tuple[str, int]


class Wrapped(BaseEmbedding):
    """A local embedding as LlamaIndex wants it; `remember` spares the accuracy run what only costs time."""

    embed: Any
    remember: bool = False
    known: dict[str, list[float]] = Field(default_factory=dict)

    def _get_text_embedding(self, text: str) -> list[float]:
        if not self.remember:
            return list(self.embed(text).tolist())
        if text not in self.known:
            self.known[text] = self.embed(text).tolist()
        return self.known[text]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def tools() -> tuple[list[ToolMetadata], dict[str, list[Labelled]]]:
    """The 8 tools and their queries by split."""
    told = json.loads((HERE / "tools.json").read_text(encoding="utf-8"))
    names, found = list(told), {"train": [], "calib": [], "test": []}
    for row in map(json.loads, (HERE / "tool_queries.jsonl").read_text(encoding="utf-8").splitlines()):
        at = unit_interval("routenlp-tools-v1", hash_key(row["query"]))
        split = "train" if at < 0.5 else "calib" if at < 0.75 else "test"
        found[split].append((row["query"], names.index(row["tool"])))
    return [ToolMetadata(name=name, description=text) for name, text in told.items()], found


def intents(per_choice: int) -> tuple[list[ToolMetadata], dict[str, list[Labelled]]]:
    """77 intents; of train, the first queries of each by a hash."""
    from pyarrow import parquet

    rows = parquet.read_table(SHARED).to_pylist()
    names = sorted({row["label"] for row in rows})
    found: dict[str, list[Labelled]] = {"train": [], "calib": [], "test": []}
    counts = dict.fromkeys(names, 0)
    for row in sorted(rows, key=lambda row: unit_interval("routenlp-intents-v1", row["id"])):
        if row["split"] == "train":
            counts[row["label"]] += 1
            if counts[row["label"]] > per_choice:
                continue
        found[row["split"]].append((row["text"], names.index(row["label"])))
    found["test"] = found["test"][:TESTED]
    return [ToolMetadata(name=name, description=name.replace("_", " ").lower()) for name in names], found


def measured(choices: list[ToolMetadata], data: dict[str, list[Labelled]], encoder: str) -> dict[str, Any]:
    """One row of the table."""
    started = time.perf_counter()
    ours = ConformalSelector.fit(choices, data["train"], encoder=encoder, calibration=data["calib"], alpha=ALPHA)
    fit_s = time.perf_counter() - started
    test = data["test"]
    right = np.array([label for _, label in test])
    verdicts = [ours.verdict(choices, text) for text, _ in test]
    chosen = np.array([one.order[0] for one in verdicts])
    assert [ours.select(choices, text).ind for text, _ in test[:TIMED]] == chosen[:TIMED].tolist()
    alone = np.array([len(one.members) == 1 for one in verdicts])
    taken = np.array([one.taken for one in verdicts])
    fresh_scores = [1.0 - one.probability[y] for one, y in zip(verdicts, right.tolist(), strict=True)]
    pool = np.concatenate((ours.judge.sets.scores[0], fresh_scores))
    misses, limit = coverage(pool, ours.judge.sets.n)
    embed = _embedding(ours)
    theirs = EmbeddingSingleSelector.from_defaults(Wrapped(embed=embed, remember=True))
    other = np.array([theirs.select(choices, text).ind for text, _ in test])
    texts = [text for text, _ in test[:TIMED]]
    fresh = EmbeddingSingleSelector.from_defaults(Wrapped(embed=embed))
    theirs_ms, mine_ms = p50([lambda text: fresh.select(choices, text), lambda text: ours.select(choices, text)], texts)
    return {
        "train": len(data["train"]), "calib": ours.judge.counts.calib, "test": len(test),
        "theirs_accuracy": float((other == right).mean()), "accuracy": float((chosen == right).mean()),
        "set_size": float(np.mean([len(one.members) for one in verdicts])),
        "coverage": float(np.mean([y in one.members for one, y in zip(verdicts, right.tolist(), strict=True)])),
        "misses": misses, "limit": limit, "redraws": REDRAWS,
        "alone": float(alone.mean()), "alone_wrong": float((alone & (chosen != right)).mean()),
        "certified": float(taken.mean()), "certified_wrong": float((taken & (chosen != right)).mean()),
"p50_ms": mine_ms, "theirs_p50_ms": theirs_ms, "fit_s": fit_s,
    }  # fmt: skip


def _embedding(ours: ConformalSelector) -> Callable[[str], Any]:
    """What our selector reads texts with: its encoder, else its vector of hashed words."""
    model = ours.judge.model
    if model.encoder is not None:
        return model.encoder.embed

    def words(text: str) -> Any:
        rows, values, _ = model.read(text)
        out = np.zeros(model.vocabulary.size)
        out[rows] = values
        # A text without a known word would have no direction at all.
        return out if values.any() else out + 1e-9

    return words


def coverage(own: Any, n: int) -> tuple[int, int]:
    """Sets that miss over redraws from a pool of the right choices' strangeness, and the most a valid rule may show."""
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(REDRAWS):
        calib, test = own[rng.integers(0, len(own), n)], own[rng.integers(0, len(own))]
        misses += bool((int((calib >= test).sum()) + 1) / (n + 1) <= ALPHA)
    return misses, int(binom.isf(1e-4, REDRAWS, ALPHA))


def p50(calls: Sequence[Callable[[str], object]], texts: Sequence[str]) -> list[float]:
    """Median milliseconds of each call over texts, one call a text, the calls in turn."""
    found: list[list[float]] = [[] for _ in calls]
    for text in texts:
        for mine, call in zip(found, calls, strict=True):
            started = time.perf_counter()
            call(text)
            mine.append(1e3 * (time.perf_counter() - started))
    return [float(np.median(mine)) for mine in found]


def resplit(choices: list[ToolMetadata], data: dict[str, list[Labelled]], encoder: str) -> dict[str, Any]:
    """Accuracy of both over hash salts that split all queries anew: one split of a small set tells little."""
    every = [row for rows in data.values() for row in rows]
    pairs = []
    for salt in range(RESPLITS):
        at = [unit_interval(f"routenlp-tools-v1-{salt}", hash_key(text)) for text, _ in every]
        test = [row for row, u in zip(every, at, strict=True) if u >= 0.75]
        ours = ConformalSelector.fit(
            choices, [row for row, u in zip(every, at, strict=True) if u < 0.5], encoder=encoder, alpha=ALPHA,
            calibration=[row for row, u in zip(every, at, strict=True) if 0.5 <= u < 0.75],
        )  # fmt: skip
        theirs = EmbeddingSingleSelector.from_defaults(Wrapped(embed=_embedding(ours), remember=True))
        pairs.append([
            float(np.mean([one.select(choices, text).ind == label for text, label in test])) for one in (theirs, ours)
        ])  # fmt: skip
    found = np.array(pairs)
    return {
        "theirs": np.quantile(found[:, 0], (0.25, 0.5, 0.75)).tolist(),
        "ours": np.quantile(found[:, 1], (0.25, 0.5, 0.75)).tolist(),
        "higher": int((found[:, 1] > found[:, 0]).sum()), "of": RESPLITS,
    }  # fmt: skip


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The README's table."""
    lines = [
        "| choices | read by | fit / calib / test | accuracy, EmbeddingSingleSelector | accuracy, ConformalSelector | "
        "mean set size | covered (promised 0.9) | misses in redraws (limit) | taken alone / of all wrong | "
        "taken by certificate / of all wrong | p50, ms, EmbeddingSingleSelector | p50, ms, ConformalSelector |",
        "|" + " --- |" * 12,
    ]
    for data, encoders in rows.items():
        for encoder, row in encoders.items():
            cells = [
                data, encoder, f"{row['train']} / {row['calib']} / {row['test']}", f"{row['theirs_accuracy']:.3f}",
                f"{row['accuracy']:.3f}", f"{row['set_size']:.2f}", f"{row['coverage']:.3f}",
                f"{row['misses']} ({row['limit']}) of {row['redraws']}",
                f"{row['alone']:.2f} / {row['alone_wrong']:.3f}",
                f"{row['certified']:.2f} / {row['certified_wrong']:.3f}", f"{row['theirs_p50_ms']:.2f}",
                f"{row['p50_ms']:.2f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"8 tools over {RESPLITS} splits by other hash salts, fitted anew, accuracy as median (quartiles):",
        "",
        "| read by | EmbeddingSingleSelector | ConformalSelector | higher in |",
        "| --- | --- | --- | --- |",
    ]
    for encoder, row in rows["8 tools"].items():
        told = row["resplits"]
        cells = [f"{m:.3f} ({low:.3f} to {high:.3f})" for low, m, high in (told["theirs"], told["ours"])]
        lines.append(f"| {encoder} | {' | '.join(cells)} | {told['higher']} of {told['of']} |")
    return "\n".join(lines)


def export(folder: Path) -> None:
    """Write the encoders that the benchmark reads."""
    from exporters.transformer.sentence import export_sentence_encoder, export_token_vectors

    export_sentence_encoder(folder / "minilm")
    export_token_vectors(folder / "tokens")


def main() -> None:
    """Measure, write the results, and rewrite the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--encoders", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "selector.json")
    parser.add_argument("--tables", action="store_true", help="rewrite the table of README.md")
    asked = parser.parse_args()
    if asked.export:
        export(asked.export)
        return
    encoders = {"hashed words": "static"}
    if asked.encoders:
        encoders |= {"token vectors": str(asked.encoders / "tokens"), "MiniLM int8": str(asked.encoders / "minilm")}
    rows: dict[str, dict[str, Any]] = {}
    for name, (choices, data) in {
        "8 tools": tools(), "77 intents, 5 queries each": intents(5), "77 intents, 20 queries each": intents(20),
    }.items():  # fmt: skip
        rows[name] = {}
        for encoder, folder in encoders.items():
            rows[name][encoder] = measured(choices, data, folder)
            if name == "8 tools":
                rows[name][encoder]["resplits"] = resplit(choices, data, folder)
            print(name, encoder, json.dumps(rows[name][encoder]), flush=True)
    asked.out.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n", encoding="utf-8")
    if asked.tables:
        cpu = f"{machine()['cpu']}, one thread, load {os.getloadavg()[0]:.1f}."
        write_between(HERE / "README.md", f"{table(rows)}\n\n{cpu}", "table: selector")


if __name__ == "__main__":
    main()
