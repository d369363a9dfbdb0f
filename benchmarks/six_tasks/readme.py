"""The tables of README.md, between markers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from figures import table
from protocol import GENERATION, STRUCTURED, TIERS

__all__ = ["TABLES", "write_tables"]

Results = dict[str, Any]


def write_tables(path: Path, results: Results) -> None:
    """Put every table whose figures there are between its markers."""
    text = path.read_text()
    for name, make in TABLES.items():
        mark = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)", re.S)
        try:
            made = make(results)
        except KeyError:
            continue
        text = mark.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)
    path.write_text(text)


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _ci(told: dict[str, Any], name: str) -> str:
    value, limits = told[name], told[f"{name}_ci"]
    return "-" if value is None else f"{value:.3f} ({limits[0]:.3f} to {limits[1]:.3f})"


def _shares(told: dict[str, Any]) -> str:
    shown = [tier for tier in TIERS if tier != "t3" or told["tried"]["t3"] or "tau" in told]
    return " / ".join(f"{100 * told['share'][tier]:.0f}" for tier in shown)


def _tiers(results: Results) -> str:
    rows: list[Sequence[str]] = [
        ("task", "tier", "quality", "wholly right", "beside", "CPU ms an answer", "wall ms, p50 / p99")
    ]
    for name, told in results["tiers"].items():
        task, tier = name.split(".")
        other = [f"{k.replace('_', ' ')} {told[k]:.3f}" for k in ("corpus_f1", "macro_f1") if k in told]
        other += [f"ROUGE-L {told['score']:.3f}"] if task in GENERATION else []
        rows.append((
            task, tier.upper(), _number(told["quality"]), _number(told["whole"]), ", ".join(other),
            _number(told["cpu_ms"], 1), f"{told['wall_p50_ms']:.1f} / {told['wall_p99_ms']:.0f}",
        ))  # fmt: skip
    return table(rows)


def _rounds(results: Results) -> str:
    rows: list[Sequence[str]] = [(
        "stage", "task", "cost ratio", "measured prices", "quality ratio", "joint risk", "selective risk",
        "T1 / T2 / reference, % served", "T2 wholly right", "cost at joint risk .03, read off test", "fold n / bad",
    )]  # fmt: skip
    for name, told in results["stages"].items():
        for task, one in told["tasks"].items():
            outcome = "serves" if one["outcome"] == "promoted" else "refused"
            rows.append(
                (
                    f"{name}, {outcome}",
                    task,
                    *_row(one),
                    _number(one["t2"]["whole"]),
                    _number(one["cost_at"]),
                    _fold(one),
                )
            )
        whole, mine = told["overall"], told["tasks"].values()
        at_risk = sum(one["n"] * one["cost_at"] for one in mine) / sum(one["n"] for one in mine)
        rows.append((
            f"**{name}, what serves**", "**all four**", f"**{_ci(whole, 'cost_ratio')}**",
            _number(told["overall_measured"]["cost_ratio"]), f"**{_ci(whole, 'quality_ratio')}**", *[""] * 4,
            f"**{_number(at_risk)}** (candidates)", "",
        ))  # fmt: skip
    return table(rows)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        _ci(one, "cost_ratio"), _number(one["measured_cost_ratio"]), _ci(one, "quality_ratio"), _ci(one, "joint_risk"),
        _ci(one, "selective_risk"), _shares(one),
    )  # fmt: skip


def _fold(one: dict[str, Any]) -> str:
    shown = one["certificate"]
    return f"{shown['n']} / {shown['bad']}" + ("" if shown["certified"] else ", not certified")


def _gate(results: Results) -> str:
    rows: list[Sequence[str]] = [(
        "round", "task", "outcome", "taught", "teacher, share of always-reference",
        "cost on the fold, before -> after", "difference (90 %)", "bad on the fold, before -> after", "CPU s",
        "refused by",
    )]  # fmt: skip
    for name, told in results["stages"].items():
        for task, whole in told["tasks"].items():
            if not (one := whole["round"]):
                continue
            (low, high), (n, before, after) = one["difference"], one["fold"]
            rows.append((
                name, task, whole["outcome"], str(one["taught"]), _number(one["teacher_share"]),
                f"{one['fold_cost'][0]:.3f} -> {one['fold_cost'][1]:.3f}", f"{low:+.3f} to {high:+.3f}",
                f"{before} -> {after} of {n}", f"{one['cpu_s']:.0f}", ", ".join(one["reasons"]) or "-",
            ))  # fmt: skip
    return table(rows)


def _bounds(results: Results) -> str:
    rows: list[Sequence[str]] = [(
        "task", "T2 right: start", "in the end", "T1 or T2 right", "cost of T2 with perfect confidence, no bad answer",
        "alpha bad", "cost of an oracle over T1 and T2, no bad answer", "alpha bad", "cost of what serves",
    )]  # fmt: skip
    last = results["stages"][list(results["stages"])[-1]]
    for task, one in results["bounds"]["end"].items():
        serving = results["stages"][last["serves"][task]]["tasks"][task]
        rows.append((
            task, _number(results["bounds"]["start"][task]["right"]), _number(one["right"]), _number(one["any"]),
            *(_number(one[name]) for name in ("perfect", "perfect_alpha", "oracle", "oracle_alpha")),
            _number(serving["cost_ratio"]),
        ))  # fmt: skip
    return table(rows)


def _generation(results: Results) -> str:
    rows: list[Sequence[str]] = [(
        "task", "tau", "cost ratio", "measured prices", "quality ratio", "joint risk", "selective risk",
        "T1 / T2 / T3 / reference, % served", "fold n / bad",
    )]  # fmt: skip
    for task, one in results["generation"].items():
        rows.append((task, _number(one["tau"]), *_row(one), _fold(one)))
    return table(rows)


def _targeted(results: Results, tier: str = "T2") -> str:
    rows: list[Sequence[str]] = [(
        "task", "examples", f"{tier} right: start", "targeted", "untargeted", "difference", "two-tier cost: start",
        "targeted", "untargeted", "saved by targeting", "teacher USD a stream query: targeted / untargeted",
    )]  # fmt: skip
    for task, one in results["targeted"].items():
        gain, cost = one["accuracy_gain"], one["cost_gain"]
        spent = [sum(p["teacher_usd"][arm] for p in one["picks"]) / len(one["picks"]) / one["stream"]
                 for arm in ("targeted", "untargeted")]  # fmt: skip
        rows.append((
            task, f"{sum(p['examples'] for p in one['picks']) / len(one['picks']):.0f}",
            _number(one["start"]["accuracy"]), _number(one["targeted"]["accuracy"]),
            _number(one["untargeted"]["accuracy"]), f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})",
            _number(one["start"]["cost_ratio"]), _number(one["targeted"]["cost_ratio"]),
            _number(one["untargeted"]["cost_ratio"]), f"{cost[0]:+.3f} ({cost[1]:+.3f} to {cost[2]:+.3f})",
            f"{spent[0]:.3f} / {spent[1]:.3f}",
        ))  # fmt: skip
    return table(rows)


def _protocol1(results: Results) -> str:
    rows: list[Sequence[str]] = [
        ("stage", "cost ratio", "quality ratio", *(f"saving on {task}" for task in STRUCTURED), "outcome")
    ]
    for name, told in results["protocol1"]["stages"].items():
        outcome = "serves" if told["outcome"] == "promoted" else f"refused: {', '.join(told['round']['reasons'])}"
        rows.append((
            name, _ci(told["overall"], "cost_ratio"), _ci(told["overall"], "quality_ratio"),
            *(_number(1 - told["tasks"][task]["cost_ratio"]) for task in STRUCTURED), outcome,
        ))  # fmt: skip
    return table(rows)


def _ablations(results: Results) -> str:
    rows: list[Sequence[str]] = [
        ("without", "cost ratio, all four", "quality ratio", *(f"{t}: cost, risk" for t in STRUCTURED))
    ]
    for name, told in results["ablations"].items():
        each = [
            f"{told['tasks'][task]['cost_ratio']:.3f}, {told['tasks'][task]['joint_risk']:.3f}" for task in STRUCTURED
        ]
        rows.append((name, _ci(told["overall"], "cost_ratio"), _ci(told["overall"], "quality_ratio"), *each))
    return table(rows)


def _pilot(results: Results) -> str:
    rows: list[Sequence[str]] = [
        ("queries", "cost ratio", "acceptable (B = 0)", "p50 ms", "p99 ms", "always-reference p50", "p99")
    ]
    for name in ("both", "cs_intent", "cs_response"):
        one = results["pilot"][name]
        rows.append((
            name, _number(one["cost_ratio"]), _number(one["acceptance"]), f"{one['p50_ms']:.0f}",
            f"{one['p99_ms']:.0f}", f"{one['always_p50_ms']:.0f}", f"{one['always_p99_ms']:.0f}",
        ))  # fmt: skip
    return table(rows)


def _verdict(results: Results) -> str:
    names = list(results["stages"])
    return "\n\n".join(
        f"{said}:\n\n" + "\n".join(f"- {one}" for one in results["stages"][name]["verdict"])
        for said, name in (("At the start", names[0]), ("What serves after the last round", names[-1]))
    )


TABLES: dict[str, Callable[[Results], str]] = {
    "verdict": _verdict,
    "tiers": _tiers,
    "rounds": _rounds,
    "gate": _gate,
    "generation": _generation,
    "bounds": _bounds,
    "targeted": _targeted,
    "targeted of protocol 1": lambda results: _targeted(results["protocol1"], "T1"),
    "protocol 1": _protocol1,
    "ablations": _ablations,
    "pilot": _pilot,
}
