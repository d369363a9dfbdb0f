"""What a policy did with the queries of one task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Served"]


@dataclass(frozen=True, eq=False)
class Served:
    """What a policy did with n queries of one task.

    Attributes
    ----------
    tier
        intp [n], place of the tier whose answer was served.
    tried
        bool [n, K], tiers that were called; each is paid for.
    quality, reference
        float64 [n], of the served answer and of the reference's.
    cost, always
        float64 [n], nominal US dollars of all attempts, and of the reference alone.
    """

    tier: NDArray[np.intp]
    tried: NDArray[np.bool_]
    quality: NDArray[np.float64]
    reference: NDArray[np.float64]
    cost: NDArray[np.float64]
    always: NDArray[np.float64]

    @property
    def bad(self) -> NDArray[np.bool_]:
        """B of the served answer, tolerance 0."""
        return np.asarray(self.reference - self.quality > 0.0)

    def priced(self, usd: NDArray[np.float64]) -> Served:
        """The same routes under another price list, float64 [n, K]."""
        return Served(
            self.tier, self.tried, self.quality, self.reference, (usd * self.tried).sum(axis=1), usd[:, -1].copy()
        )

    def take(self, rows: NDArray[np.intp]) -> Served:
        """Some of the queries."""
        return Served(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))
