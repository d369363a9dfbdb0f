"""One picture: cost and T1 by round and task."""

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
    shown = [name if stages[name]["outcome"] == "promoted" else f"{name}\n(refused)" for name in names]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for task, colour in zip(STRUCTURED, _COLOURS, strict=True):
        told = [stages[name]["tasks"][task] for name in names]
        cost = [one["cost_ratio"] for one in told]
        low = [one["cost_ratio"] - one["cost_ratio_ci"][0] for one in told]
        high = [one["cost_ratio_ci"][1] - one["cost_ratio"] for one in told]
        left.errorbar(shown, cost, yerr=[low, high], color=colour, marker="o", capsize=3, lw=1.4, label=task)
        right.plot(shown, [one["t1"]["whole"] for one in told], color=colour, marker="o", lw=1.4, label=task)
    left.plot(shown, [stages[name]["overall"]["cost_ratio"] for name in names], color="black", lw=2, label="all four")
    left.axhline(COST_TARGET, color="grey", ls=":", lw=1)
    left.annotate(
        f"target {COST_TARGET:g}", (len(names) - 1, COST_TARGET), color="grey", ha="right", va="bottom", fontsize=8
    )
    left.set_ylim(0, None)
    left.set_ylabel("cost, share of always-reference (test)")
    right.set_ylim(0, 1)
    right.set_ylabel("T1's answers that are wholly right (test)")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(folder / "rounds.png", dpi=130)
    plt.close(figure)
