"""How fast a bundle decides here: text in, decision out; how long it takes to load, and the memory it needs.

Everything is measured on this machine as it is: processor and load are part of the report, settings are interleaved in
one run, and medians come with their spread. No text is asked twice, since encoders remember.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from router_core.errors import InputError

if TYPE_CHECKING:
    from router_core.fitting.tables import Progress
    from router_core.router import Router

__all__ = ["LENGTHS", "bench", "fresh_process", "interleaved", "machine", "spread", "texts"]

LENGTHS: Final[Mapping[str, tuple[int, int]]] = {
    "8_tokens": (8, 0),
    "32_tokens": (32, 0),
    "128_tokens": (128, 0),
    "512_tokens": (512, 0),
    "10000_characters": (0, 10_000),
}
"""What is timed: tokens (two of them special), or characters."""

BATCH: Final = (32, 64)
"""Queries of a batch, and tokens of each."""

# Each is one token of every common vocabulary.
_WORDS = (
    "the", "firm", "said", "that", "net", "sales", "rose", "by", "four", "percent", "while", "costs", "fell", "and",
    "new", "orders", "came", "from", "three", "large", "towns", "near", "river", "last", "year", "people", "work",
    "there", "under", "old", "rules", "which",
)  # fmt: skip
_SECONDS, _LONGEST_S = 8.0, 600.0
_PROCESSES = 3
_VISIT_S, _SHORT_S = 0.01, 0.05
_MOST_CALLS, _LEAST_ROUNDS, _ESTIMATES = 50, 3, 5

_CHILD = """
import sys, time
began = time.perf_counter()
sys.path.insert(0, sys.argv[2])
from router_core.router import Router
router = Router.load(sys.argv[1])
loaded = time.perf_counter()
router.decide("the first query of all", next(iter(router.scopes.subtasks)))
first = time.perf_counter()
for number in range(50):
    router.decide("one more query, " * 40 + str(number), next(iter(router.scopes.subtasks)))
try:
    with open("/proc/self/status") as status:
        memory = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
except OSError:
    import resource
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(loaded - began, 1e3 * (first - loaded), memory)
"""


def bench(path: str | Path, seconds: float | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Measure a bundle.

    Parameters
    ----------
    path
        Its folder.
    seconds
        How long decisions are timed, 8 by default; loading is timed beside that.
    progress
        Called as the work goes on.

    Returns
    -------
    dict
        ``bundle``, ``encoder``, ``bundle_mb``, ``machine`` (processor, cores, load before and after, versions);
        ``latency_ms`` and ``throughput`` per number of threads, where the encoder has a use for two;
        ``fresh_process`` with seconds until loaded (imports included), milliseconds of the first decision, and peak
        resident memory in MB (2**20 bytes).

    Raises
    ------
    BundleError
        When the folder is no bundle, or a damaged one.
    InputError
        When `seconds` is not above 0 and at most 600.
    """
    from router_core.router import Router

    seconds = _SECONDS if seconds is None else seconds
    if not 0.0 < seconds <= _LONGEST_S:
        raise InputError(f"seconds = {seconds} must be above 0 and at most {_LONGEST_S:.0f}")
    before = machine()
    routers = {"1": Router.load(path, threads=1)}
    encoder = routers["1"].scorer.encoder
    if getattr(encoder, "threads", None) is not None and (os.cpu_count() or 1) > 1:
        routers["2"] = Router.load(path, threads=2)
    calls: dict[tuple[str, str], Callable[[], object]] = {
        (threads, length): _decisions(router, *size)
        for threads, router in routers.items()
        for length, size in LENGTHS.items()
    }
    calls |= {(threads, "batch"): _batches(router) for threads, router in routers.items()}
    walls = interleaved(calls, seconds, progress)
    started = [fresh_process(path) for _ in _counted(range(_PROCESSES), progress)]
    return {
        "bundle": routers["1"].bundle_id,
        "encoder": encoder.kind,
        "bundle_mb": round(sum(item.stat().st_size for item in Path(path).rglob("*") if item.is_file()) / 1e6, 2),
        "machine": {**before, "load_after": _load()},
        "latency_ms": {threads: {length: spread(walls[threads, length]) for length in LENGTHS} for threads in routers},
        "throughput": {
            "queries": BATCH[0],
            "tokens": BATCH[1],
            "decisions_per_s": {
                threads: spread([1e3 * BATCH[0] / wall for wall in walls[threads, "batch"]]) for threads in routers
            },
        },
        "fresh_process": {name: spread([one[name] for one in started]) for name in started[0]},
    }


