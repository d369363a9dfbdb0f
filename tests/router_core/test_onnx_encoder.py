"""The transformer router as served, on a committed tiny graph: no torch is needed here."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoder import FIXTURE, MAX_TOKENS, fixture_parts, tiny_examples, tokenizer_json

from router_core.encoder import Encoder, Prediction, load_encoder
from router_core.errors import BundleError
from router_core.onnx_encoder import OnnxEncoder, open_session
from router_core.text_tokens import CLIP, TextTokens


@cache
def encoder() -> OnnxEncoder:
    """The committed encoder."""
    return OnnxEncoder.from_parts(fixture_parts())


def same(one: Prediction, two: Prediction) -> bool:
    """Equality to the last bit."""
    return (
        np.array_equal(one.pass_probability, two.pass_probability)
        and one.difficulty == two.difficulty
        and np.array_equal(one.hidden, two.hidden)
        and np.array_equal(one.gap, two.gap)
    )


def changed(**changes: object) -> dict[str, bytes]:
    """The committed parts with another header."""
    parts = fixture_parts()
    header = json.loads(parts["encoder.json"]) | changes
    return parts | {"encoder.json": json.dumps(header).encode()}


def test_fixture_is_small() -> None:
    """The committed parts stay below 200 KB."""
    assert sum(len(part) for part in fixture_parts().values()) < 200_000


def test_load_encoder_finds_the_kind() -> None:
    """`load_encoder` reads the parts back as an encoder that fulfils the protocol, and keeps every byte."""
    found = load_encoder(fixture_parts())
    assert isinstance(found, Encoder)
    assert isinstance(found, OnnxEncoder)
    assert found.kind == "onnx"
    assert found.tiers == ("small", "medium", "large")
    assert found.parts() == load_encoder(found.parts()).parts()
    assert found.parts()["encoder.onnx"] == (FIXTURE / "encoder.onnx").read_bytes()


@given(st.text(st.characters(), max_size=200), st.sampled_from([None, "sums", "letters", "never seen"]))
@settings(max_examples=100, deadline=None)
def test_every_text_gets_a_valid_prediction(text: str, task: str | None) -> None:
    """Probabilities, difficulty, gaps and hidden vector have their shape, type and range for every string."""
    found = encoder().predict(text, task, None)
    assert found.pass_probability.dtype == found.gap.dtype == found.hidden.dtype == np.float64
    assert found.pass_probability.shape == found.gap.shape == (3,)
    assert ((found.pass_probability > 0) & (found.pass_probability <= 1)).all()
    assert found.pass_probability[-1] == 1.0
    assert found.gap[-1] == 0.0
    assert (np.abs(found.gap) <= 1).all()
    assert 0.0 <= found.difficulty <= 1.0
    assert found.hidden.shape == (encoder().hidden_size,)
    assert np.array_equal(found.hidden, encoder().embed(text))


def test_labels_fall_back_one_level_each() -> None:
    """None, an unseen task and an unseen subtask count as masked; named labels differ."""
    text = "prove the sum item 3"
    masked = encoder().predict(text, None, None)
    assert same(encoder().predict(text, "unseen", "short"), masked)
    assert same(encoder().predict(text, None, "short"), masked)
    task = encoder().predict(text, "sums", None)
    assert same(encoder().predict(text, "sums", "unseen"), task)
    assert not same(task, masked)
    assert not same(encoder().predict(text, "sums", "long"), task)
    assert np.array_equal(task.hidden, masked.hidden)


def test_the_router_learned_what_there_is_to_learn() -> None:
    """The word that makes a query hard lowers the small tier's pass probability."""
    easy = encoder().predict("name the sum item 5", "sums", "short")
    hard = encoder().predict("prove the sum item 5", "sums", "short")
    assert easy.pass_probability[0] > hard.pass_probability[0] + 0.2
    assert easy.difficulty < hard.difficulty


