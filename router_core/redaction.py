"""Taking keys and patterns out of text before it is stored or shown.

What is stored is what `fit` sees: a pattern that takes away what makes a query hard takes it from the router too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router_core.errors import InputError, MissingExtraError
from router_core.personal_data import redact

__all__ = ["REDACTED", "Redaction", "looks_like_key", "redact"]

REDACTED = "[redacted]"
_SECONDS = 1.0
"""Longest one pattern may take on one text."""
_SHORTEST_SECRET = 8

# What providers' keys look like, and what carries one in a header, a URL or an argument.
_KEY = re.compile(
    r"\bsk-[A-Za-z0-9_\-*.]{6,}"
    r"|\bsk_(?:live|test)_\w{6,}"
    r"|\bAIza[\w\-]{20,}|\bgh[pousr]_\w{20,}|\bhf_\w{20,}|\bgsk_\w{20,}|\bxox[abp]-[\w-]{10,}|\blsv2_\w{10,}"
    r"|\bAKIA[A-Z0-9]{12,}"
)
_CARRIED = re.compile(
    r"""(?ix)
    ( (?: \b[\w-]*api[_-]?key | \baccess[_-]?token | \bauth[_-]?token | \bclient[_-]?secret | \bauthorization )
      ["']? \s* [=:] \s* ["']? (?: (?:bearer|basic) \s+ )?
    | \b (?:bearer|basic) \s+ )
    # Code and prose that only speak of keys hold neither digits nor one unbroken word of this length.
    ( (?= [\w\-.~+/*]*\d ) [\w\-.~+/*]{6,} | [\w\-~+/*]{20,} )
    """
)
_IN_URL = re.compile(r"(://[^\s/:@]{1,100}:)[^\s/@]{1,200}@")
_SECRET_NAME = re.compile(r"(?i)(?:api_?key|token|secret|password)$")


def looks_like_key(text: str) -> bool:
    """Whether a text holds what looks like a provider's key."""
    return bool(_KEY.search(text) or _CARRIED.search(text))


@dataclass(frozen=True)
class Redaction:
    """What is taken out of texts: keys always, and the user's patterns.

    Parameters
    ----------
    patterns
        Regular expressions; each may take a second on one text.
    secrets
        Texts that must never be stored, such as the values of keys.

    Raises
    ------
    InputError
        For a pattern that is no regular expression, or that matches the empty text.
    MissingExtraError
        For patterns where `regex` is not installed.
    """

    patterns: tuple[str, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compiled", [(text, _compiled(text)) for text in self.patterns])

    @classmethod
    def of_environment(cls, patterns: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Redaction:
        """Take out the patterns, and the value of every environment variable that is named like a key."""
        told = os.environ if environment is None else environment
        found = [value for name, value in told.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET]
        return cls(tuple(patterns), tuple(sorted(found, key=len, reverse=True)))

    def keys(self, text: str) -> str:
        """The text without keys, for messages."""
        for secret in self.secrets:
            text = text.replace(secret, REDACTED)
        text = _IN_URL.sub(rf"\g<1>{REDACTED}@", text)
        return _KEY.sub(REDACTED, _CARRIED.sub(rf"\g<1>{REDACTED}", text))

    def __call__(self, text: str) -> str:
        """The text without keys and without what the patterns match.

        Raises
        ------
        InputError
            When a pattern takes longer than a second.
        """
        text = self.keys(text)
        for pattern, compiled in getattr(self, "_compiled"):  # noqa: B009 - set in __post_init__ of a frozen class
            try:
                text = compiled.sub(REDACTED, text, timeout=_SECONDS)
            except TimeoutError:
                raise InputError(
                    f"--redact {pattern!r} takes longer than {_SECONDS:g} s on one text of {len(text)} characters; "
                    "write it without nested repetition"
                ) from None
        return text


def _compiled(pattern: str) -> Any:
    try:
        import regex
    except ImportError:
        raise MissingExtraError("collect", "redact by pattern") from None
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise InputError(f"--redact {pattern!r} is not a regular expression ({error})") from None
    if compiled.search(""):
        raise InputError(f"--redact {pattern!r} matches the empty text; it must match what is to be taken out")
    return compiled
