"""The static encoder as served: round trip, masking, malformed parts, weird texts, latency."""

from __future__ import annotations

import io
import json
import threading
import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.encoder import Encoder, Examples, Prediction, load_encoder
from router_core.errors import BundleError
from router_core.fitting.static import StaticTrainer
from router_core.static_encoder import StaticEncoder

TASKS = ("sums", "letters")
SUBTASKS = ("short", "long")


def mixed_examples(n: int = 240, seed: int = 0) -> Examples:
    """Two tasks with two subtasks; three tiers whose quality depends on words, task and subtask."""
    rng = np.random.default_rng(seed)
    text, task, subtask, quality = [], [], [], []
    for i in range(n):
        t, s = int(rng.integers(2)), int(rng.integers(2))
        hard = bool(rng.integers(2))
        words = [f"{TASKS[t]}{rng.integers(40)}" for _ in range(6)] + (["prove"] if hard else ["name"])
        text.append(" ".join(words) + f" item {i % 7}?")
        task.append(TASKS[t])
        subtask.append(SUBTASKS[s])
        chance = np.array([0.85 - 0.5 * hard - 0.2 * t * s, 0.9 - 0.2 * hard, 0.97])
        quality.append((rng.random(3) < chance).astype(float))
    grades = np.array(quality)
    return Examples(text, task, subtask, grades, np.ones_like(grades), 0.0, ("small", "medium", "large"))


@cache
def encoder() -> StaticEncoder:
    """One fitted encoder for all tests here."""
    return StaticTrainer().train(mixed_examples(), seed=3)


def same(one: Prediction, two: Prediction) -> bool:
    """Equality to the last bit."""
    return (
        np.array_equal(one.pass_probability, two.pass_probability)
        and one.difficulty == two.difficulty
        and np.array_equal(one.hidden, two.hidden)
        and np.array_equal(one.gap, two.gap)
    )


@given(st.text(st.characters(), max_size=300), st.sampled_from([None, *TASKS, "never seen"]))
@settings(max_examples=200, deadline=None)
def test_every_text_gets_a_valid_prediction(text: str, task: str | None) -> None:
    """Probabilities, difficulty and gaps stay in range and have float64 type for every string."""
    found = encoder().predict(text, task, None)
    assert found.pass_probability.shape == (3,)
    assert found.pass_probability.dtype == found.gap.dtype == found.hidden.dtype == np.float64
    assert ((found.pass_probability > 0) & (found.pass_probability <= 1)).all()
    assert found.pass_probability[-1] == 1.0
    assert found.gap[-1] == 0.0
    assert (np.abs(found.gap) <= 1).all()
    assert 0.0 <= found.difficulty <= 1.0
    assert found.hidden.shape == (encoder().hidden_size,)
    assert np.isfinite(found.hidden).all()


@given(st.text(st.characters(), max_size=100), st.sampled_from(TASKS), st.sampled_from(SUBTASKS))
@settings(max_examples=50, deadline=None)
def test_round_trip_changes_no_bit(text: str, task: str, subtask: str) -> None:
    """An encoder read back from its parts predicts the same and has the same parts."""
    again = reloaded()
    assert same(again.predict(text, task, subtask), encoder().predict(text, task, subtask))
    assert again.parts() == encoder().parts()


@cache
def reloaded() -> Encoder:
    """Load the encoder from its parts."""
    return load_encoder(encoder().parts())


def test_encoder_fulfils_the_protocol() -> None:
    """Names, sizes and kind are there."""
    assert isinstance(encoder(), Encoder)
    assert encoder().kind == "static"
    assert encoder().tiers == ("small", "medium", "large")
    assert sorted(encoder().parts()) == ["encoder.json", "encoder.npz"]


