"""What the ledger costs: time on the calling thread, appends a second, rows lost to kill -9, memory of a harvest.

    python benchmarks/ledger/run.py [--out benchmarks/ledger/results.json] [--tables] [--routes 1000000] [--folder DIR]

Routes have two attempts with answers and signals, a certificate and a prompt of 400 characters. Every figure is of
SQLite on the disk that holds the folder (the current one), as the ledger opens it: WAL, synchronous=NORMAL.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import write_between
from router_core import Answer, Attempt, Route
from router_core.bench import machine
from router_core.ledger import Ledger
from router_core.ledger.harvest import harvest
from router_core.ledger.reader import LedgerReader
from router_core.ledger.records import records_from_ledger
from router_core.personal_data import redact

HERE = Path(__file__).resolve().parent
SECONDS = 10
RATE = 2_000
BURST = 50_000
KILLS = 20
LEARNABLE = 500

PROMPT = ("How do I return order 4711, which came last week with a broken lamp? " * 6)[:400]
CERTIFICATE = {"scope": "service", "policy": "cascade", "risk": "joint", "alpha": 0.05, "delta": 0.1, "n": 500}
ANSWERS = {
    "small": Answer("You can return it within thirty days.", 110, 9, signals={"mean_logprob": -0.31}),
    "large": Answer("You can return it within thirty days of delivery; we send you a label.", 110, 17),
}
ROUTE = Route(
    "large",
    ANSWERS["large"],
    (
        Attempt("small", 0.41, 1e-5, False, "small: P(bad) 0.590, score 0.4100 < 0.5012; escalated", 121.0),
        Attempt("large", None, 1e-3, True, "escalated", 804.0),
    ),
    1.01e-3,
    "service/returns",
    "service",
    "cascade",
    "b" * 64,
    CERTIFICATE,
    "small: P(bad) 0.590, score 0.4100 < 0.5012; escalated",
)


def append(ledger: Ledger) -> None:
    """One append as a cascade makes it."""
    ledger.append(ROUTE, text=PROMPT, answers=ANSWERS, reference="large")


def paced(url: str, **options: Any) -> dict[str, Any]:
    """Microseconds of one append, 2,000 times a second for a while, and what was dropped."""
    ledger = Ledger(url, **options)
    append(ledger)
    ledger.flush()
    walls, most = [], 0
    began = time.perf_counter()
    for i in range(RATE * SECONDS):
        while time.perf_counter() - began < i / RATE:
            time.sleep(0.0002)
        start = time.perf_counter()
        append(ledger)
        walls.append((time.perf_counter() - start) * 1e6)
        if i % 100 == 0:
            most = max(most, ledger.queued)
    ledger.flush()
    elapsed = time.perf_counter() - began
    p50, p99 = np.quantile(walls, [0.5, 0.99])
    told = {
        "p50_us": round(float(p50), 1),
        "p99_us": round(float(p99), 1),
        "per_s": round(len(walls) / elapsed),
        "longest_queue": most,
        "dropped": ledger.dropped,
    }
    ledger.close()
    return told


def burst(url: str) -> dict[str, Any]:
    """Appends a second when they come as fast as they can, all of them stored."""
    ledger = Ledger(url, store_text=True, queue=BURST)
    began = time.perf_counter()
    for _ in range(BURST):
        append(ledger)
    handed = time.perf_counter() - began
    ledger.flush()
    elapsed = time.perf_counter() - began
    dropped = ledger.dropped
    ledger.close()
    return {"per_s": round(BURST / elapsed), "handed_over_per_s": round(BURST / handed), "dropped": dropped}


def kills(folder: Path) -> dict[str, Any]:
    """Rows that were flushed and are not there after SIGKILL, over many kills at odd moments."""
    code = (
        "import runpy, sys\nm = runpy.run_path(sys.argv[2])\nledger = m['Ledger'](sys.argv[1], store_text=True)\n"
        "n = 0\nwhile True:\n"
        "    for _ in range(200): m['append'](ledger)\n"
        "    ledger.flush()\n    n += 200\n    print(n, flush=True)\n"
        "    for _ in range(130): m['append'](ledger)\n    n += 130\n"
    )
    lost = flushed = broken = 0
    for i in range(KILLS):
        path = folder / f"kill{i}.db"
        words = [sys.executable, "-c", code, f"sqlite:///{path}", str(Path(__file__))]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(0.037 * i)
        process.kill()
        said = int([first, *process.communicate()[0].split()][-1])
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT count(*) FROM routenlp_routes").fetchone()[0]
            broken += connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok"
        flushed += said
        lost += max(said - found, 0)
    return {"kills": KILLS, "flushed": flushed, "lost": lost, "damaged": broken}


def fill(path: Path, routes: int) -> None:
    """A ledger of this many routes with two attempts each, by SQL; a fixed number may be learned from."""
    Ledger(f"sqlite:///{path}").close()
    every = max(1, routes // LEARNABLE)
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO routenlp_routes (id, at, task, tier, reference, certified, escalated, audited, "
            "audit_probability, reason, text) VALUES (?, ?, 'service', 'small', 'large', 1, 0, ?, 0.002, 'why', ?)",
            ((f"{i:032x}", float(i), i % every == 0, f"{i} {PROMPT}") for i in range(routes)),
        )
        connection.executemany(
            "INSERT INTO routenlp_attempts (route, position, at, tier, accepted, audit, cost_usd, answer) "
            "VALUES (?, ?, ?, ?, 1, 0, 0.001, ?)",
            (
                (f"{i:032x}", k, float(i), tier, ANSWERS[tier].text)
                for i in range(routes)
                for k, tier in enumerate(ANSWERS)
            ),
        )
        connection.commit()


WORK: dict[str, Callable[[LedgerReader], object]] = {
    "open": lambda reader: None,
    "read all": lambda reader: sum(1 for _ in reader.routes()),
    "harvest": lambda reader: sum(1 for _ in harvest(reader)),
    "records": lambda reader: records_from_ledger(reader.address),
}


def measure(path: str, name: str) -> None:
    """Print peak megabytes and seconds of one job; run in a process of its own."""
    began = time.perf_counter()
    WORK[name](LedgerReader(f"sqlite:///{path}"))
    seconds = time.perf_counter() - began
    # Not ru_maxrss, which a process inherits from the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(json.dumps({"peak_mb": peak / 1024, "seconds": seconds}))


def memory(path: Path) -> dict[str, Any]:
    """Megabytes and seconds that reading everything, harvesting and making records take."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['measure'](sys.argv[2], sys.argv[3])"
    return {
        name: json.loads(
            subprocess.run(  # noqa: S603
                [sys.executable, "-c", code, __file__, str(path), name], capture_output=True, text=True, check=True
            ).stdout
        )
        for name in WORK
    }


