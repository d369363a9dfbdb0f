"""The encoder protocol: examples, labels, loading by kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.encoder import Examples, load_encoder
from router_core.errors import BundleError, InputError


def examples(quality: list[list[float]], tolerance: float = 0.0) -> Examples:
    """Examples with placeholder texts."""
    n, k = len(quality), len(quality[0])
    names = tuple(f"tier{j}" for j in range(k))
    numbers = np.array(quality)
    return Examples([f"text {i}" for i in range(n)], ["t"] * n, [""] * n, numbers, np.ones((n, k)), tolerance, names)


def test_passing_is_relative_to_the_reference_tier() -> None:
    """A tier passes when it loses at most the tolerance to the reference, which always passes."""
    some = examples([[0.5, 0.9, 0.6], [0.0, 0.0, 0.0], [0.2, 0.4, 1.0]], tolerance=0.1)
    assert some.passes().tolist() == [[True, True, True], [True, True, True], [False, False, True]]
    assert some.difficulty().tolist() == [0.0, 0.0, 1.0]


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=20),
    st.floats(0, 1),
)
def test_reference_always_passes_and_difficulty_is_its_first_pass(rows: list[list[float]], tolerance: float) -> None:
    """Difficulty equals a plain loop's answer and lies in [0, 1]."""
    some = examples(rows, tolerance)
    passes = some.passes()
    assert passes[:, -1].all()
    assert some.difficulty().tolist() == [row.tolist().index(True) / 2 for row in passes]


def test_take_keeps_rows_together() -> None:
    """Rows come back in the order asked for."""
    some = examples([[0.0, 1.0], [0.5, 1.0], [1.0, 1.0]]).take(np.array([2, 0]))
    assert some.text == ["text 2", "text 0"]
    assert some.quality[:, 0].tolist() == [1.0, 0.0]
    assert len(some) == 2


def test_groups_are_those_given_or_texts_alike() -> None:
    """Without names, case and punctuation do not make another question; names are kept by `take`."""
    some = examples([[0.0, 1.0]] * 3)
    alike = Examples(["Why?", "why", "who"], some.task, some.subtask, some.quality, some.cost, 0.0, some.tiers)
    assert alike.groups().tolist() == [0, 0, 1]
    named = Examples(some.text, some.task, some.subtask, some.quality, some.cost, 0.0, some.tiers, ["a", "b", "a"])
    assert named.groups().tolist() == [0, 1, 0]
    assert named.take([2, 1]).group == ["a", "b"]
    assert named.take([2, 0]).groups().tolist() == [0, 0]


def test_examples_refuse_shapes_that_do_not_fit() -> None:
    """Wrong lengths, wrong shapes and a lone tier are input errors."""
    good = examples([[0.0, 1.0]])
    with pytest.raises(InputError, match="one task and one subtask"):
        Examples(good.text, [], [], good.quality, good.cost, 0.0, good.tiers)
    with pytest.raises(InputError, match="one group"):
        Examples(good.text, good.task, good.subtask, good.quality, good.cost, 0.0, good.tiers, ["a", "b"])
    with pytest.raises(InputError, match="shape"):
        Examples(good.text, good.task, good.subtask, good.quality[:, :1], good.cost, 0.0, good.tiers)
    with pytest.raises(InputError, match="two tiers"):
        Examples(good.text, good.task, good.subtask, good.quality[:, :1], good.cost[:, :1], 0.0, ("only",))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "no part encoder.json"),
        ({"encoder.json": b"\xff\xfe"}, "not a JSON object"),
        ({"encoder.json": b"[1]"}, "not a JSON object"),
        ({"encoder.json": b"{}"}, "not a JSON object"),
        ({"encoder.json": b"[" * 100_000}, "not a JSON object"),
        ({"encoder.json": b'{"kind": "oracle"}'}, "unknown encoder kind 'oracle'"),
        ({"encoder.json": b'{"kind": ["static"]}'}, "unknown encoder kind"),
        ({"encoder.json": b'{"kind": "static"}'}, "encoder.json is malformed"),
        (
            {"encoder.json": b'{"kind": "static", "format": 99, "tiers": ["a", "b"]}'},
            "encoder.json is malformed",
        ),
    ],
    ids=range(9),
)
def test_malformed_parts_are_bundle_errors(parts: dict[str, bytes], message: str) -> None:
    """Missing, unreadable and unknown headers give one clear sentence."""
    with pytest.raises(BundleError, match=message):
        load_encoder(parts)


def test_importing_the_encoder_imports_nothing_heavy() -> None:
    """Serving needs numpy alone."""
    heavy = "{'scipy', 'sklearn', 'pandas', 'numba', 'crepes', 'torch', 'transformers'}"
    code = (
        "import sys, router_core.encoder, router_core.static_encoder, router_core.stack_encoder;"
        f"found = {heavy} & {{name.partition('.')[0] for name in sys.modules}};"
        "sys.exit(', '.join(sorted(found)) or 0)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr
