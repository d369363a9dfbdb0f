"""Record the demo data again: ``python benchmarks/demo_data/record.py --out DIR``.

Every query is answered for real by four models. Run the same command again to go on after a kill: at most the
query in hand is lost. Needs the packages of ``requirements.txt`` beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keyword_rules
import numpy as np
from items import LABELS, Item, grade, read_items, split_of, write_rows
from journal import Journal
from panel import MiniLM, Panel, label_log_probabilities
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from smollm import Reply, SmolLM, few_shot, shots
from student import Student

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent
_QUERIES = _HERE.parents[1] / "routenlp_integrations/cli/demo_data/queries.jsonl"
_TASKS = (*LABELS, "extract")
_NOTE = (
    "nominal prices in the ratio .01 : .1 : .8 : 8 (arXiv 2604.23577), nobody charges them; latency_ms is the "
    "measured median per query on the recording machine, one thread"
)
_TIERS: Sequence[tuple[str, float, str]] = (
    ("keyword", 0.01, "hand-written word lists and patterns"),
    ("student", 0.1, "TF-IDF logistic regression and span ranker, trained on the seed queries"),
    ("smollm2-135m", 0.8, "SmolLM2-135M-Instruct Q4_1, few-shot, greedy"),
    ("panel", 8.0, "all-MiniLM-L6-v2 and SmolLM2-135M-Instruct, weighed by a linear model trained on the seed"),
)
_Bar = Callable[[str, int], Callable[[], None]]
_Answers = Mapping[str, Journal]


def _ask_smollm(queries: Sequence[Item], seed: Sequence[Item], journal: Journal, bar: _Bar) -> None:
    shown = {item.query_id for task in _TASKS for item in shots(seed, task)}
    for task in _TASKS:
        items = {i.query_id: i for i in (*seed, *queries) if i.task == task and i.query_id not in shown}
        tick = bar(f"smollm2-135m {task}", len(items))
        model = SmolLM(few_shot(seed, task)) if journal.missing(items.values()) else None

        def make(key: str, model: SmolLM | None = model, items: Mapping[str, Item] = items) -> dict[str, Any]:
            assert model is not None
            reply = model.ask(items[key])
            return {
                "text": reply.text,
                "mean": round(reply.mean_logprob, 6),
                "labels": [round(score, 6) for score in reply.label_logprobs],
                "ms": reply.milliseconds,
            }

        journal.fill(list(items), make, tick)


def _reply(row: Mapping[str, Any]) -> Reply:
    return Reply(row["text"], row["mean"], tuple(row["labels"]), row["ms"])


def _answer_all(queries: Sequence[Item], seed: Sequence[Item], folder: Path, bar: _Bar) -> _Answers:
    raw = Journal(folder / "smollm-raw.jsonl")
    _ask_smollm(queries, seed, raw, bar)
    shown = {item.query_id for task in _TASKS for item in shots(seed, task)}
    unseen = [item for item in seed if item.query_id not in shown]
    replies = {item.query_id: _reply(raw[item.query_id]) for item in (*unseen, *queries)}
    priors = {
        task: np.mean([replies[item.query_id].label_logprobs for item in unseen if item.task == task], axis=0)
        for task in LABELS
    }

    def keyword(item: Item) -> tuple[str, float | None]:
        return keyword_rules.answer(item.task, item.prompt), None

    def smollm(item: Item) -> tuple[str, float | None]:
        reply = replies[item.query_id]
        if item.task not in LABELS:
            return reply.text, reply.mean_logprob
        scores = label_log_probabilities([reply], priors[item.task])[0]
        return LABELS[item.task][int(scores.argmax())], float(scores.max())

    makers: Mapping[str, Callable[[], Callable[[Item], tuple[str, float | None]]]] = {
        "keyword": lambda: keyword,
        "student": lambda: Student(seed).answer,
        "smollm2-135m": lambda: smollm,
        "panel": lambda: Panel(MiniLM(), unseen, replies, priors).answer,
    }
    by_id = {item.query_id: item for item in queries}
    answers = {}
    for name, _, _ in _TIERS:
        answers[name] = journal = Journal(folder / f"{name}.jsonl")
        tick = bar(name, len(queries))
        # a tier with nothing left to answer is not trained or loaded
        answer = makers[name]() if journal.missing(queries) else keyword

        def make(
            key: str, name: str = name, answer: Callable[[Item], tuple[str, float | None]] = answer
        ) -> dict[str, Any]:
            start = time.perf_counter()
            text, signal = answer(by_id[key])
            own = (time.perf_counter() - start) * 1000
            # these two wait for the language model, whose answer was recorded above
            waited = replies[key].milliseconds if name in {"smollm2-135m", "panel"} else 0.0
            return {"text": text, "signal": None if signal is None else round(signal, 4), "ms": own + waited}

        journal.fill(list(by_id), make, tick)
    return answers


def _count_tokens(queries: Sequence[Item], answers: _Answers, folder: Path, bar: _Bar) -> Mapping[str, int]:
    texts = dict.fromkeys(
        [item.prompt for item in queries]
        + [journal[item.query_id]["text"] for journal in answers.values() for item in queries]
    )
    journal = Journal(folder / "tokens.jsonl")
    model = SmolLM("")
    # an empty answer costs nothing, and the server refuses an empty prompt
    journal.fill(
        list(texts),
        lambda text: {"tokens": model.count_tokens(text) if text else 0},
        bar("counting tokens", len(texts)),
    )
    return {text: journal[text]["tokens"] for text in texts}


def _portfolio(queries: Sequence[Item], answers: _Answers) -> dict[str, Any]:
    tiers = []
    for name, price, model in _TIERS:
        latency = float(np.median([answers[name][item.query_id]["ms"] for item in queries]))
        tiers.append(
            {
                "name": name,
                "input_usd_per_m": price,
                "output_usd_per_m": round(4 * price, 6),
                "usd_per_call": 0.0,
                "latency_ms": float(f"{latency:.3g}"),
                "model": model,
            }
        )
    return {"note": _NOTE, "tiers": tiers}


def _records(
    queries: Sequence[Item], answers: _Answers, tokens: Mapping[str, int], portfolio: Mapping[str, Any]
) -> list[dict[str, Any]]:
    rows = []
    for item in queries:
        for tier in portfolio["tiers"]:
            answer = answers[tier["name"]][item.query_id]
            asked, said = tokens[item.prompt], tokens[answer["text"]]
            row = {
                "query_id": item.query_id,
                "task": item.task,
                "prompt": item.prompt,
                "model": tier["name"],
                "response": answer["text"],
                "quality": grade(item, answer["text"]),
                "prompt_tokens": asked,
                "completion_tokens": said,
                "cost_usd": (asked * tier["input_usd_per_m"] + said * tier["output_usd_per_m"]) / 1e6
                + tier["usd_per_call"],
                "split": split_of(item.prompt),
                "cost_basis": "estimated",
            }
            if answer["signal"] is not None:
                kind = "mean_logprob" if tier["name"] == "smollm2-135m" else "own_confidence"
                row[f"signal_{kind}"] = answer["signal"]
            rows.append(row)
    return rows


def _print_summary(rows: Sequence[Mapping[str, Any]]) -> None:
    quality: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        quality[row["model"], row["task"]].append(row["quality"])
    print(f"{'model':<14}" + "".join(f"{task:>11}" for task in _TASKS))
    for name, _, _ in _TIERS:
        print(f"{name:<14}" + "".join(f"{np.mean(quality[name, task]):>11.3f}" for task in _TASKS))


def _claim(folder: Path) -> None:
    sources = sorted([*_HERE.glob("*.py"), _HERE / "seed.jsonl", _QUERIES])
    made_from = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}
    mark = folder / "made_from.json"
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) != made_from:
        sys.exit(f"{folder} holds answers made from other queries or code; name another --out, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Record ``records.jsonl`` and ``portfolio.json`` into a folder, with the raw answers beside them."""
    parser = argparse.ArgumentParser(description="Record the demo data again.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; run again to go on")
    out: Path = parser.parse_args(arguments).out
    folder = out / "answers"
    _claim(folder)
    queries, seed = read_items(_QUERIES), read_items(_HERE / "seed.jsonl")
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:

        def bar(name: str, total: int) -> Callable[[], None]:
            step = progress.add_task(name, total=total)
            return lambda: progress.advance(step)

        answers = _answer_all(queries, seed, folder, bar)
        tokens = _count_tokens(queries, answers, folder, bar)
    portfolio = _portfolio(queries, answers)
    rows = _records(queries, answers, tokens, portfolio)
    write_rows(out / "records.jsonl", rows)
    (out / "portfolio.json").write_text(json.dumps(portfolio, indent=2) + "\n", encoding="utf-8")
    _print_summary(rows)


if __name__ == "__main__":
    main()
