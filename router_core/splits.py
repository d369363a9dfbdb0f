"""Splits, groups and straddlers: which queries may be learned from, tuned on, certified on and reported on.

A ``split`` column is obeyed; without one the split follows from a hash of the group's key, so it never
depends on what else is in the file (near-duplicates apart) nor on the order of rows. Groups stay on one side:
made splits put whole groups in one split, and of a supplied split the straddling rows are taken out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from router_core.errors import InputError
from router_core.groups import hash_key, merge_near_duplicates, normalise, smallest_of_each, unit_interval
from router_core.keys import hash_each
from router_core.records import SPLITS, Records
from router_core.selection import DropReport, complete

__all__ = [
    "Prepared",
    "hash_key",
    "hash_split",
    "known_by",
    "normalise",
    "one_of_each",
    "prepare",
    "query_keys",
    "unit_interval",
]

Indices = npt.NDArray[np.intp]

_SPLIT_SALT = "routenlp-v1"
_TUNE_SALT = "routenlp-tune-v1"
_TUNE_SHARE = 0.2
_MIN_TRAIN_FOR_TUNE = 2000
# A group that touches several splits stays in the last of these; its rows in earlier ones go. So nothing
# learned from bears on calib or test, and nothing certified on bears on test.
_RANK = {"train": 0, "tune": 1, "calib": 2, "test": 3, "audit": 3}


@dataclass(frozen=True, eq=False)
class Prepared:
    """Records with their splits settled.

    Parameters
    ----------
    records
        Without straddlers; `split` and `group` filled in.
    train, tune, calib_all, test, audit
        Row numbers, ascending; together every row once. `tune` is taken out of `train` and may be empty.
    calib
        One row per group and label of `calib_all`, the one whose query_id has the smallest SHA-256. Only these certify;
        of a group with several labels a scope takes one row (`one_of_each`).
    group_id
        Per row the number of its group, shape [n].
    straddlers
        Rows taken out per split because their group also stands in a later split.
    supplied
        Whether the splits come from a ``split`` column.
    """

    records: Records
    train: Indices
    tune: Indices
    calib: Indices
    calib_all: Indices
    test: Indices
    audit: Indices
    group_id: Indices
    straddlers: Mapping[str, int]
    supplied: bool

    def complete(self, tiers: Sequence[str]) -> tuple[Prepared, DropReport]:
        """Keep the same splits for `tiers`, less the queries that lack an answer (`records.complete`)."""
        records, report = complete(self.records, tiers)
        required = [name for name in ("train", "calib", "test") if name in self.records.split]
        return _indexed(records, self.straddlers, self.supplied, required), report

    def without(self, rows: Indices) -> Prepared:
        """Leave out the groups of these rows; the other rows keep their splits."""
        kept = np.flatnonzero(~np.isin(self.group_id, self.group_id[rows]))
        return _indexed(self.records.take(kept), self.straddlers, self.supplied, ())

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {len(getattr(self, name))}" for name in ("train", "tune", "calib", "test"))
        gone = sum(self.straddlers.values())
        repeats = len(self.calib_all) - len(self.calib)
        return f"{counts} ({repeats} repeats in calib set aside, {gone} straddlers taken out)"


def hash_split(key: str) -> str:
    """Return the split of a key: train below .6, calib below .8, else test."""
    u = unit_interval(_SPLIT_SALT, key)
    return "train" if u < 0.6 else "calib" if u < 0.8 else "test"


def query_keys(records: Records, rows: Iterable[int]) -> set[str]:
    """Return all keys that prepared queries may be known by.

    The name of a group depends on which records came together and on whether they had a ``group`` column. So a query
    is also known by every key its group was merged from, and by the key of its own text.
    """
    found: set[str] = set()
    for i in rows:
        group = records.group[i]
        found.update((group, hash_key(records.prompt[i])), records.merged.get(group, ()))
    return found


def known_by(records: Records, rows: Sequence[int], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return which of some queries are known by one of these hashed keys (`router_core.keys.hash_keys`), bool."""
    named = [(n, key) for n, i in enumerate(rows) for key in query_keys(records, [i])]
    at = np.array([n for n, _ in named], dtype=np.intp)
    found = np.zeros(len(rows), dtype=np.bool_)
    found[at[np.isin(hash_each(key for _, key in named), keys)]] = True
    return found


