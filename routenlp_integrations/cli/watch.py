"""``routenlp watch``: whether the audits of a running bundle still bear out what was certified."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routenlp_integrations.cli.evaluate import PICTURES
from routenlp_integrations.cli.output import STDOUT, check_target, console, need_fit, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from router_core.lapse import Lapse
    from router_core.monitor import Verdict, Watcher, WatchSettings

__all__ = ["ALARM", "watch"]

ALARM = 3
"""Exit code when a certificate lapsed."""


def watch(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, or the ROOT of a release.")],
    ledger: Annotated[str, typer.Argument(help="Where the audits are: the URL of a ledger, or a .jsonl file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead of text.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Look once and end; the default without --every.")] = False,
    every: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.1, help="Look again and again, until interrupted.")
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(help="Probability, 0 to 1, that an alarm is ever false; the certificate's own by default."),
    ] = None,
    arl: Annotated[
        float, typer.Option(help="Audits between two false alarms of the detector, on average at least.")
    ] = 20_000.0,
    floor: Annotated[
        float | None,
        typer.Option(help="Lower bound of all audit propensities; the smallest of the first look by default."),
    ] = None,
    max_age_days: Annotated[float | None, typer.Option(help="Days after which a certificate lapses.")] = None,
    max_decisions: Annotated[int | None, typer.Option(help="Decisions after which a certificate lapses.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Keep what was counted here, and go on from it; needed only if audits expire."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw how the evidence grew, to this file.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write no lapse file.")] = False,
) -> int:
    """Weigh the audits of a bundle; exit 0 when all is fine, 3 when a certificate lapsed, 2 on bad input.

    A lapse is written to <bundle>.lapse.json beside the bundle. Running routers read it within a second, send the
    scope to the reference tier and claim nothing of it, until the file is removed or another bundle is in place.
    """
    from router_core.bundle import Bundle
    from router_core.errors import InputError
    from router_core.lapse import Validity, lapse_file, write_lapses
    from router_core.monitor import WatchSettings
    from router_core.release import bundle_folder

    if once and every is not None:
        raise InputError("--once and --every exclude each other; give one of them")
    check_target(plot, "--plot", PICTURES, [bundle, ledger])
    check_target(state, "--state", taken=[bundle, ledger, plot])
    need_fit("watch a bundle")
    folder = bundle_folder(bundle).resolve()
    loaded = Bundle.load(folder)
    told = loaded.settings
    age = told.get("max_age_days") if max_age_days is None else max_age_days
    validity = Validity(age, told.get("max_decisions") if max_decisions is None else max_decisions)
    watcher = _watcher(loaded, WatchSettings(delta, arl, floor, validity=validity), state)
    screen = console(quiet=as_json)
    while True:
        now = time.time()
        verdicts, lapses, new = _look(watcher, ledger, now)
        written = () if dry_run else write_lapses(folder, loaded.id, lapses)
        if state is not None:
            write_json(state, watcher.to_json())
        if plot is not None:
            from router_core.watch_plot import plot_watch

            plot_watch(verdicts, plot)
        if as_json:
            write_json(Path(STDOUT), _report(watcher, verdicts, lapses, now, new))
        else:
            _print(screen, watcher, verdicts, lapses, new)
            if written:
                screen.print(f"Written to {lapse_file(folder)}; running routers obey it within a second.")
            elif lapses:
                screen.print("Dry run: nothing was written." if dry_run else f"Already told in {lapse_file(folder)}.")
        if every is None:
            return ALARM if lapses else 0
        time.sleep(every)


def _watcher(bundle: Any, settings: WatchSettings, state: Path | None) -> Watcher:
    from router_core.errors import InputError
    from router_core.monitor import Watcher

    if state is None or not state.is_file():
        return Watcher(bundle, settings)
    try:
        data = json.loads(state.read_bytes())
        return Watcher.from_json(bundle, settings, data)
    except ValueError as error:
        why = str(error) if isinstance(error, InputError) else "The state is not JSON; begin a new one."
        raise InputError(f"--state {state}: {why}") from error


def _look(watcher: Watcher, ledger: str, now: float) -> tuple[list[Verdict], list[Lapse], int]:
    from router_core.audit_risk import open_audits

    new = watcher.read(open_audits(ledger, float(watcher.bundle.settings["tolerance"])))
    verdicts = watcher.verdicts(now)
    return verdicts, watcher.lapses(verdicts, now), new


def _report(watcher: Watcher, verdicts: list[Verdict], lapses: list[Lapse], now: float, new: int) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "bundle": watcher.bundle.id,
        "at": now,
        "new": new,
        "ignored": dict(watcher.ignored),
        "floor": watcher.floor,
        "certificates": [verdict.to_json() for verdict in verdicts],
        "lapses": [asdict(lapse) for lapse in lapses],
    }


def _print(screen: Console, watcher: Watcher, verdicts: list[Verdict], lapses: list[Lapse], new: int) -> None:
    from routenlp_integrations.cli.report import heading, lines, table

    screen.print(f"Bundle {watcher.bundle.id[:12]}, {new} new audits", style="bold")
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
        interval = "-" if estimate.value is None else f"{100 * estimate.low:.1f}-{100 * estimate.high:.1f}"
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
    if notes := [f"{v.stream.shown.scope}, {v.stream.shown.policy}: {v.note}" for v in verdicts if v.note]:
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
