"""Whether a tier still answers with the model it was certified with.

The bundle names one model per tier: the provider's name, or that of a distilled checkpoint. Answers say which model
made them; another one voids what was shown of every policy that calls the tier, and of all policies when it is the
reference tier, since "bad" is measured against it.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Protocol

from router_core.portfolio import Portfolio

__all__ = ["ENGINE", "Fingerprints", "checkpoint_declared", "fingerprint_changed"]

ENGINE: Final = "engine@"
"""What the fingerprint of a query engine begins with; it says what an engine is made of, and is no model's name."""

_SNAPSHOT: Final = re.compile(r"[-@:](\d{2,4}-?)+\d*|-latest")
"""What providers append to a name for one snapshot of the model: a date, or a number of three digits."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_HEAD: Final = 12


class HasPortfolio(Protocol):
    """A bundle or a router."""

    @property
    def portfolio(self) -> Portfolio:
        """The tiers, in cascade order."""


def fingerprint_changed(bundle: HasPortfolio, tier: str, model_name: str | None) -> bool:
    """Whether an answer's model is not the one the bundle names for this tier.

    A dated snapshot of the declared name is that model (``gpt-x-2026-01-02`` of ``gpt-x``), and so is a student whose
    name ends in the head of the declared checkpoint's hash, and an answer that gives the tier's own name (recorded ones
    do). The name of another tier, or of its model, is a change. Where the portfolio does not declare a tier's model,
    or pins its engine instead (`ENGINE`), any other name may be it; and an answer that does not name its model cannot
    be told apart: not changed. An engine is held to the one that is pinned, where one is.

    Parameters
    ----------
    bundle
        A bundle or a router.
    tier
        Name of the tier that answered.
    model_name
        What the answer says.

    Raises
    ------
    InputError
        When the portfolio has no such tier.
    """
    declared = bundle.portfolio.tiers[bundle.portfolio.index(tier)].model
    if not model_name or model_name in (declared, tier):
        return False
    pinned = declared is not None and declared.startswith(ENGINE)
    if model_name.startswith(ENGINE):
        return pinned
    others = {n for other in bundle.portfolio.tiers if other.name != tier for n in (other.name, other.model) if n}
    if model_name in others:
        return True
    if declared and not pinned:
        return not _names(declared, model_name)
    return not _names(tier, model_name) and any(_names(other, model_name) for other in others)


def checkpoint_declared(declared: str | None) -> bool:
    """Whether a tier's declared model is a distilled checkpoint, named by its SHA-256."""
    return bool(declared and _DIGEST.fullmatch(declared))


def _names(declared: str, model_name: str) -> bool:
    """Whether an answer's model is the declared one, a dated snapshot of it, or the declared checkpoint."""
    if checkpoint_declared(declared):
        return model_name.endswith(declared[:_HEAD])
    rest = model_name.removeprefix(declared)
    return not rest or (rest != model_name and _SNAPSHOT.fullmatch(rest) is not None)


class Fingerprints:
    """Counts which models answered for each tier, and tells when one that was not certified does.

    A name the bundle allows is pinned when first seen, so that an alias which comes to mean another snapshot, and a
    tier whose model was never declared, are noticed too.

    Parameters
    ----------
    bundle
        A bundle or a router.
    """

    def __init__(self, bundle: HasPortfolio) -> None:
        self._bundle = bundle
        self._pinned: dict[str, str] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """Answers by (tier, model name)."""
        with self._lock:
            return dict(self._counts)

    def saw(self, tier: str, model_name: str | None) -> str:
        """Count an answer, or look at an engine; why its tier is no longer the certified one, empty while it is.

        Raises
        ------
        InputError
            When the portfolio has no such tier.
        """
        if not model_name:
            return ""
        if model_name.startswith(ENGINE):
            changed = fingerprint_changed(self._bundle, tier, model_name)
            certified = f"than was certified, {self._bundle.portfolio.models[tier]}"
            return f"tier {tier} has another engine, {model_name}, {certified}" if changed else ""
        with self._lock:
            self._counts[tier, model_name] += 1
            pinned = self._pinned.get(tier)
            if pinned == model_name:
                return ""
            if fingerprint_changed(self._bundle, tier, model_name):
                declared = self._bundle.portfolio.models[tier]
                named = declared is not None and not declared.startswith(ENGINE)
                certified = f"it was certified with {declared!r}" if named else "which is another tier's model"
                return f"tier {tier} answers with {model_name!r}, {certified}"
            if pinned is not None:
                return f"tier {tier} answers with {model_name!r}, before with {pinned!r}"
            self._pinned[tier] = model_name
            return ""

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock."""
        return {"_bundle": self._bundle, "_pinned": self._pinned, "_counts": self._counts}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
