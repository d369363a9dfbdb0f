"""What is taken out of texts: keys always, patterns within a bounded time, nothing else."""

from __future__ import annotations

import pytest

from router_core.errors import InputError
from router_core.redaction import REDACTED, Redaction, looks_like_key

KEYS = (
    "sk-proj-abcDEF1234567890",
    "sk-ant-api03-xyz",
    "Incorrect API key provided: sk-abcd********wxyz.",
    "Authorization: Bearer abc123def456",
    "{'api_key': 'f00ba4f00ba4'}",
    "https://host/v1?api_key=0123456789",
    "openai_api_key=Zm9vYmFy99",
    "AIzaSyA1234567890abcdefghijk",
    "hf_abcdefghijklmnopqrstuv",
    "lsv2_pt_0123456789ab",
)


@pytest.mark.parametrize("text", KEYS)
def test_keys_are_taken_out(text: str) -> None:
    """Whatever carries the key, the key is gone and the rest is there."""
    assert looks_like_key(text)
    left = Redaction()(text)
    assert REDACTED in left
    for secret in ("abcDEF", "api03", "wxyz", "abc123", "f00ba4", "0123456", "Zm9v", "SyA123", "abcdefghij"):
        assert secret not in left


@pytest.mark.parametrize(
    "text",
    [
        "Is the task-specific model better at risk-assessment?",
        "What is an API key? Set api_key = your key, or ask the bearer of news.",
        "The author's ask-me-anything about max_tokens: 12345678",
        "token: the unit a model reads",
    ],
)
def test_words_about_keys_stay(text: str) -> None:
    """Prose and code that only speak of keys are left as they are."""
    assert Redaction()(text) == text


def test_the_values_of_key_variables_are_taken_out() -> None:
    """A key of unknown look is known by its variable; short values are words, not keys."""
    redact = Redaction.of_environment((), {"MY_API_KEY": "qwertyuiop", "OTHER_TOKEN": "short", "HOME": "/home/someone"})
    assert redact("qwertyuiop is short at /home/someone") == f"{REDACTED} is short at /home/someone"
    assert "qwertyuiop" not in repr(redact)


def test_patterns_are_taken_out() -> None:
    """Every match of every pattern goes; messages for the user lose keys only."""
    redact = Redaction((r"\b\d{3}-\d{4}\b", r"[\w.]+@[\w.]+"))
    assert redact("call 555-1234 or a.b@c.de") == f"call {REDACTED} or {REDACTED}"
    assert redact.keys("call 555-1234") == "call 555-1234"
    assert redact(redact("call 555-1234")) == redact("call 555-1234")


def test_a_pattern_that_explodes_is_stopped() -> None:
    """Nested repetition ends in an error within its second, not in a hang."""
    redact = Redaction((r"(?:a|aa|a?a)+$(?<=b)",))
    with pytest.raises(InputError, match="takes longer than 1 s"):
        redact("a" * 5000 + "!")


@pytest.mark.parametrize(("pattern", "said"), [("(", "not a regular expression"), ("a*", "matches the empty text")])
def test_bad_patterns_are_refused(pattern: str, said: str) -> None:
    """What cannot work is refused before anything is asked."""
    with pytest.raises(InputError, match=said):
        Redaction((pattern,))


def test_a_password_in_a_url_is_taken_out() -> None:
    """The address stays readable; the password does not."""
    said = Redaction().keys("see postgres://user:hunter2@db.example/x and https://example.org/a:b")
    assert said == "see postgres://user:[redacted]@db.example/x and https://example.org/a:b"
