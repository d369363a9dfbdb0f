"""The stack as served: what it computes, and that damaged parts are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from tiny_encoder import fixture_parts

from router_core.arrays import dump_arrays, load_arrays
from router_core.baselines import Neighbours
from router_core.encoder import Encoder, Prediction, load_encoder
from router_core.errors import BundleError
from router_core.folder import read_folder, write_folder
from router_core.onnx_encoder import OnnxEncoder
from router_core.stack_encoder import StackEncoder, StackWeights, log_odds, vote_odds

Parts = dict[str, bytes]
LABELS = [("sums", "short"), ("sums", "long")]


@cache
def base() -> OnnxEncoder:
    """The committed tiny encoder."""
    return OnnxEncoder.from_parts(fixture_parts())


def stacked(*, voting: bool = True) -> StackEncoder:
    """Two equal bases and twenty voters, with weights drawn once."""
    rng = np.random.default_rng(0)
    near = Neighbours(
        rng.standard_normal((20, base().hidden_size)).astype(np.float16).astype(np.float32),
        rng.integers(0, 2, (20, 2)).astype(np.uint8),
        5,
    )
    blank = StackWeights.blank(len(LABELS) + 1, 2, 2, voting=voting)
    weights = StackWeights(**{name: rng.random(value.shape) for name, value in vars(blank).items()})
    return StackEncoder([base(), base()], 1, LABELS, weights, near if voting else None)


def same(one: Prediction, two: Prediction) -> bool:
    """Equality to the last bit."""
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in Prediction.__dataclass_fields__)


@pytest.mark.parametrize("voting", [True, False])
def test_parts_give_the_encoder_back(voting: bool) -> None:
    """The loaded stack fulfils the protocol, keeps every byte and predicts the same."""
    made = stacked(voting=voting)
    served = load_encoder(made.parts())
    assert isinstance(served, Encoder)
    assert served.kind == "stack"
    assert served.tiers == base().tiers
    assert served.hidden_size == base().hidden_size
    assert served.parts() == made.parts()
    for label in ((None, None), ("sums", "long"), ("sums", None), ("never", "seen")):
        assert same(made.predict("prove the sum", *label), served.predict("prove the sum", *label))
    assert np.array_equal(served.embed("prove the sum"), base().embed("prove the sum"))


def test_the_prediction_is_the_weighted_sum() -> None:
    """Log odds of bases and votes, weighed by the label's row; the reference tier passes and has no gap."""
    made = stacked()
    one = base().predict("name the letter", "sums", "long")
    risk = made.neighbours.vote(one.hidden) if made.neighbours else np.zeros(2)
    passed = 5 * (1 - risk)
    votes = np.log((passed + 0.5) / (5 - passed + 0.5))
    row, weights = 2, made.weights
    own = log_odds(one.pass_probability[:-1])
    heard = weights.pass_weight[row][:, :2].sum(axis=1) * own + weights.pass_weight[row][:, 2] * votes
    odds = heard + weights.pass_offset[row]
    found = made.predict("name the letter", "sums", "long")
    chance = 1 / (1 + np.exp(-odds))
    assert found.pass_probability[:-1] == pytest.approx(chance, abs=1e-9)
    gap = weights.gap_weight[row][:, :2].sum(axis=1) * one.gap[:-1] + weights.gap_weight[row][:, 2] * (1 - chance)
    assert found.gap[:-1] == pytest.approx(np.clip(gap + weights.gap_offset[row], -1, 1), abs=1e-9)
    hard = weights.difficulty_weight[row].sum() * np.log(one.difficulty / (1 - one.difficulty))
    assert found.difficulty == pytest.approx(1 / (1 + np.exp(-hard - weights.difficulty_offset[row])), abs=1e-9)
    assert (found.pass_probability[-1], found.gap[-1]) == (1.0, 0.0)
    assert np.array_equal(found.hidden, one.hidden)


def test_votes_are_finite_at_both_ends() -> None:
    """All passed and none passed are large, opposite and finite; fewer voters than k are counted as they are."""
    near = Neighbours(np.eye(4, dtype=np.float32), np.ones((4, 1), np.uint8), 50)
    most, least = vote_odds(near, np.array([0.0])), vote_odds(near, np.array([1.0]))
    assert most[0] == pytest.approx(np.log(4.5 / 0.5))
    assert least[0] == pytest.approx(-most[0])


