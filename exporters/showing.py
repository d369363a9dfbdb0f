"""Clusters, verdicts and rounds as a notebook shows them: tables in the colours of the page, everything escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from router_core.show import Share, section, table, usd

if TYPE_CHECKING:
    from exporters.clusters import Clusters
    from exporters.loop.gate import Verdict
    from exporters.loop.reporting import RoundReport

__all__ = ["clusters_html", "round_html", "verdict_html"]

_MOST = 10


def clusters_html(clusters: Clusters) -> str:
    """The ten worst clusters."""
    rows = [
        (one.task, one.number, one.size, f"{one.gap:.2f}", f"{one.score:.1f}", usd(one.cost_usd),
         ", ".join(one.keywords), one.typical[0] if one.typical else None)
        for one in clusters.clusters[:_MOST]
    ]  # fmt: skip
    left = len(clusters.clusters) - len(rows)
    return section(
        f"{len(clusters.clusters)} clusters of {sum(clusters.seen.values())} failures, the worst first",
        table(("task", "", "size", "gap", "size x gap", "cost", "words", "a typical query"), rows),
        notes=[f"{left} more are not shown."] if left else [],
    )


def verdict_html(verdict: Verdict, checks: Iterable[str]) -> str:
    """Every check of the gate, and what it said."""
    rows = [(name, "; ".join(verdict.reasons.get(name, ("passed",)))) for name in checks]
    return section("Promoted: every check passed" if verdict.promoted else "Refused", table(("check", ""), rows))


def round_html(report: RoundReport) -> str:
    """What was learned, then cost and quality before and after; nothing that took time, which differs between runs."""
    title = f"Round {report.number}: {report.outcome}; release {report.release} serves"
    told, notes = report.told, [f"{name}: {one}" for name, said in report.reasons.items() for one in said]
    if report.folder is None:
        return section(title, notes=(str(told["why"]),))
    found = told["harvest"]["found"]
    rows = [
        (task, found.get(task, 0), one.get("pairs"), one.get("replay"), one.get("skipped", "a new student"))
        for task, one in told["students"].items()
    ]
    parts = [table(("task", "failures found", "taught", "replayed", ""), rows)]
    if "comparison" in told:
        parts.append(_compared(told["comparison"]))
        notes.append(f"On the fresh calibration fold; cost and quality are shares of those of {told['tiers'][-1]}.")
    return section(title, *parts, notes=notes)


def _compared(comparison: Mapping[str, Any]) -> str:
    rows = []
    for name, one in {"all": comparison["overall"], **comparison["tasks"]}.items():
        dollars, quality = one["reference_usd"] or 1.0, one["reference_quality"] or 1.0
        low, high = (100 * limit / dollars for limit in one["difference_usd"])
        shares = [Share(one[key] / dollars) for key in ("old_usd", "new_usd")]
        shares += [Share(one[key] / quality) for key in ("old_quality", "new_quality")]
        rows.append((name, one["n"], *shares[:2], f"{low:+.1f} to {high:+.1f}", *shares[2:]))
    heads = ("task", "n", "cost before", "cost after", "difference, points", "quality before", "quality after")
    return table(heads, rows)
