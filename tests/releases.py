"""Releases whose bundle names the students that lie beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny_student import tiny_checkpoint

from router_core.bundle import Bundle
from router_core.checkpoint import Checkpoint
from router_core.portfolio import Portfolio
from router_core.promotion import new_release_id, promote, publish
from router_core.release import TASK_MARK, Release
from router_core.served import ServedRoot
from router_core.student_set import set_fingerprint


def naming(bundle: Path, out: Path, fingerprints: Mapping[str, str]) -> Path:
    """Write the same bundle certified with other models."""
    loaded = Bundle.load(bundle)
    tiers = tuple(replace(tier, model=fingerprints.get(tier.name, tier.model)) for tier in loaded.portfolio.tiers)
    replace(loaded, portfolio=Portfolio(tiers)).save(out)
    return out


def release_of(root: Path, bundle: Path, checkpoints: Mapping[str, Checkpoint]) -> Release:
    """Publish a bundle certified with these students, under the next id."""
    by_tier: dict[str, dict[str, str]] = {}
    for name, checkpoint in checkpoints.items():
        tier, _, task = name.partition(TASK_MARK)
        by_tier.setdefault(tier, {})[task] = checkpoint.fingerprint
    name = new_release_id(root)
    out = naming(bundle, root.parent / f"bundle-{name}", {k: set_fingerprint(v) for k, v in by_tier.items()})
    return publish(root, name, out, dict(checkpoints))


def small_release(root: Path, bundle: Path, **changes: Any) -> Release:
    """Publish a release whose small tier is one tiny student."""
    return release_of(root, bundle, {"small": tiny_checkpoint(**changes)})


def moved(root: Path, name: str) -> None:
    """Promote, and wait until this process serves it."""
    promote(root, name)
    assert ServedRoot.of(root).settle()


def answers_of(root: Path) -> dict[str, tuple[str, str]]:
    """Of `contrary_releases`: by bundle id, what its student says and is called."""
    told = {}
    for name, text in (("r0001", "good"), ("r0002", "bad")):
        bundle = Bundle.load(Release(root, name).bundle)
        told[bundle.id] = (text, f"routenlp-student/small@{str(bundle.portfolio.tiers[0].model)[:12]}")
    return told


def contrary_releases(root: Path, bundle: Path) -> Path:
    """Make a ROOT with two releases whose students answer contrarily; r0001 is current."""
    small_release(root, bundle)
    small_release(root, bundle, labels=("bad", "good"))
    promote(root, "r0001")
    return root
