"""Evidence that may be looked at after every audit: the alarm, the restarted detector, the re-certification.

**The alarm.** H0: the risk is at most alpha, whatever came before. Audit t has loss L in [0, 1] and propensity p;
with the weight ``w = floor / p`` and the excess ``z = w (L - alpha)``, H0 says ``E[z | past] <= 0``, because listing
a query with probability p tilts the law of what is listed by p and the weight undoes that (`router_core.audit_risk`).
The wealth

    M_t = mean over lam of prod_{i <= t} (1 + lam z_i)

starts at 1 and is a supermartingale under H0 as long as no factor can be negative, so P(it ever reaches 1 / delta) <=
delta (Ville), with no price for looking often. A raw weighted loss L / p may be as large as 1 / floor, which is why it
is scaled by the floor: w lies in (0, 1], hence ``-alpha <= z <= 1 - alpha`` and every ``0 < lam < 1 / alpha`` is
allowed, as for unweighted losses.

**The floor** is either named before labels are seen, and no propensity may be smaller: one that is would have to be
clipped, which would change the hypothesis, so it is refused. Or it follows the smallest propensity so far, so that a
rate that is lowered costs weight from there on and nothing else: no evidence is begun anew, and delta is not spent
twice. M_t stays a supermartingale if each floor is known before its query is, that is if the rate at any time is the
same for all queries of a certificate; whoever sets it may look at every label before. Where the rate hangs on the
query (its task or score), audits at the high rates count too much until the lowest rate has been seen: name the floor.

**The detector.** After a long good period M_t is near 0 and sleeps. The Shiryaev-Roberts statistic restarts at every
audit: ``S_t = (S_{t-1} + 1)(1 + lam z_t)``, averaged over lam. Under H0 ``S_t - t`` is a supermartingale, so the mean
number of audits until ``S_t >= c`` is at least c.

**The re-certification.** The same wealth with the sign flipped, ``1 - lam z`` with ``0 < lam < 1 / (1 - alpha)``,
is evidence against "the risk exceeds alpha at every time": once it has reached 1 / delta the risk was shown, at
confidence 1 - delta, to have been at most alpha on the audited traffic.

Source: METHOD.md 2.7; Waudby-Smith and Ramdas (arXiv 2010.09686); Podkopaev and Ramdas (2110.06177); Shin, Ramdas and
Rinaldo (2203.03532).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router_core.claim import check_levels
from router_core.errors import InputError

__all__ = [
    "ARL",
    "Alarm",
    "Detector",
    "Recertification",
    "bets_above",
    "bets_below",
    "excess",
    "log_detector",
    "log_wealth",
]

Floats = NDArray[np.float64]

ARL: Final = 20_000.0
"""Audits between two false alarms of the detector, on average at least, when the risk stands exactly at alpha."""

_ABOVE: Final = (0.025, 0.05, 0.1, 0.2, 0.4, 0.6)
"""Bets of alarm and detector as shares of 1 / alpha: .5, 1, 2, 4, 8, 12 at alpha = .05."""
_BELOW: Final = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Bets of the re-certification as shares of 1 / (1 - alpha)."""


def bets_above(alpha: float) -> Floats:
    """The grid of bets that the risk exceeds alpha."""
    return np.asarray(_ABOVE) / alpha


def bets_below(alpha: float) -> Floats:
    """The grid of bets that the risk lies below alpha; to be placed on the excess with its sign flipped."""
    return np.asarray(_BELOW) / (1.0 - alpha)


def excess(losses: ArrayLike, propensities: ArrayLike, alpha: float, floor: ArrayLike) -> Floats:
    """What audits say for "the risk exceeds alpha": (floor / p) (L - alpha), float64 [...]; a floor each, or one.

    Raises
    ------
    InputError
        When a propensity lies below the floor, or a loss outside [0, 1].
    """
    loss, p = np.asarray(losses, np.float64), np.asarray(propensities, np.float64)
    least = np.asarray(floor, np.float64)
    if (p < least).any():
        raise InputError(
            f"An audit has propensity {p.min():g}, below the floor {least.max():g} that its evidence was begun with; "
            "begin anew with a floor that no propensity undercuts."
        )
    if not ((loss >= 0.0) & (loss <= 1.0)).all():
        raise InputError("A loss lies outside [0, 1].")
    return np.asarray(least / p * (loss - alpha))


