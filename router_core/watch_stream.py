"""The audits of one certificate, and the evidence they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.alarms import ARL, Alarm, Detector, Recertification
from router_core.audit_risk import Audited, Estimate, estimate_risk
from router_core.claim import Certificate, check_levels
from router_core.errors import InputError
from router_core.lapse import Validity

__all__ = ["Stream", "WatchSettings"]


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
        Lower bound of all propensities, to be named before labels are seen; the smallest of the first read when None.
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
        if not self.arl > 1.0:
            raise InputError(f"The average run length {self.arl} must be above 1.")
        if self.floor is not None and not 0.0 < self.floor <= 1.0:
            raise InputError(f"The floor of the propensities is {self.floor}; it must lie in (0, 1].")


@dataclass(frozen=True, eq=False)
class Stream:
    """The audits of one certificate, and the evidence they make.

    Attributes
    ----------
    shown
        The certificate.
    bad, cheap
        bool [n], of every query listed.
    propensity
        float64 [n].
    alarm, detector, again
        Evidence that the risk exceeds alpha, has come to exceed it, and is at most alpha.
    """

    shown: Certificate
    bad: NDArray[np.bool_]
    cheap: NDArray[np.bool_]
    propensity: NDArray[np.float64]
    alarm: Alarm
    detector: Detector
    again: Recertification

    @classmethod
    def begin(cls, shown: Certificate, floor: float, settings: WatchSettings) -> Stream:
        """A certificate of which no audit is known yet."""
        delta = settings.delta or shown.delta or 0.1
        none = np.zeros(0, bool), np.zeros(0, bool), np.zeros(0)
        alpha = shown.alpha
        detector = Detector(alpha, floor, arl=settings.arl)
        return cls(shown, *none, Alarm(alpha, floor, delta=delta), detector, Recertification(alpha, floor, delta=delta))

    @property
    def about(self) -> NDArray[np.bool_]:
        """Which of the queries listed the certified risk is about, bool [n]."""
        return self.cheap if self.shown.risk == "selective" else np.ones(len(self.cheap), bool)

    def take(self, audits: list[Audited]) -> Stream:
        """The stream after these audits.

        Raises
        ------
        InputError
            When a propensity lies below the floor.
        """
        new = replace(
            self,
            bad=np.array([a.bad for a in audits], bool),
            cheap=np.array([a.cheap for a in audits], bool),
            propensity=np.array([a.propensity for a in audits], np.float64),
        )
        told = new.bad[new.about], new.propensity[new.about]
        return replace(
            self,
            bad=np.concatenate((self.bad, new.bad)),
            cheap=np.concatenate((self.cheap, new.cheap)),
            propensity=np.concatenate((self.propensity, new.propensity)),
            alarm=self.alarm.update(*told),
            detector=self.detector.update(*told),
            again=self.again.update(*told),
        )

    def paths(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Natural logarithms of alarm and detector after every audit the certified risk is about, [n] each."""
        about = self.about
        blank: dict[str, Any] = {"logs": (), "n": 0}
        told = self.bad[about], self.propensity[about]
        return replace(self.alarm, **blank).path(*told), replace(self.detector, **blank).path(*told)

    def estimates(self, level: float) -> dict[str, Estimate]:
        """Joint and selective risk as the audits show them."""
        return {
            "joint": estimate_risk(self.bad, self.propensity, level),
            "selective": estimate_risk(self.bad[self.cheap], self.propensity[self.cheap], level),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything but the certificate, as JSON values."""
        return {
            "scope": self.shown.scope,
            "policy": self.shown.policy,
            "bad": self.bad.astype(int).tolist(),
            "cheap": self.cheap.astype(int).tolist(),
            "propensity": self.propensity.tolist(),
            "alarm": self.alarm.to_json(),
            "detector": self.detector.to_json(),
            "again": self.again.to_json(),
        }

    @classmethod
    def from_json(cls, shown: Certificate, data: Mapping[str, Any]) -> Stream:
        """Inverse of `to_json`."""
        return cls(
            shown,
            np.asarray(data["bad"], bool),
            np.asarray(data["cheap"], bool),
            np.asarray(data["propensity"], np.float64),
            Alarm.from_json(data["alarm"]),
            Detector.from_json(data["detector"]),
            Recertification.from_json(data["again"]),
        )
