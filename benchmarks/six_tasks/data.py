"""The six task files: queries, gold answers, and the parts and folds they stand in."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from protocol import CALIB_LIMIT, FOLDS, PARTS, ROUNDS, SALT

from exporters.students.data import tagged_answer
from router_core.groups import hash_key, merge_near_duplicates, unit_interval

__all__ = ["Item", "calib_folds", "clear_of_held", "part_of", "read_task", "rounds_of", "seated"]

SHARED = Path(os.environ.get("ROUTENLP_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data/tasks"

_GROUPS = {
    "finance_ner": re.compile(r"finance_ner-(\w+-\d+)-"),
    "cs_response": re.compile(r"sgd-(.*)-\d+$"),
    "legal_risk": re.compile(r"claudette-(.*)-\d+$"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One query.

    Attributes
    ----------
    query_id, task, prompt, gold
        `gold` is the reference tier's answer.
    split
        ``"train"``, ``"calib"`` or ``"test"``.
    part
        Of a train query its part (`protocol.PARTS`), else ``""``.
    group
        Document, dialogue or company, else a hash of the text: what parts go by.
    tags
        Of finance_ner, one tag a word.
    """

    query_id: str
    task: str
    prompt: str
    gold: str
    split: str
    part: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()


def part_of(group: str, key: str) -> str:
    """The part of TRAIN a query belongs to: by its group, and among the learners' by its text.

    T2 and T3 learn from *seed* and *tiers* alike, so that these two may share groups.
    """
    u = unit_interval(f"{SALT}|part|", group)
    learners = PARTS["seed"] + PARTS["tiers"]
    if u < learners:
        return "seed" if unit_interval(f"{SALT}|seed|", key) < PARTS["seed"] / learners else "tiers"
    return "router" if u < learners + PARTS["router"] else "stream"


def read_task(task: str) -> list[Item]:
    """All queries of a task that are used, in file order."""
    from pyarrow import parquet

    make = _MAKE[task]
    rows = parquet.read_table(SHARED / f"{task}.parquet").to_pylist()
    return seated(make(row) for row in rows if row["text"].strip())


def seated(items: Iterable[Item]) -> list[Item]:
    """Give train queries their part, leave out what would stand on two sides, cut calib to its limit."""
    items = list(items)
    held = {hash_key(item.prompt) for item in items if item.split != "train"}
    test = {hash_key(item.prompt) for item in items if item.split == "test"}
    owner: dict[str, str] = {}
    found, calib = [], []
    for item in items:
        key = hash_key(item.prompt)
        if item.split == "train":
            part = part_of(item.group or key, key)
            if key not in held and owner.setdefault(key, part) == part:
                found.append(replace(item, part=part, group=item.group or key))
        elif item.split == "calib":
            if key not in test:
                calib.append(replace(item, group=item.group or key))
        else:
            found.append(replace(item, group=item.group or key))
    calib.sort(key=lambda item: _order("calib", item))
    return found + calib[:CALIB_LIMIT]


def calib_folds(items: Sequence[Item]) -> list[list[Item]]:
    """Calib in equal folds by hash; equal texts stand in one fold."""
    keys = sorted(
        {hash_key(item.prompt) for item in items if item.split == "calib"}, key=lambda key: _digest("fold", key)
    )
    fold = {key: number * FOLDS // len(keys) for number, key in enumerate(keys)}
    found: list[list[Item]] = [[] for _ in range(FOLDS)]
    for item in items:
        if item.split == "calib":
            found[fold[hash_key(item.prompt)]].append(item)
    return found


def clear_of_held(items: Sequence[Item], held: Sequence[Item]) -> list[Item]:
    """The train queries among `items` that are no near-duplicates of `held` ones, as the loop's fence finds them."""
    both = [*held, *items]
    texts = [item.prompt for item in both]
    template = np.array([i < len(held) and item.split == "train" for i, item in enumerate(both)])
    names = merge_near_duplicates(texts, [hash_key(text) for text in texts], [item.task for item in both], template)
    barred = {name for name, item in zip(names, held, strict=False) if item.split != "train"}
    return [item for item, name in zip(items, names[len(held) :], strict=True) if name not in barred]


def rounds_of(items: Sequence[Item]) -> list[list[Item]]:
    """The stream in its order, in equal rounds."""
    stream = sorted((item for item in items if item.part == "stream"), key=lambda item: _order("stream", item))
    return [stream[len(stream) * r // ROUNDS : len(stream) * (r + 1) // ROUNDS] for r in range(ROUNDS)]


def _order(what: str, item: Item) -> bytes:
    return _digest(what, item.query_id)


def _digest(what: str, key: str) -> bytes:
    return hashlib.sha256(f"{SALT}|{what}|{key}".encode()).digest()


def _group(task: str, query_id: str) -> str:
    found = _GROUPS[task].search(query_id) if task in _GROUPS else None
    return found.group(1) if found else ""


def _plain(gold: Callable[[str], str]) -> Callable[[dict[str, Any]], Item]:
    return lambda row: Item(
        row["id"], row["task"], row["text"], gold(row["label"]), row["split"], group=_group(row["task"], row["id"])
    )


def _tagged(row: dict[str, Any]) -> Item:
    told = json.loads(row["label"])
    tags = tuple("-".join(reversed(tag.split("_"))) if "_" in tag else tag for tag in told["tags"])
    text = " ".join(told["tokens"])
    return Item(
        row["id"], row["task"], text, tagged_answer(text, tags), row["split"], group=_group(row["task"], row["id"]),
        tags=tags,
    )  # fmt: skip


_MAKE: dict[str, Callable[[dict[str, Any]], Item]] = {
    "finance_ner": _tagged,
    "finance_summarization": _plain(str.strip),
    "cs_intent": _plain(str),
    "cs_response": _plain(lambda label: str(json.loads(label)["response"]).strip()),
    "legal_clause": _plain(lambda label: json.dumps(sorted(set(json.loads(label))))),
    "legal_risk": _plain(lambda label: str(json.loads(label)["risk"])),
}
