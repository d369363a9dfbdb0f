"""``routenlp bench``: how fast a bundle decides on this machine, how long it loads, how much memory it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from routenlp_integrations.cli.output import STDOUT, check_target, console, write_json
from routenlp_integrations.cli.progress import progress_bar

__all__ = ["bench"]


def bench(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the figures as JSON to this file; - for stdout."),
    ] = None,
) -> None:
    """Measure how long a decision takes by length of the text and threads, and what a fresh process needs."""
    check_target(json_file, "--json", taken=[bundle])
    from router_core.bench import bench as measure

    to_stdout = str(json_file) == STDOUT
    with progress_bar(silent=to_stdout) as progress:
        report = measure(bundle, progress=progress)
    _print(report, quiet=to_stdout)
    if json_file is not None:
        write_json(json_file, report)


def _print(report: dict[str, Any], *, quiet: bool) -> None:
    from routenlp_integrations.cli.report import facts, heading, table

    screen = console(quiet=quiet)
    screen.print(f"Bundle {report['bundle'][:12]}, {report['encoder']} encoder", style="bold")
    found, fresh, rate = report["machine"], report["fresh_process"], report["throughput"]
    load = [" ".join(f"{one:.2f}" for one in found[name] or ["unknown"]) for name in ("load_before", "load_after")]
    facts(
        screen,
        [
            ("processor", f"{found['cpu']}, {found['cores']} cores"),
            ("load", f"{load[0]} before, {load[1]} after"),
            ("bundle", f"{report['bundle_mb']:.1f} MB on disk"),
            ("fresh process", f"loaded in {fresh['load_s']['p50']:.2f} s, imports included; first decision in "
                              f"{fresh['first_ms']['p50']:.1f} ms; {fresh['memory_mb']['p50']:.0f} MB at most"),
        ],
    )  # fmt: skip
    heading(screen, "Text in, decision out, milliseconds")
    made = table(
        ("threads", "left"), ("text", "left"), *((name, "right") for name in ("p50", "quartiles", "p99", "min"))
    )
    for threads, lengths in report["latency_ms"].items():
        for length, one in lengths.items():
            quartiles = f"{_ms(one['q25'])}-{_ms(one['q75'])}"
            name = length.replace("10000", "10,000").replace("_", " ")
            made.add_row(threads, name, _ms(one["p50"]), quartiles, _ms(one["p99"]), _ms(one["min"]))
    screen.print(made)
    heading(screen, f"One query after another, {rate['queries']} of {rate['tokens']} tokens: decisions a second")
    made = table(("threads", "left"), ("p50", "right"), ("quartiles", "right"))
    for threads, one in rate["decisions_per_s"].items():
        made.add_row(threads, f"{one['p50']:,.0f}", f"{one['q25']:,.0f}-{one['q75']:,.0f}")
    screen.print(made)


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1.0 else f"{value:.2f}"
