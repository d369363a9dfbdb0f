"""The demo's queries: reading them, their splits, and what counts as a right answer."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "LABELS",
    "Item",
    "grade",
    "normalise",
    "read_items",
    "read_rows",
    "split_of",
    "split_question",
    "words_of",
    "write_rows",
]

LABELS: Mapping[str, tuple[str, ...]] = {
    "intent": ("billing", "cancel", "damage", "delivery", "login", "product", "refund", "store"),
    "sentiment": ("negative", "neutral", "positive"),
}
"""The label tasks and their labels; `extract` answers with words of its prompt instead."""

_SALT = "routenlp-demo-v1|"


def words_of(text: str) -> frozenset[str]:
    """The words of a list written with spaces between them."""
    return frozenset(text.split())


_DROPPED = words_of(
    "a an the his her its their in on at by from to with near above under behind inside into through because"
)


@dataclass(frozen=True)
class Item:
    """One query with its gold answer.

    Parameters
    ----------
    query_id, task, prompt, gold
        As in ``queries.jsonl``; `gold` is a label, or for `extract` a span of the prompt.
    """

    query_id: str
    task: str
    prompt: str
    gold: str


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file; a last line that a kill cut short is ignored."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON Lines file without spaces between fields."""
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def read_items(path: Path) -> list[Item]:
    """Read ``queries.jsonl`` or ``seed.jsonl``."""
    return [Item(row["query_id"], row["task"], row["prompt"], row["gold"]) for row in read_rows(path)]


def normalise(text: str) -> str:
    """NFKC, lower case, everything but letters and digits to one space."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).lower()).strip()


def split_of(prompt: str) -> str:
    """Train (u < .4), calib (u < .75) or test, u from SHA-256 of the salted normalised prompt."""
    digest = hashlib.sha256((_SALT + normalise(prompt)).encode()).hexdigest()
    u = int(digest[:12], 16) / 2**48
    return "train" if u < 0.4 else "calib" if u < 0.75 else "test"


def split_question(prompt: str) -> tuple[str, str]:
    """Context and question of an `extract` prompt; the question is its last sentence."""
    context, dot, question = prompt.rpartition(". ")
    return context + dot.strip(), question


def grade(item: Item, response: str) -> int:
    """1 if `response` answers `item`, else 0.

    Labels must be equal. Spans must be equal after lower-casing and dropping punctuation, articles, possessives
    and plain prepositions, or equal once the words of the question are dropped from both ("310 loaves" for "how many
    loaves", where 310 is the gold answer).
    """
    if item.task in LABELS:
        return int(response == item.gold)
    asked = set(normalise(split_question(item.prompt)[1]).split())
    given, gold = ([w for w in normalise(text).split() if w not in _DROPPED] for text in (response, item.gold))
    if given == gold:
        return int(bool(given))
    given, gold = ([word for word in words if word not in asked] for words in (given, gold))
    return int(bool(gold) and given == gold)