def log_wealth(z: Floats, bets: ArrayLike, start: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """Wealth of the mixture after every item.

    Parameters
    ----------
    z
        [..., n], each bet times each z above -1.
    bets
        [K], or [K, ...] with trailing ones to match.
    start
        Log wealth of each bet before the first item, [K, ...]; zeros when None.

    Returns
    -------
    tuple
        ``log M_t`` [..., n], and the log wealth of each bet at the end [K, ...].
    """
    grid = np.asarray(bets, np.float64)
    begun = np.zeros(grid.shape + z.shape[:-1]) if start is None else np.asarray(start, np.float64)
    mixed, ends = np.full(z.shape, -np.inf), []
    for bet, first in zip(grid, begun, strict=True):
        path = np.cumsum(np.log1p(bet * z), axis=-1) + first[..., None]
        np.logaddexp(mixed, path, out=mixed)
        ends.append(path[..., -1] if z.shape[-1] else first)
    return mixed - math.log(len(grid)), np.asarray(ends)


def log_detector(z: Floats, bets: ArrayLike, start: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """Shiryaev-Roberts statistic of the mixture after every item; as `log_wealth`, with start -inf when None.

    With P_t the product of the factors up to t, ``S_t = P_t (S_0 + sum_{s <= t} 1 / P_{s-1})``; it is summed on the log
    scale, where neither a long good nor a long bad period overflows.
    """
    grid = np.asarray(bets, np.float64)
    begun = np.full(grid.shape + z.shape[:-1], -np.inf) if start is None else np.asarray(start, np.float64)
    mixed, ends = np.full(z.shape, -np.inf), []
    for bet, first in zip(grid, begun, strict=True):
        steps = np.log1p(bet * z)
        path = np.cumsum(steps, axis=-1)
        terms = steps - path  # -log P_{s-1}
        if z.shape[-1]:
            terms[..., 0] = np.logaddexp(terms[..., 0], first)
        path += np.logaddexp.accumulate(terms, axis=-1)
        np.logaddexp(mixed, path, out=mixed)
        ends.append(path[..., -1] if z.shape[-1] else first)
    return mixed - math.log(len(grid)), np.asarray(ends)


@dataclass(frozen=True)
class _Evidence:
    """What all three share: a grid of bets, where each stands, and when the bar was first reached.

    Attributes
    ----------
    alpha
        The risk it is about.
    floor
        Lower bound of all propensities; where it follows them, the smallest so far.
    follows
        Whether the floor follows the propensities; otherwise it was named, and none may be smaller.
    logs
        Natural logarithm of what stands on each bet.
    n
        Audits counted.
    now, peak
        Natural logarithm of the mixture after the last audit, and its maximum.
    raised_at
        Number of the audit, from 1, at which the bar was first reached; None if never. It does not go back.
    """

    alpha: float
    floor: float
    follows: bool = False
    logs: tuple[float, ...] = ()
    n: int = 0
    now: float = -math.inf
    peak: float = -math.inf
    raised_at: int | None = None

    def __post_init__(self) -> None:
        """Refuse levels and floors that make no sense."""
        check_levels(self.alpha, 0.5)
        if not 0.0 < self.floor <= 1.0:
            raise InputError(f"The floor of the propensities is {self.floor}; it must lie in (0, 1].")

    @property
    def bar(self) -> float:
        """What the mixture must reach."""
        raise NotImplementedError

    @property
    def value(self) -> float:
        """The mixture after the last audit, capped at the largest float."""
        return math.exp(min(self.now, 700.0))

    def _paths(self, z: Floats) -> tuple[Floats, Floats]:
        raise NotImplementedError

    def _floors(self, propensities: ArrayLike) -> Floats:
        p = np.asarray(propensities, np.float64)
        return np.minimum(np.minimum.accumulate(p), self.floor) if self.follows else np.full(p.shape, self.floor)

    def path(self, losses: ArrayLike, propensities: ArrayLike) -> Floats:
        """Logarithm of the mixture after each of these audits, [n]."""
        return self._paths(excess(losses, propensities, self.alpha, self._floors(propensities)))[0]

    def update(self, losses: ArrayLike, propensities: ArrayLike) -> Self:
        """Count audits [n], in their order.

        Raises
        ------
        InputError
            When a propensity lies below the floor that was named.
        """
        floors = self._floors(propensities)
        logs, ends = self._paths(excess(losses, propensities, self.alpha, floors))
        if not len(logs):
            return self
        hits = np.flatnonzero(logs >= math.log(self.bar))
        raised = self.raised_at
        if raised is None and len(hits):
            raised = self.n + int(hits[0]) + 1
        return replace(
            self,
            floor=float(floors[-1]),
            logs=tuple(ends.tolist()),
            n=self.n + len(logs),
            now=float(logs[-1]),
            peak=max(self.peak, float(logs.max())),
            raised_at=raised,
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; minus infinity is null."""
        told = asdict(self) | {"logs": [None if math.isinf(value) else value for value in self.logs]}
        return {key: None if isinstance(value, float) and math.isinf(value) else value for key, value in told.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_json`; raises InputError on anything else."""
        if set(data) != {field.name for field in fields(cls)}:
            raise InputError(f"A state of {cls.__name__} has other fields than this version writes; begin anew.")
        back = {name: -math.inf if data[name] is None else float(data[name]) for name in ("now", "peak")}
        logs = tuple(-math.inf if value is None else float(value) for value in data["logs"])
        return cls(**{**data, **back, "logs": logs})


@dataclass(frozen=True)
class Alarm(_Evidence):
    """Evidence that the risk exceeds alpha; raised falsely, ever, with probability at most delta."""

    delta: float = 0.1

    @property
    def bar(self) -> float:
        """1 / delta."""
        return 1.0 / self.delta

    def _paths(self, z: Floats) -> tuple[Floats, Floats]:
        return log_wealth(z, bets_above(self.alpha), self.logs or None)


@dataclass(frozen=True)
class Detector(_Evidence):
    """Evidence that the risk has come to exceed alpha; raised falsely at most once in `arl` audits on average."""

    arl: float = ARL

    @property
    def bar(self) -> float:
        """The threshold c, the average run length."""
        return self.arl

    def _paths(self, z: Floats) -> tuple[Floats, Floats]:
        return log_detector(z, bets_above(self.alpha), self.logs or None)


@dataclass(frozen=True)
class Recertification(_Evidence):
    """Evidence that the risk is at most alpha; wrong, ever, with probability at most delta."""

    delta: float = 0.1

    @property
    def bar(self) -> float:
        """1 / delta."""
        return 1.0 / self.delta

    def _paths(self, z: Floats) -> tuple[Floats, Floats]:
        return log_wealth(-z, bets_below(self.alpha), self.logs or None)
