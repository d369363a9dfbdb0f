"""Where to start and what to accept: one threshold comparison per tier.

A policy path is a one-parameter family of policies, from "always the reference" (step 0) to the most aggressive; a
`Policy` is such a path with the step that was certified. Source: METHOD.md 2.2 step 4, 2.10, 2.11.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["CASCADE", "ROUTE_ONLY", "Ordering", "Policy", "coin"]

CASCADE = "cascade"
ROUTE_ONLY = "route_only"

Ordering = Literal["confidence", "risk_per_dollar", "coin"]

_COIN_SALT = "routenlp-coin-v1|"


def coin(text: str) -> float:
    """A number in [0, 1) hashed from the query text: the same query always draws the same coin."""
    digest = sha256((_COIN_SALT + text).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy path over K tiers and the step of it that is in force.

    Attributes
    ----------
    name
        ``"cascade"`` (answers are judged) or ``"route_only"`` (decided before generating).
    scope
        The task, ``"task/*"`` or ``"*"`` this policy serves.
    ordering
        What is compared with the thresholds: ``"confidence"`` = 1 - P(bad); ``"risk_per_dollar"`` =
        -(P(bad) + offset) / saving; ``"coin"``.
    offset
        The small constant of the risk per dollar.
    scale
        How the thresholds were laid, for reports: the ordering, or ``"p_value"`` (conformal p-values of "bad").
    start, accept
        float64 [G, K-1], thresholds per step and cheap tier, cleared by ``score >= threshold``. A tier with both at
        +inf is not called. Step 0 is +inf throughout.
    step
        The step in force; 0 sends everything to the reference tier.
    """

    name: str
    scope: str
    ordering: Ordering
    offset: float
    scale: str
    start: NDArray[np.float64]
    accept: NDArray[np.float64]
    step: int = 0

    def score(self, risk: float, saving: float, toss: float) -> float:
        """Score of one tier on one query, higher is better, float64; NaN stays NaN and clears no threshold."""
        if self.ordering == "coin":
            return 1.0 - toss
        if self.ordering == "confidence":
            return 1.0 - risk
        return -(risk + self.offset) / saving

    @property
    def priced(self) -> bool:
        """Whether scores weigh what a query would save."""
        return self.ordering == "risk_per_dollar"

    def first(self, scores: list[float], after: int = -1) -> int:
        """First tier behind `after` whose start threshold is cleared; the reference tier when none is."""
        for tier in range(after + 1, len(scores)):
            if scores[tier] >= self.thresholds[tier][0]:
                return tier
        return len(scores)

    def why(self, scores: Sequence[float], tier: int, names: Sequence[str]) -> str:
        """Why a query of these scores starts at this tier, in the words of a reason."""
        if tier == len(scores):
            return f"no cheap tier's score clears its start threshold; sent to {names[tier]}"
        threshold = self.thresholds[tier][0]
        if math.isinf(threshold):
            return f"the cascade starts at {names[tier]}"
        return f"{names[tier]}: {self.ordering.replace('_', ' ')} {scores[tier]:.4f} >= {threshold:.4f}"

    def accepts(self, tier: int, score: float) -> bool:
        """Whether an answer of this score is served."""
        return bool(score >= self.thresholds[tier][1])

    def following(self, tier: int) -> int:
        """The next tier up that this policy ever calls."""
        for k, both in enumerate(self.thresholds[tier + 1 :], start=tier + 1):
            if both != (math.inf, math.inf):
                return k
        return len(self.thresholds)

    @cached_property
    def thresholds(self) -> list[tuple[float, float]]:
        """Start and accept threshold of every cheap tier at the step in force."""
        return list(zip(self.start[self.step].tolist(), self.accept[self.step].tolist(), strict=True))

    @cached_property
    def in_force(self) -> tuple[int, ...]:
        """Cheap tiers that the step in force calls."""
        return tuple(k for k, both in enumerate(self.thresholds) if both != (math.inf, math.inf))

    def at(self, step: int) -> "Policy":
        """The same path with another step in force."""
        return replace(self, step=step)

    @property
    def called(self) -> tuple[int, ...]:
        """Cheap tiers that some step calls."""
        used = ~(np.isposinf(self.start) & np.isposinf(self.accept)).all(axis=0)
        return tuple(int(k) for k in np.flatnonzero(used))

    def dump(self, prefix: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON description and arrays, without the step (paths are frozen before calib is read)."""
        text = {
            "name": self.name,
            "scope": self.scope,
            "ordering": self.ordering,
            "offset": self.offset,
            "scale": self.scale,
        }
        return text, {f"{prefix}.start": self.start, f"{prefix}.accept": self.accept}

    @classmethod
    def load(cls, prefix: str, text: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Policy":
        """Inverse of `dump`."""
        return cls(**text, start=arrays[f"{prefix}.start"], accept=arrays[f"{prefix}.accept"])
