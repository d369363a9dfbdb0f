"""The watch over certificates in use: audits in, a verdict on each certificate and its lapses out.

Every audit is counted once, by its key, in the order it is read, under the scope and policy it was answered by. For
each certificate the watch keeps the alarm, the restarted detector and the re-certification (`router_core.alarms`) of
the risk that was certified, and estimates joint and selective risk (`router_core.audit_risk`). The joint risk is about
all queries, so those that the reference tier served must be listed too. Source: METHOD.md 2.7.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from router_core.audit_risk import Audited, Estimate
from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.lapse import Lapse
from router_core.watch_stream import Stream, WatchSettings

__all__ = ["Stream", "Verdict", "WatchSettings", "Watcher"]

_SCHEMA: Final = 1
_POLICIES: Final = frozenset({"cascade", "route_only"})
_UNWATCHED: Final = "retention is a matter of two qualities, and an audit tells only whether the answer was bad"
_LISTED: Final = 50
"""Audits of a joint risk after which it is odd that none was served by the reference tier."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the audits say of one certificate.

    Attributes
    ----------
    verdict
        ``"fine"``, ``"alarm"`` (the risk exceeds alpha), ``"shift"`` (it has come to), ``"age"``, ``"decisions"``,
        ``"no audits"`` or ``"not watched"``.
    stream
        The evidence.
    estimates
        ``"joint"`` and ``"selective"``.
    decisions
        Decisions that the audits stand for: the sum of 1 / propensity.
    note
        What a reader must know besides; empty for nothing.
    """

    verdict: str
    stream: Stream
    estimates: Mapping[str, Estimate]
    decisions: float
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the single audits."""
        shown, told = self.stream.shown, {}
        for name, evidence in (("alarm", self.stream.alarm), ("detector", self.stream.detector)):
            told[name] = {"value": evidence.value, "bar": evidence.bar, "raised_at": evidence.raised_at}
        again = self.stream.again
        told["recertified"] = {"value": again.value, "bar": again.bar, "reached_at": again.raised_at}
        return {
            **{key: getattr(shown, key) for key in ("scope", "policy", "risk", "alpha")},
            "verdict": self.verdict,
            "n": int(self.stream.about.sum()),
            "decisions": round(self.decisions),
            "estimates": {name: asdict(estimate) for name, estimate in self.estimates.items()},
            **told,
            "note": self.note,
        }


