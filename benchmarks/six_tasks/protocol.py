"""What was fixed before the first full run; `protocol.md` says why. Nothing here is chosen on calib or test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "ALPHA",
    "BOOTSTRAP",
    "CALIB_LIMIT",
    "COST_TARGET",
    "DECLARED",
    "DELTA",
    "FOLDS",
    "GENERATION",
    "NOMINAL",
    "PARTS",
    "PILOT",
    "QUALITY_TARGET",
    "REFERENCE",
    "ROUNDS",
    "SALT",
    "SAVING_TARGET",
    "SEEDS",
    "STRUCTURED",
    "TASKS",
    "TAUGHT",
    "TEACHER_USD",
    "TIERS",
    "TOLERANCE",
    "USD_PER_CPU_HOUR",
    "WIDE_TASKS",
    "tiers_of",
]

STRUCTURED: Final = ("finance_ner", "cs_intent", "legal_clause", "legal_risk")
"""Tasks with a numeric target."""

GENERATION: Final = ("finance_summarization", "cs_response")
"""Tasks reported only: quality is 1 where ROUGE-L reaches tau, else 0."""

TASKS: Final = (*STRUCTURED, *GENERATION)

TIERS: Final = ("t1", "t2", "t3", "reference")
"""In cascade order. `reference` is the human annotation, priced and timed as a frontier API (both assumptions)."""

REFERENCE: Final = TIERS[-1]

TAUGHT: Final = "t2"
"""The tier that the loop teaches: the one that serves."""

WIDE_TASKS: Final = ("cs_intent", "legal_clause", "legal_risk")
"""Tasks whose T2 is a wide student (`wide.py`)."""

TEACHER_USD: Final = 1000.0
"""Teacher's budget a round and task at nominal prices: enough for all of a round's stream."""


def tiers_of(task: str) -> tuple[str, ...]:
    """Tiers of a task: the structured ones have no T3, which no path of protocol 1 called."""
    return TIERS if task in GENERATION else ("t1", "t2", REFERENCE)


SALT: Final = "routenlp-six-tasks-v1"
"""Of every hash here: parts of train, calib folds, order of the stream, samples."""

PARTS: Final[Mapping[str, float]] = {"seed": 0.05, "tiers": 0.50, "router": 0.20, "stream": 0.25}
"""Shares of TRAIN: T1 learns from seed; T2 (and T3) from seed and tiers; the router from router; traffic is stream."""

ROUNDS: Final = 3
FOLDS: Final = ROUNDS + 1
"""Equal parts of calib, cut before the start: one for the start, one for each round."""

CALIB_LIMIT: Final = 2000
"""Calib queries a task at most, by hash (cs_response has 5,786): CPU time."""

ALPHA: Final = 0.05
DELTA: Final = 0.1
TOLERANCE: Final = 0.0

SEEDS: Final = (0, 1, 2, 3, 4)
"""Of targeted against untargeted distillation; everything else has seed 0."""

BOOTSTRAP: Final = 2000
"""Paired resamples of test queries."""

NOMINAL: Final[Mapping[str, float]] = {"t1": 0.01, "t2": 0.10, "t3": 0.80, "reference": 8.00}
"""The paper's prices, US dollars per 1,000 tokens of the prompt; answers are short and not charged."""

DECLARED: Final[Mapping[str, float]] = {
    "input_usd_per_m": 10.0,
    "output_usd_per_m": 30.0,
    "latency_p50_ms": 900.0,
    "latency_p99_ms": 1847.0,
}
"""The reference under measured prices: GPT-4-Turbo's list prices (../shared/data/routing/prices.csv,
gpt-4-1106-preview). Latency: log-normal, its p99 the paper's of Always-T4, its median a guess. Assumptions, all."""

USD_PER_CPU_HOUR: Final = 0.05
"""Of one core, under measured prices: an assumption about rented machines."""

PILOT: Final[Mapping[str, int]] = {"queries_a_day": 5000, "days": 56}

QUALITY_TARGET: Final = 0.97
COST_TARGET: Final = 0.159
SAVING_TARGET: Final = 0.78
