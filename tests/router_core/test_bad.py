"""B is decided on the decimals that were typed, not on the binary floats nearest to them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from bundles import small_records

from router_core.bad import is_bad
from router_core.fitting.tables import bad_answers


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.07, 0.29])
def test_it_is_exact_on_hundredths(tolerance: float) -> None:
    """Every pair of qualities on a grid of .01 is judged as by rational numbers; plain floats are not."""
    grid = [round(i / 100, 2) for i in range(101)]
    exact = [[Fraction(repr(a)) - Fraction(repr(b)) > Fraction(repr(tolerance)) for b in grid] for a in grid]
    reference, quality = np.array(grid)[:, None], np.array(grid)
    assert np.array_equal(is_bad(reference, quality, tolerance), exact)
    if tolerance == 0.1:
        assert not np.array_equal(reference - quality > tolerance, exact)


def test_without_a_tolerance_any_real_difference_counts() -> None:
    """At tolerance 0 the counts on ordinary records are those of a plain comparison."""
    records = small_records()
    plain = records.quality[:, -1:] - records.quality > 0
    assert np.array_equal(bad_answers(records, 0.0), plain.astype(np.uint8))
    assert is_bad(1e-12, 0.0, 0.0)
    assert not is_bad(0.1 + 1e-12, 0.0, 0.1)
    assert not is_bad(np.nan, 0.5, 0.0)
