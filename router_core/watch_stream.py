"""The audits of one certificate, and the evidence they make.

Failed audits never count in their own favour: the alarm and the detector take their loss as 0, so that neither is ever
raised by what is not known, and the re-certification takes it as 1. A second detector, `Stream.doubt`, takes it as 1
too: where that one stands above its bar, or the estimate with all failed ones bad exceeds alpha, the watch is blind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router_core.alarms import ARL, Alarm, Detector, Recertification
from router_core.audit_risk import Audited, Estimate, estimate_risk
from router_core.claim import Certificate, check_levels
from router_core.errors import InputError
from router_core.lapse import Validity

__all__ = ["Stream", "WatchSettings"]

_KINDS: Final = 50
"""Kinds of failure that are told apart."""
_OTHER: Final = "other"


@dataclass(frozen=True)
class WatchSettings:
    """How closely to watch.

    Attributes
    ----------
    delta
        Probability with which an alarm may ever be false, for each certificate; the certificate's own when None, and
        .1 where that has none.
    arl
        Audits between two false alarms of the detector, on average at least.
    floor
        Lower bound of all propensities, to be named before labels are seen; when None the floor of each certificate
        follows the smallest propensity so far (`router_core.alarms`: right for rates that do not hang on the query).
    level
        Coverage of the intervals.
    validity
        How long certificates are used.
    """

    delta: float | None = None
    arl: float = ARL
    floor: float | None = None
    level: float = 0.95
    validity: Validity = field(default_factory=Validity)

    def __post_init__(self) -> None:
        """Refuse levels outside (0, 1) and a run length that is none."""
        check_levels(self.level, 0.5 if self.delta is None else self.delta)
        if self.delta is not None and not math.isfinite(1.0 / self.delta):
            raise InputError(f"delta = {self.delta} is too small to compute with.")
        if not (self.arl > 1.0 and math.isfinite(self.arl)):
            raise InputError(f"The average run length {self.arl} must be a number above 1.")
        if self.floor is not None and not 0.0 < self.floor <= 1.0:
            raise InputError(f"The floor of the propensities is {self.floor}; it must lie in (0, 1].")


@dataclass(frozen=True, eq=False)
class Stream:
    """The audits of one certificate, and the evidence they make.

    Attributes
    ----------
    shown
        The certificate.
    bad, cheap, failed
        bool [n], of every query counted: known to be bad, served by a cheap tier, audited in vain.
    propensity
        float64 [n].
    alarm, detector, again
        Evidence that the risk exceeds alpha, has come to exceed it, and is at most alpha.
    doubt
        The detector again, with failed audits taken as bad.
    failures
        What failed, and how often.
    repeated, beyond
        Audits left out because an earlier one was of the same conversation or text, and the decisions they stand for.
    """

    shown: Certificate
    bad: NDArray[np.bool_]
    cheap: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    propensity: NDArray[np.float64]
    alarm: Alarm
    detector: Detector
    again: Recertification
    doubt: Detector
    failures: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0
    beyond: float = 0.0

    @classmethod
    def begin(cls, shown: Certificate, settings: WatchSettings) -> Stream:
        """A certificate of which no audit is known yet."""
        delta = settings.delta or shown.delta or 0.1
        none = np.zeros(0, bool)
        levels: dict[str, Any] = {"alpha": shown.alpha, "floor": settings.floor or 1.0}
        levels["follows"] = settings.floor is None
        detector = Detector(**levels, arl=settings.arl)
        alarm, again = Alarm(**levels, delta=delta), Recertification(**levels, delta=delta)
        return cls(shown, none, none, none, np.zeros(0), alarm, detector, again, detector)

    @property
    def about(self) -> NDArray[np.bool_]:
        """Which of the queries listed the certified risk is about, bool [n]."""
        return self.cheap if self.shown.risk == "selective" else np.ones(len(self.cheap), bool)

    @property
    def decisions(self) -> float:
        """Decisions that all audits stand for, those left out too: the sum of 1 / propensity."""
        return float((1.0 / self.propensity).sum()) + self.beyond

    @property
    def lowered_at(self) -> int | None:
        """Number of the last audit, from 1, that lowered a floor that follows; None if the first set it for all."""
        if not self.alarm.follows or not len(self.propensity):
            return None
        at = int(np.argmin(self.propensity))
        return at + 1 if at else None

    def take(self, audits: list[Audited], repeated: Sequence[float] = ()) -> Stream:
        """The stream after these audits, and after leaving out others of these propensities.

        Raises
        ------
        InputError
            When a propensity lies below the floor that was named.
        """
        failures = Counter(self.failures)
        for audit in audits:
            if audit.failed:
                failures[audit.failed if audit.failed in failures or len(failures) < _KINDS else _OTHER] += 1
        new = replace(
            self,
            bad=np.array([a.bad for a in audits], bool),
            cheap=np.array([a.cheap for a in audits], bool),
            failed=np.array([bool(a.failed) for a in audits], bool),
            propensity=np.array([a.propensity for a in audits], np.float64),
        )
        known, p = new.bad[new.about], new.propensity[new.about]
        worst = known | new.failed[new.about]
        return replace(
            self,
            bad=np.concatenate((self.bad, new.bad)),
            cheap=np.concatenate((self.cheap, new.cheap)),
            failed=np.concatenate((self.failed, new.failed)),
            propensity=np.concatenate((self.propensity, new.propensity)),
            alarm=self.alarm.update(known, p),
            detector=self.detector.update(known, p),
            again=self.again.update(worst, p),
            doubt=self.doubt.update(worst, p),
            failures=dict(failures),
            repeated=self.repeated + len(repeated),
            beyond=self.beyond + float(sum(1.0 / p for p in repeated)),
        )

    def paths(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Natural logarithms of alarm and detector after every audit the certified risk is about, [n] each."""
        about = self.about
        blank: dict[str, Any] = {"logs": (), "n": 0} | ({"floor": 1.0} if self.alarm.follows else {})
        told = self.bad[about], self.propensity[about]
        return replace(self.alarm, **blank).path(*told), replace(self.detector, **blank).path(*told)

    def estimates(self, level: float) -> dict[str, Estimate]:
        """Joint and selective risk as the audits show them."""
        return {
            "joint": estimate_risk(self.bad, self.propensity, level, failed=self.failed, cheap=self.cheap),
            "selective": estimate_risk(
                self.bad[self.cheap], self.propensity[self.cheap], level, failed=self.failed[self.cheap]
            ),
        }

    def blind(self, estimate: Estimate) -> bool:
        """Whether so many audits failed that the risk may exceed alpha for all that is known.

        Parameters
        ----------
        estimate
            Of the certified risk.
        """
        if not estimate.failed or estimate.worst is None:
            return False
        return estimate.worst > self.shown.alpha or self.doubt.now >= math.log(self.doubt.bar)

    def to_json(self) -> dict[str, Any]:
        """Everything but the certificate, as JSON values."""
        return {
            "scope": self.shown.scope,
            "policy": self.shown.policy,
            "bad": self.bad.astype(int).tolist(),
            "cheap": self.cheap.astype(int).tolist(),
            "failed": self.failed.astype(int).tolist(),
            "propensity": self.propensity.tolist(),
            "alarm": self.alarm.to_json(),
            "detector": self.detector.to_json(),
            "again": self.again.to_json(),
            "doubt": self.doubt.to_json(),
            "failures": dict(self.failures),
            "repeated": self.repeated,
            "beyond": self.beyond,
        }

    @classmethod
    def from_json(cls, shown: Certificate, data: Mapping[str, Any]) -> Stream:
        """Inverse of `to_json`."""
        return cls(
            shown,
            np.asarray(data["bad"], bool),
            np.asarray(data["cheap"], bool),
            np.asarray(data["failed"], bool),
            np.asarray(data["propensity"], np.float64),
            Alarm.from_json(data["alarm"]),
            Detector.from_json(data["detector"]),
            Recertification.from_json(data["again"]),
            Detector.from_json(data["doubt"]),
            {str(what): int(count) for what, count in data["failures"].items()},
            int(data["repeated"]),
            float(data["beyond"]),
        )
