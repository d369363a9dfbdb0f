"""Which failures of a tier are worth a retry, and how long to wait before it.

Providers' errors are read by duck typing, so that no provider is imported: a status under ``status_code`` (of the
error or of its ``response``), headers under ``response.headers``, and the names of the error's classes.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from router_core.errors import InputError

__all__ = ["RetryPolicy", "refused", "retry_after", "retryable", "status_of"]

_RETRY = frozenset({408, 429})
_NOT_THE_QUERY = frozenset({401, 403, 404, 407, 408, 429})
"""4xx that would meet any query: a bad key, a missing model, a limit."""
_SALT = "routenlp-retry-v1|"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after how long, one tier is called again.

    The wait before retry i (from 0) is ``base_seconds * 2**i``, at most `max_seconds`, times a number in [0.5, 1)
    hashed from the seed and the call, so that calls that failed together do not come back together. A ``Retry-After``
    of the provider takes its place when it is longer.

    Parameters
    ----------
    max_retries
        Retries of one tier; 0, since providers' own clients retry.
    base_seconds, max_seconds
        First and longest wait in seconds. A ``Retry-After`` beyond `max_seconds` means that this tier is given up
        now.
    seed
        Of the jitter.
    now
        Seconds since the epoch, for ``Retry-After`` dates.

    Raises
    ------
    InputError
        For a negative or fractional number of retries, or waits that are negative or not finite.
    """

    max_retries: int = 0
    base_seconds: float = 0.5
    max_seconds: float = 8.0
    seed: int = 0
    now: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.max_retries != int(self.max_retries):
            raise InputError(f"max_retries = {self.max_retries!r} must be a whole number, 0 or more")
        for name in ("base_seconds", "max_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} = {getattr(self, name)!r} must be finite and not negative")

    def wait(self, error: Exception, retries: int, key: str = "") -> float | None:
        """Seconds to wait before the next retry, None when there should be none.

        Parameters
        ----------
        error
            What the tier raised.
        retries
            Retries made so far.
        key
            Names the call, for the jitter; hashed, never kept.
        """
        if retries >= self.max_retries or not retryable(error):
            return None
        asked = retry_after(error, self.now())
        if asked is not None and asked > self.max_seconds:
            return None
        # An exponent beyond 64 has long reached any longest wait and would overflow a float.
        backoff = min(self.base_seconds * 2.0 ** min(retries, 64), self.max_seconds)
        return max(backoff * (0.5 + 0.5 * self._jitter(retries, key)), asked or 0.0)

    def _jitter(self, retries: int, key: str) -> float:
        digest = sha256(f"{_SALT}{self.seed}|{retries}|{key}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:6], "big") / 2**48


def status_of(error: Exception) -> int | None:
    """HTTP status that an error carries, None when it carries none."""
    for holder in (error, _read(error, "response")):
        for name in ("status_code", "status", "code"):
            value = _read(holder, name)
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600:
                return int(value)
    return None


def retryable(error: Exception) -> bool:
    """Whether the same call may well succeed a moment later: a time-out, a lost connection, 408, 429 or 5xx."""
    status = status_of(error)
    if status is not None:
        return status in _RETRY or status >= 500
    return isinstance(error, TimeoutError | ConnectionError) or any(_says_connection(error))


def refused(error: Exception) -> bool:
    """Whether the tier is up and refused this one query (400, 413, 422, ...): no fault of the tier's."""
    status = status_of(error)
    return status is not None and 400 <= status < 500 and status not in _NOT_THE_QUERY


def retry_after(error: Exception, now: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, given in seconds or as an HTTP date; None without one.

    Parameters
    ----------
    error
        What the tier raised.
    now
        Seconds since the epoch.
    """
    for holder in (_read(error, "response"), error):
        get = _read(_read(holder, "headers"), "get")
        for name in ("retry-after", "Retry-After"):
            value = get(name) if callable(get) else None
            if isinstance(value, int | float | str | bytes) and value != "":
                return _seconds(value.decode("latin-1") if isinstance(value, bytes) else str(value), now)
    return None


def _seconds(value: str, now: float) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        from email.utils import parsedate_to_datetime

        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return None if math.isnan(seconds) else max(seconds, 0.0)


def _says_connection(error: Exception) -> Iterator[bool]:
    """Per class of an error whether its name says time-out or connection, as those of HTTP clients do."""
    for kind in type(error).__mro__:
        name = kind.__name__
        yield "Timeout" in name or "Connect" in name or name in ("NetworkError", "RemoteProtocolError")


def _read(holder: Any, name: str) -> Any:
    """An attribute, None where there is none; a property that raises must not hide the error that is being read."""
    try:
        return getattr(holder, name, None)
    except Exception:
        return None
