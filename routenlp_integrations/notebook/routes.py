"""Routes to look at: where many queries went and what they saved, and the street of attempts of one of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router_core.errors import InputError
from router_core.figures import ALARM, INK, PALETTE, Picture, new_figure, picture_of, styled, tidy
from router_core.route import Route
from router_core.show import Share, Table, usd

__all__ = ["by_tier", "picture_routes", "picture_street"]

_LONGEST = 120
"""Characters of a name or reason on a picture."""


def by_tier(routes: Sequence[Route], reference_usd: Sequence[float], tiers: Sequence[str]) -> Table:
    """How many queries each tier served, what they cost with every attempt, and what they would have cost.

    Parameters
    ----------
    routes
        One for each query.
    reference_usd
        What the reference tier's answer to the same query costs, US dollars.
    tiers
        Names in cascade order.

    Raises
    ------
    InputError
        When there is no query, or not one cost for each route.
    """
    saved = _saved(routes, reference_usd)
    served = np.asarray([route.tier for route in routes])
    paid = np.asarray([route.cost_usd for route in routes])
    rows = Table()
    for name in (*tiers, "all"):
        mine = np.ones(len(routes), bool) if name == "all" else served == name
        cost, saving = float(paid[mine].sum()), float(saved[mine].sum())
        rows.append(
            {
                "served by": name,
                "queries": int(mine.sum()),
                "share": Share(mine.mean()),
                "paid, all attempts": usd(cost),
                "reference alone": usd(cost + saving),
                "saved": f"{100 * saving / (cost + saving):.1f} %" if cost + saving > 0 else None,
            }
        )
    return rows


def picture_routes(routes: Sequence[Route], reference_usd: Sequence[float], tiers: Sequence[str]) -> Picture:
    """One dot for each query: the tier that served it, and the dollars it saved, as of a thousand queries like it.

    Left of zero lie queries that cost more than asking the reference at once: they paid for attempts and escalated.
    Parameters and errors are those of `by_tier`.
    """
    saved = 1e3 * _saved(routes, reference_usd)
    served = np.asarray([route.tier for route in routes])
    paid, alone = sum(route.cost_usd for route in routes), float(np.sum(reference_usd))
    with styled():
        figure = new_figure(8.0, 0.75 * len(tiers) + 1.3)
        axes = figure.subplots()
        for row, name in enumerate(tiers):
            mine = saved[served == name]
            colour = PALETTE[row % len(PALETTE)] if row < len(tiers) - 1 else INK
            axes.scatter(
                mine, row + _spread(mine, float(np.ptp(saved)) / 120), s=11, color=colour, alpha=0.9, linewidths=0
            )
        axes.axvline(0.0, color=ALARM, lw=0.9)
        axes.set_yticks(range(len(tiers)), [f"{_plain(name)}\n{int((served == name).sum())} queries" for name in tiers])
        axes.set_ylim(len(tiers) - 0.45, -0.55)
        axes.set_xlabel(
            f"US dollars saved on 1,000 queries like it (left of the line: dearer than {_plain(tiers[-1])} at once)"
        )
        axes.set_title(f"{len(routes)} queries: {usd(paid)} paid; always {tiers[-1]}: {usd(alone)}".replace("$", r"\$"))
        tidy(axes, grid="x", sides=("top", "right", "left"))
        axes.tick_params(axis="y", length=0)
        counts = ", ".join(f"{name} {int((served == name).sum())}" for name in tiers)
        return picture_of(figure, f"Dots, one a query, by the tier that served it ({counts}) and the dollars it saved.")


def picture_street(route: Route) -> Picture:
    """Draw the attempts of one query from left to right: who was asked, what it cost, and why it went on."""
    stops = route.attempts
    with styled():
        figure = new_figure(max(2.9 * len(stops), 4.0), 2.1)
        axes = figure.subplots()
        axes.axis("off")
        axes.set_xlim(-0.5, len(stops) - 0.5)
        axes.set_ylim(-1.0, 1.0)
        for place, attempt in enumerate(stops):
            colour = PALETTE[2] if attempt.accepted else INK
            sure = "not judged" if attempt.confidence is None else f"confidence {attempt.confidence:.3f}"
            text = f"{_plain(attempt.tier)}\n{usd(attempt.cost_usd)}\n{sure}".replace("$", r"\$")
            axes.text(
                place, 0.35, text, ha="center", va="center", color=colour, fontsize=10,
                bbox={"boxstyle": "round,pad=0.6", "facecolor": "none", "edgecolor": colour, "linewidth": 1.6},
            )  # fmt: skip
            why = "\n".join(textwrap.wrap(_plain(attempt.reason), 34)[:4]).replace("$", r"\$")
            axes.text(place, -0.42, why, ha="center", va="top", fontsize=8)
            if place + 1 < len(stops):
                axes.annotate(
                    "", xy=(place + 0.7, 0.35), xytext=(place + 0.32, 0.35),
                    arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.6},
                )  # fmt: skip
        axes.set_title(f"served by {_plain(route.tier)}, {usd(route.cost_usd)} in all".replace("$", r"\$"))
        return picture_of(figure, "Asked in turn: " + ", then ".join(attempt.tier for attempt in stops) + ".")


def _plain(text: str) -> str:
    """One line, short enough for its place."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _saved(routes: Sequence[Route], reference_usd: Sequence[float]) -> NDArray[np.float64]:
    if not routes or len(routes) != len(reference_usd):
        raise InputError(f"{len(routes)} routes and {len(reference_usd)} costs; give one cost for each route.")
    return np.asarray(reference_usd, np.float64) - np.asarray([route.cost_usd for route in routes], np.float64)


def _spread(values: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Heights that keep equal values apart: those of one narrow stretch fan out around the line."""
    heights = np.zeros(len(values))
    stretch = np.round(values / max(width, 1e-300)).astype(int)
    for one in np.unique(stretch):
        at = np.flatnonzero(stretch == one)
        order = np.arange(len(at))
        fan = (order + 1) // 2 * np.where(order % 2, 1.0, -1.0)
        heights[at] = fan * min(0.08, 0.38 / max((len(at) + 1) // 2, 1))
    return heights