def test_threads_and_memory_change_no_bit() -> None:
    """Concurrent, repeated and fresh predictions are equal."""
    texts = tiny_examples(40, seed=9).text
    alone = [OnnxEncoder.from_parts(fixture_parts()).predict(text, "sums", "short") for text in texts[:5]]
    shared = OnnxEncoder.from_parts(fixture_parts())
    expected = [shared.predict(text, "sums", "short") for text in texts]
    assert all(same(one, two) for one, two in zip(alone, expected, strict=False))
    wrong: list[str] = []

    def work() -> None:
        wrong.extend(
            text
            for text, one in zip(texts, expected, strict=True)
            if not same(shared.predict(text, "sums", "short"), one)
            or not np.array_equal(shared.embed(text), one.hidden)
        )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_remembered_texts_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of repeated texts is bounded, and a forgotten text is predicted the same again."""
    monkeypatch.setattr("router_core.onnx_encoder._REMEMBERED", 3)
    found = OnnxEncoder.from_parts(fixture_parts())
    first = found.predict("name the sum", None, None)
    for i in range(10):
        found.predict(f"name the sum item {i}", None, None)
    assert len(found._known) == 3
    assert same(found.predict("name the sum", None, None), first)


def test_long_texts_keep_head_and_tail() -> None:
    """A text longer than the limit is cut in the middle: its ends count, its middle does not."""
    tokens = TextTokens(tokenizer_json(), MAX_TOKENS)
    short = tokens.ids("name the sum")
    assert short[0] == 2
    assert short[-1] == 3
    middle = "letter " * 300
    ids = tokens.ids(f"prove {middle} right")
    assert len(ids) == MAX_TOKENS
    assert np.array_equal(ids, tokens.ids(f"prove {middle * 3} right"))
    assert not np.array_equal(ids, tokens.ids(f"name {middle} right"))
    assert not np.array_equal(ids, tokens.ids(f"prove {middle} item"))
    huge = "a " * (5000 * CLIP)
    assert len(tokens.ids(huge)) == MAX_TOKENS
    assert np.isfinite(encoder().predict(huge, None, None).pass_probability).all()


def test_a_text_longer_than_the_position_table_is_refused_at_load() -> None:
    """Keeping more tokens than the graph has positions for is an error of the bundle, not of a later query."""
    with pytest.raises(BundleError, match=r"keeps 64 tokens of a text, but the position table of encoder.onnx has 48"):
        load_encoder(changed(max_tokens=64))
    with pytest.raises(BundleError, match="does not run"):
        load_encoder(changed(max_tokens=64, positions=64))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"encoder.onnx": None}, "no part encoder.onnx"),
        ({"tokenizer.json": None}, "no part tokenizer.json"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json is no tokenizer"),
        ({"tokenizer.json": b"\xff"}, "tokenizer.json is no tokenizer"),
        ({"encoder.onnx": b""}, "encoder.onnx cannot be opened"),
        ({"encoder.onnx": b"not a graph"}, "encoder.onnx cannot be opened"),
        ({"encoder.json": b'{"kind": "onnx", "format": 99}'}, "encoder.json is malformed"),
        ({"encoder.json": b'{"kind": "onnx", "format": 1}'}, "encoder.json is malformed"),
    ],
    ids=range(8),
)
def test_missing_and_malformed_parts_are_bundle_errors(parts: dict[str, bytes | None], message: str) -> None:
    """Each gives one clear sentence."""
    found = {name: content for name, content in (fixture_parts() | parts).items() if content is not None}
    with pytest.raises(BundleError, match=message):
        load_encoder(found)


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused() -> None:
    """A larger vocabulary, and one of the same size with two words exchanged, are both found out."""
    parts = fixture_parts()
    tokenizer = json.loads(parts["tokenizer.json"])
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["sum"], vocabulary["letter"] = vocabulary["letter"], vocabulary["sum"]
    with pytest.raises(BundleError, match=r"is not the one encoder.onnx was made for"):
        load_encoder(parts | {"tokenizer.json": json.dumps(tokenizer).encode()})
    vocabulary["extra"] = len(vocabulary)
    with pytest.raises(BundleError, match=r"largest id 90.*90 rows"):
        load_encoder(parts | {"tokenizer.json": json.dumps(tokenizer).encode()})


def test_other_inputs_and_outputs_are_refused() -> None:
    """The names of a graph are checked against what serving feeds and reads."""
    graph = fixture_parts()["encoder.onnx"]
    with pytest.raises(BundleError, match="has the inputs attention_mask, input_idz, label, where input_ids"):
        load_encoder(fixture_parts() | {"encoder.onnx": graph.replace(b"input_ids", b"input_idz")})
    with pytest.raises(BundleError, match=r"has the outputs .*gap, hiddem.*hidden are needed"):
        load_encoder(fixture_parts() | {"encoder.onnx": renamed_output(graph)})


def renamed_output(graph: bytes) -> bytes:
    """The graph with its output "hidden" called "hiddem" (same length, so the bytes stay a graph)."""
    found = graph
    at = -1
    while (at := found.find(b"hidden", at + 1)) >= 0:
        # Names of initializers hold the word too; only the bare name is the output.
        if found[at - 1] == len(b"hidden"):
            found = found[:at] + b"hiddem" + found[at + 6 :]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiers": ["small", "large"]}, "gives 3 pass probabilities.* names 2 tiers"),
        ({"hidden_size": 7}, "6 hidden values where encoder.json names 3 tiers and 7 hidden"),
        ({"labels": [["sums", str(i)] for i in range(40)]}, "does not run"),
        ({"max_tokens": 4}, "leaves room for 2 tokens"),
    ],
    ids=range(4),
)
def test_a_header_that_does_not_fit_the_graph_is_refused(change: dict[str, object], message: str) -> None:
    """Tiers, sizes and labels are checked by running the graph once at load."""
    with pytest.raises(BundleError, match=message):
        load_encoder(changed(**change))


def test_every_cut_or_byte_flip_is_refused_or_harmless() -> None:
    """A damaged graph either raises BundleError or still predicts; nothing else escapes."""
    parts = fixture_parts()
    graph = parts["encoder.onnx"]
    rng = np.random.default_rng(0)
    damaged = [graph[: int(cut)] for cut in rng.integers(0, len(graph), 10)]
    for position in rng.integers(0, len(graph), 30):
        flipped = bytearray(graph)
        flipped[position] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    refused = 0
    for one in damaged:
        try:
            found = load_encoder({**parts, "encoder.onnx": one}).predict("name the sum", None, None)
        except BundleError:
            refused += 1
        else:
            assert found.pass_probability.shape == (3,)
    assert refused >= 8


def test_serving_is_the_bare_session() -> None:
    """The encoder adds nothing to the numbers of a bare ONNX Runtime session."""
    parts = fixture_parts()
    ids = TextTokens(parts["tokenizer.json"], MAX_TOKENS).ids("which letter is right?")[None, :]
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "label": np.array([2])}
    passes = open_session(parts["encoder.onnx"]).run(["pass_probability"], feed)[0][0]
    found = encoder().predict("which letter is right?", *json.loads(parts["encoder.json"])["labels"][1])
    assert np.array_equal(found.pass_probability[:-1], passes.astype(np.float64))


def test_serving_needs_no_training_library() -> None:
    """A fresh process that loads and predicts imports onnxruntime and tokenizers, nothing heavier, below 200 MB."""
    code = (
        "import sys; from pathlib import Path\n"
        "from router_core.encoder import load_encoder\n"
        "assert 'onnxruntime' not in sys.modules\n"
        f"found = load_encoder({{p.name: p.read_bytes() for p in Path({str(FIXTURE)!r}).iterdir()}})\n"
        "found.predict('name the sum', None, None)\n"
        "heavy = {'torch', 'transformers', 'scipy', 'sklearn', 'pandas', 'numba', 'crepes', 'onnx'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
        "print(next(int(x.split()[1]) // 1024 for x in open('/proc/self/status') if x.startswith('VmHWM')))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    loaded, megabytes = done.stdout.split("\n")[:2]
    assert loaded == "[]"
    assert int(megabytes) < 200


def test_a_pickle_serves_the_same() -> None:
    """An encoder that goes to another process opens its session there, and predicts the same bits."""
    made = encoder()
    twin = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own
    assert same(made.predict("a red kettle", None, None), twin.predict("a red kettle", None, None))
