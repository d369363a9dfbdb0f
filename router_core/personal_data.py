"""Taking personal data and keys out of texts: e-mail addresses, phone and card numbers, keys of providers.

A help, not a promise: names and addresses of people stay. Every pattern matches in time linear in the text, so that
no text can hold up the thread that appends it.
"""

from __future__ import annotations

import re

__all__ = ["redact"]

# Each repetition is bounded and cannot share characters with what follows it, so nothing is tried again at length.
_KEY = re.compile(r"\b(?:sk|pk|rk|gsk|hf|xox[abp]|gh[pousr]|AKIA|AIza|eyJ)[-_A-Za-z0-9.]{12,400}")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
# What neither of the next two can do without; most texts hold nothing of the kind.
_DIGITS = re.compile(r"\d(?:[ ()./-]{0,3}\d){5}")
# Thirteen to nineteen digits, in groups or not: cards and account numbers.
_NUMBER = re.compile(r"(?<![\d.,])\d(?:[ -]?\d){12,18}(?!\d)")
# A phone number starts with + or 0, or has its area code in brackets, or is three groups joined by dashes.
_PHONE = re.compile(
    r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,5}\)[ .-]?\d{2,4}(?:[ .-]?\d{2,4}){1,3}"
    r"|(?<=\d[ .-])\d{2,4}(?:[ .-]?\d{2,4}){2,4}|0\d{1,4}(?:[ ./-]?\d{2,4}){2,4}|\d{3}[.-]\d{3}[.-]\d{4})(?!\w)"
)


def redact(text: str) -> str:
    """The text with e-mail addresses, phone, card and account numbers and providers' keys replaced by their kind.

    Parameters
    ----------
    text
        Any text.
    """
    text = _KEY.sub("[key]", text)
    if "@" in text:
        text = _EMAIL.sub("[email]", text)
    text = _IBAN.sub("[iban]", text)
    if _DIGITS.search(text):
        text = _PHONE.sub("[phone]", _NUMBER.sub("[number]", text))
    return text
