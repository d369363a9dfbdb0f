"""Questions to several sources of documents: what cheap, dear and routed answers are worth, and where each went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router_core.errors import InputError
from router_core.figures import INK, PALETTE, Picture, new_figure, picture_of, styled, tidy
from router_core.show import Share, Table, usd

__all__ = ["Asked", "compare_ways", "picture_sources"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question that was asked.

    Attributes
    ----------
    kind
        Kind of documents that hold its answer.
    source
        The one that was chosen.
    way
        Who answered: the tiers that were tried, joined by ``" > "``, or the source alone.
    right
        1.0 when the answer holds the gold words.
    cost_usd
        Of all attempts, US dollars.
    """

    kind: str
    source: str
    way: str
    right: float
    cost_usd: float

    @classmethod
    def of(cls, kind: str, sources: Sequence[str], response: Any, right: float) -> Asked:
        """Read the metadata of a response of `RouterQueryEngine`, whose choices were `sources`."""
        told = response.metadata
        source, route = sources[told["selector_result"].selections[0].index], told.get("routenlp")
        if route is None:
            return cls(kind, source, source, right, 0.0)
        return cls(kind, source, " > ".join(one["tier"] for one in route["attempts"]), right, route["cost_usd"])


def compare_ways(ways: Mapping[str, Sequence[tuple[float, float]]]) -> Table:
    """Ways to answer the same questions, each a sequence of (quality, US dollars), the dearest last."""
    paid = {name: sum(cost for _, cost in told) for name, told in ways.items()}
    return Table(
        {
            "way": name,
            "questions": len(told),
            "right": Share(sum(quality for quality, _ in told) / len(told)),
            "paid": usd(paid[name]),
            "share of the dearest": Share(paid[name] / list(paid.values())[-1]),
        }
        for name, told in ways.items()
    )


def picture_sources(ways: Mapping[str, Sequence[tuple[float, float]]], asked: Sequence[Asked]) -> Picture:
    """Quality against cost of each way to answer, and beside it how many questions went where.

    Parameters
    ----------
    ways
        As for `compare_ways`.
    asked
        Every question that was asked.

    Raises
    ------
    InputError
        When nothing was asked.
    """
    if not asked or not all(ways.values()):
        raise InputError("there are no questions to draw; ask some first.")
    with styled():
        figure = new_figure(9.0, 3.6)
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
        told = _draw_ways(left, ways)
        count = Counter((one.kind, one.way) for one in asked)
        went = sorted(count, key=lambda key: (key[0], -count[key], key[1]))
        kinds = list(dict.fromkeys(kind for kind, _ in went))
        for row, (kind, way) in enumerate(went):
            mine = [one for one in asked if (one.kind, one.way) == (kind, way)]
            good = sum(one.right for one in mine)
            colour = PALETTE[kinds.index(kind) % len(PALETTE)]
            right.barh(row, good, height=0.6, color=colour)
            right.barh(row, len(mine) - good, left=good, height=0.6, facecolor="none", edgecolor=colour)
            right.text(len(mine), row, f" {len(mine)}", va="center")
        right.set_yticks(range(len(went)), [f"{kind}: {way}" for kind, way in went], fontsize=8)
        right.set_ylim(len(went) - 0.4, -0.6)
        right.set_xlabel("questions (filled: answered right)")
        right.set_title(f"where {len(asked)} questions went")
        tidy(right, sides=("top", "right", "left"))
        right.tick_params(axis="y", length=0)
        return picture_of(figure, f"Right and paid: {told}. Questions by kind and by who answered.")


def _draw_ways(axes: Any, ways: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    said = []
    for number, (name, told) in enumerate(ways.items()):
        quality, cost = (1e3 * sum(column) / len(told) for column in zip(*told, strict=True))
        colour = INK if number == len(ways) - 1 else PALETTE[number % len(PALETTE)]
        axes.plot([cost], [quality / 10], "o", color=colour, ms=9, clip_on=False)
        axes.annotate(
            name, (cost, quality / 10), xytext=(0, -15), textcoords="offset points", ha="center", color=colour
        )
        said.append(f"{name} {quality / 10:.0f} % for {usd(cost)} a thousand")
    most = axes.get_xlim()[1]
    axes.set_xlim(-0.12 * most, 1.12 * most)
    axes.set_ylim(0, 105)
    axes.set_xlabel("US dollars for 1,000 questions")
    axes.set_ylabel("answered right, %")
    axes.set_title("the instruments' held-out questions")
    tidy(axes, grid="both")
    return "; ".join(said)
