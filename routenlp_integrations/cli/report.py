"""Tables and sentences about a bundle, shared by `fit`, `inspect` and `demo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routenlp_integrations.cli.summary import POLICIES, cost_sentence
from router_core.promises import claimed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "facts",
    "heading",
    "lines",
    "percent",
    "print_certificates",
    "print_choices",
    "print_encoders",
    "print_missing",
    "print_origin",
    "print_tiers",
    "print_uses",
    "table",
]

_PATHS = {
    "confidence": "confidence",
    "risk_per_dollar": "risk/dollar",
    "p_value": "p-value",
    "coin": "coin",
}

_SOURCES = {
    "prices from records": "records",
    "mean of records": "records' mean cost",
    "portfolio file": "portfolio file",
}


def table(*columns: tuple[str, str]) -> Table:
    """An unframed table; each column is its header and how it is set, ``"left"`` or ``"right"``."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header, justify in columns:
        # Numbers stay whole; names give way and fold, so that no column vanishes at 80 characters.
        made.add_column(header, justify=justify, no_wrap=justify == "right", overflow="fold")  # type: ignore[arg-type]
    return made


def heading(out: Console, text: str) -> None:
    """A heading with a blank line before it."""
    out.print()
    out.print(text, style="bold")


def facts(out: Console, pairs: Sequence[tuple[str, str]]) -> None:
    """Named facts, one a line, folded under themselves."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, value)
    out.print(grid)


def lines(out: Console, sentences: Sequence[str]) -> None:
    """Sentences as a list, folded under themselves."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for sentence in sentences:
        grid.add_row("-", sentence)
    out.print(grid)


