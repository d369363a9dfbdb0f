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
from router_core.promotion import new_release_id, publish
from router_core.release import TASK_MARK, Release
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
