"""The certificate as a record: what was shown of a policy on calib, and the sentence that says so.

Serving reads it without scipy; `router_core.certificate` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from router_core.errors import InputError

__all__ = ["Certificate", "check_levels"]

# What is claimed, by kind of risk; a new kind adds its own line and its own p-values.
_CLAIMS = {
    "joint": (
        "with probability at least {confidence} over the draw of the calibration items, at most {alpha} of "
        "all queries receive a cheap answer that is bad (joint risk: a tier before the reference served, and "
        "the records' metric puts its answer below the reference tier's by more than the tolerance)"
    )
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
        Kind of risk: ``"joint"``.
    alpha, delta
        Risk, and the probability that the claim is false.
    n
        Calibration items, one per group.
    bad
        Bad answers the deployed step served among them; None for a risk that is not counted.
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
    delta: float
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
        check_levels(self.alpha, self.delta)
        if self.risk not in _CLAIMS:
            raise InputError(f"Certificate of {self.scope!r} has risk {self.risk!r}; known are {sorted(_CLAIMS)}.")
        if self.certified != (self.step > 0) or self.step < 0:
            raise InputError(f"Certificate of {self.scope!r} has certified={self.certified} at step {self.step}.")
        if self.bad is not None and not 0 <= self.bad <= self.n:
            raise InputError(f"Certificate of {self.scope!r} counts {self.bad} bad answers among {self.n} items.")

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
        levels = f"alpha = {self.alpha:g}, delta = {self.delta:g}"
        data = f"{self.n} calibration items, one per group (ids sha256 {self.calib_sha256[:12]})"
        if self.use_count > 1:
            data += f", use no. {self.use_count} of these items, so it holds for one run chosen beforehand"
        if self.certified:
            claim = _CLAIMS[self.risk].format(confidence=f"{1 - self.delta:.6g}", alpha=f"{self.alpha:g}")
            sentence = (
                f"Scope {self.scope!r}, policy {self.policy!r} at step {self.step}: {claim}; "
                f"shown with {levels} and {self.bad} bad among {data}; {_VOID}"
            )
        else:
            small = f", fewer than the {self.minimum_n} it needs" if self.n < self.minimum_n else ""
            sentence = (
                f"Scope {self.scope!r}, policy {self.policy!r}: nothing is claimed of the {self.risk} risk "
                f"with {levels} from {data}{small}, and every query goes to the reference tier"
            )
        return "; ".join((sentence, *self.notes)) + "."


def check_levels(alpha: float, delta: float) -> None:
    """Refuse levels outside (0, 1), NaN included."""
    if not (0.0 < alpha < 1.0 and 0.0 < delta < 1.0):
        raise InputError(f"alpha = {alpha} and delta = {delta} must both lie between 0 and 1.")