def percent(value: float | None, digits: int = 1) -> str:
    """A ratio as a percentage; ``-`` when it is not known."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def print_origin(out: Console, summary: dict[str, Any]) -> None:
    """What the bundle was made from: records, drops, splits, straddlers, costs; assumed costs are said loudly."""
    settings = summary["settings"]
    basis = summary["cost_basis"]
    facts(
        out,
        [
            ("records", str(summary["records"])),
            ("dropped", str(summary["drops"]).removeprefix("dropped ")),
            ("splits", str(summary["splits"])),
            ("costs", cost_sentence(basis)),
            ("bad means", _bad(settings["tolerance"], summary["reference"])),
            ("encoder", f"{summary['encoder']}, seed {settings['seed']}"),
        ],
    )
    if basis == "assumed":
        told = ", ".join(
            f"{tier['name']} {tier['assumed_completion_tokens']}"
            for tier in summary["tiers"]
            if tier["assumed_completion_tokens"] is not None
        )
        out.print()
        out.print(
            f"The costs are ASSUMED (completion tokens: {told or 'none given'}): every cost and saving below is an "
            "estimate.",
            style="bold",
        )


def print_tiers(out: Console, summary: dict[str, Any]) -> None:
    """The portfolio with its prices."""
    heading(out, "Tiers in cascade order; the last is the reference")
    made = table(
        ("", "right"), ("tier", "left"), ("$ per 1M in", "right"), ("$ per 1M out", "right"), ("$ per call", "right"),
        ("price from", "left"),
    )  # fmt: skip
    for number, tier in enumerate(summary["tiers"], start=1):
        token_prices = [_amount(tier[key]) for key in ("input_usd_per_m", "output_usd_per_m")]
        per_call = _amount(tier["usd_per_call"] or None)
        made.add_row(str(number), tier["name"], *token_prices, per_call, _SOURCES.get(tier["price_basis"], "-"))
    out.print(made)


def print_encoders(out: Console, summary: dict[str, Any]) -> None:
    """The encoders that were compared, fastest first, and why one was taken; nothing where none were."""
    told = summary["encoders"]
    if told is None:
        return
    heading(out, "Encoders compared, fastest first")
    made = table(("encoder", "left"), ("expected cost", "right"), ("ms a query", "right"), ("", "left"))
    for one in told["compared"]:
        spent = "-" if one["latency_ms"] is None else f"{one['latency_ms']:.2f}"
        made.add_row(one["encoder"], percent(one["expected_cost_ratio"]), spent, "taken" if one["chosen"] else "")
    out.print(made)
    for name, reason in told["left_out"].items():
        out.print(f"{name} was left out: {reason}", soft_wrap=True)
    out.print(
        f"{told['why']}. Expected cost: of all cascades once certified, as a share of always {summary['reference']}, "
        "from the rows that laid the paths; ms: measured when the bundle was made.",
        style="dim",
    )


def print_certificates(out: Console, summary: dict[str, Any]) -> None:
    """One line for each scope and policy: n, bad, allowed, step, cost and path."""
    settings = summary["settings"]
    levels = {**settings, "delta": None if settings["risk"] == "expectation" else settings["delta_each"]}
    heading(out, f"Certificates: {claimed(levels)}")
    if settings["simultaneous"]:
        out.print(
            f"All {summary['promises']} hold at once with confidence {1 - settings['delta']:.6g}: each has its share "
            f"of delta {settings['delta']:g}.",
            style="dim",
        )
    known = any("allowed" in shown for shown in summary["certificates"])
    counts = "bad/may" if known else "bad"
    made = table(
        ("scope", "left"), ("policy", "left"), ("n", "right"), (counts, "right"), ("step", "right"), ("cost", "right"),
        ("path", "left"),
    )  # fmt: skip
    numbers = {tier["name"]: str(number) for number, tier in enumerate(summary["tiers"], start=1)}
    for shown in summary["certificates"]:
        if shown["policy"] not in POLICIES:
            continue
        bad = str(shown["bad"]) if shown["certified"] and shown["bad"] is not None else "-"
        if known:
            allowed = shown.get("allowed", -1)
            bad += f"/{allowed}" if allowed >= 0 else "/-"
        step = f"{shown['step']}/{shown['steps']}" if shown["certified"] else "none"
        path = f"{_PATHS.get(shown['path'], shown['path'])} {'>'.join(numbers[name] for name in shown['path_tiers'])}"
        path = path if shown["certified"] else f"all to {len(numbers)}"
        made.add_row(shown["scope"], shown["policy"], str(shown["n"]), bad, step, percent(shown["cost_ratio"]), path)
    out.print(made)
    may = "may: bad answers that n permits; " if known else ""
    out.print(
        f"n: calibration items, one per group; bad: bad answers among them; {may}step: certified step of the path; "
        f"cost: share of always {summary['reference']}, on the rows that laid the path; path: what orders it, and the "
        "cheap tiers it may call.",
        style="dim",
    )


def print_choices(out: Console, summary: dict[str, Any]) -> None:
    """What else was considered: for each scope and policy the kinds of path by the cost expected of them."""
    heading(out, "Paths considered, with the cost expected once certified (the first was taken)")
    told = []
    for scope, policies in summary["choices"].items():
        for policy in POLICIES:
            by_scale = sorted(policies.get(policy, {}).get("expected_by_scale", {}).items(), key=lambda item: item[1])
            costs = ", ".join(f"{_PATHS.get(scale, scale)} {percent(cost)}" for scale, cost in by_scale)
            told.append(f"{scope}, {policy}: {costs}")
    lines(out, told)


def print_missing(out: Console, summary: dict[str, Any]) -> None:
    """Scopes that cannot certify, with the n they need; scopes that had the n and failed."""
    few = [
        f"{item['scope']}: {item['n']} calibration items, needs at least {item['minimum_n']} "
        f"({item['minimum_n'] - item['n']} more); every query goes to {summary['reference']}"
        for item in summary["missing"]
    ]
    failed = [
        f"{shown['scope']}, {shown['policy']}: {shown['n']} calibration items are enough, but no step of its path "
        f"passed the test; every query goes to {summary['reference']}"
        for shown in summary["certificates"]
        if shown["policy"] in POLICIES and not shown["certified"] and shown["n"] >= shown["minimum_n"]
    ]
    if few or failed:
        heading(out, "Not certified")
        lines(out, [*few, *failed])


def print_uses(out: Console, summary: dict[str, Any], where: Path) -> None:
    """How often these calibration items have certified something, as far as the bundle can know."""
    uses = max((shown["use_count"] for shown in summary["certificates"]), default=1)
    chosen = "; the claim holds for one run chosen beforehand" if uses > 1 else ""
    out.print()
    out.print(
        f"This is use no. {uses} of these calibration items in {where}{chosen}; earlier use elsewhere cannot be seen.",
        style="dim",
    )


def _bad(tolerance: float, reference: str) -> str:
    by = "at all" if tolerance == 0 else f"by more than {tolerance:g}"
    return f"quality below {reference}'s on the same query {by}"


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
