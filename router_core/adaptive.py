"""A level that tightens itself between certificates and never goes looser than the one in force.

Adaptive conformal inference moves a level by what it sees, ``level <- level + gamma (alpha - err)``, and holds the
long-run mean of err near alpha for any sequence of errors (Gibbs and Candes, arXiv 2106.00170). After a good stretch it
loosens without bound and overshoots, which a certificate forbids; here it is clipped from above at the level of the
certificate. Clipping gives up the lower side of the bound and keeps the upper one: the level moves up by at most
``gamma (alpha - err)`` and never falls below ``-gamma`` (at level <= 0 the reference tier serves and err = 0), so

    mean err - alpha <= (first level + gamma) / (gamma T)   after T queries with feedback, for any sequence.

It needs the error of every query, says nothing of now, of a task or of accepted answers alone, and is a controller
beside the certificate, never instead of it. Source: METHOD.md 2.7, P19.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from router_core.claim import check_levels
from router_core.errors import InputError

__all__ = ["AdaptiveLevel"]


@dataclass(frozen=True, slots=True)
class AdaptiveLevel:
    """Where the controller stands.

    Parameters
    ----------
    alpha
        Long-run share of errors that is aimed at; also the level that stands for the certified step.
    gamma
        How far one error moves the level; above 0.
    level
        At most alpha.
    seen, errors
        Queries with feedback so far, and errors among them.
    """

    alpha: float
    gamma: float
    level: float
    seen: int = 0
    errors: int = 0

    def __post_init__(self) -> None:
        """Refuse a controller that starts looser than the certificate."""
        check_levels(self.alpha, 0.5)
        if not self.gamma > 0.0 or not math.isfinite(self.gamma):
            raise InputError(f"gamma = {self.gamma} must be above 0.")
        if not self.level <= self.alpha:
            raise InputError(f"The level {self.level} is looser than the certificate's, {self.alpha}.")

    @classmethod
    def begin(cls, alpha: float, gamma: float = 0.005) -> AdaptiveLevel:
        """Start at the certificate."""
        return cls(alpha, gamma, alpha)

    def after(self, error: bool) -> AdaptiveLevel:
        """The controller after the feedback on one query: whether a bad cheap answer was served."""
        moved = self.level + self.gamma * (self.alpha - float(error))
        return replace(self, level=min(moved, self.alpha), seen=self.seen + 1, errors=self.errors + int(error))

    def step(self, certified: int) -> int:
        """The step of a policy path to serve, between 0 (the reference tier for all) and the certified one.

        Meant for paths whose steps up to the certified one were all certified, as those of the joint risk are.
        """
        if self.level <= 0.0:
            return 0
        return min(math.ceil(certified * self.level / self.alpha), certified)

    @property
    def bound(self) -> float:
        """What the mean of the errors seen exceeds alpha by at most, if the first level was the certificate's."""
        return (self.alpha + self.gamma) / (self.gamma * self.seen) if self.seen else math.inf
