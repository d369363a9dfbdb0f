"""Students: the checkpoint comes back as it was saved, damage is one sentence, and answers do not depend on company."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_encoder
from bundles import small_records
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_student import MOODS, promote, tiny_checkpoint, tiny_student, write_release

from router_core import BundleError, InputError
from router_core.arrays import dump_json, sha256
from router_core.bundle import Bundle
from router_core.checkpoint import SPEC, Checkpoint
from router_core.folder import MANIFEST
from router_core.onnx_encoder import open_session
from router_core.own_confidence import Calibration
from router_core.prompt_template import PromptTemplate
from router_core.sources import StudentSource
from router_core.student import Student, load_student, make_student
from router_core.tagger import SHAPES, entities, word_shape
from router_core.text_tokens import TextTokens

GRAPH_KINDS = ("classifier", "multilabel", "tagger")
TEXTS = st.text(st.characters(), max_size=200)


@cache
def student(kind: str = "classifier") -> Student:
    """The tiny student of a kind."""
    return tiny_student(kind)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that may be damaged."""
    tiny_checkpoint().save(tmp_path / "small")
    return tmp_path / "small"


def reseal(root: Path, change: dict[str, object]) -> None:
    """Change the manifest and put its seal right."""
    manifest = json.loads((root / MANIFEST).read_bytes())
    manifest.pop("seal")
    manifest |= change
    manifest["seal"] = sha256(dump_json(manifest))
    (root / MANIFEST).write_bytes(dump_json(manifest))


# The folder


@pytest.mark.parametrize("kind", GRAPH_KINDS)
def test_round_trip(tmp_path: Path, kind: str) -> None:
    """A saved checkpoint has the same fingerprint, bytes and answers when loaded, and again when saved."""
    made = tiny_checkpoint(kind, prompt_template="Say: {text}", calibration=Calibration(2.0, platt=(0.5, -1.0)))
    found = made.save(tmp_path / "a")
    assert (found.spec, found.tier, found.lineage, found.metrics) == (
        made.spec,
        "small",
        {"teacher": "large"},
        {"accuracy": 0.9},
    )
    assert found.fingerprint == made.fingerprint == json.loads((tmp_path / "a" / MANIFEST).read_bytes())["id"]
    assert found.versions["routenlp"]
    assert found.folder == tmp_path / "a"
    found.save(tmp_path / "b")
    for item in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / item.name).read_bytes() == item.read_bytes()
    one, two = make_student(made), Student.load(tmp_path / "b", "small")
    assert one.answer("Say: I love this kettle") == two.answer("Say: I love this kettle")


def test_fingerprint_covers_what_bears_on_an_answer() -> None:
    """Labels, template, calibration, length and weights change the fingerprint; tier, lineage and metrics do not."""
    made = tiny_checkpoint()
    assert replace(made, tier="other", lineage={}, metrics={}, versions={}).fingerprint == made.fingerprint
    changes = (
        {"labels": ("bad", "good")},
        {"prompt_template": "x {text}"},
        {"calibration": Calibration(1.5)},
        {"max_tokens": 32},
    )
    found = {made.fingerprint, *(tiny_checkpoint(**change).fingerprint for change in changes)}
    other = replace(made, weights={**made.weights, "model.onnx": b"other"})
    assert len(found | {other.fingerprint}) == 6


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """One changed byte of any file, manifest included, and the checkpoint is not loaded."""
    root = tmp_path_factory.mktemp("flip") / "small"
    tiny_checkpoint().save(root)
    path = root / data.draw(st.sampled_from(sorted(item.name for item in root.iterdir())))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(BundleError):
        load_student(root)


