"""How long a decision takes: text in, start tier out; one answer judged; a batch of p-values. One thread.

    OMP_NUM_THREADS=1 python benchmarks/latency/run.py BUNDLE RECORDS [--out results.json]

Medians and 99th percentiles of one process on the machine as it is; the load is printed because these machines are
shared. Memory is the peak resident size of a fresh process that loads the bundle and decides.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from router_core.bundle import Bundle
from router_core.kernels import mondrian_p_values
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.records import read_records
from router_core.router import Router

WORDS = ("the", "firm", "said", "that", "net", "sales", "rose", "by", "four", "percent", "while", "costs", "fell")
TOKENS_PER_WORD = 1.3


def timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median, minimum and 99th percentile in milliseconds."""
    walls = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        walls.append((time.perf_counter() - began) * 1e3)
    p50, p99 = np.quantile(walls, [0.5, 0.99])
    return {"p50_ms": round(float(p50), 4), "min_ms": round(min(walls), 4), "p99_ms": round(float(p99), 4)}


def text_of(tokens: int) -> str:
    """A text of about this many tokens."""
    count = max(1, round(tokens / TOKENS_PER_WORD))
    return " ".join(WORDS[i % len(WORDS)] for i in range(count))


def memory_mb(bundle: str) -> float:
    """Peak resident memory of a fresh process that serves the bundle, MB."""
    code = (
        f"from router_core import Router\nr = Router.load({bundle!r})\n"
        "for i in range(100): r.decide('text %d' % i, None)\n"
        "print(next(int(x.split()[1]) / 1024 for x in open('/proc/self/status') if x.startswith('VmHWM')))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    return round(float(done.stdout), 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("records", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bundle = Bundle.load(args.bundle)
    router = Router.from_bundle(bundle)
    found: dict[str, Any] = {"cpu": platform.processor() or platform.machine(), "load": os.getloadavg()}
    task = next(iter(bundle.scopes.subtasks))
    for tokens in (8, 16, 32, 128, 512):
        text = text_of(tokens)
        router.start(text, task, ROUTE_ONLY)
        found[f"decide_{tokens}_tokens"] = timed(lambda t=text: router.start(t, task, ROUTE_ONLY), 2_000)  # type: ignore[misc]
    long = text_of(10_000)[:10_000]
    found["decide_10000_characters"] = timed(lambda: router.start(long, task, ROUTE_ONLY), 300)
    records = read_records(args.records, bundle.portfolio).for_models(bundle.portfolio.names)
    rows = [i for i, answers in enumerate(records.response) if all(answers)][:400]
    starts = [router.start(records.prompt[i], records.task[i], CASCADE) for i in rows]
    for tier in range(len(records.models) - 1):
        tried = [{records.models[k]: str(records.response[i][k]) for k in range(tier)} for i in rows]
        at = iter(range(10**9))

        def judge(tier: int = tier, tried: list[dict[str, str]] = tried, at: Any = at) -> None:
            r = next(at) % len(rows)
            router.accept(starts[r], tier, str(records.response[rows[r]][tier]), tried[r], {})

        if rows:
            found[f"accept_{records.models[tier]}"] = timed(judge, 1_000)
    rng = np.random.default_rng(0)
    cal = rng.random(8_000)
    offsets = np.arange(0, 8_001, 1_000)
    cal = np.concatenate([np.sort(cal[a:b]) for a, b in itertools.pairwise(offsets)])
    scores, bins = rng.random((100_000, 4)), rng.integers(0, 8, size=(100_000, 4))
    mondrian_p_values(cal, offsets, bins[:10], scores[:10])
    found["p_values_100000x4"] = timed(lambda: mondrian_p_values(cal, offsets, bins, scores), 20)
    found["memory_mb"] = memory_mb(args.bundle)
    print(json.dumps(found, indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
