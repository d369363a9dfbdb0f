"""The gate: one pure function from what was measured to a verdict. Nothing is promoted unless every check passes.

Each check is a function of the measurements alone and says why it refuses. `CHECKS` names them; a gate without one of
them is how tests show that it is that check which refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from exporters.loop.options import Limits
from exporters.showing import verdict_html
from router_core.fitting.incumbent import Comparison

__all__ = ["CHECKS", "Claim", "Measurements", "StudentMeasure", "Terms", "Verdict", "judge"]


@dataclass(frozen=True)
class Terms:
    """What a certificate claims, if it is certified.

    Attributes
    ----------
    risk
        Kind of risk.
    alpha, delta
        Risk, and the probability that the claim is false; delta is None for a claim in expectation.
    tolerance
        How far below the reference tier's quality an answer may lie without being bad.
    """

    risk: str
    alpha: float
    delta: float | None
    tolerance: float

    def weaker(self, held: Terms) -> list[str]:
        """In what this claims less than another."""
        if self.risk != held.risk:
            return [f"risk {self.risk} instead of {held.risk}"]
        pairs = {name: (getattr(self, name), getattr(held, name)) for name in ("alpha", "delta", "tolerance")}
        return [
            f"{name} {new:g} instead of {old:g}" for name, (new, old) in pairs.items() if old is not None and new > old
        ]


@dataclass(frozen=True)
class Claim:
    """One stored certificate, and whether the release that serves holds one for the same scope and policy.

    Attributes
    ----------
    scope, policy
        What it is about.
    certified, was_certified
        Whether the new one, and that of the release that serves, shows anything.
    calib_sha256
        Of the items it was made on.
    use_count
        How many times these were used, this one included.
    terms, held
        What it claims, and what that of the release that serves claims; None where there is none.
    """

    scope: str
    policy: str
    certified: bool
    was_certified: bool
    calib_sha256: str
    use_count: int
    terms: Terms | None = None
    held: Terms | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Claim:
        """Read what `dataclasses.asdict` gave."""
        terms, held = (None if (one := data.get(key)) is None else Terms(**one) for key in ("terms", "held"))
        return cls(**{**data, "terms": terms, "held": held})


@dataclass(frozen=True)
class StudentMeasure:
    """One student as it will be served.

    Attributes
    ----------
    megabytes
        Of its weights, millions of bytes.
    p50_ms
        Median time of an answer, milliseconds, one thread.
    """

    megabytes: float
    p50_ms: float


@dataclass(frozen=True)
class Measurements:
    """All the gate looks at.

    Attributes
    ----------
    candidate, certified_candidate
        Candidate id of the bundle as read back from disk, and the one its certificates and the comparison were made
        for.
    fold_sha256, compared_sha256
        Hash of the fold's items, by scope of each certificate, as allocated, and of those that were compared.
    claims
        Certificates of the bundle.
    comparison
        New against old on the fold.
    quality_loss
        By task, how far the mean quality served may lie below the reference tier's.
    students
        By task.
    router_ms
        Median time of a decision, milliseconds.
    broken
        Parts whose hashes do not verify, or checkpoints that the bundle does not name.
    leaked
        Keys that calibration items share with what students were taught or the router learned.
    near
        Near-duplicates of calibration items, of whatever fold, among what students were taught.
    """

    candidate: str
    certified_candidate: str
    fold_sha256: Mapping[str, str]
    compared_sha256: str
    claims: tuple[Claim, ...]
    comparison: Comparison
    quality_loss: Mapping[str, float]
    students: Mapping[str, StudentMeasure]
    router_ms: float
    broken: tuple[str, ...] = ()
    leaked: int = 0
    near: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "comparison": self.comparison.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurements:
        """Read what `to_json` wrote."""
        return cls(**{
            **data,
            "claims": tuple(Claim.from_json(one) for one in data["claims"]),
            "comparison": Comparison.from_json(data["comparison"]),
            "students": {task: StudentMeasure(**one) for task, one in data["students"].items()},
            "broken": tuple(data["broken"]),
        })  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Whether to promote.

    Attributes
    ----------
    promoted
        True when nothing speaks against it.
    reasons
        By check, what speaks against it.
    """

    promoted: bool
    reasons: Mapping[str, tuple[str, ...]]

    def _repr_html_(self) -> str:
        return verdict_html(self, dict.fromkeys([*CHECKS, *self.reasons]))


