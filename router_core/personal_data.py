"""Taking personal data and keys out of texts: e-mail addresses, phone and card numbers, keys of providers.

A help, not a promise: names and addresses of people stay. Every pattern matches in time linear in the text, so that
no text can hold up the thread that appends it.
"""

from __future__ import annotations

import re

__all__ = ["redact"]

# Each repetition is bounded and cannot share characters with what follows it, so nothing is tried again at length.
_PATTERNS = (
    ("[key]", re.compile(r"\b(?:sk|pk|rk|gsk|hf|xox[abp]|gh[pousr]|AKIA|AIza|eyJ)[-_A-Za-z0-9.]{12,400}")),
    ("[email]", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")),
    ("[iban]", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")),
    # Thirteen to nineteen digits, in groups or not: cards and account numbers.
    ("[number]", re.compile(r"(?<![\d.,])\d(?:[ -]?\d){12,18}(?!\d)")),
    # A phone number starts with + or 0, or has its area code in brackets, or is three groups joined by dashes.
    (
        "[phone]",
        re.compile(
            r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,5}\)[ .-]?\d{2,4}(?:[ .-]?\d{2,4}){1,3}"
            r"|(?<=\d[ .-])\d{2,4}(?:[ .-]?\d{2,4}){2,4}|0\d{1,4}(?:[ ./-]?\d{2,4}){2,4}|\d{3}[.-]\d{3}[.-]\d{4})(?!\w)"
        ),
    ),
)


def redact(text: str) -> str:
    """The text with e-mail addresses, phone, card and account numbers and providers' keys replaced by their kind.

    Parameters
    ----------
    text
        Any text.
    """
    for name, pattern in _PATTERNS:
        text = pattern.sub(name, text)
    return text