def test_mutant_reader_without_hashes_would_serve_the_change(folder: Path) -> None:
    """With the hash of a changed part put right the change is served; so the hashes are the check."""
    changed = replace(tiny_checkpoint().spec, labels=("bad", "good")).to_bytes()
    (folder / SPEC).write_bytes(changed)
    with pytest.raises(BundleError, match=r"student\.json was changed after it was written; .* distil it again"):
        load_student(folder)
    parts = json.loads((folder / MANIFEST).read_bytes())["parts"] | {SPEC: sha256(changed)}
    reseal(folder, {"parts": parts})
    with pytest.raises(BundleError, match="id or kind in manifest"):
        load_student(folder)
    reseal(folder, {"id": sha256(dump_json(parts))})
    assert load_student(folder).answer("I love this").text == "bad"


def test_missing_extra_and_newer(folder: Path) -> None:
    """A file too few or too many is named; a newer schema is refused with the remedy."""
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(BundleError, match=r"checkpoint .*notes\.txt does not belong"):
        load_student(folder)
    (folder / "notes.txt").unlink()
    reseal(folder, {"schema": 2})
    with pytest.raises(BundleError, match=r"schema 2.*upgrade routenlp"):
        load_student(folder)
    reseal(folder, {"schema": 1})
    (folder / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        load_student(folder)


def test_what_is_no_checkpoint(tmp_path: Path, small_bundle: Path, folder: Path) -> None:
    """An empty folder and a bundle are no checkpoints, a checkpoint is no bundle, and neither replaces the other."""
    with pytest.raises(BundleError, match=r"is not a checkpoint.*routenlp distill"):
        load_student(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="is not a checkpoint"):
        load_student(small_bundle)
    with pytest.raises(BundleError, match="do not fit together"):
        Bundle.load(folder)
    bundle = Path(shutil.copytree(small_bundle, tmp_path / "bundle"))
    with pytest.raises(InputError, match="is not a checkpoint"):
        tiny_checkpoint().save(bundle)
    assert Bundle.load(bundle).id == Bundle.load(small_bundle).id


def test_another_tiers_checkpoint(folder: Path, tmp_path: Path) -> None:
    """A tier that is asked for must be the checkpoint's own, in a ROOT too."""
    with pytest.raises(BundleError, match="is of tier 'small', not 'large'"):
        load_student(folder, "large")
    write_release(tmp_path / "root", "r1", medium=tiny_checkpoint(tier="small"))
    with pytest.raises(BundleError, match="is of tier 'small', not 'medium'"):
        load_student(tmp_path / "root", "medium")


# Parts that do not fit together: one clear sentence


def _weights(**parts: bytes) -> Checkpoint:
    made = tiny_checkpoint()
    names = {"graph": "model.onnx", "tokenizer": "tokenizer.json", "extra": "extra.bin"}
    return replace(made, weights={**made.weights, **{names[name]: part for name, part in parts.items()}})


_SPEC_JSON = tiny_checkpoint().spec.to_bytes()
WRONG: dict[str, tuple[Callable[[], Checkpoint], str]] = {
    "unknown kind": (lambda: tiny_checkpoint(kind="classifier") and _of_kind("oracle"), "kind 'oracle'.*upgrade"),
    "another kind's parts": (lambda: _of_kind("generative"), r"has one part, model\.gguf or adapter\.gguf, not model"),
    "too many labels": (lambda: tiny_checkpoint(labels=(*MOODS, "mixed")), r"shape \[2\].* 3 labels are listed"),
    "one label": (lambda: tiny_checkpoint(labels=("good",)), "needs 2 labels, 1 are listed"),
    "vocabulary": (lambda: tiny_checkpoint(vocabulary_sha256="0" * 64), "vocabulary of tokenizer.json is not the one"),
    "another tokenizer": (lambda: _weights(tokenizer=tiny_encoder.tokenizer_json()), "vocabulary of tokenizer.json"),
    "no tokenizer": (lambda: _weights(tokenizer=b"{}"), "is no tokenizer .* distil it again"),
    "no graph": (lambda: _weights(graph=b"nothing"), "model.onnx cannot be opened .* distil it again"),
    "other inputs": (
        lambda: _weights(graph=tiny_encoder.fixture_parts()["encoder.onnx"]),
        "model.onnx has the inputs attention_mask, input_ids, label",
    ),
    "a tagger's graph": (
        lambda: _weights(graph=tiny_checkpoint("tagger").weights["model.onnx"]),
        "has the inputs attention_mask, input_ids, word_shape",
    ),
    "a part too many": (lambda: _weights(extra=b"x"), r"no more and no less \(extra\.bin\)"),
    "no room": (lambda: tiny_checkpoint(max_tokens=5), "leaves room for 3 tokens"),
    "no threshold": (lambda: tiny_checkpoint("multilabel", settings={}), "between 0 and 1, not None"),
    "threshold of 1": (lambda: tiny_checkpoint("multilabel", settings={"threshold": 1}), "between 0 and 1, not 1"),
    "tags": (lambda: tiny_checkpoint("tagger", labels=("O", "PER", "B-A", "B-B")), "'PER' of a tagger is none of"),
    "no O": (lambda: tiny_checkpoint("tagger", labels=("B-A", "I-A", "B-B", "I-B")), "need O"),
}


def _of_kind(kind: str) -> Checkpoint:
    made = tiny_checkpoint()
    return replace(made, spec=replace(made.spec, kind=kind))


@pytest.mark.parametrize("name", sorted(WRONG))
def test_parts_that_do_not_fit(name: str, tmp_path: Path) -> None:
    """Right hashes are not enough: the load says in one sentence what does not fit."""
    make, message = WRONG[name]
    make().save(tmp_path / "small")
    with pytest.raises(BundleError, match=message) as caught:
        load_student(tmp_path / "small")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "upgrade routenlp"),
        ({"labels": ["good", "good"]}, "a label is listed twice"),
        ({"labels": ["good", 1]}, "1 is not text"),
        ({"prompt_template": "no place"}, r"holds \{text\} 0 times"),
        ({"prompt_template": "{text} and {text}"}, r"holds \{text\} 2 times"),
        ({"calibration": {"temperature": 0.0, "platt": None, "knots": None}}, "is not above 0"),
        ({"calibration": {"temperature": 1.0, "platt": [-1, 0], "knots": None}}, "no scale of 0 or more"),
        ({"calibration": {"temperature": 1.0, "platt": None, "knots": [[0, 0.5], [1, 0.4]]}}, "not increasing pairs"),
        ({"calibration": {"temperature": 1.0, "platt": None, "knots": []}}, "not increasing pairs"),
        ({"calibration": {"temperature": 1.0, "platt": [1, 0], "knots": [[0, 0]]}}, "only one"),
        ({"calibration": None}, "malformed"),
        ({"max_tokens": "many"}, "malformed"),
        ({"settings": 3}, "malformed"),
    ],
)
def test_malformed_spec(folder: Path, change: dict[str, object], message: str) -> None:
    """A ``student.json`` that says something impossible is refused."""
    content = dump_json(json.loads(_SPEC_JSON) | change)
    (folder / SPEC).write_bytes(content)
    parts = json.loads((folder / MANIFEST).read_bytes())["parts"] | {SPEC: sha256(content)}
    reseal(folder, {"parts": parts, "id": sha256(dump_json(parts))})
    with pytest.raises(BundleError, match=rf"student\.json is malformed.*{message}|{message}"):
        load_student(folder)


