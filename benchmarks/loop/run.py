"""Seconds of one round on 5,000 logged queries with an encoder student, step by step.

    OMP_NUM_THREADS=1 python benchmarks/loop/run.py [--queries 5000] [--out benchmarks/loop/results.json]

CS Intent of ../shared/data/tasks: the student starts with 385 examples, the reference is the human annotation at a
nominal price, and the first train queries stream through the release. What is measured is the round, not the stream.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from exporters.loop import LoopOptions, TaskPlan, run_round, start
from exporters.students import EncoderOptions
from router_core import Answer, Cascade, Router
from router_core.fitting import FitSettings
from router_core.ledger import Ledger
from router_core.portfolio import Portfolio, Tier
from router_core.records import Records
from router_core.student_set import StudentSet

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "tasks" / "cs_intent.parquet"
TASK = "cs_intent"
PORTFOLIO = Portfolio((Tier("t1", usd_per_call=1e-5), Tier("reference", usd_per_call=8e-3)))


def records(test: int = 500) -> Records:
    """All train and calib queries, and some of test, answered by the reference."""
    rows: list[dict[str, Any]] = pq.read_table(DATA).to_pylist()
    rows = [row for row in rows if row["split"] != "test"] + [row for row in rows if row["split"] == "test"][:test]
    n = len(rows)
    return Records(
        query_id=[row["id"] for row in rows],
        prompt=[row["text"] for row in rows],
        task=[TASK] * n,
        subtask=[""] * n,
        group=[""] * n,
        split=[row["split"] for row in rows],
        models=PORTFOLIO.names,
        quality=np.column_stack([np.full(n, np.nan), np.ones(n)]),
        cost=np.column_stack([np.full(n, np.nan), np.full(n, 8e-3)]),
        response=[[None, row["label"]] for row in rows],
        prompt_tokens=np.full((n, 2), np.nan),
        completion_tokens=np.full((n, 2), np.nan),
        source=DATA.name,
    )


def stream(root: Path, url: str, found: Records, count: int) -> int:
    """Send the first train queries through the release, again from the start until there are enough."""
    students = StudentSet.load(root, "t1")
    right = {prompt: row[-1] for prompt, row in zip(found.prompt, found.response, strict=True)}
    told: dict[str, Answer] = {}

    def small(prompt: str) -> Answer:
        said = students.answer(prompt, TASK)
        told["t1"] = Answer(said.text, said.prompt_tokens, said.completion_tokens, signals=dict(said.signals))
        return told["t1"]

    def large(prompt: str) -> Answer:
        told["reference"] = Answer(str(right[prompt]), 10, 3)
        return told["reference"]

    cascade = Cascade(Router.load(root), {"t1": small, "reference": large})
    train = [prompt for prompt, split in zip(found.prompt, found.split, strict=True) if split == "train"]
    with Ledger(url, store_text=True) as ledger:
        for i in range(count):
            told.clear()
            prompt = train[i % len(train)]
            route = cascade.run(prompt, task=TASK)
            ledger.append(route, text=prompt, answers=dict(told), reference="reference")
        ledger.flush()
    return count


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    given = parser.parse_args()
    plan = TaskPlan("classifier", EncoderOptions(max_tokens=64), grade="exact", seed_pairs=385)
    options = LoopOptions(PORTFOLIO, "t1", {TASK: plan}, settings=FitSettings())
    found = records()
    with tempfile.TemporaryDirectory() as folder:
        root, url = Path(folder) / "root", f"sqlite:///{folder}/ledger.db"
        began = time.perf_counter()
        start(root, found, options=options)
        started = time.perf_counter() - began
        print(f"start {started:.0f} s", flush=True)
        stream(root, url, found, given.queries)
        began = time.perf_counter()
        report = run_round(root, ledger=url, records=found, options=options)
        seconds = time.perf_counter() - began
        comparison = report.told.get("comparison", {}).get("overall")
    told = {
        "queries": given.queries, "start_seconds": round(started, 1), "round_seconds": round(seconds, 1),
        "outcome": report.outcome, "reasons": {name: list(said) for name, said in report.reasons.items()},
        "harvest": report.told["harvest"], "picked": report.told["picked"], "steps": report.told["steps"],
        "overall": comparison, "load": os.getloadavg(),
    }  # fmt: skip
    given.out.write_text(json.dumps(told, indent=1) + "\n")
    print(f"round {seconds:.0f} s: {report.outcome}")
    for name, one in told["steps"].items():
        print(f"  {name:18} {one['seconds']:7.1f} s {one['cpu_seconds']:7.1f} CPU s")


if __name__ == "__main__":
    main()
