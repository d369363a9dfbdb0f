"""The real tiers, fitted once and asked once; `work/` keeps what they said, so a run can be stopped.

`answers(task, tier)` is the cached step: what a tier says of the queries of a task, its signals, and CPU seconds and
wall time of single answers measured one at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from data import Item, clear_of_held, read_task
from numpy.typing import NDArray
from protocol import GENERATION
from recipes import KIND, MAX_TOKENS, T1, T2, WIDE
from writers import Extracts, Leads, Replies, Said

from exporters.students import Pair, distil
from router_core.checkpoint import Checkpoint
from router_core.student import Student, make_student

__all__ = [
    "WORK",
    "Answers",
    "answers",
    "items_of",
    "kept",
    "learners",
    "maker_of",
    "pair_of",
    "start_student",
    "start_t2",
    "t2_learners",
    "vectors_of",
]

WORK = Path(__file__).resolve().parent / "work"
TIMED = 200
"""Queries on which one answer at a time is measured."""

_LEARNED = ("seed", "tiers")
Asked = Callable[[Sequence[Item]], Said]


@dataclass(frozen=True, eq=False)
class Answers:
    """What one tier says of the queries of a task.

    Attributes
    ----------
    said
        By query id the answer and its signals.
    cpu_s, wall_ms
        Of single answers: CPU seconds and milliseconds, the sample of `TIMED` queries.
    """

    said: dict[str, tuple[str, dict[str, float]]]
    cpu_s: tuple[float, ...]
    wall_ms: tuple[float, ...]


@cache
def items_of(task: str) -> tuple[Item, ...]:
    """All queries of a task."""
    return tuple(read_task(task))


def pair_of(item: Item, **more: Any) -> Pair:
    """What a student learns of a query."""
    return Pair(item.query_id, item.prompt, "" if item.tags else item.gold, item.task, tags=item.tags or None, **more)


def learners(task: str, *parts: str) -> list[Item]:
    """Train queries of these parts."""
    return [item for item in items_of(task) if item.part in parts]


def kept(path: Path, make: Callable[[], Checkpoint]) -> Checkpoint:
    """A checkpoint made once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make().save(path)
    return Checkpoint.load(path)


def start_student(task: str) -> Checkpoint:
    """T1 at the start: a student of *seed* alone."""
    return kept(
        WORK / "t1" / task,
        lambda: distil(KIND[task], [pair_of(i) for i in learners(task, "seed")], T1[task], tier="t1", seed=0),
    )


def t2_learners(task: str) -> list[Item]:
    """What T2 starts from: *seed* and *tiers*, near-duplicates of calib and test left out."""
    held = [item for item in items_of(task) if item.part == "router" or item.split != "train"]
    return clear_of_held(learners(task, "seed", "tiers"), held)


def start_t2(task: str) -> Checkpoint:
    """T2 at the start."""
    pairs = [pair_of(item) for item in t2_learners(task)]
    return kept(WORK / "t2" / task, lambda: maker_of(task)(KIND[task], pairs, T2[task], tier="t2", seed=0))


def maker_of(task: str) -> Callable[..., Checkpoint]:
    """What makes T2's students, at the start and in the rounds."""
    if task not in WIDE:
        return distil
    items = [item for item in items_of(task) if item.split == "train"]
    vectors = dict(zip([item.prompt for item in items], vectors_of(task, items), strict=True))
    return partial(WIDE[task].distil, vectors=vectors)


def answers(task: str, tier: str) -> Answers:
    """What a tier says of the queries of a task; asked once."""
    path = WORK / "answers" / f"{task}.{tier}.json"
    if not path.exists():
        items = _asked(task, tier)
        ask, one = _tier(task, tier)
        said = ask(items)
        some = [items[i] for i in np.random.default_rng(0).permutation(len(items))[:TIMED].tolist()]
        spent, waited = [], []
        one(some[0])
        for item in some:
            began, cpu = time.perf_counter(), time.process_time()
            one(item)
            waited.append((time.perf_counter() - began) * 1e3)
            spent.append(time.process_time() - cpu)
        told = {
            "said": {item.query_id: [text, signals] for item, (text, signals) in zip(items, said, strict=True)},
            "cpu_s": spent,
            "wall_ms": waited,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(told))
        beside.replace(path)
    told = json.loads(path.read_text())
    # A signal counts only if nearly all answers of a tier have it; one reader agrees with itself.
    alone = {"members_agree": 1.0} if task in GENERATION and tier != "t1" else {}
    said = {query: (text, {**alone, **signals}) for query, (text, signals) in told["said"].items()}
    return Answers(said, tuple(told["cpu_s"]), tuple(told["wall_ms"]))


