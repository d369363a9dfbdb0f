"""A progress bar on stderr behind the core's `Progress` callback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router_core.fitting.tables import Progress

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(*, silent: bool = False) -> Iterator[Progress | None]:
    """Give a callback that draws a bar, or None where nobody would see it.

    Parameters
    ----------
    silent
        Draw nothing even at a terminal, as when JSON goes to stdout.
    """
    if silent or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def report(what: str, done: int, total: int) -> None:
            # One step of unknown length is shown as a moving bar, not as one that stands at nothing.
            bar.update(line, description=what, completed=done, total=total if total > 1 else None)

        yield report