def test_a_manifest_with_a_gap(folder: Path) -> None:
    """A manifest without a field is a sentence, no traceback."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest["lineage"], manifest["seal"]
    (folder / MANIFEST).write_bytes(dump_json({**manifest, "seal": sha256(dump_json(manifest))}))
    with pytest.raises(BundleError, match="does not say 'lineage'"):
        load_student(folder)


# Answers


def test_kinds_answer() -> None:
    """A label, a sorted JSON list of labels, a JSON list of entities; tokens are counted."""
    found = student().answer("Review 3: I love this lamp")
    assert (found.text, found.completion_tokens) == ("good", 1)
    assert found.prompt_tokens == len(student().tokens.ids("Review 3: I love this lamp"))  # type: ignore[attr-defined]
    assert found.signals["template_matched"] == 1.0
    assert student().answer("I hate this lamp").text == "bad"
    assert json.loads(student("multilabel").answer("love this kettle").text) == ["kettle", "love"]
    assert student("multilabel").answer("nothing of it").text == "[]"
    tagged = student("tagger").answer("Ann Lee went to Oslo , Ann stayed").text
    assert json.loads(tagged) == [["Ann Lee", "PER"], ["Oslo", "LOC"], ["Ann", "PER"]]


def test_tagger_sees_capitals() -> None:
    """The shape of a word reaches the graph, whose vocabulary is uncased."""
    assert student("tagger").answer("ann lee").text == "[]"
    assert json.loads(student("tagger").answer("Ann Lee").text) == [["Ann Lee", "PER"]]


@given(TEXTS, st.sampled_from(GRAPH_KINDS))
@settings(max_examples=150, deadline=None)
def test_every_text_is_answered(text: str, kind: str) -> None:
    """Any string gets an answer with a confidence in [0, 1]."""
    found = student(kind).answer(text)
    assert 0.0 <= found.signals["own_confidence"] <= 1.0
    assert found.prompt_tokens <= 64
    assert found.completion_tokens >= 0
    if kind != "classifier":
        assert isinstance(json.loads(found.text), list)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
def test_long_texts_keep_head_and_tail(kind: str) -> None:
    """What stands at either end of a text of any length bears on the answer; what stands in the middle does not."""
    filler = "lamp " * 50_000
    assert student(kind).answer(filler).prompt_tokens == 64
    names = {"classifier": ("hate", "bad"), "multilabel": ("hate", '["hate"]'), "tagger": ("Oslo", '[["Oslo", "LOC"]]')}
    word, wanted = names[kind]
    for text in (f"{word} {filler}", f"{filler} {word}"):
        assert student(kind).answer(text).text == wanted
    assert student(kind).answer(f"{filler} {word} {filler}") == student(kind).answer(f"{filler} {filler}")


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_many_are_answered_as_one(kind: str, threads: int) -> None:
    """`answer_many` gives every answer of `answer` to the last bit, in order, also of equal and empty prompts."""
    prompts = [*small_records().prompt[:60], "", "I love this", "I love this"]
    one = [student(kind).answer(prompt) for prompt in prompts]
    assert make_student(tiny_checkpoint(kind), threads).answer_many(prompts) == one
    assert student(kind).answer_many([]) == []


def test_mutant_batches_would_change_bits() -> None:
    """A padded batch of an int8 graph gives other numbers than one text at a time; hence `answer_many` makes none."""
    parts = tiny_encoder.fixture_parts()
    session, tokens = open_session(parts["encoder.onnx"]), TextTokens(parts["tokenizer.json"], 32)
    ids = [tokens.ids(f"prove the sum item {i * 7919}" + " letter" * (i % 3)) for i in range(8)]
    batch, mask = np.zeros((8, 32), np.int64), np.zeros((8, 32), np.int64)
    for i, one in enumerate(ids):
        batch[i, : len(one)], mask[i, : len(one)] = one, 1

    def run(some: np.ndarray, kept: np.ndarray) -> np.ndarray:
        feed = {"input_ids": some, "attention_mask": kept, "label": np.zeros(len(some), np.int64)}
        return np.asarray(session.run(["pass_probability"], feed)[0])

    alone = np.concatenate([run(one[None], np.ones_like(one)[None]) for one in ids])
    assert not np.array_equal(run(batch, mask), alone)
    assert np.array_equal(np.concatenate([run(one[None], np.ones_like(one)[None]) for one in ids]), alone)


def test_pickle_and_deepcopy() -> None:
    """A student answers the same when copied or sent to another process."""
    found = student().answer("I love this")
    sent = pickle.loads(pickle.dumps(student()))  # noqa: S301
    assert sent.answer("I love this") == found
    assert copy.deepcopy(student()) is student()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(student().answer, ("I love this",)) == found


def test_threads_must_be_positive() -> None:
    """No threads is an error that says so."""
    with pytest.raises(InputError, match="threads is 0"):
        make_student(tiny_checkpoint(), 0)


def test_no_torch_is_needed(folder: Path) -> None:
    """Loading and answering imports neither torch nor onnx nor a fitting library."""
    code = (
        "import sys; from router_core.student import load_student\n"
        f"print(load_student({str(folder)!r}).answer('I love this').text)\n"
        "print([m for m in ('torch', 'onnx', 'transformers', 'sklearn', 'scipy') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.splitlines() == ["good", "[]"]


# The template


@pytest.mark.parametrize(
    ("template", "prompt", "found"),
    [
        ("Mood of: {text}\nOne word.", "Mood of: fine day\nOne word.", "fine day"),
        ("Mood of: {text}\nOne word.", "  Mood   of:\tfine  day   One\nword.\n", "fine  day"),
        ("Mood of: {text}\nOne word.", "Mood of: fine day", None),
        ("Mood of: {text}\nOne word.", "mood of: fine day One word.", None),
        ("Mood: {text}", "Mood:fine", None),
        ("Mood:{text}", "Mood: fine", " fine"),
        ("Mood: {text}", "Mood:", ""),
        ("a {text} a", "a a", ""),
        ("a {text} a", "a", None),
        ("ab{text}b", "ab", None),
        ("a {text} a", "a b a", "b"),
        ("{text} {x} (.*)", "fine {x} (.*)", "fine"),
        ("{text}", " anything \n", " anything \n"),
    ],
)
def test_template(template: str, prompt: str, found: str | None) -> None:
    """The text is what stands in its place; where the rest differs the whole prompt is read, and said so."""
    assert PromptTemplate(template).cut(prompt) == ((prompt, False) if found is None else (found, True))


@given(TEXTS.map(str.split).map(" ".join), TEXTS.filter(lambda s: "{text}" not in s), TEXTS)
@settings(max_examples=200)
def test_template_gives_back_what_was_put_in(text: str, before: str, after: str) -> None:
    """Any text put into any template is found again, up to white space around it."""
    template = f"{before} {{text}} {after}"
    if template.count("{text}") == 1:
        found, matched = PromptTemplate(template).cut(template.replace("{text}", text))
        assert matched
        assert found.strip() == text


def test_template_takes_one_pass() -> None:
    """A prompt of a million spaces is cut without trying every one of them as a beginning."""
    assert PromptTemplate("a {text} b c").cut("a " + " " * 1_000_000 + "d") == ("a " + " " * 1_000_000 + "d", False)


def test_template_is_used_and_told() -> None:
    """Only the part in the template's place is read, and a prompt of another form is marked."""
    found = tiny_student(prompt_template="Do you hate or love this: {text}")
    inside, outside = found.answer("Do you hate or love this: hate it"), found.answer("hate it")
    assert (inside.text, inside.signals["template_matched"]) == ("bad", 1.0)
    assert (outside.text, outside.signals["template_matched"]) == ("bad", 0.0)
    assert inside.signals["own_confidence"] == outside.signals["own_confidence"]


