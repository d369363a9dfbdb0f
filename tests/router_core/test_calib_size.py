"""How many calib rows are there and how many are needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import small_records

from router_core.calib_size import ALPHAS, calib_sizes, realistic_n
from router_core.certificate import allowed_bad, minimum_n


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_realistic_number_is_the_smallest_that_passes(alpha: float) -> None:
    """It lies above the least, and one item fewer would not pass at the same rate."""
    n = realistic_n(0.3, alpha, 0.1)
    assert n > minimum_n(alpha, 0.1)
    assert allowed_bad(n, alpha, 0.1) >= n * alpha / 2
    assert allowed_bad(n - 1, alpha, 0.1) < (n - 1) * alpha / 2
    assert realistic_n(0.0, alpha, 0.1) == minimum_n(alpha, 0.1)


def test_rows_are_counted_as_certificates_count_them() -> None:
    """One per group, only where every tier answered; the bad rate is that of train."""
    records = small_records()
    sizes = calib_sizes(records)
    assert set(sizes) == {"mood", "sum"}
    assert sum(size.rows for size in sizes.values()) == 160
    at = np.array(
        [task == "mood" and split == "train" for task, split in zip(records.task, records.split, strict=True)]
    )
    bad = records.quality[at, 2:] - records.quality[at, :2] > 0
    assert sizes["mood"].bad_rate == pytest.approx(bad.mean(axis=0).min())
    assert sizes["mood"].tier == records.models[int(bad.mean(axis=0).argmin())]
    quality = records.quality.copy()
    quality[records.split.index("calib"), 0] = np.nan
    assert sum(size.rows for size in calib_sizes(replace(records, quality=quality)).values()) == 159


def test_calib_outcomes_change_nothing() -> None:
    """Only certify() reads calib: worse calib answers leave every number where it was."""
    records = small_records()
    quality = records.quality.copy()
    quality[[split == "calib" for split in records.split], 0] = 0.0
    assert calib_sizes(replace(records, quality=quality)) == calib_sizes(records)
