"""One picture: cost of what serves and T2 by round and task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protocol import COST_TARGET, STRUCTURED

__all__ = ["draw"]

_COLOURS = ("#1b6ca8", "#d1495b", "#3f7d20", "#b07d12")


def draw(folder: Path, results: dict[str, Any]) -> None:
    """Write ``rounds.png``; nothing where the loop was not played."""
    if "stages" not in results:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    stages = results["stages"]
    names = list(stages)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for number, (task, colour) in enumerate(zip(STRUCTURED, _COLOURS, strict=True)):
        serving = [stages[stages[name]["serves"][task]]["tasks"][task] for name in names]
        cost = [one["cost_ratio"] for one in serving]
        low = [one["cost_ratio"] - one["cost_ratio_ci"][0] for one in serving]
        high = [one["cost_ratio_ci"][1] - one["cost_ratio"] for one in serving]
        # Side by side, so that intervals do not cover each other.
        at = [place + 0.06 * (number - 1.5) for place in range(len(names))]
        left.errorbar(at, cost, yerr=[low, high], color=colour, marker="o", capsize=3, lw=1.4, label=task)
        refused = [(x, stages[name]["tasks"][task]["cost_ratio"]) for x, name in zip(at, names, strict=True)
                   if task in stages[name]["tasks"] and stages[name]["serves"][task] != name]  # fmt: skip
        left.plot([x for x, _ in refused], [y for _, y in refused], "x", color=colour, ms=7)
        taught = [(x, stages[name]["tasks"][task]["t2"]["whole"]) for x, name in enumerate(names)
                  if task in stages[name]["tasks"]]  # fmt: skip
        right.plot([x for x, _ in taught], [y for _, y in taught], color=colour, marker="o", lw=1.4, label=task)
    left.plot([], [], "x", color="grey", ms=7, label="refused candidate")
    left.plot([stages[name]["overall"]["cost_ratio"] for name in names], color="black", lw=2, label="all four")
    left.axhline(COST_TARGET, color="grey", ls=":", lw=1)
    left.annotate(f"target {COST_TARGET:g}", (0.45, COST_TARGET), color="grey", va="top", fontsize=8)
    left.set_ylim(0, 1)
    left.set_ylabel("cost, share of always-reference (test)")
    right.set_ylim(0.6, 1)
    right.set_ylabel("T2's answers that are wholly right (test)")
    left.legend(frameon=False, fontsize=8, ncols=2)
    for axes in (left, right):
        axes.set_xticks(range(len(names)), names)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(folder / "rounds.png", dpi=130)
    plt.close(figure)
