"""``routenlp watch``: whether the audits of a running bundle still bear out what was certified."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from routenlp_integrations.cli.evaluate import PICTURES
from routenlp_integrations.cli.output import check_target, complain, console, need_fit
from routenlp_integrations.cli.watch_report import show_look

__all__ = ["ALARM", "watch"]

ALARM = 3
"""Exit code when a certificate lapsed, or too many audits failed to tell."""
_LONGEST_S: Final = 31_536_000.0


def watch(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, or the ROOT of a release.")],
    ledger: Annotated[str, typer.Argument(help="Where the audits are: the URL of a ledger, or a .jsonl file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead of text.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Look once and end; the default without --every.")] = False,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Look again and again, until interrupted; with --json a line a look."
        ),
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
        typer.Option(
            help="Lower bound of all audit propensities, for rates that hang on the query; by default, smallest so far."
        ),
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
    """Weigh the audits of a bundle; exit 0 when all is fine, 3 for a lapse or a blind watch, 2 on bad input.

    A lapse is written to <bundle>.lapse.json beside the bundle. Running routers read it within a second, send the
    scope to the reference tier and claim nothing of it, until the file is removed or another bundle is in place. A
    watch is blind where so many audits failed that the risk may be anything; no lapse is written then.

    With --every each look reads which release of ROOT is current; another one begins its evidence anew. A look that
    fails is told on stderr and tried again, except the first.
    """
    from routenlp_integrations.cli.watching import Watching
    from router_core.errors import InputError, MissingExtraError, RouteNLPError
    from router_core.watch_stream import WatchSettings

    if once and every is not None:
        raise InputError("--once and --every exclude each other; give one of them")
    if every is not None and not every <= _LONGEST_S:
        raise InputError(f"--every {every:g} must be a number of seconds, at most {_LONGEST_S:g}")
    check_target(plot, "--plot", PICTURES, [bundle, ledger])
    check_target(state, "--state", taken=[bundle, ledger, plot])
    need_fit("watch a bundle")
    watching = Watching(bundle, WatchSettings(delta, arl, floor), (max_age_days, max_decisions), state)
    screen, looked = console(quiet=as_json), False
    while True:
        try:
            look = watching.look(ledger, time.time(), write=not dry_run)
            if plot is not None:
                from router_core.watch_plot import plot_watch

                plot_watch(look.verdicts, plot)
        except MissingExtraError:
            raise
        except (RouteNLPError, OSError) as error:
            # Whoever starts a watch is told at once what is wrong; later it is most likely to pass.
            if every is None or not looked:
                raise
            complain(f"{_said(error)} (looking again in {every:g} s)", 2)
        else:
            looked = True
            show_look(screen, look, as_json=as_json, lines=every is not None, dry_run=dry_run)
            if every is None:
                return ALARM if look.lapses or look.blind else 0
        time.sleep(every)


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    return str(error)
