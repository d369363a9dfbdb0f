"""What of a conversation is routed: one pure, versioned function, shared by every face."""

from collections.abc import Sequence

__all__ = ["ROUTE_TEXT_VERSION", "route_text"]

ROUTE_TEXT_VERSION = 1
"""Stored in the manifest of every bundle; a bundle is served with the version it was certified with."""


def route_text(turns: Sequence[tuple[str, str]]) -> str:
    """Find the text that the router sees.

    Version 1: the text of the last human turn, unchanged, so that a single human turn is routed exactly as
    the same prompt in the records was.

    Parameters
    ----------
    turns
        (role, text) in order; roles are ``"human"``, ``"ai"``, ``"system"`` and ``"tool"``.

    Returns
    -------
    str
        Without a human turn the last turn's text, ``""`` without any turn.
    """
    for role, text in reversed(turns):
        if role == "human":
            return text
    return turns[-1][1] if turns else ""
