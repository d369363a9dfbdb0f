"""What ``routenlp watch`` prints of a look: a table, or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routenlp_integrations.cli.output import STDOUT, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from routenlp_integrations.cli.watching import Look

__all__ = ["show_look"]


def show_look(screen: Console, look: Look, *, as_json: bool, lines: bool, dry_run: bool) -> None:
    """Print a look.

    Parameters
    ----------
    screen
        Where text goes.
    look
        What was found.
    as_json
        JSON on stdout instead of text.
    lines
        One line of JSON a look, for looks that follow each other.
    dry_run
        Whether nothing was to be written.
    """
    if as_json:
        if lines:
            sys.stdout.write(json.dumps(_report(look), ensure_ascii=False, allow_nan=False) + "\n")
            sys.stdout.flush()
        else:
            write_json(Path(STDOUT), _report(look))
        return
    _print(screen, look)
    if look.written:
        screen.print(f"Written to {look.lapse_file}; running routers obey it within a second.")
    elif look.lapses:
        screen.print("Dry run: nothing was written." if dry_run else f"Already told in {look.lapse_file}.")


def _report(look: Look) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "bundle": look.watcher.bundle.id,
        "before": look.before,
        "at": look.at,
        "new": look.new,
        "ignored": dict(look.watcher.ignored),
        "floor": look.watcher.settings.floor,
        "certificates": [verdict.to_json() for verdict in look.verdicts],
        "lapses": [asdict(lapse) for lapse in look.lapses],
    }


def _print(screen: Console, look: Look) -> None:
    from routenlp_integrations.cli.report import heading, lines, table

    watcher, verdicts, lapses = look.watcher, look.verdicts, look.lapses
    if look.before is not None:
        screen.print(
            f"Bundle {watcher.bundle.id[:12]} serves in place of {look.before[:12]}: its evidence begins anew."
        )
    screen.print(f"Bundle {watcher.bundle.id[:12]}, {look.new} new audits", style="bold")
    for why, count in sorted(watcher.ignored.items()):
        screen.print(f"{count} audits {why} were left out.")
    made = table(
        ("scope", "left"), ("policy", "left"), ("audits", "right"), ("risk", "right"), ("95 %", "right"),
        ("may", "right"), ("alarm", "right"), ("detector", "right"), ("verdict", "left"),
    )  # fmt: skip
    for verdict in verdicts:
        stream, shown = verdict.stream, verdict.stream.shown
        estimate = verdict.estimates["selective" if shown.risk == "selective" else "joint"]
        value = "-" if estimate.value is None else f"{100 * estimate.value:.1f}"
        interval = "-" if not estimate.n else f"{100 * estimate.low:.1f}-{100 * estimate.high:.1f}"
        alarm, detector = (
            f"{_short(e.value) if e.n else '-'}/{_short(e.bar)}" for e in (stream.alarm, stream.detector)
        )
        made.add_row(
            shown.scope, shown.policy, str(estimate.n), value, interval, f"{100 * shown.alpha:g}", alarm, detector,
            verdict.verdict,
        )  # fmt: skip
    screen.print(made)
    screen.print(
        "risk: that which was certified, in per cent, with its interval and what it may be; alarm: evidence that it is "
        "larger, and the bar; detector: the same, for a change of late.",
        style="dim",
    )
    weighted = [v for v in verdicts if any(e.method == "hajek" for e in v.estimates.values())]
    if weighted:
        told = [
            f"{v.stream.shown.scope}, {v.stream.shown.policy}: propensities differ, so risks are weighted (effective n "
            f"{v.estimates['joint'].effective_n:.0f} of {v.estimates['joint'].n})"
            for v in weighted
        ]
        lines(screen, told)
    if notes := [f"{v.stream.shown.scope}, {v.stream.shown.policy}: {note}" for v in verdicts for note in v.notes]:
        heading(screen, "Careful")
        lines(screen, notes)
    if lapses:
        heading(screen, "Lapsed")
        lines(screen, list(dict.fromkeys(lapse.reason for lapse in lapses)))


def _short(value: float) -> str:
    if value > 999_999:
        return ">999k"
    if value >= 999.5:
        return f"{value / 1000:.3g}k"
    if value < 0.01:
        return "<.01"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
