"""The typer application: which commands there are."""

from __future__ import annotations

from typing import Annotated

import typer

from routenlp_integrations.cli.bench import bench
from routenlp_integrations.cli.calibrate import calibrate
from routenlp_integrations.cli.collect import collect
from routenlp_integrations.cli.demo import demo
from routenlp_integrations.cli.distill import distill
from routenlp_integrations.cli.evaluate import evaluate
from routenlp_integrations.cli.fit import fit
from routenlp_integrations.cli.inspect import inspect
from routenlp_integrations.cli.ledger import ledger
from routenlp_integrations.cli.loop import loop, rollback
from routenlp_integrations.cli.route import route
from routenlp_integrations.cli.watch import watch

__all__ = ["app"]

app = typer.Typer(
    name="routenlp",
    help="Send every query to the cheapest model that can be shown, at a risk you name, to answer it as well as the "
    "reference model would.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(fit)
app.command()(evaluate)
app.command()(calibrate)
app.command()(route)
app.command()(inspect)
app.command()(bench)
app.command()(watch)
app.command()(collect)
app.command()(distill)
app.command()(rollback)
app.command()(demo)
app.add_typer(ledger, name="ledger")
app.add_typer(loop, name="loop")


def _version(shown: bool) -> None:
    if shown:
        from importlib import metadata

        try:
            typer.echo(f"routenlp {metadata.version('routenlp')}")
        except metadata.PackageNotFoundError:
            typer.echo("routenlp, not installed (run from its source)")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Show the help when no command is given."""
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
