"""Personal data and keys are taken out of texts, and nothing else is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.personal_data import redact

FOUND = [
    ("mail a.b+c@x-y.co.uk now", "mail [email] now"),
    ("call +49 170 1234567.", "call [phone]."),
    ("call (555) 123-4567 or 555-123-4567", "call [phone] or [phone]"),
    ("030/1234567", "[phone]"),
    ("card 4111 1111 1111 1111", "card [number]"),
    ("card 4111-1111-1111-1111, 4111111111111111", "card [number], [number]"),
    ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN [iban] please"),
    ("use sk-proj-abcDEF123456789 here", "use [key] here"),
    ("token ghp_abcdefghijklmnopqrst", "token [key]"),
]


@pytest.mark.parametrize(("text", "left"), FOUND)
def test_personal_data_goes(text: str, left: str) -> None:
    """E-mail addresses, phone, card and account numbers, and keys are replaced by their kind."""
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "Add 1000000 and 2345678 for ticket 99999.",
        "On 2024-01-31 it cost 1,234.56 US dollars.",
        "pi is 3.14159265358979 and @home is a word",
        "version 10.20.300.4000, sk-learn, 24/7",
        "Grüße aus 80331 München",
    ],
)
def test_other_text_stays(text: str) -> None:
    """Amounts, dates and decimals carry what makes a query hard."""
    assert redact(text) == text


@given(
    st.text(max_size=40), st.sampled_from(["x.y@host.org", "4111 1111 1111 1111", "sk-proj-abcDEF123456789"]), st.text()
)
def test_personal_data_goes_wherever_it_stands(before: str, item: str, after: str) -> None:
    """Whatever surrounds it, set apart by brackets."""
    assert item not in redact(f"{before}<{item}>{after}")


def test_no_text_holds_it_up() -> None:
    """Time is linear: texts made of near misses take no longer per character than others."""
    for piece in ("a", "a.b", "1 ", "(11", "a@", "+1 ", "A@b.", "sk-", "01 23", "AB12 ", "- ."):
        began = time.perf_counter()
        redact(piece * (200_000 // len(piece)))
        assert time.perf_counter() - began < 5
