"""Which promise a query falls under, for each way of cutting the traffic."""

from __future__ import annotations

import pytest

from router_core.scopes import Scopes

ONE = {"qa": ("law", "art")}
TWO = {"qa": ("law", "art"), "sum": ()}


@pytest.mark.parametrize(
    ("subtasks", "by", "scopes"),
    [
        (ONE, "task", ["qa", "qa/*"]),
        (ONE, "leaf", ["qa/law", "qa/art", "qa/*"]),
        (ONE, "all", ["all", "qa/*"]),
        (TWO, "task", ["qa", "qa/*", "sum", "*"]),
        (TWO, "leaf", ["qa/law", "qa/art", "qa/*", "sum", "*"]),
        (TWO, "all", ["all", "*"]),
        ({"sum": ()}, "all", ["all"]),
        ({"sum": ()}, "leaf", ["sum"]),
    ],
)
def test_scopes(subtasks: dict[str, tuple[str, ...]], by: str, scopes: list[str]) -> None:
    """Every scope that a label can resolve to is there, once; two policies each are promised."""
    found = Scopes(subtasks, by)  # type: ignore[arg-type]
    assert [view.scope for view in found.views] == scopes
    assert found.promises == 2 * len(scopes)
    labels = [None, "sum", "qa", "qa/new", *(f"qa/{name}" for name in ("law", "art"))]
    reached = {view.scope for label in labels if (view := found.resolve(label)) is not None}
    assert reached == set(scopes)


def test_labels_are_told_to_the_models() -> None:
    """One certificate over all tasks still routes by label; masked scopes hide it."""
    found = Scopes(TWO, "all")
    view = found.resolve("qa/law")
    assert view is not None
    assert (view.scope, view.label, view.models) == ("all", "qa/law", "named")
    masked = found.resolve("qa/new")
    assert masked is not None
    assert (masked.scope, masked.label, masked.models) == ("*", "", "masked")
    assert found.resolve("chess") is None
    leaf = Scopes(TWO, "leaf").resolve("qa/art")
    assert leaf is not None
    assert (leaf.scope, leaf.models) == ("qa/art", "named")
