"""The pure parts of the six-task benchmark: parts and folds, qualities, price lists, the pilot's arithmetic."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

_HERE = Path(__file__).resolve().parents[2] / "benchmarks/six_tasks"
if not _HERE.is_dir():
    pytest.skip("reads the benchmark's scripts, which only a checkout has", allow_module_level=True)
pytest.importorskip("scipy")
_NAMES = ("protocol", "data", "served", "scoring", "prices", "figures", "pilot")


@pytest.fixture(scope="module")
def six() -> Iterator[SimpleNamespace]:
    """The scripts as modules; their names are gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(_HERE))
        for name in _NAMES:
            patch.delitem(sys.modules, name, raising=False)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in _NAMES})
        for name in (*_NAMES, "wide"):
            sys.modules.pop(name, None)


def _items(six, count: int, split: str, start: int = 0):
    return [
        six.data.Item(f"q{i}", "cs_intent", f"text number {i}", "a", split, group=f"g{i // 3}")
        for i in range(start, start + count)
    ]


def test_parts_are_disjoint_and_as_large_as_the_protocol_says(six):
    """No group is in two of learners, router and stream, and shares come out."""
    items = six.data.seated(_items(six, 6000, "train"))
    side = {"seed": 0, "tiers": 0, "router": 1, "stream": 2}
    sides: dict[str, set[int]] = {}
    for item in items:
        sides.setdefault(item.group, set()).add(side[item.part])
    assert all(len(found) == 1 for found in sides.values())
    for part, share in six.protocol.PARTS.items():
        assert sum(item.part == part for item in items) / len(items) == pytest.approx(share, abs=0.03)


def test_a_text_of_calib_or_test_is_no_train_text(six):
    """Exact repeats are dropped from train, and from calib where test has them."""
    held = [*_items(six, 5, "calib", 10), *_items(six, 5, "test", 13)]
    found = six.data.seated([*_items(six, 30, "train"), *held])
    texts = {split: {item.prompt for item in found if item.split == split} for split in ("train", "calib", "test")}
    assert not texts["train"] & (texts["calib"] | texts["test"])
    assert not texts["calib"] & texts["test"]
    assert len(texts["test"]) == 5


def test_folds_and_rounds_cut_once(six):
    """Four equal folds and three equal rounds hold every query once."""
    calib = _items(six, 403, "calib")
    folds = six.data.calib_folds(calib)
    assert sorted(item.query_id for fold in folds for item in fold) == sorted(item.query_id for item in calib)
    assert {len(fold) for fold in folds} <= {100, 101}
    stream = [item for item in six.data.seated(_items(six, 900, "train")) if item.part == "stream"]
    rounds = six.data.rounds_of(stream)
    assert sorted(i.query_id for part in rounds for i in part) == sorted(i.query_id for i in stream)
    assert max(map(len, rounds)) - min(map(len, rounds)) <= 1


def test_qualities(six):
    """Entities count with repeats, lists as sets, tau decides generation."""
    score = six.scoring
    assert score.entity_f1("[]", "[]") == 1.0
    assert score.entity_f1('[["Ann", "PER"]]', '[["Ann", "PER"], ["Ann", "PER"]]') == pytest.approx(2 / 3)
    assert score.entity_f1("no json", '[["Ann", "PER"]]') == 0.0
    assert score.label_f1('["a", "b"]', '["a"]') == pytest.approx(2 / 3)
    assert score.tau_of({"t1": [0.1, 0.2], "t2": [0.2, 0.4, 0.9]}) == 0.4
    half = score.threshold(lambda answer, gold: float(answer), 0.5)
    assert (half("0.5", ""), half("0.49", "")) == (1.0, 0.0)


def test_always_t2_costs_a_hundredth_and_a_quarter(six):
    """P26: at nominal prices always-T2 is .0125 of always-reference exactly, and every attempt is paid for."""
    usd = six.prices.nominal_usd(["a", "a longer prompt", "ä" * 100])
    t2, last = six.protocol.TIERS.index("t2"), -1
    assert usd[:, t2].sum() / usd[:, last].sum() == pytest.approx(0.0125, abs=1e-15)
    tried = np.array([[True, True, False, True]] * 3)
    served = six.served.Served(np.full(3, 3), tried, np.ones(3), np.ones(3), np.zeros(3), np.zeros(3)).priced(usd)
    assert served.cost.sum() / served.always.sum() == pytest.approx(0.01 / 8 + 0.1 / 8 + 1)
    tier = six.prices.nominal_portfolio().tiers[t2]
    assert tier.price(six.prices.tokens("a longer prompt"), 50) == pytest.approx(usd[1, t2])


def test_measured_prices_follow_cpu_time(six):
    """A cheap answer costs its CPU seconds, the reference its declared tokens."""
    usd = six.prices.measured_usd(["x" * 400], ["y" * 40], {"t1": 0.0, "t2": 3.6, "t3": 7.2})
    per_hour = six.protocol.USD_PER_CPU_HOUR
    assert usd[0].tolist() == pytest.approx([0.0, per_hour / 1000, per_hour / 500, (100 * 10 + 10 * 30) / 1e6])


def _served(six, tier: list[int]):
    n, last = len(tier), 3
    tried = np.zeros((n, 4), bool)
    tried[:, 1] = True
    tried[np.array(tier) == last, last] = True
    quality = np.where(np.arange(n) % 4 == 0, 0.0, 1.0)
    quality[np.array(tier) == last] = 1.0
    usd = np.full((n, 4), 1.0) * np.array([0.00125, 0.0125, 0.1, 1.0])
    return six.served.Served(np.array(tier), tried, quality, np.ones(n), np.zeros(n), np.zeros(n)).priced(usd)


