"""Timing calls of models that replay the packaged demo's answers at once, so that what is left is overhead."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from typing import Any

from router_core.bench import spread

__all__ = ["interleaved", "recorded"]

ROUNDS = 20


def recorded() -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Answers and signals per model, and the prompts, of the packaged demo."""
    told: dict[str, dict[str, Any]] = {}
    prompts: dict[str, None] = {}
    source = files("routenlp_integrations.cli").joinpath("demo_data", "records.jsonl")
    with as_file(source) as path:
        for row in map(json.loads, path.read_text().splitlines()):
            own = told.setdefault(row["model"], {"answers": {}, "signals": {}})
            own["answers"][row["prompt"]] = row["response"]
            given = {name.removeprefix("signal_"): row[name] for name in row if name.startswith("signal_")}
            own["signals"][row["prompt"]] = {name: value for name, value in given.items() if value is not None}
            prompts[row["prompt"]] = None
    return told, list(prompts)


def interleaved(models: dict[str, Any], prompts: Sequence[str], call: Callable[[Any, str], Any]) -> dict[str, Any]:
    """Each round asks every prompt of every contender, in turn."""
    walls: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for prompt in prompts:
            for name, model in models.items():
                began = time.perf_counter()
                call(model, prompt)
                walls[name].append((time.perf_counter() - began) * 1e3)
    return {name: spread(values) for name, values in walls.items()}