class Watcher:
    """Watches the certificates of one bundle.

    Parameters
    ----------
    bundle
        A loaded bundle.
    settings
        How closely.
    """

    def __init__(self, bundle: Bundle, settings: WatchSettings | None = None) -> None:
        self.bundle, self.settings = bundle, settings or WatchSettings()
        self.floor = self.settings.floor
        self.streams: dict[tuple[str, str], Stream] = {}
        self.ignored: Counter[str] = Counter()
        self._seen: set[int] = set()

    def read(self, audits: Iterable[Audited]) -> int:
        """Count the audits not counted before, in their order; all of them or, on an error, none.

        Returns
        -------
        int
            How many were new.

        Raises
        ------
        InputError
            When a propensity lies below the floor.
        """
        fresh: dict[tuple[str, str], list[Audited]] = {}
        keys, ignored = set[int](), Counter[str]()
        for audit in audits:
            key = int.from_bytes(hashlib.sha256(audit.key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
            if key in self._seen or key in keys:
                continue
            shown = self.bundle.certificates.get((audit.scope, audit.policy))
            if audit.bundle != self.bundle.id:
                ignored["of another bundle"] += 1
            elif shown is None or not shown.certified or audit.policy not in _POLICIES:
                ignored["of no certificate"] += 1
            else:
                keys.add(key)
                fresh.setdefault((audit.scope, audit.policy), []).append(audit)
        floor = self.floor
        if floor is None and fresh:
            floor = min(audit.propensity for listed in fresh.values() for audit in listed)
        taken = {key: self._stream(key, floor or 1.0).take(listed) for key, listed in fresh.items()}
        self.floor, self.ignored = floor, ignored
        self.streams |= taken
        self._seen |= keys
        return len(keys)

    def verdicts(self, now: float) -> list[Verdict]:
        """What is known of every certificate that is in force, at a time in seconds since 1970."""
        validity, found = self.settings.validity, []
        for key, shown in sorted(self.bundle.certificates.items()):
            if not shown.certified or shown.policy not in _POLICIES:
                continue
            stream = self._stream(key, self.floor or 1.0)
            decisions = float((1.0 / stream.propensity).sum())
            told = "fine" if len(stream.bad) else "no audits"
            if shown.risk == "retention":
                told = "not watched"
            elif stream.alarm.raised_at is not None:
                told = "alarm"
            elif stream.detector.raised_at is not None:
                told = "shift"
            if told not in ("alarm", "shift"):
                if validity.too_old(self.bundle.certified_at, now):
                    told = "age"
                elif validity.max_decisions is not None and decisions > validity.max_decisions:
                    told = "decisions"
            estimates = stream.estimates(self.settings.level)
            found.append(Verdict(told, stream, estimates, decisions, _note(stream)))
        return found

    def lapses(self, verdicts: Iterable[Verdict], now: float) -> list[Lapse]:
        """The lapses that verdicts amount to."""
        return [lapse for verdict in verdicts if (lapse := self._lapse(verdict, now)) is not None]

    def to_json(self) -> dict[str, Any]:
        """Everything that must outlive the process, as JSON values."""
        return {
            "schema": _SCHEMA,
            "bundle": self.bundle.id,
            "delta": self.settings.delta,
            "arl": self.settings.arl,
            "floor": self.floor,
            "seen": sorted(self._seen),
            "streams": [stream.to_json() for _, stream in sorted(self.streams.items())],
        }

    @classmethod
    def from_json(cls, bundle: Bundle, settings: WatchSettings, data: Mapping[str, Any]) -> Watcher:
        """Go on where another watcher stopped.

        Raises
        ------
        InputError
            When the state is of another bundle, was begun with other levels, or is damaged.
        """
        watcher = cls(bundle, settings)
        try:
            if data["schema"] != _SCHEMA or data["bundle"] != bundle.id:
                raise InputError("The state is that of another bundle or of a newer version; begin a new one.")
            if (data["delta"], data["arl"]) != (settings.delta, settings.arl):
                raise InputError(
                    f"The state was begun with delta {data['delta']} and average run length {data['arl']}; evidence "
                    "cannot change its levels on the way, so begin a new one."
                )
            if settings.floor not in (None, data["floor"]):
                raise InputError(f"The state was begun with the floor {data['floor']}; begin a new one.")
            watcher.floor, watcher._seen = data["floor"], set(map(int, data["seen"]))
            for told in data["streams"]:
                key = told["scope"], told["policy"]
                watcher.streams[key] = Stream.from_json(bundle.certificates[key], told)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("The state of the watch is damaged; begin a new one.") from error
        return watcher

    def _stream(self, key: tuple[str, str], floor: float) -> Stream:
        return self.streams.get(key) or Stream.begin(self.bundle.certificates[key], floor, self.settings)

    def _lapse(self, verdict: Verdict, now: float) -> Lapse | None:
        stream, kind = verdict.stream, verdict.verdict
        shown = stream.shown
        if kind in ("alarm", "shift"):
            evidence = stream.alarm if kind == "alarm" else stream.detector
            estimate = verdict.estimates["selective" if shown.risk == "selective" else "joint"]
            says = "exceeds" if kind == "alarm" else "has come to exceed"
            reason = (
                f"audits say that the {shown.risk} risk of {shown.scope!r} ({shown.policy}) {says} {shown.alpha:g} "
                f"({estimate.value or 0.0:.3f} in {evidence.n} audits; {kind} raised at audit {evidence.raised_at})"
            )
            numbers = {"policy": shown.policy, "n": evidence.n, "value": evidence.value, "bar": evidence.bar}
            numbers |= {"raised_at": evidence.raised_at, "estimate": estimate.value}
            return Lapse(shown.scope, kind, reason, now, numbers | {"low": estimate.low, "high": estimate.high})
        validity = self.settings.validity
        if kind == "age":
            reason = validity.too_old(self.bundle.certified_at, now)
            return Lapse(None, kind, reason, now, {"max_age_days": validity.max_age_days})
        if kind == "decisions":
            reason = (
                f"about {verdict.decisions:.0f} decisions under {shown.scope!r} ({shown.policy}), more than allowed"
            )
            return Lapse(shown.scope, kind, reason, now, {"max_decisions": validity.max_decisions})
        return None


def _note(stream: Stream) -> str:
    if stream.shown.risk == "retention":
        return _UNWATCHED
    if stream.shown.risk != "selective" and len(stream.cheap) >= _LISTED and stream.cheap.all():
        return (
            "no query that the reference tier served is listed, so the joint risk cannot be told from the selective "
            "one; list them too"
        )
    return ""