def interleaved(
    calls: Mapping[Any, Callable[[], object]],
    seconds: float,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, list[float]]:
    """Time calls in turn, every round in another order, until the time is over; quick calls several times a turn.

    Parameters
    ----------
    calls
        What to time, each asked for something new every time.
    seconds
        How long to go on.
    progress
        Called with the share done.
    clock
        Gives seconds; `time.process_time` counts what this process computed, whoever else was busy meanwhile.

    Returns
    -------
    dict
        Milliseconds of every call.
    """
    turns, warm = {}, {}
    for name, call in calls.items():
        wall = max(min(_estimates(call)), 1e-7)
        turns[name] = min(_MOST_CALLS, max(1, int(_VISIT_S / wall)))
        # Whoever comes after another finds its weights gone from the cache, which matters to a short call.
        warm[name] = wall < _SHORT_S
    walls: dict[Any, list[float]] = {name: [] for name in calls}
    rng, names = np.random.default_rng(0), list(calls)
    began, done = time.perf_counter(), 0
    while done < _LEAST_ROUNDS or time.perf_counter() - began < seconds:
        for at in rng.permutation(len(names)).tolist():
            call = calls[names[at]]
            if warm[names[at]]:
                call()
            walls[names[at]] += [_timed(call, clock) for _ in range(turns[names[at]])]
        done += 1
        if progress is not None:
            progress("timing decisions", min(1000, round(1000 * (time.perf_counter() - began) / seconds)), 1000)
    return walls


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, 99th percentile and minimum, rounded, and how many there were."""
    low, middle, high, p99 = np.quantile(values, [0.25, 0.5, 0.75, 0.99]).tolist()
    found = {"p50": middle, "q25": low, "q75": high, "p99": p99, "min": min(values)}
    return {**{name: round(value, 4) for name, value in found.items()}, "n": len(values)}


def texts(tokens: int, characters: int = 0, seed: int = 0) -> Iterator[str]:
    """Texts of common words, none twice: of so many tokens (two special ones counted), or of so many characters."""
    rng = np.random.default_rng([seed, tokens, characters])
    seen: set[str] = set()
    while True:
        count = max(1, tokens - 2) if tokens else characters // 2
        text = " ".join(_WORDS[i] for i in rng.integers(0, len(_WORDS), count).tolist())
        text = text if tokens else text[:characters]
        if text not in seen:
            seen.add(text)
            yield text


def machine() -> dict[str, Any]:
    """What was measured on: processor, cores, load averages, versions."""
    import onnxruntime

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_before": _load(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def fresh_process(path: str | Path) -> dict[str, float]:
    """Load a bundle in a process of its own.

    Returns
    -------
    dict
        ``load_s``: seconds until the router is there, imports included; ``first_ms``: its first decision;
        ``memory_mb``: peak resident memory after fifty more.
    """
    home = str(Path(__file__).resolve().parents[1])
    words = [sys.executable, "-P", "-W", "ignore", "-c", _CHILD, str(Path(path).resolve()), home]
    done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    return dict(zip(("load_s", "first_ms", "memory_mb"), map(float, done.stdout.split()), strict=True))


def _decisions(router: Router, tokens: int, characters: int) -> Callable[[], object]:
    """A call that decides one new query."""
    task, made = next(iter(router.scopes.subtasks)), texts(tokens, characters)
    return lambda: router.decide(next(made), task)


def _batches(router: Router) -> Callable[[], object]:
    """A call that decides a batch of new queries."""
    queries, tokens = BATCH
    task, made = next(iter(router.scopes.subtasks)), texts(tokens, seed=1)
    return lambda: [router.decide(next(made), task) for _ in range(queries)]


def _estimates(call: Callable[[], object]) -> Iterator[float]:
    """Seconds of a first call and, where it is short, of a few more: one alone may have been interrupted."""
    yield (first := _timed(call, time.perf_counter) / 1e3)
    for _ in range(_ESTIMATES if first < _SHORT_S else 0):
        yield _timed(call, time.perf_counter) / 1e3


def _timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return 1e3 * (clock() - began)


def _counted(rounds: range, progress: Progress | None) -> Iterator[int]:
    for number in rounds:
        if progress is not None:
            progress("timing fresh processes", number, len(rounds))
        yield number


def _load() -> list[float] | None:
    """Load averages over 1, 5 and 15 minutes; None where the system keeps none."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
