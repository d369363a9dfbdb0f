"""The picture of a watch: how the evidence against each certificate grew, audit by audit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.figures import PALETTE, Picture, new_figure, picture_of, styled, tidy, write_figure
from router_core.monitor import Verdict

__all__ = ["picture_watch", "plot_watch"]

_MOST = 6
_POINTS = 2_000
"""Points drawn of one line; more would not be seen."""
_ALARM, _DETECTOR = PALETTE[:2]
_LOWEST = -3.0
_LONGEST = 40


def plot_watch(verdicts: Sequence[Verdict], path: str | Path) -> None:
    """Draw alarm and detector of every certificate that has audits against their bars, at most six panels.

    Certificates that were alarmed come first, then those with most audits. Both lines are on one logarithmic scale,
    cut off below 0.001.

    Parameters
    ----------
    verdicts
        From `router_core.monitor.Watcher.verdicts`.
    path
        File to write; its ending names the format (``.png``, ``.svg`` or ``.pdf``).

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    OSError
        When the file cannot be written.
    """
    with styled():
        write_figure(_draw(verdicts), Path(path))


def picture_watch(verdicts: Sequence[Verdict]) -> Picture:
    """Draw the same picture for a notebook; raises MissingExtraError without matplotlib."""
    told = "; ".join(f"{v.stream.shown.scope}, {v.stream.shown.policy}: {v.verdict}" for v in verdicts)
    with styled():
        return picture_of(_draw(verdicts), f"Evidence that the risk exceeds what was certified. {told}")


def _draw(verdicts: Sequence[Verdict]) -> Any:
    told = [v for v in verdicts if v.stream.about.any() and v.verdict != "not watched"]
    told = sorted(told, key=lambda v: (v.verdict not in ("alarm", "shift"), -v.stream.alarm.n))[:_MOST]
    columns = 1 if len(told) < 2 else 2
    rows = max(-(-len(told) // columns), 1)
    figure = new_figure(5.5 * columns, 3.1 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, verdict in zip(grid, told, strict=False):
        _panel(axes, verdict)
    for axes in grid[len(told) :]:
        axes.set_visible(False)
    figure.suptitle(
        "Evidence that the risk exceeds what was certified", fontsize=11, fontweight="bold", x=0.01, ha="left"
    )
    if told:
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=2, fontsize=8.5)
    else:
        figure.text(0.5, 0.5, "no audits yet", ha="center")
    return figure


def _panel(axes: Any, verdict: Verdict) -> None:
    stream = verdict.stream
    lines = (
        (_ALARM, "alarm; false, ever, with probability at most 1 / its bar", stream.alarm),
        (_DETECTOR, "restarted detector; its bar: audits between false alarms", stream.detector),
    )
    top = 0.0
    for (colour, label, evidence), path in zip(lines, stream.paths(), strict=True):
        at, value = _thin(path / math.log(10.0))
        axes.plot(at, np.maximum(value, _LOWEST), color=colour, linewidth=1.4, label=label)
        bar = math.log10(evidence.bar)
        axes.axhline(bar, color=colour, linewidth=0.9, linestyle="--")
        axes.annotate(
            f"{evidence.bar:,.6g}", (1.0, bar), xycoords=("axes fraction", "data"), xytext=(-3, 2), ha="right",
            textcoords="offset points", color=colour, fontsize=8,
        )  # fmt: skip
        if evidence.raised_at is not None:
            axes.plot([evidence.raised_at], [bar], marker="o", color=colour, markersize=6)
        top = max(top, bar, min(float(value.max()), bar + 2.0))
    axes.set_ylim(_LOWEST - 0.1, top + 0.7)
    ticks = np.arange(_LOWEST, top + 0.7, 1.0 if top < 5 else 2.0)
    axes.set_yticks(ticks, [f"{10.0**tick:,.0f}" if tick >= 0 else f"{10.0**tick:g}" for tick in ticks])
    axes.set_xlabel("audits")
    tidy(axes, grid="y")
    shown = stream.shown
    name = f"{shown.scope}, {shown.policy}"
    name = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    estimate = verdict.estimates["selective" if shown.risk == "selective" else "joint"]
    risk = (
        f"{shown.risk} risk {100 * (estimate.value or 0.0):.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    )
    title = f"{name}: {verdict.verdict}\n{risk}, certified {100 * shown.alpha:g} %"
    axes.set_title(title.replace("$", r"\$"), loc="left")


def _thin(path: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """At most so many points, each the highest of its stretch, so that no crossing is lost."""
    stretch = -(-len(path) // _POINTS)
    starts = np.arange(0, len(path), stretch)
    at = np.array([start + int(np.argmax(path[start : start + stretch])) for start in starts], np.int64)
    return at + 1, path[at]
