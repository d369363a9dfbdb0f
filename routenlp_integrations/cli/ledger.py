"""``routenlp ledger``: what a ledger holds, and the way in and out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from routenlp_integrations.cli.moments import SINCE_HELP, UNTIL_HELP
from routenlp_integrations.cli.output import STDOUT, check_target, console, write_json
from router_core.errors import InputError

__all__ = ["ledger"]

ledger = typer.Typer(
    help="Look into a ledger, export records or routes from it, import into it.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_URL_HELP = "URL of the ledger: sqlite:///file.db or postgresql://user:password@host/database."
_WHAT = ("records", "routes")


@ledger.command()
def stats(
    url: Annotated[str, typer.Argument(help=_URL_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead of text.")] = False,
) -> None:
    """Count routes, costs, audits and feedback."""
    from router_core.ledger.reader import LedgerReader

    told = LedgerReader(url).stats()
    if as_json:
        write_json(Path(STDOUT), told)
        return
    from routenlp_integrations.cli.report import facts

    screen = console()
    screen.print(f"Ledger {told['url']}", style="bold")
    audits = told["audits"]
    facts(
        screen,
        [
            ("routes", _counted(told)),
            ("served by", _shares(told["tiers"])),
            ("tasks", _shares(told["tasks"])),
            ("bundles", _shares({name[:12]: many for name, many in told["bundles"].items()})),
            ("certified", f"{told['certified']} routes"),
            ("escalated", f"{told['escalated']} routes with a cheap and a reference answer"),
            ("texts", f"{told['texts']} kept"),
            ("cost", f"{told['cost_usd']:.6g} US dollars, and {audits['cost_usd']:.6g} for audits"),
            (
                "audits",
                f"{audits['chosen']} chosen, {audits['done']} done, {audits['failed']} failed; "
                f"{audits['unaffordable']} routes met a spent budget or a backlog",
            ),
            ("feedback", _shares(told["feedback"])),
        ],
    )


@ledger.command()
def export(
    url: Annotated[str, typer.Argument(help=_URL_HELP)],
    out: Annotated[Path, typer.Option(help="File to write (.jsonl, .csv, .parquet); an earlier one is replaced.")],
    what: Annotated[
        str, typer.Option(help="records (audited and escalated queries, for fit and calibrate) or routes (everything).")
    ] = "records",
    since: Annotated[str | None, typer.Option(help=SINCE_HELP)] = None,
    until: Annotated[str | None, typer.Option(help=UNTIL_HELP)] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of the uniform sample of audited queries in records: train, tune, calib, test, audit; refused "
            "where the ledger gives no such sample. Other audits and escalations are always train.",
            show_default="by the hash rule",
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="How answers that no audit graded are graded in records: agree_with_reference, exact, f1, ..."
        ),
    ] = "agree_with_reference",
    gold: Annotated[
        bool, typer.Option("--gold", help="Grade records by the labels and corrections in the feedback.")
    ] = False,
) -> None:
    """Write records or whole routes to a file."""
    from router_core.ledger.files import SUFFIXES, route_rows, write_rows
    from router_core.ledger.harvest import harvest
    from router_core.ledger.reader import LedgerReader
    from router_core.ledger.records import record_rows

    if what not in _WHAT:
        raise InputError(f"--what {what!r} is unknown; use records or routes")
    check_target(out, "--out", SUFFIXES, [url])
    reader = LedgerReader(url)

    told: list[str] = []

    def records() -> Any:
        told.clear()
        found = harvest(reader, since=since, until=until, split=split, metric=metric, gold=gold, told=told)
        return (row for item in found for row in record_rows(item))

    if what == "records":
        count = write_rows(out, records)
    else:
        count = write_rows(out, lambda: route_rows(reader, since, until), nested=True)
    console().print("; ".join([f"{count} rows written to {out}", *filter(None, told)]), soft_wrap=True)


@ledger.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="What to import: exported routes or feedback (.jsonl), a ledger's file (.db) or its URL.",
        ),
    ],
    into: Annotated[str, typer.Option(help="URL of the ledger to import into; made when it is not there.")],
) -> None:
    """Import routes and feedback; what is there already stays as it is, but for grades that are missing."""
    from router_core.ledger.importing import import_into
    from router_core.ledger.url import mask

    told = import_into(source, into)
    console().print(f"{told['read']} routes or outcomes read, {told['new']} rows new in {mask(into)}", soft_wrap=True)


@ledger.command()
def retire(
    url: Annotated[str, typer.Argument(help=_URL_HELP)],
    days: Annotated[float, typer.Option(help="Take out texts, answers and vectors older than this many days.")],
) -> None:
    """Take old texts, answers and vectors out; the rows stay."""
    import time

    from router_core.ledger.reader import LedgerReader
    from router_core.ledger.store import retire as take_out

    if not days >= 0:
        raise InputError(f"--days {days:g} must not be negative")
    with LedgerReader(url).connect() as connection:
        gone = take_out(connection, time.time() - days * 86_400.0)
    console().print(f"{gone} texts, answers and vectors taken out")


def _counted(told: dict[str, Any]) -> str:
    if not told["routes"]:
        return "none"
    return f"{told['routes']}, {told['first']} to {told['last']}, in {told['attempts']} attempts"


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {many}" for name, many in counts.items()) or "none"
