"""Corrections in the feedback: what a user said is right stands, whatever was answered before or after.

A query may be logged several times and be corrected long after it was answered, even after a student was taught
something else. So corrections are found by when they were given, hold for every route of the same text, and of several
the latest holds; those that it contradicts are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from router_core.groups import hash_key
from router_core.ledger.reader import LedgerReader, LoggedRoute, Moment

if TYPE_CHECKING:
    from exporters.loop.harvesting import Found

__all__ = ["corrected_routes", "correction_of", "settle_corrections"]

KINDS = ("label", "correction")


def correction_of(route: LoggedRoute) -> str | None:
    """The last right answer that the feedback of a route gives in words."""
    told = [item.text for item in route.feedback if item.kind in KINDS and item.text]
    return told[-1] if told else None


def corrected_routes(reader: LedgerReader, since: Moment, until: Moment) -> Iterator[LoggedRoute]:
    """Routes that were corrected within these bounds, whenever they were answered, oldest first."""
    return reader.routes(since, until, feedback=KINDS)


def settle_corrections(
    found: Sequence[Found],
    routes: Iterator[LoggedRoute],
    text_of: Callable[[LoggedRoute], tuple[str, str] | None],
    left_out: Counter[str],
) -> list[Found]:
    """Give every query the latest correction of its text.

    Parameters
    ----------
    found
        What was harvested; only corrections of these texts are held in memory.
    routes
        From `corrected_routes`.
    text_of
        Task and text of a route; None where the text is not known.
    left_out
        Counts corrections that a later one contradicts.
    """
    said: dict[tuple[str, str], list[tuple[float, str]]] = {(one.task, hash_key(one.prompt)): [] for one in found}
    for route in routes:
        told = text_of(route)
        if told is not None and (key := (told[0], hash_key(told[1]))) in said:
            said[key] += [(item.at, item.text) for item in route.feedback if item.kind in KINDS and item.text]
    latest = {key: max(all_of)[1] for key, all_of in said.items() if all_of}
    if contradicted := sum(text != latest[key] for key, all_of in said.items() for _, text in all_of):
        left_out["corrections that a later one contradicts"] += contradicted
    return [
        replace(one, answer=latest[key], answer_usd=0.0) if (key := (one.task, hash_key(one.prompt))) in latest else one
        for one in found
    ]
