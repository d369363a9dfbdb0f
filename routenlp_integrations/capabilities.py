"""Tiers that cannot serve a call are no candidates for it: what of that is the same in every framework."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from router_core.errors import InputError
from router_core.router import estimate_tokens

__all__ = ["MEDIA_TOKENS", "Abilities", "check_named", "none_able", "room"]

_COMPLETION_TOKENS = 256
"""Room left for an answer whose length no parameter limits."""
MEDIA_TOKENS = 1_000
"""Room taken by an image, a sound or a document; providers count them differently."""

Abilities = Mapping[str, Any]
"""Capabilities in the framework's words, and what a tier states of them."""


def check_named(
    declared: Mapping[str, Mapping[str, Any]], tiers: Sequence[str], known: Collection[str], why: str
) -> None:
    """Check the names in declared capabilities.

    Parameters
    ----------
    declared
        ``{tier: {capability: value}}``.
    tiers
        In cascade order.
    known
        The capabilities of the framework.
    why
        How the error about an unknown one ends.

    Raises
    ------
    InputError
        When they name no tier, or an unknown capability.
    """
    for name, stated in declared.items():
        if name not in tiers:
            msg = f"capabilities names {name!r}; the tiers are {', '.join(tiers)}"
            raise InputError(msg)
        if unknown := sorted(set(stated) - set(known)):
            msg = f"capabilities of tier {name!r} state {unknown[0]!r}{why}"
            raise InputError(msg)


def none_able(lacks: Mapping[str, str]) -> InputError:
    """The error for a call that no tier can serve, with what each of them lacks."""
    told = "; ".join(f"{name} lacks {what}" for name, what in lacks.items())
    return InputError(f"no tier can serve this call: {told}")


def room(params: Mapping[str, Any], limits: Iterable[str]) -> int:
    """Tokens that a call needs beside what it says: its tools at four bytes a token, and room for the answer.

    Parameters
    ----------
    params
        Arguments of the call.
    limits
        Names of those that limit the length of the answer.
    """
    schemas = estimate_tokens(str(params["tools"])) if params.get("tools") else 0
    limit = next((params[name] for name in limits if isinstance(params.get(name), int)), _COMPLETION_TOKENS)
    return schemas + int(limit)