# Confidence


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 5), st.floats(-20, 20))
@settings(max_examples=200)
def test_maps_keep_the_order(one: float, two: float, scale: float, offset: float) -> None:
    """Whatever the map, a confidence lies in [0, 1] and does not fall as the probability rises."""
    low, high = sorted((one, two))
    knots = ((0.1, 0.0), (0.5, 0.5), (0.9, 0.5), (0.95, 1.0))
    for calibration in (Calibration(), Calibration(platt=(scale, offset)), Calibration(knots=knots)):
        first, second = calibration.confidence(low), calibration.confidence(high)
        assert 0.0 <= first <= second <= 1.0
        assert Calibration.from_json(json.loads(dump_json(calibration.to_json()))) == calibration


def test_platt_is_what_it_says() -> None:
    """Scale 1 and offset 0 change nothing, an offset adds to the log-odds."""
    assert Calibration(platt=(1.0, 0.0)).confidence(0.3) == pytest.approx(0.3, rel=1e-12)
    assert Calibration(platt=(1.0, math.log(3.0))).confidence(0.5) == pytest.approx(0.75, rel=1e-12)
    assert Calibration(platt=(5.0, -1000.0)).confidence(0.0) == 0.0


@given(TEXTS, st.floats(0.05, 20), st.floats(1.01, 5))
@settings(max_examples=50, deadline=None)
def test_a_higher_temperature_is_less_sure(text: str, temperature: float, factor: float) -> None:
    """The classifier's confidence falls with the temperature, to one over the labels; its answer stays."""
    cool = student()
    warm = copy.copy(cool)
    found = []
    for value in (temperature, temperature * factor):
        spec = replace(cool.checkpoint.spec, calibration=Calibration(value))
        warm.checkpoint = replace(cool.checkpoint, spec=spec)
        found.append(warm.answer(text))
    assert found[0].text == found[1].text == cool.answer(text).text
    assert found[0].signals["own_confidence"] >= found[1].signals["own_confidence"] >= 0.5


