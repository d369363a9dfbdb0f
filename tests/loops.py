"""A loop on a small population without torch: students that count words, records, and the ledger they leave."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tiny_student import _SAYS, FIXTURE, MAX_TOKENS, MOODS, student_tokenizer, table

from exporters.loop import LoopOptions, TaskPlan
from exporters.students.data import Pair
from exporters.students.options import EncoderOptions
from router_core import Answer, Cascade, Router
from router_core.audits import Auditor, AuditPlan
from router_core.checkpoint import Checkpoint, StudentSpec
from router_core.fitting import FitSettings
from router_core.ledger import Ledger
from router_core.own_confidence import Calibration
from router_core.portfolio import Portfolio, Tier
from router_core.records import Records
from router_core.student_set import StudentSet
from router_core.text_tokens import TextTokens

TASKS = ("mood", "tone")
SIZES = {"train": 320, "calib": 320, "test": 40}
PORTFOLIO = Portfolio((Tier("small", usd_per_call=1e-5), Tier("large", usd_per_call=1e-3, model="large-1")))

# Words of the tokenizer that say the mood; a first student knows the first two only.
_SIDES = (("love", "disappoint", "save"), ("hate", "convince", "break"))
_SHARES = (0.4, 0.3, 0.3)


def loop_records(seed: int = 0, sizes: Mapping[str, int] = SIZES) -> Records:
    """Queries over two tasks whose mood one word gives away; the reference is always right, "small" was never asked."""
    draw = random.Random(seed)  # noqa: S311 - a population, not a secret
    n = sum(sizes.values())
    prompts, right = [], []
    for i in range(n):
        side, level = draw.randrange(2), draw.choices((0, 1, 2), _SHARES)[0]
        prompts.append(f"{_SIDES[side][level]} the kettle {_code(i, draw)} from {TASKS[i % 2]}")
        right.append(MOODS[side])
    quality, cost = np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    quality[:, 1], cost[:, 1] = 1.0, 1e-3
    return Records(
        query_id=[f"q{i}" for i in range(n)],
        prompt=prompts,
        task=[TASKS[i % 2] for i in range(n)],
        subtask=[""] * n,
        group=[""] * n,
        split=[name for name, size in sizes.items() for _ in range(size)],
        models=("small", "large"),
        quality=quality,
        cost=cost,
        response=[[None, answer] for answer in right],
        prompt_tokens=np.full((n, 2), 8.0),
        completion_tokens=np.full((n, 2), 1.0),
        source="loop_records",
    )


def _code(i: int, draw: random.Random) -> str:
    """Letters that make near-duplicates of no two queries, and that no student knows."""
    return " ".join("".join(draw.choices("xyzwvu", k=6)) for _ in range(6)) + f" n{i}"


def fake_distil(
    kind: str,
    pairs: Sequence[Pair],
    options: Any = None,
    *,
    tier: str,
    replay: Sequence[Pair] = (),
    parent: Checkpoint | None = None,
    calib: Any = None,
    lineage: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Any = None,
) -> Checkpoint:
    """Learn which words go with which mood by counting; the committed graph with another table of logits."""
    del options, parent, calib, seed, progress
    assert kind == "classifier"
    counts: dict[str, Counter[str]] = {word: Counter() for side in _SIDES for word in side}
    for pair in [*pairs, *replay]:
        for word, count in counts.items():
            if word in pair.prompt.split():
                count[pair.answer] += 1
    says = {
        word: tuple(6.0 * (count[mood] - count.total() / 2) / max(1, count.total()) for mood in MOODS)
        for word, count in counts.items()
        if count.total() >= 3
    }
    graph = (FIXTURE / "classifier.onnx").read_bytes()
    old, new = (table(words, (0.0,) * 2, (0.0,) * 2, 1).tobytes() for words in (_SAYS, {**_nothing(), **says}))
    assert old in graph
    tokenizer = student_tokenizer()
    spec = StudentSpec(
        "classifier", MOODS, MAX_TOKENS, TextTokens(tokenizer, MAX_TOKENS).digest(), calibration=Calibration(1.0)
    )
    weights = {"model.onnx": graph.replace(old, new), "tokenizer.json": tokenizer}
    return Checkpoint(tier, spec, weights, lineage or {}, {"words": len(says)})


def _nothing() -> dict[str, tuple[float, ...]]:
    return {word: (0.0, 0.0) for side in _SIDES for word in side}


def know(*levels: int, tier: str = "small") -> Checkpoint:
    """A student that knows the words of some levels."""
    pairs = [
        Pair(f"k{level}{side}{i}", f"{_SIDES[side][level]} it", MOODS[side])
        for level in levels
        for side in range(2)
        for i in range(3)
    ]
    return fake_distil("classifier", pairs, tier=tier)


def loop_options(**changes: Any) -> LoopOptions:
    """Options for `loop_records`."""
    plan = TaskPlan("classifier", EncoderOptions(), grade="exact")
    given = {"settings": FitSettings(alpha=0.1), "folds": 3, "least": 6, **changes}
    return LoopOptions(PORTFOLIO, "small", given.pop("plans", dict.fromkeys(TASKS, plan)), **given)


def first_students() -> dict[str, Checkpoint]:
    """Students that know the first two words."""
    return {f"small@{task}": know(0) for task in TASKS}


def stream(
    root: Path,
    url: str,
    records: Records,
    *,
    store_text: bool = True,
    splits: Sequence[str] = ("train",),
    audits: AuditPlan | None = None,
    conversation: Callable[[int], str | None] = lambda _: None,
    redact: Callable[[str], str] | None = None,
) -> None:
    """Send queries through the release that serves, log them, and with a plan audit them by the reference tier."""
    students = StudentSet.load(root, "small")
    right = {prompt: row[-1] for prompt, row in zip(records.prompt, records.response, strict=True)}
    told: dict[str, Answer] = {}

    def tier(name: str, ask: Callable[[tuple[str, str]], Answer]) -> Callable[[Any], Answer]:
        def call(query: tuple[str, str]) -> Answer:
            told[name] = ask(query)
            return told[name]

        return call

    def small(query: tuple[str, str]) -> Answer:
        said = students.answer(*query)
        return Answer(said.text, said.prompt_tokens, said.completion_tokens, signals=dict(said.signals))

    def large(query: tuple[str, str]) -> Answer:
        return Answer(str(right[query[0]]), 8, 1)

    router = Router.load(root)
    cascade = Cascade(router, {"small": tier("small", small), "large": tier("large", large)})
    with Ledger(url, store_text=store_text, redact=redact) as ledger:
        auditor = None
        if audits is not None:
            auditor = Auditor(ledger, {"large": large}, price=router.price, plan=audits, waiting=10_000)
        for i, (prompt, task, split) in enumerate(zip(records.prompt, records.task, records.split, strict=True)):
            if split in splits:
                told.clear()
                # By the query and not by chance, so that a test draws the same audits every time.
                name = hashlib.sha256(f"{i} {prompt}".encode()).hexdigest()[:32]
                decision = None if auditor is None else auditor.decide(id=name)
                query = prompt, task
                route = cascade.run(prompt, task=task, payload=query)
                ledger.append(
                    route, text=prompt, answers=dict(told), reference="large", audit=decision,
                    conversation=conversation(i),
                )  # fmt: skip
                if auditor is not None and decision is not None:
                    auditor.submit(decision, route, prompt, query, dict(told))
        assert auditor is None or auditor.join()
        ledger.flush()
