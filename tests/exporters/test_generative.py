"""Generative students on a tiny causal model: what they learn, that GGUF says what torch says, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

for _name in ("torch", "peft", "gguf", "xllamacpp"):
    pytest.importorskip(_name, reason="needs routenlp[train,local]")

from tiny_causal import TINY, causal_pairs, write_causal

import exporters.students.gguf_files as files
from exporters.students import GenerativeOptions, Pair, distil
from exporters.students.data import set_tune_aside
from exporters.students.gguf_files import gguf_name, to_rotary
from router_core.checkpoint import Checkpoint
from router_core.errors import BundleError, InputError, MissingExtraError
from router_core.groups import hash_key
from router_core.keys import hash_keys
from router_core.student import load_student, make_student

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PAIRS = [Pair(f"g{i}", prompt, answer) for i, (prompt, answer) in enumerate(causal_pairs())]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model."""
    return write_causal(tmp_path_factory.mktemp("causal") / "base.gguf")


@pytest.fixture(scope="module")
def options(base: Path) -> GenerativeOptions:
    """Options that train it in seconds."""
    return GenerativeOptions(source=str(base), **TINY)


@pytest.fixture(scope="module")
def made(options: GenerativeOptions) -> Checkpoint:
    """A student with an adapter."""
    return distil("generative", PAIRS, options, tier="small", lineage={"teacher": "large"})


def served_loss(checkpoint: Checkpoint) -> float:
    """Loss a token of the answers that the served student gives to the TUNE prompts."""
    student = make_student(checkpoint)
    tune = [pair for pair in set_tune_aside(PAIRS, by_answer=False) if pair.split == "tune"]
    found = [student.answer(pair.prompt) for pair in tune]
    tokens = [one.completion_tokens for one in found]
    return -float(np.average([one.signals["mean_logprob"] for one in found], weights=tokens))


def test_it_learns_and_says_how_sure_it_is(made: Checkpoint) -> None:
    """Held-out loss falls, the served student gives the answers, and its confidence is calibrated on TUNE."""
    assert made.metrics["tune_loss"] < 0.2
    assert made.metrics["tune_loss_before"] > 5
    student = make_student(made)
    found = student.answer_many([pair.prompt for pair in PAIRS[:10]])
    assert [one.text for one in found] == [pair.answer for pair in PAIRS[:10]]
    assert found[0].signals["own_confidence"] > 0.8
    assert set(found[0].signals) == {"mean_logprob", "own_confidence", "template_matched"}
    assert found == [student.answer(pair.prompt) for pair in PAIRS[:10]]
    assert made.lineage["teacher"] == "large"
    assert set(made.weights) == {"adapter.gguf"}


