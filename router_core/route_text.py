"""What of a conversation is routed: one pure, versioned function, shared by every face."""

from collections.abc import Sequence

__all__ = ["CONTEXT_CHARACTERS", "NOTHING_ASKED", "ROUTE_TEXT_VERSION", "asks", "last_turn", "route_text"]

NOTHING_ASKED = "nobody asked anything, which calib did not have"
"""Why a conversation without any text of a person is none that a certificate covers."""

ROUTE_TEXT_VERSION = 2
"""Stored in the manifest of every bundle; a bundle is served with the version it was certified with."""

CONTEXT_CHARACTERS = 600
"""Characters of the turns before the last human one that are routed with it."""

_HARNESS = ("system-reminder", "environment_context", "environment_details", "command-message", "local-command-stdout")
"""Tags in which coding agents send their own remarks as human turns."""


def route_text(turns: Sequence[tuple[str, str]]) -> str:
    r"""Find the text that the router sees.

    Version 2: the last human turn, and before it the end of what was said so far. Only what people and the model
    said counts: system text, tool output and remarks of a harness (an agent's tags around a whole human turn) do
    not. A conversation with one human turn and no answer before it is routed as that turn alone, unchanged, so that
    it is routed exactly as the same prompt in the records was. After earlier turns the text is::

        human: <turn>
        ai: <turn>

        <last human turn, unchanged>

    with the earlier turns cut from their beginning to `CONTEXT_CHARACTERS` together. What follows the last human
    turn (tool calls and their results) is not routed: an agent's loop stays where its question was sent.

    Parameters
    ----------
    turns
        (role, text) in order; roles are ``"human"``, ``"ai"``, ``"system"`` and ``"tool"``.

    Returns
    -------
    str
        Without a human turn the last turn's text, ``""`` without any turn.
    """
    last = _last(turns)
    if last is None:
        return last_turn(turns)
    budget, lines = CONTEXT_CHARACTERS, []
    for role, text in reversed(turns[:last]):
        if role not in ("human", "ai") or not text.strip() or (role == "human" and _harness(text)):
            continue
        told = text.strip()[-budget:]
        lines.append(f"{role}: {told}")
        budget -= len(told)
        if budget <= 0:
            break
    context = "\n".join(reversed(lines))
    return f"{context}\n\n{turns[last][1]}" if context else turns[last][1]


def asks(turns: Sequence[tuple[str, str]]) -> bool:
    """Whether a person said anything; records hold no empty prompts, and none of a system or a model alone."""
    return any(role == "human" and text and not text.isspace() for role, text in turns)


def last_turn(turns: Sequence[tuple[str, str]]) -> str:
    """The last human turn of `route_text` without its context: what a model that answers single prompts is asked.

    Parameters
    ----------
    turns
        As for `route_text`.
    """
    last = _last(turns)
    if last is not None:
        return turns[last][1]
    humans = [text for role, text in turns if role == "human"]
    return humans[-1] if humans else turns[-1][1] if turns else ""


def _last(turns: Sequence[tuple[str, str]]) -> int | None:
    """Position of the last human turn that says something of its own, None without any text of people."""
    said = [i for i, (role, text) in enumerate(turns) if role == "human" and text.strip()]
    asked = [i for i in said if not _harness(turns[i][1])] or said
    return asked[-1] if asked else None


def _harness(text: str) -> bool:
    """Whether a human turn is nothing but tagged remarks of a harness."""
    at, whole = 0, text.strip()
    while at < len(whole):
        tag = next((tag for tag in _HARNESS if whole.startswith(f"<{tag}>", at)), None)
        end = whole.find(f"</{tag}>", at) if tag else -1
        if tag is None or end < 0:
            return False
        at = end + len(tag) + 3
        while whole[at : at + 1].isspace():
            at += 1
    return True
