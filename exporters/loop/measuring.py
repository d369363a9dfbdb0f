"""What the gate is told of a release as it lies on disk: hashes, sizes, times, certificates, leaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from exporters.loop.gate import Claim, StudentMeasure, Terms
from router_core.arrays import load_json
from router_core.bundle import Bundle
from router_core.checkpoint import Checkpoint
from router_core.errors import BundleError
from router_core.fitting.certify import compared_rows
from router_core.fitting.frozen import candidate_of
from router_core.fitting.tables import scope_rows
from router_core.keys import ids_sha256
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.records import Records
from router_core.router import Router
from router_core.splits import prepare
from router_core.student import Student
from router_core.student_set import set_fingerprint

__all__ = [
    "broken_parts",
    "certified_candidate",
    "claims_of",
    "fold_sha256",
    "median_ms",
    "router_ms",
    "student_measure",
]

_TIMED = 60
_PROMISED = (CASCADE, ROUTE_ONLY)


def broken_parts(bundle: Path, checkpoints: Mapping[str, Path], tier: str) -> tuple[str, ...]:
    """What does not verify: a damaged folder, or students that are not those the bundle was certified with.

    Parameters
    ----------
    bundle
        Folder of the bundle.
    checkpoints
        Folders by task.
    tier
        Of the students.
    """
    said, prints = [], {}
    for task, folder in sorted(checkpoints.items()):
        try:
            prints[task] = Checkpoint.load(folder).fingerprint
        except BundleError as error:
            said.append(str(error))
    try:
        found = Bundle.load(bundle)
    except BundleError as error:
        return (*said, str(error))
    named = found.portfolio.tiers[found.portfolio.index(tier)].model
    if checkpoints and not said and set_fingerprint(prints) != named:
        said.append(f"the bundle was certified with {tier} {str(named)[:12]}, not with these students")
    return tuple(said)


def claims_of(bundle: Bundle, before: Bundle) -> tuple[Claim, ...]:
    """Certificates of a bundle beside those of the one that serves."""
    now, then = candidate_of(bundle).tolerance, candidate_of(before).tolerance
    return tuple(
        Claim(
            scope, policy, shown.certified,
            (held := before.certificates.get((scope, policy))) is not None and held.certified,
            shown.calib_sha256, shown.use_count, Terms(shown.risk, shown.alpha, shown.delta, now),
            None if held is None else Terms(held.risk, held.alpha, held.delta, then),
        )
        for (scope, policy), shown in sorted(bundle.certificates.items())
        if policy in _PROMISED
    )  # fmt: skip


def fold_sha256(bundle: Bundle, sheet: Records) -> tuple[dict[str, str], str]:
    """Hash of the fold's items by scope, and of all of them, from the records alone."""
    prepared, _ = prepare(sheet, require=("calib",)).complete(bundle.portfolio.names)
    records, scopes = prepared.records, candidate_of(bundle).scopes
    found = {}
    for view in scopes.views:
        mine = scope_rows(records, scopes, view.scope, prepared.calib)
        found[view.scope] = ids_sha256(records.query_id[i] for i in mine.tolist())
    return found, ids_sha256(records.query_id[i] for i in compared_rows(records, prepared.calib).tolist())


def certified_candidate(bundle: Path) -> str:
    """Candidate id that the certificates on disk are of."""
    name = "certificates.json"
    return str(load_json(name, (bundle / name).read_bytes())["candidate"])


def student_measure(student: Student, prompts: Sequence[str]) -> StudentMeasure:
    """Size of a student and its median time for an answer."""
    size = sum(len(part) for part in student.checkpoint.weights.values()) / 1e6
    return StudentMeasure(round(size, 3), median_ms(student.answer, prompts))


def router_ms(bundle: Bundle, prompts: Sequence[str], task: str) -> float:
    """Median time of a decision, milliseconds."""
    router = Router.from_bundle(bundle)
    return median_ms(lambda prompt: router.decide(prompt, task), prompts)


def median_ms(work: Callable[[str], object], prompts: Sequence[str]) -> float:
    """Median of the times for up to 60 prompts, after one to warm up, milliseconds."""
    some = list(dict.fromkeys(prompts))[:_TIMED]
    walls = []
    for prompt in [*some[:1], *some]:
        began = time.perf_counter()
        work(prompt)
        walls.append(1e3 * (time.perf_counter() - began))
    return round(float(np.median(walls[1:])), 3) if len(walls) > 1 else 0.0
