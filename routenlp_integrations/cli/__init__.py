"""The command line: ``routenlp fit | evaluate | calibrate | route | inspect | collect | distill | demo``."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]

_BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words after ``routenlp``; those of the process when None.

    Returns
    -------
    int
        0 on success; 2 on bad input, after one line on stderr; 130 when interrupted. An error that is none of
        the user's doing is not caught, so that its traceback can be reported.
    """
    import warnings

    from typer import Abort
    from typer.exceptions import TyperException

    from routenlp_integrations.cli.app import app
    from routenlp_integrations.cli.output import complain, print_anything, warn
    from router_core.errors import RouteNLPError

    print_anything()
    with warnings.catch_warnings():
        warnings.showwarning = warn
        try:
            code = app(args=None if arguments is None else list(arguments), prog_name="routenlp", standalone_mode=False)
        except RouteNLPError as error:
            return complain(str(error), _BAD_INPUT)
        except OSError as error:
            # A pipe that the reader closed (routenlp ... | head) is the reader's choice.
            if isinstance(error, BrokenPipeError):
                return _close_quietly()
            where = f"{error.filename}: " if error.filename else ""
            return complain(f"{where}{error.strerror or error}", _BAD_INPUT)
        except TyperException as error:
            return complain(_usage(error), _BAD_INPUT)
        except Abort:
            return complain("interrupted", 130)
    return code if isinstance(code, int) else 0


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
