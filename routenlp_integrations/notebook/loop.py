"""The demo's loop for a notebook: its records and options, and students that were recorded where torch is.

A recorded student is a checkpoint as any other: a real tokenizer and a real graph, which looks up what the trained
student thought of each query of the demo. `benchmarks/demo_data/record_loop.py` makes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from routenlp_integrations.cli.demo import DATA
from routenlp_integrations.cli.demo_loop import loop_options as _options
from routenlp_integrations.cli.demo_loop import loop_records as _labelled
from routenlp_integrations.cli.demo_loop import send_through, shuffled
from routenlp_integrations.notebook.demo import demo_portfolio, demo_records
from router_core.checkpoint import Checkpoint, StudentSpec
from router_core.errors import InputError
from router_core.figures import ALARM, INK, PALETTE, Picture, new_figure, picture_of, styled, tidy
from router_core.own_confidence import Calibration
from router_core.portfolio import Portfolio
from router_core.records import Records
from router_core.route import Route
from router_core.show import usd
from router_core.text_tokens import TextTokens

__all__ = [
    "loop_options",
    "loop_portfolio",
    "loop_records",
    "picture_loop",
    "recorded_distil",
    "send_through",
    "shuffled",
]

_FILE = DATA / "loop_students.npz"


def loop_portfolio() -> Portfolio:
    """The two tiers of the demo's loop: the student that learns, and the reference tier."""
    return demo_portfolio().select(("student", "panel"))


def loop_options() -> Any:
    """Options of the demo's loop, `exporters.loop.LoopOptions`."""
    return _options(loop_portfolio())


def loop_records() -> Records:
    """The demo's queries with labels, 802 over two tasks, answered by these two tiers."""
    return _labelled(demo_records())


def recorded_distil(
    kind: str,
    pairs: Sequence[Any],
    options: Any = None,
    *,
    tier: str,
    lineage: Mapping[str, Any],
    **unused: Any,
) -> Checkpoint:
    """Stand in for `exporters.students.distil`: the student that was trained in the same round of the recorded loop.

    Parameters
    ----------
    kind, pairs, options, unused
        As for `exporters.students.distil`; only the task of the pairs is looked at.
    tier
        Its tier.
    lineage
        Holds ``round``; 0 is the start. The students of round 2 were taught shuffled answers.

    Returns
    -------
    Checkpoint
        ``metrics`` are those of the training; ``lineage`` says whether it learned from the
        ``same queries`` or from ``other queries``.

    Raises
    ------
    InputError
        When no such student was recorded.
    """
    del kind, options, unused
    task, number = pairs[0].task, lineage["round"]
    with np.load(_FILE, allow_pickle=False) as file:
        told = json.loads(file["told"].tobytes()).get(f"{number}@{task}")
        if told is None:
            raise InputError(f"no student of task {task!r} was recorded for round {number}; train with routenlp[train]")
        graph, tokenizer = file[f"graph@{task}"].tobytes(), file["tokenizer"].tobytes()
        own, first = (file[f"logits@{at}@{task}"].tobytes() for at in (number, 0))
    same = sorted(pair.query_id for pair in pairs) == told["taught"]
    spec = StudentSpec(
        told["kind"], tuple(told["labels"]), told["max_tokens"], TextTokens(tokenizer, told["max_tokens"]).digest(),
        calibration=Calibration.from_json(told["calibration"]),
    )  # fmt: skip
    weights = {"model.onnx": graph.replace(first, own), "tokenizer.json": tokenizer}
    return Checkpoint(
        tier, spec, weights, {**lineage, "recorded": "same queries" if same else "others"}, told["metrics"]
    )


def picture_loop(
    before: Sequence[Route], after: Sequence[Route], tiers: Sequence[str], rounds: Mapping[str, Mapping[str, Any]]
) -> Picture:
    """Who served the same queries before and after a round, and what the gate saw of each round.

    Parameters
    ----------
    before, after
        Routes of the same queries.
    tiers
        Names, cheapest first.
    rounds
        By name of a round its comparison, ``report.told["comparison"]``.

    Raises
    ------
    InputError
        When there are no routes.
    """
    if not before or not after:
        raise InputError(f"{len(before)} routes before and {len(after)} after; give those of the same queries.")
    with styled():
        figure = new_figure(8.0, 3.4)
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        told = _draw_shares(left, (("before", before), ("after", after)), tiers)
        seen = _draw_rounds(right, rounds)
        return picture_of(figure, f"Served {told}. Cost against the release before it: {seen}.")


def _draw_shares(axes: Any, sides: Sequence[tuple[str, Sequence[Route]]], tiers: Sequence[str]) -> str:
    told = []
    for row, (name, routes) in enumerate(sides):
        start = 0.0
        for number, tier in enumerate(tiers):
            share = sum(route.tier == tier for route in routes) / len(routes)
            colour = INK if number == len(tiers) - 1 else PALETTE[number % len(PALETTE)]
            axes.barh(row, 100 * share, left=start, height=0.5, color=colour)
            if share >= 0.1:
                where, said = start + 50 * share, f"{tier}\n{100 * share:.0f} %"
                axes.text(where, row, said, ha="center", va="center", color="white", fontsize=8)
            start += 100 * share
            told.append(f"{name} by {tier} {100 * share:.0f} %")
        paid = usd(sum(route.cost_usd for route in routes)) or ""
        axes.text(0, row - 0.36, f"{name}: {paid} for {len(routes)} queries".replace("$", r"\$"), va="center")
    axes.set_ylim(len(sides) - 0.45, -0.65)
    axes.set_xlim(0, 100)
    axes.set_yticks([])
    axes.set_xlabel("queries served, %")
    axes.set_title("the same test queries, before and after round 1")
    tidy(axes, sides=("top", "right", "left"))
    return ", ".join(told)


def _draw_rounds(axes: Any, rounds: Mapping[str, Mapping[str, Any]]) -> str:
    rows: list[str] = []
    told: list[str] = []
    for name, comparison in rounds.items():
        scopes = {"all": comparison["overall"], **comparison["tasks"]}
        for scope, one in scopes.items():
            low, high = (100 * limit / one["reference_usd"] for limit in one["difference_usd"])
            colour = PALETTE[2] if high < 0 else ALARM if low > 0 else INK
            thick = 3.2 if scope == "all" else 1.6
            axes.plot([low, high], [len(rows)] * 2, color=colour, lw=thick, solid_capstyle="butt")
            axes.plot([(low + high) / 2], [len(rows)], "o", color=colour, ms=5)
            rows.append(f"{name}, {scope}")
            if scope == "all":
                told.append(f"{name} {low:+.0f} % to {high:+.0f} %")
    axes.axvline(0.0, color=INK, lw=0.9, ls="--")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_xlabel("change of cost, % of the reference tier's\n(90 % interval; left of the line: cheaper)")
    axes.set_title("what the gate saw on its fresh fold")
    tidy(axes, grid="x", sides=("top", "right", "left"))
    axes.tick_params(axis="y", length=0)
    return ", ".join(told)