def test_extreme_weights_stay_within_range() -> None:
    """Odds that would overflow give probabilities inside (0, 1) and gaps inside [-1, 1]."""
    made = stacked()
    for sign in (1.0, -1.0):
        huge = StackWeights(**{name: np.full_like(value, sign * 1e6) for name, value in vars(made.weights).items()})
        weights = replace(huge, pass_weight=huge.pass_weight[:, :, :2])  # nobody votes
        found = StackEncoder(made.bases, 1, LABELS, weights, None).predict("prove", None, None)
        assert ((found.pass_probability[:-1] > 0) & (found.pass_probability[:-1] < 1)).all()
        assert (np.abs(found.gap) <= 1).all()
        assert 0.0 <= found.difficulty <= 1.0


def test_parts_fit_into_a_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The names of the bases' parts are plain file names, none of which a bundle keeps for others."""
    parts = stacked().parts()
    target = tmp_path_factory.mktemp("folder") / "b"
    write_folder(target, {"id": "x"}, parts)
    assert read_folder(target)[1] == parts
    assert not any(name.startswith(("baseline", "tuned")) for name in parts)
    assert same(load_encoder(read_folder(target)[1]).predict("name", None, None), stacked().predict("name", None, None))


def header(**changes: object) -> Callable[[Parts], Parts]:
    """Parts with another header."""
    return lambda parts: parts | {"encoder.json": json.dumps(json.loads(parts["encoder.json"]) | changes).encode()}


def arrays(**changes: Any) -> Callable[[Parts], Parts]:
    """Parts with other arrays; None takes one out."""

    def change(parts: Parts) -> Parts:
        found = load_arrays("encoder.npz", parts["encoder.npz"])
        for name, value in changes.items():
            found[name] = value(found[name]) if callable(value) else value
        return parts | {"encoder.npz": dump_arrays({name: value for name, value in found.items() if value is not None})}

    return change


def without(name: str) -> Callable[[Parts], Parts]:
    """Parts less one."""
    return lambda parts: {key: value for key, value in parts.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (header(format=99), "encoder.json is malformed"),
        (header(bases=0), "encoder.json is malformed"),
        (header(bases="many"), "encoder.json is malformed"),
        (header(hidden=2), "encoder.json is malformed"),
        (header(neighbours=0), "encoder.json is malformed"),
        (header(neighbours="5"), "encoder.json is malformed"),
        (header(labels=[["sums"]]), "encoder.json is malformed"),
        (header(labels=[]), "encoder.npz is malformed"),
        (header(tiers=["a", "b", "c"]), r"base0\.\* are of other tiers"),
        (header(bases=3), r"base2\.\* are malformed.*no part encoder.json"),
        (without("encoder.npz"), "no part encoder.npz"),
        (without("base1.encoder.onnx"), r"base1\.\* are malformed.*encoder.onnx"),
        (lambda parts: parts | {"base1.encoder.json": b"{"}, r"base1\.\* are malformed"),
        (lambda parts: parts | {"base1.encoder.json": parts["encoder.json"]}, "a stack holds no stack"),
        (lambda parts: parts | {"encoder.npz": b"PK"}, "not a readable array archive"),
        (arrays(pass_weight=None), "encoder.npz is malformed"),
        (arrays(pass_weight=lambda a: a[:, :, :2]), "pass_weight"),
        (arrays(gap_offset=lambda a: a * np.nan), "gap_offset"),
        (arrays(difficulty_offset=lambda a: a.astype(np.float32)), "difficulty_offset"),
        (arrays(hidden=lambda a: a[:, :-1]), "hidden"),
        (arrays(hidden=lambda a: a * np.float16(np.inf)), "hidden"),
        (arrays(passed=lambda a: a + np.uint8(2)), "passed"),
        (arrays(passed=lambda a: a[:-1]), "passed"),
        (arrays(hidden=lambda a: a[:0], passed=lambda a: a[:0]), "passed"),
    ],
    ids=range(24),
)
def test_malformed_parts_are_bundle_errors(change: Callable[[Parts], Parts], message: str) -> None:
    """Every damage is one clear sentence."""
    with pytest.raises(BundleError, match=message):
        load_encoder(change(stacked().parts()))