def tables(found: dict[str, Any]) -> str:
    """The tables of the README."""
    lines = [
        "| append, 2,000 a second | p50, microseconds | p99 | stored a second | longest queue | dropped |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {one['p50_us']:.1f} | {one['p99_us']:.1f} | {one['per_s']} | {one['longest_queue']} "
        f"| {one['dropped']} |"
        for name, one in found["paced"].items()
    ]
    one = found["burst"]
    lines += [
        "",
        f"As fast as they come: {one['per_s']} routes a second stored ({one['handed_over_per_s']} handed over), "
        f"{one['dropped']} dropped. {found['kills']['kills']} processes killed with SIGKILL: "
        f"{found['kills']['flushed']} rows flushed, {found['kills']['lost']} of them lost, "
        f"{found['kills']['damaged']} databases damaged.",
        "",
        f"| ledger of | {' | '.join(f'{name}: MB (s)' for name in next(iter(found['memory'].values())))} |",
        f"| --- | {' | '.join('---' for _ in next(iter(found['memory'].values())))} |",
    ]
    for routes, jobs in found["memory"].items():
        cells = " | ".join(f"{job['peak_mb']:.1f} ({job['seconds']:.1f})" for job in jobs.values())
        lines.append(f"| {int(routes):,} routes | {cells} |")
    lines += ["", f"{found['cpu']}, {os.cpu_count()} cores, load {found['load'][0]:.1f}."]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--tables", action="store_true", help="rewrite the tables in the README")
    parser.add_argument("--routes", type=int, default=1_000_000, help="size of the ledger that is harvested")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where the databases are made, and removed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        kinds: dict[str, dict[str, Any]] = {
            "without texts": {},
            "with texts": {"store_text": True},
            "with texts, redacted": {"store_text": True, "redact": redact},
        }
        found: dict[str, Any] = {
            "cpu": machine()["cpu"],
            "load": os.getloadavg(),
            "paced": {
                kind: paced(f"sqlite:///{folder / f'{i}.db'}", **options)
                for i, (kind, options) in enumerate(kinds.items())
            },
            "burst": burst(f"sqlite:///{folder / 'burst.db'}"),
            "kills": kills(folder),
            "memory": {},
        }
        for routes in (args.routes // 100, args.routes):
            fill(folder / "many.db", routes)
            found["memory"][str(routes)] = memory(folder / "many.db")
            for path in folder.glob("many.db*"):
                path.unlink()
    print(json.dumps(found, indent=1))
    print(tables(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    if args.tables:
        write_between(HERE / "README.md", tables(found))


if __name__ == "__main__":
    main()
