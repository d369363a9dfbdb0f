"""What comes after a decision: one answer judged, and p-values for a whole log."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from router_core.bundle import Bundle
from router_core.kernels import mondrian_p_values
from router_core.policy import CASCADE
from router_core.records import read_records
from router_core.router import Router

_ROWS = 400
_SCORES, _TIERS = 100_000, 4


def judging_calls(path: Path, file: Path) -> dict[tuple[str, int, str], Callable[[], object]]:
    """Calls that judge one logged answer of every cheap tier, and one that scores 100,000 queries of four tiers."""
    bundle = Bundle.load(path)
    router = Router.from_bundle(bundle)
    records = read_records(file, bundle.portfolio).for_models(bundle.portfolio.names)
    rows = [i for i, answers in enumerate(records.response) if all(answers)][:_ROWS]
    starts = [router.start(records.prompt[i], records.task[i], CASCADE) for i in rows]
    calls: dict[tuple[str, int, str], Callable[[], object]] = {}
    for tier in range(len(records.models) - 1):
        tried = [{records.models[k]: str(records.response[i][k]) for k in range(tier)} for i in rows]
        answers = [str(records.response[i][tier]) for i in rows]
        turn = itertools.cycle(range(len(rows)))

        def judge(tier: int = tier, tried: Any = tried, answers: Any = answers, turn: Any = turn) -> object:
            at = next(turn)
            return router.accept(starts[at], tier, answers[at], tried[at], {})

        if rows:
            calls[f"one answer of {records.models[tier]} judged", 1, "judging"] = judge
    rng = np.random.default_rng(0)
    offsets = np.arange(0, 8_001, 1_000)
    cal = np.sort(rng.random((8, 1_000)), axis=1).ravel()
    scores, bins = rng.random((_SCORES, _TIERS)), rng.integers(0, 8, size=(_SCORES, _TIERS))
    calls["p-values of 100,000 queries x 4 tiers", 1, "judging"] = lambda: mondrian_p_values(cal, offsets, bins, scores)
    return calls