def test_figures_count_bad_answers_once(six):
    """Joint risk is over all queries, selective over those served cheaply."""
    told = six.figures.figures(_served(six, [1] * 60 + [3] * 40))
    assert told["joint_risk"] == pytest.approx(15 / 100)
    assert told["selective_risk"] == pytest.approx(15 / 60)
    assert told["cost_ratio"] == pytest.approx(0.0125 + 0.4)
    assert told["quality_ratio"] == pytest.approx(0.85)
    assert six.figures.weighted({"a": _served(six, [1] * 60 + [3] * 40), "b": _served(six, [3] * 300)}) == {
        "cost_ratio": pytest.approx((0.4125 + 3 * 1.0125) / 4),
        "quality_ratio": pytest.approx((0.85 + 3) / 4),
    }


def test_pilot_replay(six):
    """A release that always escalates is never faster than the reference, one that never does is."""
    quick = {"a": six.pilot.Latency([1.0], {"t1": [2.0], "t2": [5.0], "t3": [9.0]})}
    cheap = six.pilot.replay({"a": _served(six, [1] * 50)}, quick)
    assert (cheap["p50_ms"], cheap["p99_ms"]) == (6.0, 6.0)
    assert cheap["cost_ratio"] == pytest.approx(0.0125)
    assert cheap["acceptance"] == pytest.approx(37 / 50, abs=0.01)
    assert cheap["always_p50_ms"] == pytest.approx(six.protocol.DECLARED["latency_p50_ms"], rel=0.02)
    assert cheap["always_p99_ms"] == pytest.approx(six.protocol.DECLARED["latency_p99_ms"], rel=0.02)
    dear = six.pilot.replay({"a": _served(six, [3] * 50)}, quick)
    assert dear["p50_ms"] > cheap["always_p50_ms"]
    assert dear["acceptance"] == 1.0


def test_bounds_of_perfect_knowledge(six):
    """An oracle pays for the cheapest right tier, and leaves alpha bad where that saves most."""
    right = np.array([[True, True]] * 40 + [[False, True]] * 40 + [[False, False]] * 20)
    usd = np.tile([0.00125, 0.0125, 1.0], (100, 1))
    told = six.figures.bounds(right, usd)
    assert (told["right"], told["any"]) == (0.8, 0.8)
    assert told["oracle"] == pytest.approx((40 * 0.00125 + 40 * 0.0125 + 20) / 100)
    assert told["oracle_alpha"] == pytest.approx(told["oracle"] - 5 * (1 - 0.00125) / 100)
    assert told["perfect"] == pytest.approx(0.2125)
    assert told["perfect_alpha"] == pytest.approx(0.1625)


def test_what_t2_learns_is_clear_of_calib_and_test(six):
    """Near-duplicates of what certifies or is scored are left out; those of the router's part are not."""
    held = [
        six.data.Item("c", "cs_intent", "where is the card that I ordered three weeks ago today", "a", "calib"),
        six.data.Item("r", "cs_intent", "how do I change the address that you send my statements to", "a", "train"),
    ]
    given = [
        six.data.Item("1", "cs_intent", "where is the card that I ordered three weeks ago today?!", "a", "train"),
        six.data.Item("2", "cs_intent", "how do I change the address that you send my statements to!", "a", "train"),
        six.data.Item("3", "cs_intent", "a text that is like none of the others in any way", "a", "train"),
    ]
    assert [item.query_id for item in six.data.clear_of_held(given, held)] == ["2", "3"]


def test_the_wide_students_graph_gives_what_was_fitted(six):
    """Word pieces, hashed pairs, vector and neighbours come out of ONNX as they do of scikit-learn."""
    pytest.importorskip("torch", reason="needs routenlp[train]")
    onnx = pytest.importorskip("onnx", reason="needs routenlp[train]")
    import onnxruntime

    wide = importlib.import_module("wide")
    rng = np.random.default_rng(0)
    table = rng.normal(size=(30, 6)).astype(np.float32)
    make = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
                onnx.helper.make_node("ReduceMean", ["rows"], ["features"], axes=[1], keepdims=0),
            ],
            "body",
            [make(name, onnx.TensorProto.INT64, ["b", "t"]) for name in ("input_ids", "attention_mask")],
            [make("features", onnx.TensorProto.FLOAT, ["b", 6])],
            [onnx.numpy_helper.from_array(table, "table")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 14)],
        ir_version=8,
    ).SerializeToString()
    ids = [rng.integers(0, 30, rng.integers(2, 9)) for _ in range(60)]
    options = wide.Wide(near=0.5, bits=4)
    vectors = np.stack([table[one].mean(axis=0) for one in ids])
    rows = wide.Rows.of(options.pieces(ids, 30), vectors, np.arange(60) % 3)
    made = options.fitted(rows, 4, seed=0)
    session = onnxruntime.InferenceSession(made.graph(body, 30))
    found = [
        session.run(["logits"], {"input_ids": one[None, :], "attention_mask": np.ones_like(one)[None, :]})[0][0]
        for one in ids
    ]
    assert np.stack(found) == pytest.approx(made.logits(rows), abs=1e-3)
    assert made.logits(rows).argmax(axis=1).max() < 3
