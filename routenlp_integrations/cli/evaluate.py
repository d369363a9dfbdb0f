"""``routenlp evaluate``: every policy and rival of a bundle on logged queries, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from routenlp_integrations.cli.output import STDOUT, check_target, console, need_fit, write_json
from routenlp_integrations.cli.progress import progress_bar

__all__ = ["PICTURES", "evaluate"]

PICTURES = (".png", ".svg", ".pdf")


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    records: Annotated[
        list[str],
        typer.Argument(
            help="Logged records of the bundle's tiers (.parquet, .csv, .jsonl, .jsonl.gz), or the URL of a ledger."
        ),
    ],
    split: Annotated[str, typer.Option(help="Split to report on: test, calib, tune, train or all.")] = "test",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON to this file; - for stdout.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Draw quality against cost, both as shares of the reference's, to this file."
        ),
    ] = None,
) -> None:
    """Replay every policy and rival of a bundle on logged queries, and report quality, cost and risk."""
    check_target(json_file, "--json", taken=[bundle, *records, plot])
    check_target(plot, "--plot", PICTURES, [bundle, *records])
    need_fit("evaluate a bundle")
    from routenlp_integrations.cli.scorecard import print_policies, print_router, print_scopes
    from routenlp_integrations.cli.summary import cost_sentence
    from router_core.evaluation import evaluate as evaluate_bundle

    to_stdout = str(json_file) == STDOUT
    with progress_bar(silent=to_stdout) as progress:
        report = evaluate_bundle(bundle, [*records], split=split, progress=progress)
    if plot is not None:
        from router_core.plots import plot_evaluation

        plot_evaluation(report, plot)
    screen = console(quiet=to_stdout)
    which = "of all splits" if split == "all" else f"of split {split}"
    screen.print(f"Bundle {report['bundle'][:12]} on {report['n']} queries {which}", style="bold")
    if report["splits_made"] and split != "all":
        screen.print(
            f"The records have no split column: a hash of each query put these into {split}. "
            f"{report['other_splits']} queries of other splits were left out; --split all reports on every one."
        )
    screen.print(f"Costs: {cost_sentence(report.get('cost_basis'))}.")
    if report["learned_from"]:
        screen.print(
            f"Careful: the bundle was trained or tuned on {report['learned_from']} of these queries; "
            "figures on them are too good.",
            style="bold",
        )
    print_policies(screen, report)
    print_scopes(screen, report)
    print_router(screen, report)
    if plot is not None:
        screen.print(f"Picture: {plot}")
    if json_file is not None:
        write_json(json_file, report)
        if not to_stdout:
            screen.print(f"Report: {json_file}")