def one_of_each(records: Records, rows: Iterable[int], label: Callable[[int], Any] = lambda _: None) -> list[int]:
    """Return of each group, and label if one is given, the row whose query_id has the smallest SHA-256, in their order.

    Never chosen by outcome, and the same whatever else was taken out before.
    """
    listed = list(rows)
    kept = set(smallest_of_each(((records.group[i], label(i)), records.query_id[i], i) for i in listed).values())
    return [i for i in listed if i in kept]


def prepare(records: Records, *, require: Sequence[str] = ("train", "calib", "test")) -> Prepared:
    """Settle the splits of `records`, group near-duplicates, and take out straddlers.

    Parameters
    ----------
    records
        As read; a ``split`` column decides for all queries or for none.
    require
        Splits that must not be empty.

    Raises
    ------
    InputError
        For an unknown split, a split given for some queries only, or an empty required split.
    """
    keys = [group or hash_key(prompt) for group, prompt in zip(records.group, records.prompt, strict=True)]
    supplied = any(records.split)
    if supplied:
        for query, split in zip(records.query_id, records.split, strict=True):
            if split not in SPLITS:
                what = f"unknown split {split!r}" if split else "no split, though others have one"
                raise InputError(f"{records.source}: query {query!r} has {what}; use {', '.join(SPLITS)}")
        splits = list(records.split)
    else:
        splits = [hash_split(normalise(key)) for key in keys]
    learned = np.array([split in ("train", "tune") for split in splits], dtype=bool)
    groups = merge_near_duplicates(records.prompt, keys, records.task, learned)
    straddlers: dict[str, int] = {}
    kept = list(range(len(records)))
    if supplied:
        last: dict[str, int] = {}
        for group, split in zip(groups, splits, strict=True):
            last[group] = max(last.get(group, 0), _RANK[split])
        kept = [i for i in kept if _RANK[splits[i]] == last[groups[i]]]
        gone = Counter(splits[i] for i in set(range(len(records))) - set(kept))
        straddlers = {split: gone[split] for split in SPLITS if gone[split]}
    else:
        splits = [hash_split(normalise(group)) for group in groups]
    trained = sum(splits[i] == "train" for i in kept)
    if "tune" not in splits and trained >= _MIN_TRAIN_FOR_TUNE:
        for i in kept:
            if splits[i] == "train" and unit_interval(_TUNE_SALT, normalise(groups[i])) < _TUNE_SHARE:
                splits[i] = "tune"
    settled = replace(records, split=splits, group=groups, merged=_merged(keys, groups, records.merged))
    if len(kept) < len(records):
        settled = settled.take(kept)
    return _indexed(settled, straddlers, supplied, require)


def _merged(
    keys: Sequence[str], groups: Sequence[str], before: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Per group of several keys, these keys and what they had been merged from."""
    members: dict[str, set[str]] = {}
    for key, group in zip(keys, groups, strict=True):
        members.setdefault(group, set()).update((key, *before.get(key, ())))
    return {group: tuple(sorted(names)) for group, names in members.items() if names != {group}}


def _indexed(records: Records, straddlers: Mapping[str, int], supplied: bool, require: Sequence[str]) -> Prepared:
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for i, split in enumerate(records.split):
        rows[split].append(i)
    for split in require:
        if not rows[split]:
            why = "the split column names no query for it" if supplied else f"{len(records)} queries are too few"
            if gone := straddlers.get(split):
                why = (
                    f"all its {gone} queries were taken out as straddlers, since their groups also have queries in a "
                    "later split; put every group in one split"
                )
            raise InputError(f"{records.source}: split {split!r} is empty; {why}")
    numbers: dict[str, int] = {}
    group_id = np.array([numbers.setdefault(group, len(numbers)) for group in records.group], dtype=np.intp)

    def index(values: Sequence[int]) -> Indices:
        return np.array(sorted(values), dtype=np.intp)

    return Prepared(
        records=records,
        train=index(rows["train"]),
        tune=index(rows["tune"]),
        # By label too: a conversation over several tasks must not stand for only one of them.
        calib=index(one_of_each(records, rows["calib"], lambda i: (records.task[i], records.subtask[i]))),
        calib_all=index(rows["calib"]),
        test=index(rows["test"]),
        audit=index(rows["audit"]),
        group_id=group_id,
        straddlers=straddlers,
        supplied=supplied,
    )
