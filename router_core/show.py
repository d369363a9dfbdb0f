"""How objects show themselves in a notebook: small tables of plain, escaped HTML.

No script, no link, nothing fetched, no colour of its own: text and lines take the page's, so a table reads on a white
page and on a dark one. Everything that comes from outside (prompts, reasons, names) passes through `html.escape`, and
long texts are cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from router_core.policy import CASCADE, ROUTE_ONLY

if TYPE_CHECKING:
    from router_core.bundle import Bundle
    from router_core.claim import Certificate
    from router_core.route import Route
    from router_core.router import Decision

__all__ = [
    "Report",
    "Share",
    "Table",
    "bundle_html",
    "certificate_html",
    "decision_html",
    "evaluation_html",
    "route_html",
    "section",
    "table",
    "usd",
]

_LONGEST, _LONGEST_NOTE = 400, 2_000
_BAR_EM = 5.0
_FRAME = "color:inherit;background:none;max-width:60em;margin:.3em 0"
_TABLE = "border-collapse:collapse;color:inherit;background:none;margin:.3em 0;font-size:.92em"
_LINE = "1px solid rgba(128,128,128,.45)"
_CELL = "padding:.15em .7em;background:none;vertical-align:top;text-align:"


class _Html(str):
    """Markup made here, not to be escaped again."""

    __slots__ = ()


class Share(float):
    """A share of 1, which a table shows as percent with a bar beside it, in the colour of the text."""

    __slots__ = ()


class Table(list[Mapping[str, Any]]):
    """Rows that show themselves as a table; a list of mappings with the same keys in every other way."""

    def _repr_html_(self) -> str:
        heads = list(dict.fromkeys(key for row in self for key in row))
        return table(heads, [[row.get(key) for key in heads] for row in self])

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        told = [", ".join(f"{key}: {_plain(value)}" for key, value in row.items()) for row in self]
        printer.text("\n".join(told) or "no rows")


class Report(dict[str, Any]):
    """An evaluation report: a plain dictionary that shows itself as a table."""

    def _repr_html_(self) -> str:
        return evaluation_html(self)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(f"Report of {self['n']} queries of split {self['split']}, bundle {str(self['bundle'])[:12]}")


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as an HTML table; numbers stand to the right, None is a dash, everything is escaped."""
    lines = [list(row) for row in rows]
    right = [
        any(_numeric(line[i]) for line in lines) and all(line[i] is None or _numeric(line[i]) for line in lines)
        for i in range(len(heads))
    ]
    sides = ["right" if flag else "left" for flag in right]
    head = "".join(
        f'<th style="{_CELL}{side};border-bottom:{_LINE};font-weight:600">{_text(name)}</th>'
        for name, side in zip(heads, sides, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{_CELL}{side}">{_text(value)}</td>' for value, side in zip(line, sides, strict=True))
        + "</tr>"
        for line in lines
    )
    return _Html(f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def section(title: str, *parts: str, notes: Sequence[str] = ()) -> str:
    """A titled block; `parts` made here go in as they are, others and notes as escaped paragraphs."""
    inside = "".join(part if isinstance(part, _Html) else f"<div>{_text(part)}</div>" for part in parts)
    told = "".join(f'<div style="opacity:.75;font-size:.88em">{_text(note, _LONGEST_NOTE)}</div>' for note in notes)
    return _Html(f'<div style="{_FRAME}"><div style="font-weight:600">{_text(title)}</div>{inside}{told}</div>')


def _bar(share: float) -> str:
    width = _BAR_EM * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    bar = f"display:inline-block;height:.6em;width:{width:.2f}em;background:currentColor;opacity:.45"
    return _Html(f'<span style="{bar}"></span>&nbsp;{_percent(share)}')


def usd(value: float | None) -> str | None:
    """US dollars to three figures, never in powers of ten."""
    if value is None:
        return None
    if value == 0 or not math.isfinite(value):
        return f"${value:g}"
    digits = max(2 - math.floor(math.log10(abs(value))), 2)
    return f"${value:,.{digits}f}"


def route_html(route: Route) -> str:
    """Every attempt of a route, what it cost, why, and what was shown of it."""
    rows = [
        [
            number,
            attempt.tier,
            None if attempt.confidence is None else f"{attempt.confidence:.3f}",
            usd(attempt.cost_usd),
            "served" if attempt.accepted else "passed on",
            attempt.reason,
        ]
        for number, attempt in enumerate(route.attempts, start=1)
    ]
    parts = [table(("", "tier", "confidence", "cost", "", "why"), rows)]
    if route.answer.text:
        parts.insert(0, f"Answer: {route.answer.text}")
    shown = route.certificate
    claim = "No certificate covers this answer." if shown is None else _claim(shown)
    task = "no task named" if route.task is None else f"task {route.task}"
    title = f"Served by {route.tier}: {usd(route.cost_usd)} for {_count(len(route.attempts), 'attempt')}, {task}"
    last = route.attempts[-1].reason if route.attempts else ""
    return section(title, *parts, notes=[*([route.reason] if route.reason != last else []), claim])


def decision_html(decision: Decision) -> str:
    """Where a query starts, and what the router thinks of every tier."""
    rows = [[name, Share(p), "start" if name == decision.tier else ""]
            for name, p in decision.pass_probability.items()]  # fmt: skip
    parts = [table(("tier", "probability of passing", ""), rows)] if rows else []
    claim = "No certificate covers this decision." if decision.certificate is None else _claim(decision.certificate)
    return section(f"Start at {decision.tier} ({decision.policy})", *parts, notes=(decision.reason, claim))


def certificate_html(certificate: Certificate) -> str:
    """What was shown in figures, then the whole sentence."""
    told = certificate
    verdict = "certified" if told.certified else "nothing certified"
    row = [told.risk, f"{told.alpha:g}", None if told.delta is None else f"{told.delta:g}", told.n, told.bad, verdict]
    parts = table(("risk", "alpha", "delta", "n", "bad", ""), [row])
    return section(f"Certificate: {told.scope}, {told.policy}", parts, notes=(told.describe(),))


def bundle_html(bundle: Bundle) -> str:
    """Tiers and prices, then what was shown for every scope."""
    tiers = [
        [n, tier.name, usd(tier.input_usd_per_m), usd(tier.output_usd_per_m), usd(tier.usd_per_call) or None]
        for n, tier in enumerate(bundle.portfolio.tiers, start=1)
    ]
    shown = []
    for (scope, policy), one in sorted(bundle.certificates.items()):
        if policy in (CASCADE, ROUTE_ONLY):
            verdict = (
                "certified" if one.certified else f"nothing: every query goes to {bundle.portfolio.reference.name}"
            )
            bad = one.n if one.bad is None else f"{one.bad} bad of {one.n}"
            shown.append([scope, policy, bad, verdict])
    settings = bundle.settings
    delta = "" if settings["risk"] == "expectation" else f", delta {settings['delta']:g}"
    return section(
        f"Bundle {bundle.id[:12] or '(not written)'}: {', '.join(bundle.portfolio.names)}",
        table(("", "tier", "per 1M in", "per 1M out", "per call"), tiers),
        table(("scope", "policy", "calib", f"{settings['risk']} risk, alpha {settings['alpha']:g}{delta}"), shown),
        notes=(f"The reference tier is {bundle.portfolio.reference.name}. Each certificate is a claim of its own.",),
    )


def evaluation_html(report: Mapping[str, Any]) -> str:
    """Every policy on all queries, then ours by scope; ratios are to the reference tier, with 95 % intervals."""
    rows = [
        [
            name,
            _interval(told["quality_ratio"], told["quality_ratio_ci"]),
            _interval(told["cost_ratio"], told["cost_ratio_ci"]),
            None if told["cost_ratio"] is None else Share(told["cost_ratio"]),
            _interval(told["joint_risk"], told["joint_risk_ci"]),
        ]
        for name, told in report["overall"]["policies"].items()
        if told is not None
    ]
    scopes = [
        [
            scope,
            told["n"],
            _interval(told["policies"]["routenlp"]["quality_ratio"], told["policies"]["routenlp"]["quality_ratio_ci"]),
            _interval(told["policies"]["routenlp"]["cost_ratio"], told["policies"]["routenlp"]["cost_ratio_ci"]),
            _interval(told["policies"]["routenlp"]["joint_risk"], told["policies"]["routenlp"]["joint_risk_ci"]),
            _seen(told["certificate"]),
        ]
        for scope, told in report["tasks"].items()
    ]
    notes = ["Quality and cost are shares of the reference tier's; in brackets 95 % intervals."]
    if report.get("cost_basis") == "assumed":
        notes.append("Costs are ASSUMED: some token counts are assumptions, not measurements.")
    if report.get("learned_from"):
        notes.append(f"The bundle was trained or tuned on {report['learned_from']} of these queries: figures too good.")
    return section(
        f"{report['n']} queries of split {report['split']}, bundle {str(report['bundle'])[:12]}",
        table(("policy", "quality", "cost", "", "joint risk"), rows),
        table(("scope", "n", "quality", "cost", "joint risk", "certificate"), scopes),
        notes=notes,
    )


def _claim(shown: Mapping[str, Any]) -> str:
    sure = "" if shown.get("delta") is None else f", delta {shown['delta']:g}"
    return f"Certificate: {shown['risk']} risk, alpha {shown['alpha']:g}{sure}, {shown['n']} calibration items."


def _seen(shown: Mapping[str, Any] | None) -> str | None:
    if shown is None:
        return None
    if not shown["certified"]:
        return f"none, n {shown['n']}"
    return f"n {shown['n']}" if shown["bad"] is None else f"{shown['bad']} bad of {shown['n']}"


def _interval(value: float | None, ends: Sequence[float] | None) -> str | None:
    if value is None:
        return None
    return _percent(value) + ("" if ends is None else f" ({_percent(ends[0])} to {_percent(ends[1])})")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _numeric(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or (
        isinstance(value, str) and value[:1] == "$"
    )


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, Share):
        return _percent(value)
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _text(value: Any, longest: int = _LONGEST) -> str:
    """A value as escaped HTML, cut where it is long."""
    if isinstance(value, _Html):
        return value
    if isinstance(value, Share):
        return _bar(value)
    told = _plain(value)
    return escape(told if len(told) <= longest else f"{told[: longest - 1]}…")
