"""Which scope a query falls under, where it starts, and what happens to labels never calibrated."""

import threading
import warnings
from pathlib import Path

import pytest

from router_core import Answer, Router
from router_core.router import Scopes

ONE = Scopes({"t": ()})
LEAVES = Scopes({"t": ("a", "b")})
SEVERAL = Scopes({"t": ("a",), "u": ()})


@pytest.mark.parametrize(
    ("scopes", "label", "scope", "task", "subtask"),
    [
        (ONE, None, "t", "t", None),
        (ONE, "t", "t", "t", None),
        (ONE, "t/anything", "t", "t", None),
        (LEAVES, None, "t/*", "t", None),
        (LEAVES, "t", "t/*", "t", None),
        (LEAVES, "t/a", "t", "t", "a"),
        (LEAVES, "t/never", "t/*", "t", None),
        (SEVERAL, None, "*", None, None),
        (SEVERAL, "t/a", "t", "t", "a"),
        (SEVERAL, "u", "u", "u", None),
    ],
)
def test_which_task(scopes: Scopes, label: str | None, scope: str, task: str | None, subtask: str | None) -> None:
    """The rule of DESIGN.md, case by case."""
    view = scopes.resolve(label)
    assert view is not None
    assert (view.scope, view.task, view.subtask) == (scope, task, subtask)


def test_unknown_task_escalates_and_warns_once(small_bundle: Path) -> None:
    """A named task that was never calibrated goes to the reference, with one warning."""
    router = Router.load(small_bundle)
    with pytest.warns(UserWarning, match="never calibrated"):
        first = router.decide("hello", "poetry")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = router.decide("hello", "poetry")
    assert first.tier == second.tier == "large"
    assert first.certificate is None
    assert "never calibrated" in first.reason


@pytest.mark.parametrize("text", ["", " ", "x" * 100_000, "a\x00b", "😀😀", "שלום", "\ud800"])
@pytest.mark.parametrize("task", [None, "mood", "sum/none"])
def test_strange_texts_are_decided(small_bundle: Path, text: str, task: str | None) -> None:
    """Any text gets a decision, the same one twice."""
    router = Router.load(small_bundle)
    decision = router.decide(text, task)
    assert decision.tier in router.portfolio.names
    assert decision == router.decide(text, task)


def test_decision_says_why(small_bundle: Path) -> None:
    """Every tier has a pass probability, the reference passes by definition, and the reason has numbers."""
    decision = Router.load(small_bundle).decide("Quickly add 2 and 3 for ticket 7 of the bridge.", "sum")
    assert set(decision.pass_probability) == {"small", "medium", "large"}
    assert decision.pass_probability["large"] == 1.0
    assert 0.0 <= decision.difficulty <= 1.0
    assert decision.reason


def test_prices_fall_back_to_estimates(small_bundle: Path) -> None:
    """The caller's figure wins, then reported tokens, then four bytes a token."""
    router = Router.load(small_bundle)
    assert router.price("small", "x", Answer("y", cost_usd=0.5)) == 0.5
    assert router.price("large", "x", Answer("y", 1_000_000, 0)) == pytest.approx(10.0)
    assert router.price("large", "x" * 400, Answer("")) == pytest.approx(100 * 10 / 1e6)


def test_threads_agree(small_bundle: Path) -> None:
    """One router may decide from several threads at once."""
    router = Router.load(small_bundle)
    texts = [f"Carefully add {i} and {i + 1} for ticket {i} of the harbour." for i in range(40)]
    alone = [router.decide(text, "sum") for text in texts]
    found: dict[int, list[object]] = {}

    def work(number: int) -> None:
        found[number] = [router.decide(text, "sum") for text in texts]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == alone for number in range(4))
