"""What an alpha would buy is told before calib is read: its outcomes change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bundles import TIERS, small_records

from router_core.errors import InputError
from router_core.fitting.fit_bundle import FitSettings
from router_core.fitting.prospects import prospects


def test_calib_and_test_outcomes_change_nothing_and_more_risk_or_items_cost_no_more() -> None:
    """Worse answers in calib and test leave all figures; the expected cost falls with alpha and with n."""
    records = small_records()
    asked = {"tiers": TIERS, "settings": FitSettings(alpha=0.1), "alphas": (0.2,), "times": (4.0,)}
    look = prospects(records, **asked)
    assert set(look.n) == {"mood", "sum"}
    for task, n in look.n.items():
        assert list(look.by_alpha[task]) == [0.1, 0.2]
        assert list(look.by_n[task]) == [n, 4 * n]
        assert look.by_alpha[task][0.2] <= look.by_alpha[task][0.1] <= 1.0
        assert look.by_n[task][4 * n] <= look.by_n[task][n] == look.by_alpha[task][0.1]
    quality = records.quality.copy()
    quality[[split != "train" for split in records.split], 0] = 0.0
    assert prospects(replace(records, quality=quality), **asked) == look
    assert look.picture()._repr_png_()[:4] == b"\x89PNG"
    assert [row["task"] for row in look.table()] == list(look.n)


def test_an_alpha_that_is_none_is_refused() -> None:
    """Levels are checked as for a certificate."""
    with pytest.raises(InputError, match="between 0 and 1"):
        prospects(small_records(), tiers=TIERS, alphas=(1.5,), times=())
