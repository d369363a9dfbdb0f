"""The picture of an evaluation: a whole PNG, legible whatever the names and however many scopes."""

from __future__ import annotations

import copy
import struct
from pathlib import Path
from typing import Any

import pytest
from bundles import small_records

from router_core.evaluation import evaluate
from router_core.plots import _draw, plot_evaluation


@pytest.fixture(scope="module")
def report(small_bundle: Path) -> dict[str, Any]:
    """Two tasks and the mix of both, three tiers."""
    return evaluate(small_bundle, small_records())


def _size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def _many(report: dict[str, Any], count: int) -> dict[str, Any]:
    tasks = {f"a rather long name of a task, number {i}": report["tasks"]["mood"] for i in range(count)}
    return {**report, "tasks": {**tasks, "*": report["tasks"]["*"]}}


def _long_tiers(report: dict[str, Any]) -> dict[str, Any]:
    """The same report on tiers with names no picture has room for."""
    told = copy.deepcopy(report)
    for scope in (*told["tasks"].values(), told["overall"]):
        policies = scope["policies"]
        scope["policies"] = {
            name + "-of-a-provider-with-$-and-a-long-name" * name.startswith("always"): v
            for name, v in policies.items()
        }
    return told


def _drawn(text: Any, figure: Any) -> bool:
    """Whether a text is on the picture: not empty, not on a hidden panel, not a tick outside its axis."""
    if not text.get_text().strip() or not text.get_visible():
        return False
    for axes in figure.findobj(lambda artist: hasattr(artist, "xaxis")):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if text in (tick.label1, tick.label2):
                    return axes.get_visible() and low <= tick.get_loc() <= high
        if text.axes is axes and not axes.get_visible():
            return False
    return True


def _overlaps(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of texts of the picture that touch."""
    from matplotlib.text import Text

    figure = _draw(report)
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.findobj(Text) if _drawn(text, figure)]
    frame = figure.bbox
    cut = [
        (text, "the edge")
        for text, b in boxes
        if b.x0 < frame.x0 or b.x1 > frame.x1 or b.y0 < frame.y0 or b.y1 > frame.y1
    ]
    return cut + [
        (one, other)
        for i, (one, a) in enumerate(boxes)
        for other, b in boxes[i + 1 :]
        if a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
    ]


def test_one_scope_is_one_row_and_a_repeat_gives_the_same_file(report: dict[str, Any], tmp_path: Path) -> None:
    """A one-task report gives a PNG of 11 by 5.6 inches at 150 dots, and nothing else in the folder."""
    single = {**report, "tasks": {"mood": report["tasks"]["mood"]}}
    for name in ("one.png", "two.png"):
        plot_evaluation(single, tmp_path / name)
    assert _size(tmp_path / "one.png") == (1650, 840)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "two.png"]


@pytest.mark.parametrize(("tasks", "rows"), [(2, 1), (9, 2)])
def test_at_most_six_scopes_are_drawn(report: dict[str, Any], tmp_path: Path, tasks: int, rows: int) -> None:
    """All queries and at most five scopes more: two further rows of three, never a third."""
    plot_evaluation(_many(report, tasks), tmp_path / "p.png")
    assert _size(tmp_path / "p.png") == (1650, round(150 * (5.6 + 3.9 * rows)))


@pytest.mark.parametrize("tasks", [1, 2, 9])
def test_no_text_overlaps_or_is_cut_off(report: dict[str, Any], tasks: int) -> None:
    """Titles, ticks, labels and names stay apart and inside, with long names too."""
    assert _overlaps(_many(report, tasks)) == []


def test_long_names_of_tiers_have_room(report: dict[str, Any]) -> None:
    """Tier names are shortened, never run into the panel beside them."""
    assert _overlaps(_long_tiers(report)) == []


def test_the_overlap_check_notices_a_title_that_is_too_long(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant without shortened names fails the check above."""
    monkeypatch.setattr("router_core.plots._cut", lambda name: name + 20 * "x")
    assert _overlaps(_many(report, 9))


def test_uncertified_free_and_hopeless_reports_are_drawn(report: dict[str, Any], tmp_path: Path) -> None:
    """A report without certificate, ratios, intervals or frontier still gives a picture, and says what is missing."""
    bare = copy.deepcopy({**report, "tasks": {"mood": report["tasks"]["mood"]}})
    told = bare["tasks"]["mood"]
    told["certificate"] |= {"certified": False, "bad": 0}
    told["frontier"] = {}
    for figures in told["policies"].values():
        figures.update(dict.fromkeys(("cost_ratio", "cost_ratio_ci", "quality_ratio", "quality_ratio_ci")))
    told["policies"]["knn_certified"] = None
    plot_evaluation(bare, tmp_path / "bare.svg")
    text = (tmp_path / "bare.svg").read_text()
    assert text.startswith("<?xml")
    assert "no certificate at joint risk" in _texts(bare)
    assert "knn" not in _texts(bare)


def test_policies_that_certified_nothing_say_so(report: dict[str, Any]) -> None:
    """A policy that sends everything to the reference is not labelled certified."""
    bare = copy.deepcopy({**report, "tasks": {"mood": report["tasks"]["mood"]}})
    share = bare["tasks"]["mood"]["policies"]["routenlp"]["share"]
    share |= {"small": 0.0, "medium": 0.0, "large": 1.0}
    assert "routenlp, none certified" in _texts(bare)
    assert "routenlp, none certified" not in _texts(report)


def _texts(report: dict[str, Any]) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in _draw(report).findobj(Text))
