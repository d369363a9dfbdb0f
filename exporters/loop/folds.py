"""Who may see which query: calib folds allocated before the first round, and learned queries cut in two, once.

A certificate needs a fold that nothing before it has depended on (METHOD.md 2.6 b), so folds are allocated before
there is anything to look at, into a file that is never rewritten. Learned queries are cut by a hash of their group:
what a student was taught its router must not learn from, since a tier's answers to what it was trained on are too
good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporters.fence import Keys, item_keys
from exporters.loop.files import check_keys, read_json, write_json
from router_core.errors import InputError
from router_core.groups import unit_interval
from router_core.keys import hash_keys, ids_sha256
from router_core.ledger.rows import conversation_group
from router_core.records import Records
from router_core.splits import Prepared

__all__ = ["FOLDS", "Folds", "calib_keys", "is_student_part", "router_rows"]

FOLDS = "folds.json"
_FOLD_SALT = "routenlp-loop-fold-v1"
_PART_SALT = "routenlp-loop-part-v1"


def is_student_part(group: str, share: float) -> bool:
    """Whether queries of this group may be taught to students; the router learns from all others."""
    return unit_interval(_PART_SALT, group) < share


@dataclass(frozen=True, eq=False)
class Folds:
    """Calibration queries by fold.

    Attributes
    ----------
    ids
        Query ids of each fold, sorted; queries of one group are in one fold.
    sha256
        Hash of the texts of each fold.
    """

    ids: tuple[tuple[str, ...], ...]
    sha256: tuple[str, ...]

    @classmethod
    def allocate(cls, prepared: Prepared, count: int) -> Folds:
        """Deal the groups of every task out in the order of their hashes.

        Raises
        ------
        InputError
            When there are fewer groups than folds.
        """
        records = prepared.records
        members: dict[str, list[int]] = {}
        for i in prepared.calib_all.tolist():
            members.setdefault(records.group[i], []).append(i)
        if len(members) < count:
            raise InputError(
                f"{records.source}: {len(members)} groups of calibration queries cannot be cut into {count} folds; "
                "give more records or fewer folds"
            )
        order = sorted(members, key=lambda group: (records.task[members[group][0]], unit_interval(_FOLD_SALT, group)))
        turns: dict[str, int] = {}
        dealt: list[list[int]] = [[] for _ in range(count)]
        for group in order:
            task = records.task[members[group][0]]
            turn = turns[task] = turns.get(task, -1) + 1
            dealt[turn % count] += members[group]
        return cls(
            tuple(tuple(sorted(records.query_id[i] for i in part)) for part in dealt),
            tuple(_texts(records, part) for part in dealt),
        )

    @classmethod
    def load(cls, path: Path) -> Folds:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            When it is missing, or was changed.
        """
        told = read_json(path)
        check_keys(path, told, {"ids": list, "sha256": list, "seal": str}, "restore it, or start in another folder")
        found = cls(tuple(tuple(map(str, part)) for part in told["ids"]), tuple(map(str, told["sha256"])))
        if told.get("seal") != found._seal():
            raise InputError(f"{path} was changed after the folds were allocated; restore it")
        return found

    def save(self, path: Path) -> None:
        """Write the folds; a file that is there is never rewritten.

        Raises
        ------
        InputError
            When other folds are there.
        """
        if path.exists():
            if Folds.load(path) != self:
                raise InputError(f"{path} holds folds of other records; give those, or start in another folder")
            return
        write_json(path, {"ids": self.ids, "sha256": self.sha256, "seal": self._seal()})

    def rows(self, records: Records, fold: int) -> list[int]:
        """Rows of a fold.

        Raises
        ------
        InputError
            When the records lack some of them or hold other texts.
        """
        wanted = set(self.ids[fold])
        found = [i for i, query in enumerate(records.query_id) if query in wanted]
        if len(found) != len(wanted) or _texts(records, found) != self.sha256[fold]:
            raise InputError(
                f"{records.source}: fold {fold} was allocated with {len(wanted)} calibration queries, the records have "
                f"{len(found)} of them or other texts; give the records that the loop was started with"
            )
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folds) and (self.ids, self.sha256) == (other.ids, other.sha256)

    __hash__ = None  # type: ignore[assignment]

    def _seal(self) -> str:
        return ids_sha256([*(f"{k}|{one}" for k, part in enumerate(self.ids) for one in part), *self.sha256])


def calib_keys(records: Records, rows: Iterable[int]) -> Keys:
    """All keys of calibration items, hashed, that nothing may learn from; of a group the ledger's name for it too."""
    return hash_keys(
        key
        for i in rows
        for group in (records.group[i], conversation_group(records.group[i]))
        for key in item_keys(records.query_id[i], group, records.prompt[i])
    )


def router_rows(prepared: Prepared, share: float, taught: Keys) -> list[int]:
    """Learned rows from which the router learns: none of the student part, and none that a student was taught.

    Parameters
    ----------
    prepared
        Records with their groups.
    share
        Of the student part.
    taught
        Hashed keys of all pairs that students of this release learned from.
    """
    records = prepared.records
    found = []
    for i in np.union1d(prepared.train, prepared.tune).tolist():
        if is_student_part(records.group[i], share):
            continue
        keys = item_keys(records.query_id[i], records.group[i], records.prompt[i])
        if not np.isin(hash_keys(keys), taught).any():
            found.append(i)
    return found


def _texts(records: Records, rows: Sequence[int]) -> str:
    return ids_sha256(
        f"{records.query_id[i]}|{hashlib.sha256(records.prompt[i].encode('utf-8', 'surrogatepass')).hexdigest()}"
        for i in rows
    )
