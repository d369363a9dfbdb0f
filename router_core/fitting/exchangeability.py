"""A ticket, not an alarm: whether scores still look as they did, without any label.

A conformal test martingale bets against the exchangeability of a sequence of scores: if the order of the scores
carries no information it reaches c with probability at most 1 / c, ever. It also rises on harmless shifts (traffic that
became easier), so it never ends a certificate; it says where to look. Source: METHOD.md 2.7; Vovk, Gammerman and
Shafer, Algorithmic Learning in a Random World, 2nd ed., 8.1, as implemented by crepes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from router_core.errors import InputError

__all__ = ["Ticket", "exchangeability_ticket"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the martingale says of a sequence of scores.

    Attributes
    ----------
    value, peak
        The martingale after the last score, and its maximum.
    opened_at
        Number of the score, from 1, at which it first reached the bar; None if never.
    """

    value: float
    peak: float
    opened_at: int | None


def exchangeability_ticket(
    scores: ArrayLike, *, before: ArrayLike = (), bar: float = 100.0, seed: int = 0, jump: float = 0.01
) -> Ticket:
    """Bet against the exchangeability of scores with those that came before.

    Parameters
    ----------
    scores
        [n], such as the confidence of a tier's answers, in the order they came.
    before
        Scores of calibration or of earlier traffic, [m]; the betting begins after them.
    bar
        What the martingale must reach; P(it ever does although nothing changed) <= 1 / bar.
    seed
        Of the p-values' smoothing.
    jump
        How readily the betting changes its mind (Simple Jumper).

    Raises
    ------
    InputError
        When a score is NaN.
    """
    from crepes.martingales import SimpleJumper, semi_online_p_values

    old, new = (np.asarray(part, np.float64) for part in (before, scores))
    if np.isnan(old).any() or np.isnan(new).any():
        raise InputError("Scores hold NaN; drop answers without a score.")
    p = semi_online_p_values(np.concatenate((old, new)), seed=seed)[len(old) :]
    path = np.asarray(SimpleJumper(J=jump).apply(p), np.float64)
    if not len(path):
        return Ticket(1.0, 1.0, None)
    hits = np.flatnonzero(path >= bar)
    return Ticket(float(path[-1]), float(max(path.max(), 1.0)), int(hits[0]) + 1 if len(hits) else None)
