"""The real tiers, fitted once and asked once for every query; `work/` keeps what they said, so a run can be stopped.

`answers(task, tier)` is the cached step: what a tier says of every query of a task, its signals, and CPU seconds and
wall time of single answers measured one at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from blend import Blend, Said
from data import Item, read_task
from numpy.typing import NDArray
from protocol import GENERATION, STRUCTURED
from recipes import KIND, MAX_TOKENS, MEMBERS, SECOND, T1, TUNED
from writers import Extracts, Leads, Replies

from exporters.students import EncoderOptions, Pair, distil
from router_core.checkpoint import Checkpoint
from router_core.own_confidence import log_softmax
from router_core.student import Student, make_student
from router_core.tagger import Tagger, entities, first_tokens, word_shape

__all__ = ["WORK", "Answers", "answers", "items_of", "pair_of", "start_student", "vectors_of"]

WORK = Path(__file__).resolve().parent / "work"
TIMED = 200
"""Queries on which one answer at a time is measured."""

Floats = NDArray[np.float64]
Asked = Callable[[Sequence[Item]], Said]


@dataclass(frozen=True, eq=False)
class Answers:
    """What one tier says of every query of a task.

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


def tuned(task: str, name: str, options: EncoderOptions, seed: int) -> Student:
    """A fine-tuned student of *seed* and *tiers*."""
    pairs = [pair_of(i) for i in learners(task, "seed", "tiers")]
    return make_student(kept(WORK / name / task, lambda: distil(KIND[task], pairs, options, tier="t3", seed=seed)))


def answers(task: str, tier: str) -> Answers:
    """What a tier says of every query of a task; asked once."""
    path = WORK / "answers" / f"{task}.{tier}.json"
    if not path.exists():
        items = items_of(task)
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
    alone = {} if tier == "t1" else {"members_agree": 1.0}
    said = {query: (text, {**alone, **signals}) for query, (text, signals) in told["said"].items()}
    return Answers(said, tuple(told["cpu_s"]), tuple(told["wall_ms"]))


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
    """How a tier answers many queries from what is kept, and how it answers one from its text alone."""
    if task in STRUCTURED and tier == "t1":
        student = make_student(start_student(task))
        return lambda items: _told(student, items), lambda item: student.answer(item.prompt)
    if task == "finance_ner":
        return _taggers(tier)
    if task in GENERATION:
        return _writer(task, tier)
    items = learners(task, "seed", "tiers")
    blend = Blend([i.prompt for i in items], vectors_of(task, items), [i.gold for i in items], MEMBERS[task, tier])
    second = tuned(task, "tuned", TUNED[task], 0) if tier == "t3" and task in TUNED else None

    def ask(items: Sequence[Item], vectors: NDArray[np.float32] | None = None) -> Said:
        seen = vectors_of(task, items) if vectors is None else vectors
        more = [] if second is None else [_log_p(second, [i.prompt for i in items], blend.labels)]
        return blend.answer([i.prompt for i in items], seen, more)

    read = _reader(task)
    return ask, lambda item: ask([item], read([item.prompt]))


def _told(student: Student, items: Sequence[Item]) -> Said:
    found = student.answer_many([item.prompt for item in items])
    return [(one.text, {"own_confidence": one.signals["own_confidence"]}) for one in found]


def _log_p(student: Any, texts: Sequence[str], labels: Sequence[str]) -> Floats:
    """Log-probabilities [n, L] of a student's labels in another order; a label it never saw gets a small one."""
    at = [student.labels.index(label) if label in student.labels else -1 for label in labels]
    found = np.stack([log_softmax(student.run(student.tokens.ids(text))) for text in texts])
    return np.where(np.array(at) >= 0, found[:, at], np.minimum(found.min(axis=1, keepdims=True), np.log(1e-4)))


def _taggers(tier: str) -> tuple[Asked, Callable[[Item], Any]]:
    """finance_ner: T2 is one fine-tuned tagger, T3 two, their log-probabilities of every word's tag added up."""
    first = tuned("finance_ner", "tuned", TUNED["finance_ner"], 0)
    if tier == "t2":
        return lambda items: _told(first, items), lambda item: first.answer(item.prompt)
    both = [first, tuned("finance_ner", "second", SECOND, 1)]

    def one(item: Item) -> tuple[str, dict[str, float]]:
        words = item.prompt.split()
        parts = [_word_log_p(student, words) for student in both]
        total = log_softmax(parts[0] + parts[1])
        tags = ["O"] * len(words)
        for w, best in enumerate(total.argmax(axis=-1).tolist()):
            tags[w] = both[0].labels[best]  # type: ignore[attr-defined]
        text = json.dumps(entities(words, tags), ensure_ascii=False)
        alike = [float((part.argmax(-1) == total.argmax(-1)).all()) for part in parts]
        return text, {"own_confidence": float(np.exp(total.max(-1).sum())), "members_agree": float(np.mean(alike))}

    return lambda items: [one(item) for item in items], one


def _word_log_p(student: Student, words: list[str]) -> Floats:
    """Log-probability [words, L] of every word's tag; a word past the student's reach is outside."""
    assert isinstance(student, Tagger)
    ids, of = student.tokens.of_words(words)
    shapes = np.array([word_shape(words[i]) if i >= 0 else 0 for i in of.tolist()], dtype=np.int64)
    log_p = log_softmax(student.run(ids, word_shape=shapes))
    at = first_tokens(of, len(words))
    found = np.full((len(words), len(student.labels)), -10.0)
    found[:, student.labels.index("O")] = 0.0
    found[at >= 0] = log_p[at[at >= 0]]
    return found


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
