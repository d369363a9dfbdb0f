"""``routenlp calibrate``: a new certificate for the router of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from routenlp_integrations.cli.claims import (
    AGE_HELP,
    ALPHA_HELP,
    BY_HELP,
    DECISIONS_HELP,
    DELTA_HELP,
    RISK_HELP,
    SIMULTANEOUS_HELP,
    check_claim,
)
from routenlp_integrations.cli.moments import SINCE_HELP, UNTIL_HELP
from routenlp_integrations.cli.output import STDOUT, check_outside, check_target, console, need_fit, write_json
from routenlp_integrations.cli.progress import progress_bar

__all__ = ["calibrate"]

_SAME = "as in the bundle"


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    records: Annotated[
        list[str],
        typer.Argument(
            help="Logged records of the bundle's tiers that it was not fitted on: the rows marked calib if there is a "
            "split column, else every row; or the URL of a ledger, of which the uniform sample of its traffic is "
            "used that random audits make."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the new bundle to; an earlier bundle there is replaced.")],
    risk: Annotated[str | None, typer.Option(help=RISK_HELP, show_default=_SAME)] = None,
    alpha: Annotated[float | None, typer.Option(help=ALPHA_HELP, show_default=_SAME)] = None,
    delta: Annotated[float | None, typer.Option(help=DELTA_HELP, show_default=_SAME)] = None,
    certify_by: Annotated[str | None, typer.Option(help=BY_HELP, show_default=_SAME)] = None,
    simultaneous: Annotated[
        bool | None, typer.Option("--simultaneous/--separate", help=SIMULTANEOUS_HELP, show_default=_SAME)
    ] = None,
    max_age_days: Annotated[float | None, typer.Option(help=AGE_HELP, show_default=_SAME)] = None,
    max_decisions: Annotated[int | None, typer.Option(help=DECISIONS_HELP, show_default=_SAME)] = None,
    since: Annotated[str | None, typer.Option(help=SINCE_HELP, show_default="all of the ledger")] = None,
    until: Annotated[str | None, typer.Option(help=UNTIL_HELP, show_default="now")] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write what was done as JSON to this file; - for stdout."),
    ] = None,
) -> None:
    """Certify the same router again: another risk, another level, or fresh calibration items."""
    check_claim(risk, delta, certify_by)
    check_outside(out, "--out")
    check_target(json_file, "--json", taken=[bundle, *records, out])
    need_fit("calibrate a bundle")
    from routenlp_integrations.cli.report import facts, print_certificates, print_missing, print_uses
    from routenlp_integrations.cli.summary import add_allowed, summarise
    from router_core.fitting.calibrate_bundle import calibrate as certify_again

    by: Any = certify_by
    to_stdout = str(json_file) == STDOUT
    with progress_bar(silent=to_stdout) as progress:
        made = certify_again(
            bundle,
            [*records],
            out=out,
            risk=risk,
            alpha=alpha,
            delta=delta,
            certify_by=by,
            simultaneous=simultaneous,
            max_age_days=max_age_days,
            max_decisions=max_decisions,
            since=since,
            until=until,
            progress=progress,
        )
    summary = add_allowed(summarise(made, str(out)))
    screen = console(quiet=to_stdout)
    screen.print(f"Bundle {made.id[:12]} written to {out}: the router of {bundle}, certified again", style="bold")
    told = summary["calibrated"]
    facts(
        screen,
        [
            ("records", told["source"]),
            ("items", f"{told['n']}, one per group ({told['repeats']} repeats set aside)"),
            ("dropped", told["drops"].removeprefix("dropped ")),
            ("other tasks", f"{told['other_tasks']} queries left out"),
            ("near-duplicates", _near(told["near_duplicates"])),
            ("paths", told["paths"]),
        ],
    )
    print_certificates(screen, summary)
    print_missing(screen, summary)
    print_uses(screen, summary, out)
    if json_file is not None:
        write_json(json_file, summary)


def _near(count: int | None) -> str:
    if count is None:
        return (
            "not recognised, since this older bundle keeps no sketches of what it learned from: if there are any, the "
            "claim is void; fit the bundle again"
        )
    return f"{count} queries left out for being like one that the bundle learned from"