def test_unknown_labels_count_as_masked() -> None:
    """None, an unseen task and an unseen subtask fall back one level each."""
    text = "sums3 sums9 prove item 2?"
    masked = encoder().predict(text, None, None)
    assert same(encoder().predict(text, "unseen", "short"), masked)
    assert same(encoder().predict(text, None, "short"), masked)
    whole_task = encoder().predict(text, "letters", None)
    assert same(encoder().predict(text, "letters", "unseen"), whole_task)
    assert same(encoder().predict(text, "letters", ""), whole_task)
    assert not same(whole_task, masked)
    assert not same(encoder().predict(text, "letters", "long"), whole_task)


def test_hidden_vector_is_of_the_text_alone_and_measures_likeness() -> None:
    """Labels do not move it; the same words in other case are nearer than other words, known or not."""
    assert np.array_equal(encoder().predict("sums3 prove", "sums", "long").hidden, encoder().embed("sums3 prove"))

    def cosine(one: str, two: str) -> float:
        a, b = encoder().embed(one), encoder().embed(two)
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    assert cosine("Positive.", "positive") == pytest.approx(1.0)
    assert cosine("quokkas sleep in trees", "Quokkas sleep in trees!") > 0.99
    assert cosine("quokkas sleep in trees", "interest rates will rise soon") < 0.7
    assert not encoder().embed("").any()


def test_threads_agree() -> None:
    """Concurrent predictions equal single ones: nothing is shared between calls."""
    texts = [f"sums{i} letters{i} prove item {i}" for i in range(50)]
    alone = [encoder().predict(text, "sums", "short") for text in texts]
    wrong: list[str] = []

    def work() -> None:
        for text, expected in zip(texts, alone, strict=True):
            if not same(encoder().predict(text, "sums", "short"), expected):
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_every_cut_or_byte_flip_is_refused_or_harmless() -> None:
    """A damaged npz either raises BundleError or still gives finite predictions; nothing else escapes."""
    parts = encoder().parts()
    rng = np.random.default_rng(0)
    content = parts["encoder.npz"]
    damaged = [content[: int(cut)] for cut in rng.integers(0, len(content), 20)]
    for position in rng.integers(0, len(content), 60):
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    refused = 0
    for one in damaged:
        try:
            found = load_encoder({**parts, "encoder.npz": one}).predict("sums1 prove", None, None)
        except BundleError:
            refused += 1
        else:
            assert np.isfinite(found.pass_probability).all()
    assert refused >= 70


def test_objects_in_the_arrays_are_refused() -> None:
    """A pickled array is never loaded."""
    buffer = io.BytesIO()
    np.savez(buffer, buckets=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BundleError, match=r"encoder\.npz is not a readable array archive"):
        load_encoder({**encoder().parts(), "encoder.npz": buffer.getvalue()})


def test_missing_arrays_and_wrong_label_counts_are_refused() -> None:
    """Header and arrays must fit together."""
    parts = encoder().parts()
    with pytest.raises(BundleError, match=r"encoder\.npz is malformed"):
        load_encoder({"encoder.json": parts["encoder.json"]})
    header = json.loads(parts["encoder.json"])
    header["labels"] = header["labels"][:-1]
    with pytest.raises(BundleError, match="has shape"):
        load_encoder({**parts, "encoder.json": json.dumps(header).encode()})
    header = json.loads(parts["encoder.json"])
    header["tiers"].append("huge")
    with pytest.raises(BundleError, match="has shape"):
        load_encoder({**parts, "encoder.json": json.dumps(header).encode()})


@pytest.mark.parametrize(("characters", "limit_ms"), [(80, 0.4), (600, 1.0), (100_000, 10.0)])
def test_prediction_is_fast(characters: int, limit_ms: float) -> None:
    """Median time stays far below a loose bound; the exact figures are in benchmarks."""
    text = ("which of the sums3 letters7 is right? " * 3000)[:characters]
    times = []
    for _ in range(60):
        start = time.perf_counter()
        encoder().predict(text, "sums", "short")
        times.append(time.perf_counter() - start)
    assert np.median(times) * 1e3 < limit_ms
