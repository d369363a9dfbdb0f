"""Every error RouteNLP raises on purpose.

::

    RouteNLPError
    ├── InputError          records, portfolio or arguments are wrong; the command line exits 2
    ├── BundleError         a bundle is changed, incomplete, newer than this reader, or not a bundle
    ├── MissingExtraError   an optional install is needed; names it
    ├── TierError           a tier failed and no tier is left to answer
    └── BudgetError         the next call would exceed the budget
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router_core.route import Route

__all__ = [
    "BudgetError",
    "BundleError",
    "InputError",
    "MissingExtraError",
    "RouteNLPError",
    "TierError",
    "of_validation",
]


class RouteNLPError(Exception):
    """Base of every error RouteNLP raises on purpose."""


class InputError(RouteNLPError, ValueError):
    """Records, a portfolio or arguments are wrong; says what, where, and what to do."""


class BundleError(RouteNLPError, ValueError):
    """A bundle is changed, incomplete, newer than this reader, or not a bundle."""


class MissingExtraError(RouteNLPError, ImportError):
    """An optional install is needed.

    Parameters
    ----------
    extra
        Name of the extra, as in ``pip install routenlp[extra]``.
    purpose
        What it is needed for, completing "... is needed to".
    newer
        Requirements beyond those of the extra, such as ``"langchain-core>=1.8"``.
    """

    def __init__(self, extra: str, purpose: str, newer: tuple[str, ...] = ()) -> None:
        wanted = " ".join(f"'{requirement}'" for requirement in (f"routenlp[{extra}]", *newer))
        super().__init__(f"routenlp[{extra}] is needed to {purpose}: pip install {wanted}")


class TierError(RouteNLPError, RuntimeError):
    """A tier failed and no tier is left to answer."""


class BudgetError(RouteNLPError, RuntimeError):
    """The next call would exceed the budget.

    Parameters
    ----------
    message
        What it would cost and what is left.
    route
        The best answer so far, already paid for, as it would have been served (uncertified); None without one.
    """

    def __init__(self, message: str, route: "Route | None" = None) -> None:
        super().__init__(message)
        self.route = route


def of_validation(what: str, error: Any) -> RouteNLPError:
    """What Pydantic found wrong in the arguments of a class: our own error that it wrapped, else one line of its own.

    Parameters
    ----------
    what
        Name of the class.
    error
        The `pydantic.ValidationError`. What was given is not quoted.
    """
    found = error.errors(include_url=False, include_input=False)
    for one in found:
        own = one.get("ctx", {}).get("error")
        if isinstance(own, RouteNLPError):
            return own
    name = found[0]["loc"][0] if found[0]["loc"] else "an argument"
    told = dict.fromkeys(one["msg"].removeprefix("Input ") for one in found if name in one["loc"][:1] or not one["loc"])
    return InputError(f"{what}: {name} {', or '.join(told)}")
