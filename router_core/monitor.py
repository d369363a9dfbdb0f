"""The watch over certificates in use: audits in, a verdict on each certificate and its lapses out.

Every audit is read once, by its key, in the order it comes, under the scope and policy it was answered by. For each
certificate the watch keeps the alarm, the restarted detector and the re-certification (`router_core.alarms`) of the
risk that was certified, and estimates joint and selective risk (`router_core.audit_risk`). The joint risk is about all
queries, so those that the reference tier served must be listed too.

**What is counted.** Queries of one conversation, or of one text, go well or badly together, and a certificate counts
one of them. So does the watch, for each certificate: an audit whose conversation or text an earlier audit had is left
out. Which ones these are is known before their labels. What is estimated, and what an alarm is about, is therefore
**the risk of a query whose conversation and text have not been audited before**, weighted by 1 / propensity. A
conversation has the more chances to be audited the more queries it has: at low rates it weighs in by its length, at
rate 1 once, by its first query. In a certificate all groups weigh the same; where long conversations go worse than
short ones the two risks differ, and an alarm may tell of no more than that.

**The claim.** For each certificate, from the beginning of its evidence on, however often it is looked at and however
audits fail: if at every audit the risk of the next query to be counted, given the labels counted before, is at most
alpha, then the alarm is ever raised with probability at most delta, and the detector after `arl` audits or more on
average. It needs a floor that was named, or rates that do not hang on the query (`router_core.alarms`). Evidence that
is begun anew on other audits has a delta of its own; on the same ledger it is the same evidence. Source: METHOD.md 2.7.

The watcher remembers an audit and its groups by 64-bit hashes: about 300 bytes of memory and 90 of compact JSON
(`to_json`) an audit.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from router_core.audit_risk import Audited, Estimate
from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.lapse import Lapse
from router_core.watch_notes import watch_notes
from router_core.watch_stream import Stream, WatchSettings

__all__ = ["Stream", "Verdict", "WatchSettings", "Watcher"]

_SCHEMA: Final = 2
_POLICIES: Final = frozenset({"cascade", "route_only"})


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the audits say of one certificate.

    Attributes
    ----------
    verdict
        ``"fine"`` (no evidence against it, also if all failed audits were bad), ``"alarm"`` (the risk exceeds alpha),
        ``"shift"`` (it has come to), ``"age"``, ``"decisions"``, ``"blind"`` (so many audits failed that it may),
        ``"no audits"`` or ``"not watched"``.
    stream
        The evidence.
    estimates
        ``"joint"`` and ``"selective"``.
    notes
        What a reader must know besides, in sentences.
    """

    verdict: str
    stream: Stream
    estimates: Mapping[str, Estimate]
    notes: tuple[str, ...] = ()

    @property
    def decisions(self) -> float:
        """Decisions that the audits stand for: the sum of 1 / propensity."""
        return self.stream.decisions

    @property
    def note(self) -> str:
        """The notes as one clause; empty for nothing."""
        return "; ".join(self.notes)

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
            "failures": dict(self.stream.failures),
            "repeated": self.stream.repeated,
            "floor": self.stream.alarm.floor if len(self.stream.propensity) else None,
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
            When a propensity lies below the floor that was named.
        """
        fresh: dict[tuple[str, str], list[Audited]] = {}
        repeated: dict[tuple[str, str], list[float]] = {}
        seen, read, ignored = set[int](), 0, Counter[str]()
        for audit in audits:
            key = _hash(audit.key)
            if key in self._seen or key in seen:
                continue
            shown = self.bundle.certificates.get((audit.scope, audit.policy))
            if audit.bundle != self.bundle.id:
                ignored["of another bundle"] += 1
            elif shown is None or not shown.certified or audit.policy not in _POLICIES:
                ignored["of no certificate"] += 1
            else:
                stream = audit.scope, audit.policy
                groups = {_hash(*stream, name) for name in audit.groups}
                if groups.isdisjoint(self._seen) and groups.isdisjoint(seen):
                    fresh.setdefault(stream, []).append(audit)
                else:
                    repeated.setdefault(stream, []).append(audit.propensity)
                seen |= {key, *groups}
                read += 1
        told = fresh.keys() | repeated.keys()
        taken = {key: self._stream(key).take(fresh.get(key, []), repeated.get(key, ())) for key in told}
        self.ignored = ignored
        self.streams |= taken
        self._seen |= seen
        return read

    def verdicts(self, now: float) -> list[Verdict]:
        """What is known of every certificate that is in force, at a time in seconds since 1970."""
        validity, found = self.settings.validity, []
        for key, shown in sorted(self.bundle.certificates.items()):
            if not shown.certified or shown.policy not in _POLICIES:
                continue
            stream = self._stream(key)
            estimates = stream.estimates(self.settings.level)
            blind = stream.blind(estimates["selective" if shown.risk == "selective" else "joint"])
            told = ("blind" if blind else "fine") if len(stream.bad) else "no audits"
            if shown.risk == "retention":
                told = "not watched"
            elif stream.alarm.raised_at is not None:
                told = "alarm"
            elif stream.detector.raised_at is not None:
                told = "shift"
            if told not in ("alarm", "shift"):
                if validity.too_old(self.bundle.certified_at, now):
                    told = "age"
                elif validity.max_decisions is not None and stream.decisions > validity.max_decisions:
                    told = "decisions"
            found.append(Verdict(told, stream, estimates, watch_notes(stream, estimates)))
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
            "floor": self.settings.floor,
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
                raise InputError("The state is that of another bundle or of another version; begin a new one.")
            if (data["delta"], data["arl"]) != (settings.delta, settings.arl):
                raise InputError(
                    f"The state was begun with delta {data['delta']} and average run length {data['arl']}; evidence "
                    "cannot change its levels on the way, so begin a new one."
                )
            if settings.floor not in (None, data["floor"]):
                begun = "that its rates give" if data["floor"] is None else data["floor"]
                raise InputError(f"The state was begun with the floor {begun}; begin a new one.")
            watcher.settings = replace(settings, floor=data["floor"])
            watcher._seen = set(map(int, data["seen"]))
            for told in data["streams"]:
                key = told["scope"], told["policy"]
                watcher.streams[key] = Stream.from_json(bundle.certificates[key], told)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("The state of the watch is damaged; begin a new one.") from error
        return watcher

    def _stream(self, key: tuple[str, str]) -> Stream:
        return self.streams.get(key) or Stream.begin(self.bundle.certificates[key], self.settings)

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


def _hash(*names: str) -> int:
    told = "\0".join(names).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "big")
