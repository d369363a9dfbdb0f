"""Which failures are retried, after how long, and what a provider's Retry-After means."""

import math
from email.utils import formatdate
from urllib.error import HTTPError

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routers import NOW, ProviderError

from router_core import InputError, RetryPolicy
from router_core.retries import refused, retry_after, retryable, status_of


class ReadTimeout(Exception):  # noqa: N818 - as httpx names it
    """Named as HTTP clients name theirs."""


class APIConnectionError(Exception):
    """Named as providers name theirs."""


def _policy(**changed: float) -> RetryPolicy:
    settings = {"max_retries": 3, "base_seconds": 1.0, "max_seconds": 10.0} | changed
    return RetryPolicy(**settings, now=lambda: NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError(), ReadTimeout(), APIConnectionError(),
                                   *map(ProviderError, (408, 429, 500, 502, 503, 529))])  # fmt: skip
def test_passing_trouble_is_retried(error: Exception) -> None:
    """Time-outs, lost connections, 408, 429 and 5xx."""
    assert retryable(error)
    assert not refused(error)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), *map(ProviderError, (400, 401, 403, 404, 422))])
def test_lasting_trouble_is_not(error: Exception) -> None:
    """A bad key, a bad request and errors of a program stay as they are."""
    assert not retryable(error)
    assert _policy().wait(error, 0) is None


@pytest.mark.parametrize(("status", "of_the_query"), [(400, True), (413, True), (422, True), (401, False),
                                                      (403, False), (429, False), (500, False)])  # fmt: skip
def test_refusals(status: int, of_the_query: bool) -> None:
    """A refused query says nothing of the tier; a bad key would meet every query."""
    assert refused(ProviderError(status)) == of_the_query


def test_status_is_read_by_duck_typing() -> None:
    """Of the error, of its response, of urllib's errors; words, flags and other numbers are no status."""
    assert status_of(ProviderError(503)) == 503
    behind = Exception()
    behind.response = type("Response", (), {"status_code": 429})()  # type: ignore[attr-defined]
    assert status_of(behind) == 429
    assert status_of(HTTPError("http://x", 502, "", None, None)) == 502  # type: ignore[arg-type]
    odd = Exception()
    odd.code, odd.status = "rate_limit_exceeded", True  # type: ignore[attr-defined]
    assert status_of(odd) is None


def test_an_error_that_cannot_be_read() -> None:
    """A property that raises, as httpx's do when unset, does not hide the error."""

    class OddError(Exception):
        @property
        def response(self) -> None:
            raise RuntimeError

    assert status_of(OddError()) is None
    assert retry_after(OddError(), NOW) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        (formatdate(NOW + 9, usegmt=True), 9.0),
        (formatdate(NOW - 9, usegmt=True), 0.0),
        ("-3", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds or an HTTP date, under either spelling of the header; anything else is none."""
    for name in ("retry-after", "Retry-After"):
        assert retry_after(ProviderError(429, {name: value}), NOW) == seconds


def test_retry_after_is_honoured() -> None:
    """It replaces a shorter wait; beyond the limit the tier is given up."""
    assert _policy().wait(ProviderError(429, {"retry-after": "7"}), 0) == 7.0
    assert _policy().wait(ProviderError(503, {"retry-after": formatdate(NOW + 9, usegmt=True)}), 0) == 9.0
    assert _policy().wait(ProviderError(429, {"retry-after": "10"}), 0) == 10.0
    assert _policy().wait(ProviderError(429, {"retry-after": "11"}), 0) is None
    assert _policy().wait(ProviderError(429, {"retry-after": "inf"}), 0) is None


@given(st.integers(0, 100), st.text(), st.integers())
def test_backoff(retries: int, key: str, seed: int) -> None:
    """Waits double up to the limit, within the jitter, the same every time; after the last retry there is none."""
    policy = RetryPolicy(max_retries=100, base_seconds=0.25, max_seconds=8.0, seed=seed)
    wait = policy.wait(TimeoutError(), retries, key)
    if retries == 100:
        assert wait is None
        return
    whole = min(0.25 * 2**retries, 8.0)
    assert wait is not None
    assert whole / 2 <= wait < whole
    assert wait == policy.wait(TimeoutError(), retries, key)


def test_jitter_differs() -> None:
    """Calls that failed together do not come back together."""
    waits = {_policy(seed=seed).wait(TimeoutError(), 0, key) for seed in (0, 1) for key in "abc"}
    assert len(waits) == 6


def test_none_by_default() -> None:
    """Providers' clients retry by themselves."""
    assert RetryPolicy().wait(TimeoutError(), 0) is None


@pytest.mark.parametrize("changed", [{"max_retries": -1}, {"max_retries": 1.5}, {"base_seconds": -1.0},
                                     {"max_seconds": math.inf}, {"base_seconds": math.nan}])  # fmt: skip
def test_settings_are_checked(changed: dict[str, float]) -> None:
    """Numbers without a meaning are refused, by name."""
    with pytest.raises(InputError, match=next(iter(changed))):
        _policy(**changed)