Check = Callable[[Measurements, Limits], list[str]]


def judge(measured: Measurements, limits: Limits, checks: Mapping[str, Check] | None = None) -> Verdict:
    """Promote, or say why not.

    Parameters
    ----------
    measured
        What was measured.
    limits
        Of size and latency.
    checks
        `CHECKS` when None.
    """
    found = {name: tuple(check(measured, limits)) for name, check in (CHECKS if checks is None else checks).items()}
    reasons = {name: said for name, said in found.items() if said}
    return Verdict(not reasons, reasons)


def _leak(measured: Measurements, _: Limits) -> list[str]:
    counts = {"keys": measured.leaked, "near-duplicates": measured.near}
    return [
        f"{count} {what} of calibration queries were learned from; nothing certified on them holds"
        for what, count in counts.items()
        if count
    ]


def _hashes(measured: Measurements, _: Limits) -> list[str]:
    return list(measured.broken)


def _certificate(measured: Measurements, _: Limits) -> list[str]:
    said = []
    if measured.certified_candidate != measured.candidate:
        said.append(
            f"the certificates are of candidate {measured.certified_candidate[:12]}, the bundle holds "
            f"{measured.candidate[:12]}"
        )
    stale = [one for one in measured.claims if one.calib_sha256 != measured.fold_sha256.get(one.scope)]
    if stale or measured.comparison.calib_sha256 != measured.compared_sha256:
        where = stale[0].scope if stale else "the comparison"
        said.append(f"what was shown of {where} is of other calibration queries than this round's fold")
    if worn := [one for one in measured.claims if one.use_count != 1]:
        said.append(f"the fold was used {worn[0].use_count} times; a certificate needs one that is fresh")
    return said


def _cost(measured: Measurements, _: Limits) -> list[str]:
    found = measured.comparison.overall
    if found.difference_usd[1] < 0.0:
        return []
    low, high = (1e6 * limit for limit in found.difference_usd)
    return [
        f"it is not shown to be cheaper: {1e6 * found.new_usd:.4g} against {1e6 * found.old_usd:.4g} USD per million "
        f"queries, difference {low:+.4g} to {high:+.4g}"
    ]


def _lost(measured: Measurements, _: Limits) -> list[str]:
    gone = [one for one in measured.claims if one.was_certified and not one.certified]
    said = [f"{one.scope} ({one.policy}) would lose its certificate" for one in gone]
    for one in measured.claims:
        if one.terms and one.held and (weaker := one.terms.weaker(one.held)):
            said.append(f"{one.scope} ({one.policy}) would be certified for less: {', '.join(weaker)}")
    return said


def _dearer(measured: Measurements, _: Limits) -> list[str]:
    return [
        f"task {task} gets dearer: {1e6 * found.old_usd:.4g} to {1e6 * found.new_usd:.4g} USD per million queries"
        for task, found in measured.comparison.tasks.items()
        if found.difference_usd[0] > 0.0
    ]


def _quality(measured: Measurements, _: Limits) -> list[str]:
    return [
        f"task {task}: the quality served may lie {found.shortfall_upper:.4f} below the reference tier's, more than "
        f"{measured.quality_loss[task]:g}"
        for task, found in measured.comparison.tasks.items()
        if found.shortfall_upper > measured.quality_loss[task]
    ]


def _size(measured: Measurements, limits: Limits) -> list[str]:
    return [
        f"the student of {task} has {one.megabytes:.1f} MB, more than {limits.student_mb:g}"
        for task, one in measured.students.items()
        if one.megabytes > limits.student_mb
    ]


def _latency(measured: Measurements, limits: Limits) -> list[str]:
    said = [
        f"the student of {task} takes {one.p50_ms:.1f} ms, more than {limits.student_ms:g}"
        for task, one in measured.students.items()
        if one.p50_ms > limits.student_ms
    ]
    if measured.router_ms > limits.router_ms:
        said.append(f"the router takes {measured.router_ms:.1f} ms, more than {limits.router_ms:g}")
    return said


CHECKS: Final[Mapping[str, Check]] = {
    "leak": _leak,
    "hashes": _hashes,
    "certificate": _certificate,
    "cost": _cost,
    "certificates kept": _lost,
    "dearer task": _dearer,
    "quality": _quality,
    "size": _size,
    "latency": _latency,
}
"""The checks, by name."""
