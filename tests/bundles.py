"""A small population on which a router can save money, and a bundle fitted on it in seconds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from router_core.bundle import Bundle
from router_core.fitting.fit_bundle import FitSettings, fit
from router_core.portfolio import Portfolio, Tier
from router_core.records import Records

TIERS = ("small", "medium", "large")
PORTFOLIO = Portfolio(
    (
        Tier("small", input_usd_per_m=0.1, output_usd_per_m=0.4, model="small-1"),
        Tier("medium", input_usd_per_m=1.0, output_usd_per_m=4.0, model="medium-1"),
        Tier("large", input_usd_per_m=10.0, output_usd_per_m=40.0, model="large-1"),
    )
)
SPLIT_SIZES = {"train": 180, "calib": 160, "test": 60}

SURE = "The answer is {}."
DOUBTFUL = "However, I am not sure, it might be mixed; perhaps {}"
_RELIABILITY = (0.96, 0.97, 0.99)

_NOUNS = ("kettle", "lamp", "violin", "jacket", "garden", "novel", "ferry", "sofa", "clock", "bicycle")
_PLACES = ("harbour", "market", "station", "valley", "museum", "orchard", "bridge", "castle")
# A query's level is the index of the cheapest tier that answers it, and its wording shows it.
_MOODS = (
    ("I love this {noun}", "I hate this {noun}"),
    ("hardly anything about this {noun} disappoints", "hardly anything about this {noun} convinces"),
    ("oh sure, because a {noun} is exactly what saves a day", "oh sure, who would not want a {noun} that breaks"),
)


def _mood(level: int, draw: random.Random) -> tuple[str, str, str]:
    """A prompt of the task "mood", the right answer and a wrong one."""
    side = draw.randrange(2)
    said = _MOODS[level][side].format(noun=draw.choice(_NOUNS))
    place, number = draw.choice(_PLACES), draw.randrange(10_000)
    prompt = f"Review {number} from the {place}: {said}. Is the mood 'good' or 'bad'?"
    return prompt, ("good", "bad")[side], ("bad", "good")[side]


def _sum(level: int, draw: random.Random) -> tuple[str, str, str]:
    """A prompt of the task "sum", the right answer and a wrong one."""
    low, high = ((1, 9), (100, 999), (10**6, 10**7))[level]
    a, b = draw.randint(low, high), draw.randint(low, high)
    word = ("Quickly", "Carefully", "With great patience")[level]
    prompt = f"{word} add {a} and {b} for ticket {draw.randrange(100_000)} of the {draw.choice(_PLACES)}."
    return prompt, str(a + b), str(a + b + draw.randint(1, 9))


def small_records(seed: int = 0) -> Records:
    """Draw 400 queries over the tasks "mood" and "sum", answered by three tiers.

    A tier answers most queries at or below its level right, and most of its wrong answers show doubt.
    """
    draw = random.Random(seed)  # noqa: S311 - a population, not a secret
    n = sum(SPLIT_SIZES.values())
    splits = [name for name, size in SPLIT_SIZES.items() for _ in range(size)]
    prompts, tasks, responses = [], [], []
    quality = np.zeros((n, len(TIERS)))
    tokens = np.zeros((2, n, len(TIERS)))
    cost = np.zeros((n, len(TIERS)))
    for i in range(n):
        level = draw.choices((0, 1, 2), (0.5, 0.25, 0.25))[0]
        task = ("mood", "sum")[i % 2]
        prompt, right, wrong = (_mood if task == "mood" else _sum)(level, draw)
        prompts.append(prompt)
        tasks.append(task)
        answers = []
        for k, tier in enumerate(PORTFOLIO.tiers):
            fine = draw.random() < (_RELIABILITY[k] if k >= level else 0.1)
            quality[i, k] = float(fine)
            sure = fine or draw.random() < 0.1
            answers.append((SURE if sure else DOUBTFUL).format(right if fine else wrong))
            tokens[:, i, k] = len(prompt) // 4, len(answers[-1]) // 4
            cost[i, k] = tier.price(*(int(count) for count in tokens[:, i, k]))
        responses.append(answers)
    return Records(
        query_id=[f"q{i}" for i in range(n)],
        prompt=prompts,
        task=tasks,
        subtask=[""] * n,
        group=[""] * n,
        split=splits,
        models=TIERS,
        quality=quality,
        cost=cost,
        response=[list(answers) for answers in responses],
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        source="small_records",
    )


def rows_of(records: Records) -> list[dict[str, Any]]:
    """Records of `TIERS` as rows of a records file."""
    return [
        {
            "query_id": records.query_id[i],
            "task": records.task[i],
            "prompt": records.prompt[i],
            "model": name,
            "response": records.response[i][m],
            "quality": float(records.quality[i, m]),
            "prompt_tokens": int(records.prompt_tokens[i, m]),
            "completion_tokens": int(records.completion_tokens[i, m]),
            "cost_usd": float(records.cost[i, m]),
            "split": records.split[i],
        }
        for i in range(len(records))
        for m, name in enumerate(TIERS)
    ]


def fit_small(out: Path, seed: int = 0) -> Bundle:
    """Fit a bundle on `small_records` at a joint risk of 10 %."""
    return fit(small_records(seed), out=out, portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1))
