"""Rows that come from elsewhere: each value is one that a ledger could have written, or an error that names it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from router_core.errors import InputError
from router_core.ledger.files import COUNTS, FLAGS, NUMBERS
from router_core.ledger.reader import LoggedAttempt, LoggedFeedback, LoggedRoute
from router_core.ledger.rows import FEEDBACK, GRADED_FEEDBACK, Rows

__all__ = ["checked"]

_REQUIRED = {"id", "at", "tier", "position", "route", "kind"} | (FLAGS - {"redacted"})
_LONGEST = {"id": 64, "route": 64, "key": 16, "conversation": 16}
"""Characters that the columns take (`router_core.ledger.schema`)."""
_MOST = {"position": 2**31, "retries": 2**31}
_LATEST_S = 32_503_680_000.0
"""The year 3000: a time beyond it is in other units, and most calendars end soon after."""


def checked(told: Mapping[str, Any], place: str) -> Rows:
    """The rows of one line or route, by table; what this version does not know is left out.

    Parameters
    ----------
    told
        As `router_core.ledger.files.route_rows` tells a route or feedback.
    place
        Where it is from, for messages.

    Raises
    ------
    InputError
        Naming the place and the column.
    """
    if "kind" in told:
        return {"routes": [], "attempts": [], "graded": [], "feedback": [_outcome(told, place)]}
    if not isinstance(told.get("attempts"), (list, tuple)):
        raise InputError(f"{place} is neither a route (it has no attempts) nor feedback (it has no kind)")
    route = _row(told, LoggedRoute, place)
    hidden = route["hidden"]
    try:
        route["hidden"] = None if hidden is None else base64.b64decode(hidden, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise InputError(f"{place}: 'hidden' is not base64") from None
    if route["text"] is None:
        # A vector tells what its text said, so it is kept beside it or not at all.
        route["hidden"] = None
    _need(
        not route["audited"] or route["audit_probability"] != 0, "audit_probability", "above 0, as it is audited", place
    )
    attempts = [{"route": route["id"], **_row(one, LoggedAttempt, place)} for one in told["attempts"]]
    opinions = told.get("feedback") or ()
    _need(isinstance(opinions, (list, tuple)), "feedback", "a list", place)
    feedback = [
        _row({"route": route["id"], **one} if isinstance(one, Mapping) else one, LoggedFeedback, place)
        for one in opinions
    ]
    graded = [
        {"in_route": route["id"], "of_tier": one["tier"], "grade": one["quality"]}
        for one in attempts
        if one["quality"] is not None
    ]
    return {"routes": [route], "attempts": attempts, "feedback": feedback, "graded": graded}


def _outcome(told: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A line of feedback; without an id of its own, its content is its id, so that it is stored once."""
    content = json.dumps({name: told.get(name) for name in ("id", "at", "kind", "value", "text")}, sort_keys=True)
    name = told.get("feedback_id") or f"import-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
    at = told.get("at")
    row = {**told, "id": name, "route": told.get("id"), "at": time.time() if at is None else at}
    return _row(row, LoggedFeedback, place)


def _row(told: Any, kind: type, place: str) -> dict[str, Any]:
    if not isinstance(told, Mapping):
        raise InputError(f"{place}: a {kind.__name__.removeprefix('Logged').lower()} must be an object")
    row = {}
    for item in fields(kind):
        name = item.name
        if name in ("attempts", "feedback"):
            continue
        value = told.get(name)
        if value is None:
            if name in _REQUIRED:
                raise InputError(f"{place}: {name!r} is missing")
        else:
            value = _checked_value(name, value, place)
        row[name] = value
    if kind is LoggedFeedback:
        if row["kind"] not in FEEDBACK:
            raise InputError(f"{place}: feedback of kind {row['kind']!r} is unknown; use {', '.join(FEEDBACK)}")
        if row["kind"] in GRADED_FEEDBACK and row["value"] is not None:
            _need(0 <= row["value"] <= 1, "value", f"between 0 and 1 for feedback of kind {row['kind']!r}", place)
    return row


def _checked_value(name: str, value: Any, place: str) -> Any:
    """A value of a column, texts as every database takes them."""
    if name in FLAGS:
        _need(isinstance(value, bool), name, "true or false", place)
    elif name in COUNTS:
        fine = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST.get(name, 2**62)
        _need(fine, name, "a count", place)
    elif name in NUMBERS:
        _need(_is_number(value), name, "a finite number", place)
        _need_in_range(name, value, place)
    elif name in ("certificate", "signals", "budget"):
        _need(isinstance(value, Mapping), name, "an object", place)
        if name == "signals":
            _need(all(map(_is_number, value.values())), name, "an object of finite numbers", place)
    elif name != "hidden":
        _need(isinstance(value, str), name, "text", place)
        value = value.replace("\x00", "").encode("utf-8", "replace").decode()
        _need(bool(value) or name not in _REQUIRED, name, "a text that is not empty", place)
        longest = _LONGEST.get(name)
        _need(longest is None or len(value) <= longest, name, f"at most {longest} characters long", place)
    return value


def _need_in_range(name: str, value: float, place: str) -> None:
    """Refuse a probability that is none, negative dollars, and a time that lies in no year."""
    if name in ("audit_probability", "quality"):
        _need(0 <= value <= 1, name, "between 0 and 1", place)
    elif name in ("cost_usd", "latency_ms"):
        _need(value >= 0, name, "0 or more", place)
    elif name == "at":
        _need(0 <= value < _LATEST_S, name, "in seconds since 1970-01-01 UTC, at most the year 2999", place)


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _need(fine: bool, name: str, what: str, place: str) -> None:
    if not fine:
        raise InputError(f"{place}: {name!r} must be {what}")