def _asked(task: str, tier: str) -> Sequence[Item]:
    """T1 of a structured task answers what no tier learned from; the loop asks T2, here it is measured on test."""
    if task in GENERATION:
        return items_of(task)
    return [item for item in items_of(task) if item.split == "test" or (tier == "t1" and item.part not in _LEARNED)]


def vectors_of(task: str, items: Sequence[Item]) -> NDArray[np.float32]:
    """MiniLM vectors of queries, float32 [n, 384], from the int8 graph that students are served with; made once."""
    ids, vectors = _vectors(task)
    return vectors[[ids[item.query_id] for item in items]]


@cache
def _vectors(task: str) -> tuple[dict[str, int], NDArray[np.float32]]:
    path = WORK / "features" / f"{task}.npz"
    if not path.exists():
        read, items = _reader(task), items_of(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part.npz")
        np.savez(beside, features=read([i.prompt for i in items]), ids=np.array([i.query_id for i in items]))
        beside.replace(path)
    with np.load(path) as held:
        return {name: at for at, name in enumerate(held["ids"].tolist())}, held["features"]


@cache
def _reader(task: str) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    from exporters.students.bodies import Read, TextBody, frozen_graphs
    from exporters.transformer.source import PACKAGED, load_source
    from router_core.onnx_encoder import open_session
    from router_core.text_tokens import TextTokens

    source = load_source(PACKAGED, MAX_TOKENS[task])
    _, graph = frozen_graphs(source, TextBody(source), quantised=True)
    session = open_session(graph, part="model.onnx", again="run it again")
    tokens = TextTokens(source.tokenizer, MAX_TOKENS[task])

    def read(texts: Sequence[str]) -> NDArray[np.float32]:
        found = []
        for ids in Read.texts(texts, tokens).ids:
            feed = {"input_ids": ids[None, :], "attention_mask": np.ones_like(ids)[None, :]}
            found.append(session.run(["features"], feed)[0][0])
        return np.stack(found)

    return read


def _tier(task: str, tier: str) -> tuple[Asked, Callable[[Item], Any]]:
    """How a tier answers many queries, and how it answers one from its text alone."""
    if task in GENERATION:
        return _writer(task, tier)
    student = make_student(start_student(task) if tier == "t1" else start_t2(task))
    return lambda items: _told(student, items), lambda item: student.answer(item.prompt)


def _told(student: Student, items: Sequence[Item]) -> Said:
    found = student.answer_many([item.prompt for item in items])
    return [(one.text, {"own_confidence": one.signals["own_confidence"]}) for one in found]


def _writer(task: str, tier: str) -> tuple[Asked, Callable[[Item], Any]]:
    items = learners(task, *(("seed",) if tier == "t1" else ("seed", "tiers")))
    texts, golds = [i.prompt for i in items], [i.gold for i in items]
    if task == "finance_summarization":
        made: Any = Leads() if tier == "t1" else Extracts(texts, golds, boosted=tier == "t3")
        return lambda some: made.answer([i.prompt for i in some]), lambda item: made.answer([item.prompt])
    if tier == "t1":
        near = Replies(texts, golds)
        return lambda some: near.answer([i.prompt for i in some]), lambda item: near.answer([item.prompt])
    seen = Replies(texts, golds, vectors_of(task, items), 1 if tier == "t2" else 20)
    read = _reader(task)
    return (
        lambda some: seen.answer([i.prompt for i in some], vectors_of(task, some)),
        lambda item: seen.answer([item.prompt], read([item.prompt])),
    )
