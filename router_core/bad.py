"""B, what "bad" means: the reference tier's quality exceeds an answer's by more than the tolerance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["is_bad"]

_ROUNDING = 1e-9
"""Qualities and tolerances are written in decimals, which binary floats miss by far less than this."""


def is_bad(reference: npt.ArrayLike, quality: npt.ArrayLike, tolerance: float) -> npt.NDArray[np.bool_]:
    """Whether answers are bad; a difference of the tolerance itself is not, as .8 and .7 at a tolerance of .1.

    Parameters
    ----------
    reference, quality
        Of the reference tier's answers and of the answers, in [0, 1]; of shapes that broadcast.
    tolerance
        How far an answer may lie below without being bad.
    """
    # Without a tolerance nothing is subtracted from what was typed, so any difference counts. A quality that is not
    # known is not bad.
    return np.asarray(np.subtract(reference, quality) > (tolerance + _ROUNDING if tolerance > 0 else 0.0))
