"""Near-duplicates: which texts that are none of the records stand too close to records that nothing may learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from exporters.students.data import Pair
from router_core.groups import hash_key, merge_near_duplicates
from router_core.splits import Prepared

__all__ = ["groups_of_new", "near_calib", "near_records"]

_LEARNED = ("train", "tune")


def near_records(prepared: Prepared, texts: Sequence[tuple[str, str, str]], barred: Iterable[int]) -> NDArray[np.bool_]:
    """Whether each text is in one group with a barred record, through other texts and records too.

    Parameters
    ----------
    prepared
        Records with their groups.
    texts
        Task, group key and text of what is none of the records.
    barred
        Rows of the records.

    Returns
    -------
    NDArray
        Shape [len(texts)].
    """
    names = _names(prepared, texts)
    held = {names[i] for i in barred}
    return np.array([name in held for name in names[len(prepared.records) :]], dtype=bool)


def groups_of_new(
    prepared: Prepared, texts: Sequence[tuple[str, str, str]], pairs: Mapping[str, Sequence[Pair]]
) -> list[str | None]:
    """Group of each text; None where a record, or a pair that students learned from, stands in it.

    Parameters
    ----------
    prepared
        Records with their groups.
    texts
        Task, group key and text of each.
    pairs
        By task.
    """
    learned = [(task, pair.group, pair.prompt) for task, mine in pairs.items() for pair in mine]
    names, first = _names(prepared, [*texts, *learned]), len(prepared.records)
    known = {*names[:first], *names[first + len(texts) :]}
    return [None if name in known else name for name in names[first : first + len(texts)]]


def _names(prepared: Prepared, texts: Sequence[tuple[str, str, str]]) -> list[str]:
    """Groups of all records and then of these texts."""
    records = prepared.records
    # What many records share is template; what many of these texts share may be one popular query.
    template = np.array([split in _LEARNED for split in records.split] + [False] * len(texts), dtype=bool)
    return merge_near_duplicates(
        [*records.prompt, *(text for _, _, text in texts)],
        [*records.group, *(group or hash_key(text) for _, group, text in texts)],
        [*records.task, *(task for task, _, _ in texts)],
        template,
    )


def near_calib(prepared: Prepared, pairs: Mapping[str, Sequence[Pair]]) -> list[str]:
    """Ids of pairs that are near-duplicates of a calibration query of any fold.

    Pairs with the text of a record are not looked at: its group was settled with the records' splits.

    Parameters
    ----------
    prepared
        All records.
    pairs
        By task.
    """
    records = prepared.records
    known = {(task, hash_key(text)) for task, text in zip(records.task, records.prompt, strict=True)}
    told = [
        (pair.query_id, task, pair.group, pair.prompt)
        for task, mine in pairs.items()
        for pair in mine
        if (task, hash_key(pair.prompt)) not in known
    ]
    if not told:
        return []
    near = near_records(prepared, [(task, group, text) for _, task, group, text in told], prepared.calib_all.tolist())
    return [query for (query, *_), found in zip(told, near, strict=True) if found]