def test_gguf_says_what_torch_says_and_unpermuted_it_would_not(
    made: Checkpoint, options: GenerativeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapter and merged model have torch's loss; the mutant that forgets llama.cpp's rotary order has another."""
    wanted = made.metrics["tune_loss"]
    merged = distil("generative", PAIRS, replace(options, export="merged"), tier="small")
    assert set(merged.weights) == {"model.gguf"}
    assert merged.metrics["tune_loss"] == wanted
    assert served_loss(made) == pytest.approx(wanted, abs=0.005)
    assert served_loss(merged) == pytest.approx(wanted, abs=0.005)
    monkeypatch.setattr(files, "to_rotary", lambda rows, heads: np.ascontiguousarray(rows))
    mutant = distil("generative", PAIRS, options, tier="small")
    assert served_loss(mutant) > wanted + 0.1


def test_served_without_torch(made: Checkpoint, tmp_path: Path) -> None:
    """In a process that cannot import torch, peft or gguf the saved student gives the same answers."""
    made.save(tmp_path / "small")
    prompts = [pair.prompt for pair in PAIRS[:4]]
    here = [one.text for one in load_student(tmp_path / "small").answer_many(prompts)]
    code = textwrap.dedent("""
        import json, sys
        for name in ("torch", "transformers", "peft", "gguf", "numba", "sklearn"):
            sys.modules[name] = None
        from router_core.student import load_student
        found = load_student(sys.argv[1]).answer_many(json.loads(sys.argv[2]))
        print(json.dumps([one.text for one in found]))
    """)
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, str(tmp_path / "small"), json.dumps(prompts)], check=True, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert json.loads(done.stdout) == here


def test_same_seed_same_bytes(made: Checkpoint, options: GenerativeOptions) -> None:
    """The fingerprint repeats with the seed and changes with it."""
    assert distil("generative", PAIRS, options, tier="small").fingerprint == made.fingerprint
    quick = replace(options, epochs=1)
    one, two = (distil("generative", PAIRS, quick, tier="small", seed=seed).fingerprint for seed in (0, 1))
    assert one != two


def test_early_stopping_and_replay(options: GenerativeOptions) -> None:
    """TUNE answers that train contradicts stop the training at once; replay is mixed in and counted."""
    split = [replace(pair, split="tune" if i % 4 == 0 else "train") for i, pair in enumerate(PAIRS)]
    wrong = [replace(pair, answer="#" * 9) if pair.split == "tune" else pair for pair in split]
    stopped = distil("generative", wrong, replace(options, metric="exact", learning_rate=1e-3), tier="small")
    known = distil("generative", split, replace(options, learning_rate=1e-3), tier="small")
    assert stopped.metrics["epochs"] < known.metrics["epochs"] == options.epochs
    mixed = distil("generative", PAIRS[:40], replace(options, epochs=1), tier="small", replay=PAIRS[40:])
    assert mixed.lineage["pairs"] == {"cluster": 0, "replay": 40, "seed": 40}


def test_base_must_be_there_and_the_same(made: Checkpoint, tmp_path: Path) -> None:
    """A base that moved, changed, or whose package is missing is one sentence."""
    told = dict(made.spec.settings["base"])
    other = write_causal(tmp_path / "other.gguf", seed=1)

    def served(**base: str) -> None:
        settings = {**made.spec.settings, "base": base}
        make_student(replace(made, spec=replace(made.spec, settings=settings)))

    with pytest.raises(BundleError, match="is not the one the adapter was trained on"):
        served(file=str(other), sha256=told["sha256"])
    with pytest.raises(BundleError, match=r"gone\.gguf is not there"):
        served(file=str(tmp_path / "gone.gguf"), sha256=told["sha256"])
    with pytest.raises(BundleError, match="package no_such_package, which is not installed"):
        served(package="no_such_package", file="x.gguf", sha256=told["sha256"])
    with pytest.raises(BundleError, match="settings of a generative student are malformed"):
        make_student(replace(made, spec=replace(made.spec, settings={})))


def _with(pair: Pair = PAIRS[0], **changes: object) -> list[Pair]:
    return [*PAIRS[1:], replace(pair, **changes)]  # type: ignore[arg-type]


REFUSED: dict[str, tuple[Callable[[], list[Pair]], dict[str, object], str]] = {
    "empty answer": (lambda: _with(answer=" "), {}, "has an empty answer"),
    "no such file": (lambda: PAIRS, {"source": "nothing.gguf"}, "is no GGUF file"),
    "another file": (lambda: PAIRS, {"source": __file__}, "is no readable GGUF model"),
    "too long": (lambda: PAIRS, {"max_tokens": 4000}, "reads 2048 tokens"),
    "unknown metric": (lambda: PAIRS, {"metric": "vibes"}, "unknown metric 'vibes'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_is_one_sentence(options: GenerativeOptions, name: str) -> None:
    """Refused before the training starts."""
    pairs, changes, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        distil("generative", pairs(), replace(options, **changes), tier="small")  # type: ignore[arg-type]


def test_calibration_items_and_other_kinds_are_refused(options: GenerativeOptions, made: Checkpoint) -> None:
    """A calib item among the pairs or the replay; a parent of another kind; options of another kind."""
    calib = hash_keys([hash_key(PAIRS[3].prompt)])
    for pairs, replay in ((PAIRS, ()), (PAIRS[10:], PAIRS[:10])):
        with pytest.raises(InputError, match="training pairs and calib share 1"):
            distil("generative", pairs, options, tier="small", replay=replay, calib=calib)
    with pytest.raises(InputError, match="the parent is a generative student, not a classifier one"):
        distil("classifier", PAIRS, tier="small", parent=made)
    with pytest.raises(InputError, match="a classifier student takes EncoderOptions"):
        distil("classifier", PAIRS, options, tier="small")
    with pytest.raises(InputError, match="export is 'pickle'"):
        GenerativeOptions(export="pickle")


def test_without_xllamacpp_the_extra_is_named(
    options: GenerativeOptions, made: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training and serving name routenlp[local]."""
    import exporters.students.generative as module
    import router_core.generative_student as served

    monkeypatch.setattr(served, "_OPEN", {})
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtraError, match=r"routenlp\[local\]"):
        make_student(made)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"routenlp\[local\]"):
        distil("generative", PAIRS, options, tier="small")


def test_names_and_rotary_order() -> None:
    """Projections are named as llama.cpp names them, and rows of a head go halves to pairs."""
    assert gguf_name("base_model.model.model.layers.12.self_attn.q_proj") == "blk.12.attn_q.weight"
    assert gguf_name("base_model.model.model.layers.0.mlp.down_proj") == "blk.0.ffn_down.weight"
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert to_rotary(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
