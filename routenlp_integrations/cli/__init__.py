"""The command line: ``routenlp fit``, ``evaluate``, ``calibrate``, ``route`` and the rest of ``routenlp --help``."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]

_BAD_INPUT, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words after ``routenlp``; those of the process when None.

    Returns
    -------
    int
        0 on success; 2 on bad input, after one line on stderr; 3 when `watch` saw a certificate lapse; 130 when
        interrupted. An error that is none of the user's doing is not caught, so that its traceback can be reported.
    """
    from routenlp_integrations.cli.interrupts import noted_interrupts
    from routenlp_integrations.cli.output import complain

    with noted_interrupts() as interrupts:
        try:
            code = _run(arguments)
            # An interrupt that asyncio handled, and the command told, is not noted.
            return complain("interrupted", _INTERRUPTED) if interrupts and code == _INTERRUPTED else code
        except KeyboardInterrupt:
            return complain("interrupted", _INTERRUPTED)
        except Exception as error:
            # Whatever an interrupted library says is what came of the interrupt.
            told = complain("interrupted", _INTERRUPTED) if interrupts else _told(error)
            if told is None:
                raise
            return told


def _run(arguments: Sequence[str] | None) -> int:
    import warnings

    from routenlp_integrations.cli.app import app
    from routenlp_integrations.cli.output import print_anything, warn

    print_anything()
    with warnings.catch_warnings():
        warnings.showwarning = warn
        code = app(args=None if arguments is None else list(arguments), prog_name="routenlp", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _told(error: Exception) -> int | None:
    """Say an error that is the user's in one line; the exit code, None for any other error."""
    from typer import Abort
    from typer.exceptions import TyperException

    from routenlp_integrations.cli.output import complain
    from router_core.errors import RouteNLPError

    if isinstance(error, RouteNLPError):
        return complain(str(error), _BAD_INPUT)
    if isinstance(error, BrokenPipeError):
        # A pipe that the reader closed (routenlp ... | head) is the reader's choice.
        return _close_quietly()
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return complain(f"{where}{error.strerror or error}", _BAD_INPUT)
    if isinstance(error, TyperException):
        return complain(_usage(error), _BAD_INPUT)
    return complain("interrupted", _INTERRUPTED) if isinstance(error, Abort) else None


def _usage(error: Exception) -> str:
    said = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "routenlp"
    return f"{said.rstrip('.')}; see `{command} --help`"


def _close_quietly() -> int:
    import os
    import sys

    # What is still buffered would raise once more when the interpreter flushes it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
