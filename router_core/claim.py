"""The certificate as a record: what was shown of a policy on calib, and the sentence that says so.

Serving reads it without scipy; `router_core.certificate` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from router_core.errors import InputError
from router_core.show import certificate_html

__all__ = ["OUTLIVES_DEPARTURE", "RISKS", "Certificate", "check_levels", "check_risk"]

_BAD = (
    "a tier before the reference served, and the records' metric puts its answer below the reference tier's by more "
    "than the tolerance"
)
# What is claimed, by kind of risk; a new kind adds its own line here and its own test in `router_core.risks`.
_CLAIMS = {
    "joint": (
        "with probability at least {confidence} over the draw of the calibration items, at most {alpha} of "
        "all queries receive a cheap answer that is bad (joint risk: " + _BAD + ")"
    ),
    "selective": (
        "with probability at least {confidence} over the draw of the calibration items, at most {alpha} of the "
        "queries that receive a cheap answer receive a bad one (selective risk: bad among those served before the "
        "reference; bad: " + _BAD + ")"
    ),
    "retention": (
        "with probability at least {confidence} over the draw of the calibration items, the mean quality of the "
        "answers served is at least {lower_bound} times the reference tier's on the same queries (retained quality "
        "by the records' metric; {lower_bound} was named beforehand, and nothing is claimed of single answers or of "
        "any higher share)"
    ),
    "expectation": (
        "in expectation over the draw of the calibration items and of the next query, at most {alpha} of all queries "
        "receive a cheap answer that is bad (joint risk: " + _BAD + "); this is an average over calibration sets, and "
        "the risk of the policy from this one may be higher"
    ),
}
RISKS = tuple(_CLAIMS)
"""Kinds of risk that can be certified."""
OUTLIVES_DEPARTURE = frozenset({"joint", "expectation"})
"""Kinds that still hold when a query departs from the policy straight to the reference tier.

Serving the reference can only lower the joint risk. It takes good answers out of the selective risk's
denominator, and where cheap answers were better than the reference's it lowers the mean quality.
"""
_NAMES = {
    "joint": "joint risk",
    "selective": "selective risk",
    "retention": "retained quality",
    "expectation": "joint risk in expectation",
}
_VOID = (
    "it is void after any change of router, tier, prompt, decoding, metric, tolerance or path, and says "
    "nothing of traffic that differs from the calibration data"
)


@dataclass(frozen=True)
class Certificate:
    """What was shown of one policy for one scope.

    Parameters
    ----------
    scope
        ``"t"`` (a task), ``"t/*"`` (its subtask masked) or ``"*"`` (task masked).
    policy
        ``"cascade"``, ``"route_only"``, or a stored baseline.
    risk
        Kind of risk, one of `RISKS`.
    alpha, delta
        Risk, and the probability that the claim is false; delta is None for a claim in expectation.
    n
        Calibration items, one per group.
    bad
        Bad answers the deployed step served among them; None for retained quality, which counts none.
    certified
        Whether the deployed step was certified. If not, every query goes to the reference tier.
    step
        Step of the policy path that is deployed; 0 is the reference tier for every query.
    lower_bound
        Retained quality that was shown, for the risk kind that states one; None otherwise.
    minimum_n
        Least n at which these alpha and delta can certify anything.
    calib_sha256
        `ids_sha256` of the calibration items.
    use_count
        How many times these items have been used to certify, this one included.
    notes
        Further sentences that belong to the claim, such as a mix of subtasks.
    """

    scope: str
    policy: str
    risk: str
    alpha: float
    delta: float | None
    n: int
    bad: int | None
    certified: bool
    step: int
    lower_bound: float | None
    minimum_n: int
    calib_sha256: str
    use_count: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a record that contradicts itself."""
        check_risk(self.risk)
        check_levels(self.alpha, 0.5 if self.delta is None else self.delta)
        if (self.delta is None) != (self.risk == "expectation"):
            raise InputError(f"Certificate of {self.scope!r}: only a claim in expectation is without a delta.")
        if self.certified != (self.step > 0) or self.step < 0:
            raise InputError(f"Certificate of {self.scope!r} has certified={self.certified} at step {self.step}.")
        if self.bad is not None and not 0 <= self.bad <= self.n:
            raise InputError(f"Certificate of {self.scope!r} counts {self.bad} bad answers among {self.n} items.")

    def _repr_html_(self) -> str:
        return certificate_html(self)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Certificate:
        """Rebuild from `to_json`; raises InputError on a missing or unknown field."""
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            raise InputError(f"Certificate fields differ from this version's: {sorted(set(data) ^ names)}.")
        return cls(**{**data, "notes": tuple(data["notes"])})

    def describe(self) -> str:
        """One sentence that says exactly what is claimed, for which data, and what voids it."""
        levels = f"alpha = {self.alpha:g}, " + ("no delta" if self.delta is None else f"delta = {self.delta:g}")
        data = f"{self.n} calibration items, one per group (ids sha256 {self.calib_sha256[:12]})"
        if self.use_count > 1:
            data += f", use no. {self.use_count} of these items, so it holds for one run chosen beforehand"
        if self.certified:
            claim = _CLAIMS[self.risk].format(
                confidence=f"{1 - (self.delta or 0.0):.6g}", alpha=f"{self.alpha:g}", lower_bound=self.lower_bound
            )
            seen = f"{self.bad} bad among {data}" if self.bad is not None else data
            sentence = (
                f"Scope {self.scope!r}, policy {self.policy!r} at step {self.step}: {claim}; "
                f"shown with {levels} and {seen}; {_VOID}"
            )
        else:
            small = f", fewer than the {self.minimum_n} it needs" if self.n < self.minimum_n else ""
            sentence = (
                f"Scope {self.scope!r}, policy {self.policy!r}: nothing is claimed of the {_NAMES[self.risk]} "
                f"with {levels} from {data}{small}, and every query goes to the reference tier"
            )
        return "; ".join((sentence, *self.notes)) + "."


def check_levels(alpha: float, delta: float) -> None:
    """Refuse levels outside (0, 1), NaN included."""
    if not (0.0 < alpha < 1.0 and 0.0 < delta < 1.0):
        raise InputError(f"alpha = {alpha} and delta = {delta} must both lie between 0 and 1.")


def check_risk(risk: str) -> None:
    """Refuse a kind of risk that cannot be certified."""
    if risk not in _CLAIMS:
        raise InputError(
            f"Risk {risk!r} is unknown; use {', '.join(RISKS[:-1])} or {RISKS[-1]} (a bound in expectation exists for "
            "the joint risk only: conformal risk control does not hold for the selective one)."
        )
