"""Failure clusters to look at: a table for the terminal, a map on two principal components."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporters.clusters import Clusters
from router_core.figures import INK, PALETTE, Picture, new_figure, picture_of, styled, tidy, write_figure

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["cluster_table", "picture_clusters", "plot_clusters"]

_SHOWN_TEXT = 72
_MOST_PANELS = 6
_COLOURS = (*PALETTE, "#c0505e", "#5c9a35", "#a65bb5", "#6d7fc9")


def cluster_table(clusters: Clusters, most: int = 15) -> Table:
    """The worst clusters as a table for the terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("task", "#"):
        table.add_column(name)
    for name in ("size", "gap", "size x gap", "USD"):
        table.add_column(name, justify="right")
    table.add_column("keywords")
    table.add_column("typical query", overflow="ellipsis", no_wrap=True, max_width=_SHOWN_TEXT)
    for one in clusters.clusters[:most]:
        table.add_row(
            one.task, str(one.number), f"{one.size:,}", f"{one.gap:.3f}", f"{one.score:,.1f}", f"{one.cost_usd:.4g}",
            ", ".join(one.keywords[:4]), " ".join(one.typical[0].split())[:_SHOWN_TEXT],
        )  # fmt: skip
    return table


def plot_clusters(clusters: Clusters, path: str | Path) -> None:
    """Draw the map: one panel a task (at most six), failures on its first two principal components.

    Parameters
    ----------
    clusters
        What to draw.
    path
        File to write, whole or not at all; its ending names the format.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    """
    with styled():
        write_figure(_draw(clusters), Path(path))


def picture_clusters(clusters: Clusters) -> Picture:
    """Draw the same map for a notebook; raises MissingExtraError without matplotlib."""
    worst = "; ".join(f"{one.task} {one.number}: {', '.join(one.keywords[:3])}" for one in clusters.clusters[:5])
    with styled():
        return picture_of(
            _draw(clusters), f"What the cheap tiers fail at, on two principal components. Worst: {worst}", 80
        )


def _draw(clusters: Clusters) -> Any:
    worst = {one.task: None for one in clusters.clusters}
    tasks = list(worst)[:_MOST_PANELS]
    columns = min(len(tasks), 2)
    rows = -(-len(tasks) // columns)
    figure = new_figure(6.4 * columns, 4.9 * rows, dpi=130)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(tasks) :]:
        axes.set_visible(False)
    for axes, task in zip(grid, tasks, strict=False):
        _panel(axes, task, clusters)
    left = len(worst) - len(tasks)
    figure.suptitle(
        "What the cheap tiers fail at" + (f" (the {len(tasks)} worst tasks; {left} more)" if left else ""),
        fontsize=12, fontweight="bold", x=0.01, ha="left",
    )  # fmt: skip
    return figure


def _panel(axes: Any, task: str, clusters: Clusters) -> None:
    place, number = clusters.places[task]
    own = [one for one in clusters.clusters if one.task == task]
    size = float(np.clip(4000 / len(place), 4, 26))
    for one in own:
        at = place[number == one.number]
        colour = _COLOURS[(one.number - 1) % len(_COLOURS)]
        label = f"{one.number}: {', '.join(one.keywords[:3]) or 'no text'} ({one.size:,} x {one.gap:.2f})"
        axes.scatter(at[:, 0], at[:, 1], s=size, color=colour, alpha=0.7, linewidths=0, label=label)
    for one in own:
        x, y = place[number == one.number].mean(axis=0)
        axes.text(
            x, y, str(one.number), fontsize=9, fontweight="bold", ha="center", va="center", color="white",
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": INK, "edgecolor": "none", "alpha": 0.95},
        )  # fmt: skip
    quality = clusters.silhouette[task]
    axes.set_title(
        f"{task}: {clusters.seen[task]:,} failures" + ("" if quality is None else f", silhouette {quality:.2f}"),
        fontsize=10, loc="left",
    )  # fmt: skip
    axes.set_xlabel("first principal component", fontsize=8)
    axes.set_ylabel("second", fontsize=8)
    axes.tick_params(labelsize=7)
    tidy(axes)
    axes.legend(
        fontsize=7, markerscale=2, title="cluster: keywords (size x mean gap)", title_fontsize=7, loc="upper left",
        bbox_to_anchor=(0, -0.13), ncols=2, alignment="left", handletextpad=0.2,
    )  # fmt: skip
