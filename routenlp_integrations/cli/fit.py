"""``routenlp fit``: logged records in, certified bundle out."""

from __future__ import annotations

import time
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
from routenlp_integrations.cli.encoders import STATIC_ONLY, encoder_names, trainers_of
from routenlp_integrations.cli.moments import SINCE_HELP, UNTIL_HELP
from routenlp_integrations.cli.output import STDOUT, check_outside, check_target, console, need_fit, write_json
from routenlp_integrations.cli.progress import progress_bar
from router_core.errors import InputError

__all__ = ["fit"]


def fit(
    records: Annotated[
        list[str],
        typer.Argument(
            help="Logged records: one row per query and model (.parquet, .csv, .jsonl, .jsonl.gz), or a ledger's URL."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to; an earlier bundle there is replaced.")],
    portfolio: Annotated[
        Path | None,
        typer.Option(
            help="Prices per tier, US dollars per 1M tokens (.json, .toml, .csv). Default: recovered from the records."
        ),
    ] = None,
    tiers: Annotated[
        str | None,
        typer.Option(
            help="Model names in cascade order, comma-separated, the reference last. Default: the best model on train, "
            "and before it the cheaper models on the cost-quality hull."
        ),
    ] = None,
    risk: Annotated[str, typer.Option(help=RISK_HELP)] = "joint",
    alpha: Annotated[float, typer.Option(help=ALPHA_HELP)] = 0.05,
    delta: Annotated[float | None, typer.Option(help=DELTA_HELP, show_default="0.1")] = None,
    tolerance: Annotated[
        float, typer.Option(help="How far below the reference's quality (0 to 1) an answer may lie without being bad.")
    ] = 0.0,
    certify_by: Annotated[str, typer.Option(help=BY_HELP)] = "task",
    simultaneous: Annotated[bool, typer.Option("--simultaneous", help=SIMULTANEOUS_HELP)] = False,
    max_age_days: Annotated[float | None, typer.Option(help=AGE_HELP)] = None,
    max_decisions: Annotated[int | None, typer.Option(help=DECISIONS_HELP)] = None,
    encoder: Annotated[
        str,
        typer.Option(
            help="Encoder of the router: static (hashed words), minilm (the packaged sentence encoder, 3 layers), "
            "minilm6 (6 layers), stack (static, minilm and nearest neighbours), a folder or hub id of another one, or "
            "auto: fit all of these and take a slower one only if it is expected to save more than 1 % of cost."
        ),
    ] = "auto",
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Train the top layer of the sentence encoder too; slow.")
    ] = False,
    preferences: Annotated[
        Path | None,
        typer.Option(
            help="Preference records to learn from: query_id, task, prompt, winner, loser (.jsonl, .csv, .parquet)."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help=SINCE_HELP, show_default="all of the ledger")] = None,
    until: Annotated[str | None, typer.Option(help=UNTIL_HELP, show_default="now")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random, a whole number.")] = 0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write what was done as JSON to this file; - for stdout."),
    ] = None,
) -> None:
    """Fit a router on logged records, certify it, and write the bundle."""
    check_claim(risk, delta, certify_by)
    if preferences is not None and not preferences.is_file():
        raise InputError(
            f"--preferences {preferences}: there is no such file; name one of preference records, with --encoder minilm"
        )
    encoders = encoder_names(encoder, finetune=finetune, preferences=preferences is not None)
    check_outside(out, "--out")
    check_target(json_file, "--json", taken=[*records, out, portfolio, preferences])
    need_fit("fit a router")
    from routenlp_integrations.cli.report import (
        print_certificates,
        print_encoders,
        print_missing,
        print_origin,
        print_tiers,
    )
    from routenlp_integrations.cli.summary import add_allowed, summarise
    from router_core.fitting.fit_bundle import FitSettings
    from router_core.fitting.fit_bundle import fit as fit_bundle
    from router_core.portfolio import Portfolio
    from router_core.records import read_records

    by: Any = certify_by
    settings = FitSettings(
        alpha,
        0.1 if delta is None else delta,
        tolerance,
        seed,
        risk,
        by,
        simultaneous,
        max_age_days=max_age_days,
        max_decisions=max_decisions,
    )
    names = None if tiers is None else [name.strip() for name in tiers.split(",") if name.strip()]
    prices = None if portfolio is None else Portfolio.load(portfolio)
    to_stdout = str(json_file) == STDOUT
    began = time.perf_counter()
    with progress_bar(silent=to_stdout) as progress:
        read = read_records([*records], prices, since=since, until=until)
        trainers = trainers_of(encoders, finetune=finetune, preferences=preferences, records=read, progress=progress)
        bundle = fit_bundle(
            read, out=out, portfolio=prices, tiers=names, settings=settings, trainers=trainers, progress=progress
        )
    summary = add_allowed(summarise(bundle, str(out)))
    seconds = time.perf_counter() - began
    screen = console(quiet=to_stdout)
    screen.print(f"Bundle {bundle.id[:12]} written to {out} in {seconds:.1f} s", style="bold")
    print_origin(screen, summary)
    print_tiers(screen, summary)
    print_encoders(screen, summary)
    if encoder == "auto" and len(encoders) == 1:
        screen.print()
        screen.print(STATIC_ONLY, style="dim", soft_wrap=True)
    print_certificates(screen, summary)
    print_missing(screen, summary)
    _print_next(screen, summary, records, out)
    if json_file is not None:
        write_json(json_file, {**summary, "seconds": round(seconds, 3)})


def _print_next(screen: Any, summary: dict[str, Any], records: list[str], out: Path) -> None:
    from routenlp_integrations.cli.report import print_uses
    from router_core.ledger.url import mask

    print_uses(screen, summary, out)
    screen.print(f"Next: routenlp evaluate {out} {' '.join(map(mask, records))} --plot picture.png", soft_wrap=True)