# Tags


def test_entities() -> None:
    """Tags join to entities as in conlleval: I continues its own kind only."""
    words = list("abcdef")
    tags = ["B-X", "I-X", "B-X", "I-Y", "O", "I-X"]
    assert entities(words, tags) == [("a b", "X"), ("c", "X"), ("d", "Y"), ("f", "X")]
    assert entities([], []) == []


def test_word_shapes() -> None:
    """Every shape has an example."""
    words = ("kettle", "Kettle", "NATO", "iPhone", "2026", "Q3", "...")
    assert [SHAPES[word_shape(word)] for word in words] == list(SHAPES[1:])


def test_tags_fit_the_words() -> None:
    """There is one tag a word, whatever the length; words that no token stands for are outside."""
    tagger = student("tagger")
    for text in ("", "Ann", "Ann \u200b Lee", "lamp " * 500 + "Oslo", "Ann" * 1000):
        words, tags = tagger.tags(text)  # type: ignore[attr-defined]
        assert words == text.split()
        assert len(tags) == len(words)


# A ROOT that changes


def test_a_promotion_is_picked_up(tmp_path: Path) -> None:
    """A watched source serves the new release's student; one that is not watched stays."""
    root = write_release(tmp_path, "r1", small=tiny_checkpoint())
    source, still = StudentSource(root, "small", watch=True), StudentSource(root)
    first = source.get()
    assert source.get() is first
    second = tiny_checkpoint(labels=("bad", "good"))
    write_release(root, "r2", small=second)
    assert source.root is not None
    assert source.root.settle()
    assert source.get().fingerprint == second.fingerprint != first.fingerprint
    assert source.get(first.fingerprint) is first
    assert still.get().fingerprint == first.fingerprint
    assert pickle.loads(pickle.dumps(source)).get().fingerprint == second.fingerprint  # noqa: S301


def test_a_broken_release_is_not_served(tmp_path: Path) -> None:
    """A release whose checkpoint is damaged is warned about, once, and the student before it stays."""
    root = write_release(tmp_path, "r1", small=tiny_checkpoint())
    source = StudentSource(root, "small", watch=True)
    assert source.root is not None
    tiny_checkpoint().save(root / "releases" / "r2" / "checkpoints" / "small")
    (root / "releases" / "r2" / "checkpoints" / "small" / "model.onnx").write_bytes(b"")
    promote(root, "r2")
    with pytest.warns(UserWarning, match=r"stays: .*model\.onnx was changed"):
        assert source.root.settle()
    assert source.get().answer("I love this").text == "good"
    assert source.root.settle()
    tiny_checkpoint(max_tokens=32).save(root / "releases" / "r2" / "checkpoints" / "small")
    assert source.root.settle()
    assert source.get().fingerprint == tiny_checkpoint(max_tokens=32).fingerprint


def test_only_a_root_can_be_watched(folder: Path) -> None:
    """A checkpoint's folder does not change."""
    with pytest.raises(InputError, match="nothing to watch"):
        StudentSource(folder, watch=True)
