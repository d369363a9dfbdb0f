"""Tables of an evaluation report, shared by `evaluate` and `demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routenlp_integrations.cli.report import heading, percent, table
from router_core.promises import claimed, seen

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["closed_gap", "print_policies", "print_router", "print_scopes", "with_interval"]

_OURS = ("routenlp", "route_only")
_UNCERTIFIED = ("random_same_cost", "oracle")


def print_policies(out: Console, report: dict[str, Any], scope: str | None = None) -> None:
    """Every policy and rival on one scope; None is all queries together."""
    told = report["overall"] if scope is None else report["tasks"][scope]
    policies = told["policies"]
    made = table(
        ("policy", "left"),
        ("quality, %", "right"),
        ("cost, %", "right"),
        ("joint risk, %", "right"),
        ("cheap", "right"),
    )
    for name in sorted(policies, key=_rank):
        figures = policies[name]
        if figures is None:
            continue
        cheap = 1.0 - list(figures["share"].values())[-1]
        made.add_row(
            name,
            with_interval(figures["quality_ratio"], figures["quality_ratio_ci"]),
            with_interval(figures["cost_ratio"], figures["cost_ratio_ci"]),
            with_interval(figures["joint_risk"], figures["joint_risk_ci"]),
            f"{100 * cheap:.0f}",
            style="bold" if name == "routenlp" else "",
        )
    heading(out, f"All {told['n']} queries" if scope is None else f"{scope}: {told['n']} queries")
    out.print(made)
    out.print(
        f"Quality and cost as shares of the reference tier's; 95 % intervals; cheap: % of queries served before it. "
        f"No certificate stands behind always:<tier>, {' and '.join(_UNCERTIFIED)}.",
        style="dim",
    )
    for name, reason in report["absent"].items():
        out.print(f"{name}: {reason}.", style="dim")


def print_scopes(out: Console, report: dict[str, Any]) -> None:
    """The certified policy on every scope, with its certificate."""
    made = table(
        ("scope", "left"), ("n", "right"), ("quality, %", "right"), ("cost, %", "right"),
        ("joint risk, %", "right"), ("certificate", "left"),
    )  # fmt: skip
    for scope, told in report["tasks"].items():
        ours = told["policies"]["routenlp"]
        made.add_row(
            scope,
            str(told["n"]),
            with_interval(ours["quality_ratio"], ours["quality_ratio_ci"]),
            with_interval(ours["cost_ratio"], ours["cost_ratio_ci"]),
            with_interval(ours["joint_risk"], ours["joint_risk_ci"]),
            _certificate(told["certificate"]),
        )
    heading(out, "By scope")
    out.print(made)
    shown = [told["certificate"] for told in (report["overall"], *report["tasks"].values()) if told["certificate"]]
    out.print(f"Certificates: {claimed(shown[0])}.", style="dim")
    if report["overall"]["certificate"] is not None:
        told = report["overall"]["certificate"]
        verdict = f"{claimed(told)} ({seen(told)})" if told["certified"] else "nothing was shown"
        out.print(f"All tasks together: {verdict}.", style="dim")
    if any("*" in scope for scope in report["tasks"]):
        out.print("Scopes with * are the same queries with the label masked; they are not counted again.", style="dim")


def print_router(out: Console, report: dict[str, Any]) -> None:
    """Decision time, how much of the gap to the oracle is closed, and RouteLLM's figures for two tiers."""
    closed = closed_gap(report["overall"]["policies"])
    out.print()
    if closed is not None and closed > 1.0:
        out.print("The policy costs less than the oracle, which serves no bad answer: see its joint risk.")
    elif closed is not None:
        out.print(f"Of the gap in cost between the reference and the oracle, {percent(closed, 0)} is closed.")
    apgr, cpt = report["overall"].get("apgr"), report["overall"].get("cpt")
    if apgr is not None:
        calls = ", ".join(f"{share} %: {percent(value, 0)}" for share, value in cpt.items())
        out.print(f"APGR {apgr:.3f} (random .500); calls of the reference needed to recover {calls}.")
    router = report["router"]
    out.print(
        f"One decision takes {router['p50_ms']:.2f} ms (median), {router['p99_ms']:.2f} ms (99 of 100) on this machine."
    )


def closed_gap(policies: dict[str, Any]) -> float | None:
    """Share of the cost between always-the-reference and the oracle that routenlp saves; None where there is none.

    Above 1 where it costs less than the oracle, which it can only by serving bad answers.
    """
    ours, oracle = policies["routenlp"]["cost_ratio"], policies["oracle"]["cost_ratio"]
    if ours is None or oracle is None or oracle >= 1.0:
        return None
    return float((1.0 - ours) / (1.0 - oracle))


def with_interval(value: float | None, interval: list[float] | None, unit: str = "") -> str:
    """A ratio in percent with its interval, such as ``97.6 (95-100)``; ``-`` when it is not known.

    Parameters
    ----------
    unit
        Put behind the number, such as ``" %"``, where no header says it.
    """
    if value is None:
        return "-"
    told = f"{100 * value:.1f}{unit}"
    return told if interval is None else f"{told} ({_short(interval[0])}-{_short(interval[1])})"


def _short(limit: float) -> str:
    # Below ten the decimal says something, above it only takes room.
    return f"{100 * limit:.1f}" if 100 * limit < 9.95 else f"{100 * limit:.0f}"


def _rank(name: str) -> int:
    """Ours, the certified rivals, the mix, the tiers, the oracle; within these the order of the report."""
    if name in _OURS:
        return 0
    if name.startswith("always:"):
        return 3
    return {"random_same_cost": 2, "oracle": 4}.get(name, 1)


def _certificate(shown: dict[str, Any] | None) -> str:
    if shown is None:
        return "none"
    if not shown["certified"]:
        return f"none, n {shown['n']}"
    return seen(shown)
