"""The logged traffic of a time with its groups settled, before any of it is drawn.

Near-duplicates count once in a certificate, so they must be one group when the sample is drawn too: settled among the
audited queries alone, a large group would be in the fold nearly always and a small one rarely.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from exporters.loop.near import groups_of_new
from exporters.loop.work import Work
from exporters.students.data import Pair
from router_core.errors import InputError
from router_core.ledger.reader import LedgerReader
from router_core.ledger.rows import key_of, logged_group
from router_core.ledger.sample import Logged, logged_texts

__all__ = ["Traffic", "route_group", "settled_traffic"]


@dataclass(frozen=True, eq=False)
class Traffic:
    """Logged queries by their groups.

    Attributes
    ----------
    logged
        All, without their texts; the group is that of the near-duplicates.
    known
        Ids of those in whose group a record or a learned pair stands.
    """

    logged: Sequence[Logged]
    known: frozenset[str]

    @property
    def groups(self) -> Counter[str]:
        """New groups of each task."""
        new = {(one.task, one.group) for one in self.logged if one.id not in self.known}
        return Counter(task for task, _ in new)

    @property
    def largest(self) -> int:
        """New queries in the largest group of a task."""
        sizes = Counter((one.task, one.group) for one in self.logged if one.id not in self.known)
        return max(sizes.values(), default=0)


def settled_traffic(
    reader: LedgerReader, work: Work, since: float | None, until: float, learned: Mapping[str, Sequence[Pair]]
) -> Traffic:
    """Read every logged query of the planned tasks and merge near-duplicates, whether audited or not.

    Parameters
    ----------
    reader
        An open ledger.
    work
        What the round is called with.
    since, until
        Bounds in time.
    learned
        What the students that serve learned from, by task.

    Raises
    ------
    InputError
        When texts are missing or are not what was routed, or there are too many to hold; without naming the ledger.
    """
    every = logged_texts(
        reader, work.options.plans, since, until, shorter="certify on a shorter time with --since or --until",
        keep="keep texts until the round that certifies on them",
    )  # fmt: skip
    changed = sum(key_of(one.text or "") != one.key for one in every)
    if changed:
        raise InputError(
            f"{changed} of {len(every)} logged queries are not stored as they were routed (redaction changed them), so "
            "what the tiers do with them cannot be replayed; certify on records instead"
        )
    groups = [route_group(work, one.conversation, one.text) for one in every]
    texts = [(one.task, group, one.text or "") for one, group in zip(every, groups, strict=True)]
    names = groups_of_new(work.prepared, texts, learned)
    settled = [
        replace(one, group=group if name is None else name, text=None, conversation=None)
        for one, group, name in zip(every, groups, names, strict=True)
    ]
    known = frozenset(one.id for one, name in zip(every, names, strict=True) if name is None)
    return Traffic(settled, known)


def route_group(work: Work, conversation: str | None, text: str | None) -> str:
    """Group of a route, by the name that the records' groups have where it is one of them."""
    group = logged_group(conversation, text)
    return work.groups.get(group, group)
