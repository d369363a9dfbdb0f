"""Routes to look at: counts and dollars that add up, pictures that are drawn whatever the names."""

from __future__ import annotations

import pytest

from routenlp_integrations.notebook import by_tier, demo_logs, demo_records, picture_routes, picture_street, questions
from router_core import Answer, Attempt, InputError, Route
from router_core.figures import GRID, INK, PALETTE, Picture
from router_core.records import read_records

TIERS = ("small", "large $_{x}$ <b>")


def _route(tier: str, *costs: float) -> Route:
    names = (*TIERS[: len(costs) - 1], tier)
    attempts = tuple(
        Attempt(name, None if name == tier else 0.25, cost, name == tier, "because $1 <i> " + "x" * 500)
        for name, cost in zip(names, costs, strict=True)
    )
    return Route(tier, Answer("yes"), attempts, sum(costs), "mood", "mood", "cascade", "b", None, "because")


ROUTES = [_route("small", 0.01), _route(TIERS[1], 0.01, 0.5), _route("small", 0.02)]


def test_what_was_paid_and_saved_adds_up() -> None:
    """An escalated query pays for both tiers; the sums of the tiers are those of all."""
    small, large, every = by_tier(ROUTES, [0.5, 0.5, 0.6], TIERS)
    assert (small["queries"], large["queries"], every["queries"]) == (2, 1, 3)
    assert small["paid, all attempts"] == "$0.0300"
    assert small["reference alone"] == "$1.10"
    assert large["saved"] == "-2.0 %"
    assert every["saved"] == f"{100 * (1.6 - 0.54) / 1.6:.1f} %"
    for wrong in ([0.5], []):
        with pytest.raises(InputError, match="one cost for each route"):
            by_tier(ROUTES, wrong, TIERS)


def test_pictures_are_drawn_with_names_that_mean_something_to_others() -> None:
    """Dollars, mathematics, markup and endless reasons are drawn as text; the same routes give the same bytes."""
    dots, street = picture_routes(ROUTES, [0.5, 0.5, 0.6], TIERS), picture_street(ROUTES[1])
    for picture in (dots, street):
        assert isinstance(picture, Picture)
        assert picture._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "small 2" in repr(dots)
    assert street.png == picture_street(ROUTES[1]).png


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_inks_can_be_read_on_white_and_on_dark(page: str) -> None:
    """Text reaches 4 to 1, lines and marks 2.5 to 1; ink of the one page's own colour (the mutant) reaches neither."""
    assert _contrast(INK, page) > 4.0
    assert min(_contrast(colour, page) for colour in PALETTE) > 2.5
    assert min(_contrast("#222222", "#111111"), _contrast("#eeeeee", "#ffffff")) < 2.5
    assert len(GRID) == 9, "the grid is transparent"


def test_the_logs_are_the_records(tmp_path: object) -> None:
    """The Parquet file reads back as the packaged records, and questions are their test rows."""
    records = demo_records()
    again = read_records(demo_logs(f"{tmp_path}/logs.parquet"))
    assert again.prompt == records.prompt
    assert (again.quality == records.quality).all()
    asked = questions(records)
    assert len(asked) == 304
    assert all(q.reference_usd > 0 for q in asked)
