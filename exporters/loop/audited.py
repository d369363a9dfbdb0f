"""Audited queries as a round keeps them, and as calibration rows of the records."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporters.fence import NO_KEYS, Keys
from exporters.loop.files import read_json, read_lines, write_lines
from exporters.loop.folds import calib_keys
from exporters.loop.state import State
from exporters.loop.work import Work
from exporters.students.teacher import Lesson
from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.ledger.reader import LoggedAttempt, LoggedRoute
from router_core.portfolio import Portfolio, Tier
from router_core.records import Records
from router_core.release import BUNDLE_FOLDER, RELEASES
from router_core.router import estimate_tokens

__all__ = [
    "answers_of",
    "kept_keys",
    "read_fold",
    "read_spent",
    "released_keys",
    "spent_keys",
    "told_answer",
    "told_lesson",
    "with_fold",
    "write_fold",
]

_FILE = "fold.jsonl"
_KEY = re.compile(r"[0-9a-f]{16}")


def write_fold(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of a fold: query, group, and by tier what it answered."""
    write_lines(folder / _FILE, rows)


def read_fold(folder: Path, portfolio: Portfolio) -> Records:
    """What `write_fold` wrote, as records of the portfolio's tiers, all calib."""
    rows = read_lines(folder / _FILE)
    names, shape = portfolio.names, (len(rows), len(portfolio.names))
    numbers = {key: np.full(shape, np.nan) for key in ("cost_usd", "prompt_tokens", "completion_tokens", "quality")}
    signals: dict[str, Any] = {}
    response: list[list[str | None]] = [[None] * len(names) for _ in rows]
    for i, row in enumerate(rows):
        for name, told in row["tiers"].items():
            k = names.index(name)
            response[i][k] = told["response"]
            # Only that there is an answer: it is graded with those of the students (`answering.with_answers`).
            numbers["quality"][i, k] = 1.0
            for key in ("cost_usd", "prompt_tokens", "completion_tokens"):
                numbers[key][i, k] = np.nan if told[key] is None else told[key]
            for signal, value in told["signals"].items():
                signals.setdefault(signal, np.full(shape, np.nan))[i, k] = value
    return Records(
        query_id=[row["query_id"] for row in rows],
        prompt=[row["prompt"] for row in rows],
        task=[row["task"] for row in rows],
        subtask=[row["subtask"] for row in rows],
        group=[row["group"] for row in rows],
        split=["calib"] * len(rows),
        models=names,
        quality=numbers["quality"],
        cost=numbers["cost_usd"],
        response=response,
        prompt_tokens=numbers["prompt_tokens"],
        completion_tokens=numbers["completion_tokens"],
        signals=signals,
        source="fresh audits",
    )


def with_fold(work: Work, fold: Records) -> Work:
    """The same work with a fold of audits among its calibration queries, so that every fence holds for it too."""
    given = work.given
    if not any(given.split):
        # Made splits are settled by whole groups, and no query of the fold is in a group of the records.
        settled = work.prepared.records
        given = replace(given, split=["train" if split == "tune" else split for split in settled.split])
    return replace(work, given=_joined(given, fold), fresh=tuple(fold.query_id))


def read_spent(state: State) -> dict[str, list[str]]:
    """Folds of audits that were read: by the moment up to which, the keys of their queries.

    Raises
    ------
    InputError
        When the list is not as the loop wrote it.
    """
    found = read_json(state.spent_audits) if state.spent_audits.exists() else {}
    try:
        whole = all(
            math.isfinite(float(until)) and all(_KEY.fullmatch(key) for key in keys) for until, keys in found.items()
        ) and all(isinstance(keys, list) for keys in found.values())
    except (AttributeError, TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"{state.spent_audits} is damaged, and tells which audits were used; restore it")
    told: dict[str, list[str]] = found
    return told


def released_keys(state: State) -> list[Keys]:
    """Hashed keys of the calibration queries of each release.

    Raises
    ------
    InputError
        When a folder among them is no release.
    """
    folders = [one for one in sorted((state.root / RELEASES).glob("[!.]*")) if one.is_dir()]
    for one in folders:
        if not (one / BUNDLE_FOLDER).is_dir():
            raise InputError(f"{one} is no release; move it out of {one.parent}, where only releases belong")
    return [Bundle.load(one / BUNDLE_FOLDER).keys.calib for one in folders]


def spent_keys(state: State) -> Keys:
    """Hashed keys of every calibration query that was read before: of audits by their list, of others by releases."""
    found = [np.array([int(key, 16) for key in keys], dtype=np.uint64) for keys in read_spent(state).values()]
    return np.unique(np.concatenate([NO_KEYS, *found, *released_keys(state)]))


def kept_keys(records: Records, rows: Sequence[int]) -> list[str]:
    """Hashed keys of a fold's queries as they are written down."""
    return [f"{key:016x}" for key in calib_keys(records, rows).tolist()]


def answers_of(route: LoggedRoute) -> dict[str, LoggedAttempt]:
    """By tier its last answer that was kept, without those that nobody saw to their end."""
    return {one.tier: one for one in route.attempts if one.whole}


def told_answer(attempt: LoggedAttempt, tier: Tier, text: str) -> dict[str, Any]:
    """What is kept of a logged answer."""
    tokens = attempt.prompt_tokens, attempt.completion_tokens
    return {
        "response": attempt.answer, "cost_usd": _cost(tier, text, attempt.answer, tokens, attempt.cost_usd),
        "prompt_tokens": tokens[0], "completion_tokens": tokens[1], "signals": dict(attempt.signals or {}),
    }  # fmt: skip


def told_lesson(lesson: Lesson, tier: Tier, text: str) -> dict[str, Any]:
    """What is kept of an answer that was asked for, whatever was paid for it."""
    return {
        "response": lesson.text, "cost_usd": _cost(tier, text, lesson.text, (None, None), lesson.cost_usd),
        "prompt_tokens": None, "completion_tokens": None, "signals": {},
    }  # fmt: skip


def _cost(tier: Tier, text: str, answer: str | None, tokens: tuple[int | None, int | None], usd: float | None) -> float:
    """US dollars by the portfolio's prices, so that all rows are on one list; what it cost where it has none."""
    if not tier.priced and usd is not None:
        return usd
    return tier.price(
        estimate_tokens(text) if tokens[0] is None else tokens[0],
        estimate_tokens(answer or "") if tokens[1] is None else tokens[1],
    )


def _joined(records: Records, more: Records) -> Records:
    """Rows of both, one after the other."""
    empty = [np.full(one.cost.shape, np.nan) for one in (records, more)]
    names = sorted({*records.signals, *more.signals})
    signals = {
        name: [one.signals.get(name, none) for one, none in zip((records, more), empty, strict=True)] for name in names
    }
    return replace(
        records,
        query_id=[*records.query_id, *more.query_id],
        prompt=[*records.prompt, *more.prompt],
        task=[*records.task, *more.task],
        subtask=[*records.subtask, *more.subtask],
        group=[*records.group, *more.group],
        split=[*records.split, *more.split],
        quality=np.vstack([records.quality, more.quality]),
        cost=np.vstack([records.cost, more.cost]),
        response=[*records.response, *more.response],
        prompt_tokens=np.vstack([records.prompt_tokens, more.prompt_tokens]),
        completion_tokens=np.vstack([records.completion_tokens, more.completion_tokens]),
        signals={name: np.vstack(both) for name, both in signals.items()},
    )
