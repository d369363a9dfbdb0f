"""Encoder students: what they learn, what keeps them from forgetting, and that what was trained is what is served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs routenlp[train]")
pytest.importorskip("transformers", reason="needs routenlp[train]")
pytest.importorskip("onnx", reason="needs routenlp[train]")

from tiny_encoder import write_folder

import exporters.students.heads as heads_module
from exporters.fence import item_keys
from exporters.students import EncoderOptions, HeadOptions, Pair, train_encoder
from exporters.students.calibrating import calibration_error, fit_platt, fit_temperature
from exporters.students.data import labels_in, mix, parse_tags, set_tune_aside
from exporters.students.heads import Targets, fit_head, loss
from router_core.checkpoint import Checkpoint
from router_core.errors import InputError
from router_core.groups import hash_key
from router_core.keys import hash_keys
from router_core.student import load_student, make_student

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

DEMO = Path(__file__).resolve().parents[2] / "routenlp_integrations/cli/demo_data"
LETTERS = "abcdefghij"


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder with a tiny encoder."""
    return str(write_folder(tmp_path_factory.mktemp("tiny")))


def tiny(source: str, **changes: object) -> EncoderOptions:
    """Options that train a student of the tiny encoder in a second."""
    head = HeadOptions(epochs=40, learning_rate=0.03, batch=32)
    found: dict[str, object] = {"source": source, "max_tokens": 32, "head": head, "min_agreement": 0.5, **changes}
    return EncoderOptions(**found)  # type: ignore[arg-type]


def letter_pairs(count: int = 80, labels: Sequence[str] = ("prove", "name"), seed: int = 0) -> list[Pair]:
    """Texts whose label is the word they hold."""
    rng = np.random.default_rng(seed)
    said = [labels[i % len(labels)] for i in range(count)]
    noise = ["".join(rng.choice(list(LETTERS), 3)) for _ in said]
    return [Pair(f"{seed}-{i}", f"{word} {word} item {noise[i]} {i}", word) for i, word in enumerate(said)]


def tagged_pairs(count: int = 80) -> list[Pair]:
    """Sentences in which the word behind "of" is a name where it is written with a capital, and else is none."""
    rng = np.random.default_rng(1)
    found = []
    for i in range(count):
        name, other = ("".join(rng.choice(list(LETTERS), 4)) for _ in range(2))
        name = name.title() if i % 2 else name
        found.append(Pair(f"t{i}", f"{other} of {name} is right", json.dumps([[name, "PER"]] if i % 2 else [])))
    return found


def accuracy(checkpoint: Checkpoint, pairs: Sequence[Pair]) -> float:
    """Share of pairs that the served student answers right."""
    found = make_student(checkpoint).answer_many([pair.prompt for pair in pairs])
    return float(np.mean([one.text == pair.answer for one, pair in zip(found, pairs, strict=True)]))


def demo_intents() -> tuple[list[Pair], list[Pair]]:
    """The packaged demo's queries of the task intent: what may be learned, and the rest."""
    rows = [json.loads(line) for line in (DEMO / "queries.jsonl").read_text().splitlines()]
    records = (json.loads(line) for line in (DEMO / "records.jsonl").read_text().splitlines())
    split = {row["query_id"]: row["split"] for row in records}
    pairs = {
        row["query_id"]: Pair(row["query_id"], row["prompt"], row["gold"]) for row in rows if row["task"] == "intent"
    }
    learn = [pair for query, pair in pairs.items() if split[query] == "train"]
    return learn, [pair for query, pair in pairs.items() if split[query] == "test"]


# What is learned


def test_classifier_end_to_end_without_torch(source: str, tmp_path: Path) -> None:
    """Trained, saved, and served in a process that cannot import torch, with the same answers to the last bit."""
    pairs = letter_pairs()
    made = train_encoder("classifier", pairs, tiny(source), tier="small", lineage={"teacher": "large"})
    assert accuracy(made, letter_pairs(40, seed=5)) > 0.9
    assert made.lineage["teacher"] == "large"
    assert made.lineage["pairs"] == {"cluster": 0, "replay": 0, "seed": 80}
    assert made.metrics["held_out"] == "folds"
    assert made.metrics["tune_right"] > 0.8
    saved = made.save(tmp_path / "small")
    assert saved.fingerprint == made.fingerprint
    here = [load_student(tmp_path / "small").answer(pair.prompt) for pair in pairs[:20]]
    code = textwrap.dedent("""
        import json, sys
        for name in ("torch", "transformers", "onnx", "sklearn", "scipy"):
            sys.modules[name] = None
        from router_core.student import load_student
        student = load_student(sys.argv[1])
        found = [student.answer(prompt) for prompt in json.loads(sys.argv[2])]
        print(json.dumps([[one.text, one.signals["own_confidence"]] for one in found]))
    """)
    prompts = json.dumps([pair.prompt for pair in pairs[:20]])
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, str(tmp_path / "small"), prompts], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert json.loads(done.stdout) == [[one.text, one.signals["own_confidence"]] for one in here]


def test_multilabel_and_threshold(source: str) -> None:
    """Every combination of two words is answered as a sorted list, none included."""
    words = ("prove", "letter")
    pairs = []
    for i in range(120):
        held = [word for j, word in enumerate(words) if i >> j & 1]
        text = " ".join([*(word for word in held for _ in range(3)), "item", LETTERS[i % 10], str(i)])
        pairs.append(Pair(f"m{i}", text, json.dumps(sorted(held))))
    made = train_encoder("multilabel", pairs, tiny(source), tier="small")
    assert made.spec.labels == ("letter", "prove")
    assert accuracy(made, pairs) > 0.9
    assert make_student(made).answer("item a").text == "[]"
    strict = train_encoder("multilabel", pairs, tiny(source, threshold=0.999), tier="small")
    assert make_student(strict).answer("prove item").text == "[]"


@pytest.mark.parametrize("finetune", [0, 1])
def test_tagger_reads_capitals_from_the_shape_of_words(source: str, finetune: int) -> None:
    """Names differ from other words by their capital alone, which the uncased vocabulary does not show."""
    pairs = tagged_pairs()
    options = tiny(source, tagged_layers=(-1,), finetune=finetune, finetune_epochs=8, finetune_rate=1e-2)
    made = train_encoder("tagger", pairs, options, tier="small")
    assert made.spec.labels == ("B-PER", "I-PER", "O")
    assert accuracy(made, pairs) > 0.9
    lower = [replace(pair, prompt=pair.prompt.lower(), answer="[]") for pair in pairs]
    assert accuracy(made, lower) > 0.9


def test_soft_labels_teach_what_hard_ones_do_not_say(source: str) -> None:
    """Rows of a third word carry a 50:50 teacher; with soft labels the student is unsure there, without it is sure."""
    pairs = letter_pairs(90, ("prove", "name"))
    unsure = [
        Pair(f"u{i}", f"sum sum item {LETTERS[i % 10]} {i}", "prove", soft={"prove": 0.5, "name": 0.5})
        for i in range(40)
    ]
    options = tiny(source, soft_weight=1.0)
    soft = train_encoder("classifier", [*pairs, *unsure], options, tier="s")
    hard = train_encoder("classifier", [*pairs, *(replace(one, soft=None) for one in unsure)], options, tier="s")
    asked = ["sum sum item a 3", "sum sum item b 7"]
    gap = [abs(_odds(made, asked)).mean() for made in (soft, hard)]
    assert 2 * gap[0] < gap[1]


def _odds(made: Checkpoint, texts: Sequence[str]) -> np.ndarray:
    student = make_student(made)
    logits = np.stack([student.run(student.tokens.ids(text)) for text in texts])  # type: ignore[attr-defined]
    return np.asarray(logits[:, 0] - logits[:, 1])


def test_loss_is_hintons() -> None:
    """(1 - w) CE + w T^2 KL, by hand for one row; rows without soft labels pay cross-entropy alone."""
    logits = torch.tensor([[1.0, -0.5, 0.2], [1.0, -0.5, 0.2]])
    hard = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    soft = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.0, 0.0]])
    found = loss(logits, hard, soft, EncoderOptions(temperature=2.0, soft_weight=0.25), several=False).numpy()
    p = np.exp(logits[0].numpy()) / np.exp(logits[0].numpy()).sum()
    warm = np.exp(logits[0].numpy() / 2) / np.exp(logits[0].numpy() / 2).sum()
    told = np.sqrt([0.7, 0.2, 0.1]) / np.sqrt([0.7, 0.2, 0.1]).sum()
    divergence = (told * np.log(told / warm)).sum()
    assert found[0] == pytest.approx(0.75 * -np.log(p[0]) + 0.25 * 4 * divergence, rel=1e-5)
    assert found[1] == pytest.approx(-np.log(p[1]), rel=1e-5)


def test_weights_and_balance_bear_on_rare_labels() -> None:
    """With balance 1 every label weighs the same in all; weights of pairs are kept in proportion."""
    hard = np.eye(2, dtype=np.float32)[[0] * 9 + [1]]
    targets = Targets(hard, np.zeros_like(hard), np.ones(10, dtype=np.float32))
    even = targets.balanced(1.0).weight
    assert even[:9].sum() == pytest.approx(even[9:].sum())
    assert even.mean() == pytest.approx(1.0)
    assert (targets.balanced(0.0).weight == 1).all()


# Forgetting


def test_replay_keeps_what_was_learned_and_without_it_the_student_forgets() -> None:
    """Demo intents, four labels first and four later: replay keeps the first, the mutant without it drops."""
    learn, rest = demo_intents()
    first = {"billing", "cancel", "damage", "delivery"}
    old, new = ([pair for pair in learn if (pair.answer in first) is side] for side in (True, False))
    held = [pair for pair in rest if pair.answer in first]
    options = EncoderOptions(max_tokens=64)
    start = train_encoder("classifier", old, options, tier="small")
    kept = train_encoder("classifier", new, options, tier="small", replay=old, labels=start.spec.labels)
    mutant = train_encoder("classifier", new, options, tier="small", labels=start.spec.labels)
    assert kept.spec.labels[:4] == start.spec.labels == mutant.spec.labels[:4]
    assert kept.lineage["pairs"]["replay"] == len(old)
    before, after, without = (accuracy(one, held) for one in (start, kept, mutant))
    assert before > 0.8
    # Eight labels are harder than four, so a little is lost even to a student that learns all at once.
    assert after > before - 0.25
    assert without < 0.2
    assert accuracy(kept, [pair for pair in rest if pair.answer not in first]) > 0.6


def test_replay_draws_every_label_and_new_answers_win() -> None:
    """Labels take turns in the draw, the draw is the seed's, and of one text the new answer counts."""
    new = letter_pairs(10, ("x", "y"))
    old = [*letter_pairs(200, ("common",), seed=1), Pair("rare", "a rare thing", "rare")]
    stale = replace(old[3], query_id="stale", prompt=new[0].prompt.upper(), answer="wrong")
    mixed = mix(new, [*old, stale], 0.3, 0, by_answer=True)
    assert [pair.answer for pair in mixed[10:]].count("rare") == 1
    assert len(mixed) == 13
    assert all(pair.source == "replay" for pair in mixed[10:])
    assert mixed == mix(new, [*old, stale], 0.3, 0, by_answer=True)
    assert mixed != mix(new, [*old, stale], 0.3, 1, by_answer=True)
    every = mix(new, [*old, stale], None, 0, by_answer=True)
    assert len(every) == 211
    assert "wrong" not in {pair.answer for pair in every}
    assert labels_in([("b", "a")], ("z",)) == ("z", "a", "b")


# Early stopping, seeds, agreement


def test_early_stopping_keeps_the_best_pass() -> None:
    """A head on noise stops long before the last pass and hands out its best; the mutant that never looks is worse."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 40)).astype(np.float32)
    hard = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 60)]
    targets = Targets(hard, np.zeros_like(hard), np.ones(60, dtype=np.float32))
    some = np.arange(60) < 40
    options = EncoderOptions(head=HeadOptions(epochs=200, learning_rate=0.05))
    held = (x[~some], targets.at(~some))
    found = fit_head(x[some], targets.at(some), held, options, seed=0)
    assert len(found.tune_loss) < 60
    mutant = fit_head(x[some], targets.at(some), 200, options, seed=0)
    mine, worse = (
        heads_module.mean_loss(one.head(torch.from_numpy(held[0])), held[1], options) for one in (found, mutant)
    )
    assert mine == pytest.approx(min(found.tune_loss), abs=1e-5)
    assert worse > 2 * mine


def test_tune_is_obeyed_and_never_learned_from(source: str) -> None:
    """A label that a supplied TUNE alone has is never answered; the mutant that trains on those rows answers it."""
    pairs = [replace(pair, split="tune" if i % 3 == 0 else "train") for i, pair in enumerate(letter_pairs(90))]
    odd = [replace(pair, answer="sum" if pair.split == "tune" else pair.answer) for pair in pairs]
    assert train_encoder("classifier", pairs, tiny(source), tier="s").metrics["held_out"] == "tune"
    options = tiny(source, head=HeadOptions(epochs=20, patience=20, learning_rate=0.03))
    made = train_encoder("classifier", odd, options, tier="s")
    mutant = train_encoder("classifier", [replace(pair, split="") for pair in odd], options, tier="s")
    asked = [pair.prompt for pair in pairs]
    assert "sum" not in {one.text for one in make_student(made).answer_many(asked)}
    assert "sum" in {one.text for one in make_student(mutant).answer_many(asked)}
    with pytest.raises(InputError, match="leave tune empty"):
        train_encoder("classifier", [replace(pair, split="train") for pair in pairs], tiny(source), tier="s")


def test_same_seed_same_bytes(source: str) -> None:
    """The fingerprint repeats with the seed and changes with it, frozen and fine-tuned."""
    pairs = letter_pairs(60)
    for options in (tiny(source), tiny(source, finetune=1, finetune_epochs=2)):
        one, two, other = (
            train_encoder("classifier", pairs, options, tier="s", seed=seed).fingerprint for seed in (1, 1, 2)
        )
        assert one == two != other


def test_finetuning_learns_and_fewer_layers_are_smaller(source: str) -> None:
    """The top layer learns with the head; a student of one layer is smaller and still served."""
    pairs = letter_pairs(120, ("prove", "name", "sum"))
    whole = train_encoder(
        "classifier", pairs, tiny(source, finetune=1, finetune_rate=1e-2, finetune_epochs=12), tier="s"
    )
    assert accuracy(whole, letter_pairs(30, ("prove", "name", "sum"), seed=9)) > 0.9
    small = train_encoder("classifier", pairs, tiny(source, layers=(0,), distil=1), tier="s")
    assert small.metrics["bytes"] < whole.metrics["bytes"]
    assert accuracy(small, pairs) > 0.9
    with pytest.raises(InputError, match="has 2 layers, so it cannot train 3"):
        train_encoder("classifier", pairs, tiny(source, finetune=3), tier="s")


def test_int8_too_far_from_float32_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where int8 answers otherwise, the export is refused; the mutant limit 0 would hand it out."""
    pairs = letter_pairs(60)

    def broken(graph: bytes, read: object, rows: object = None, progress: object = None) -> np.ndarray:
        found = real(graph, read, rows, progress)  # type: ignore[arg-type]
        return -found if graph is exact["graph"] else found

    import exporters.students.encoder as module

    real, graphs, exact = module.features_of, module.frozen_graphs, {}

    def kept(*given: object, **named: object) -> tuple[bytes, bytes]:
        found = graphs(*given, **named)  # type: ignore[arg-type]
        exact["graph"] = found[0]
        return found

    monkeypatch.setattr(module, "frozen_graphs", kept)
    monkeypatch.setattr(module, "features_of", broken)
    with pytest.raises(InputError, match=r"gives the float32 one's answers on 0\.\d+ of 60 rows"):
        train_encoder("classifier", pairs, tiny(source, min_agreement=0.9), tier="s")
    assert train_encoder("classifier", pairs, tiny(source, min_agreement=0.0), tier="s").metrics["agreement"] < 0.9


# Confidence


def test_confidence_is_calibrated_on_what_was_held_out() -> None:
    """Temperature and Platt recover a known distortion, and keep the order of answers."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (4000, 5))
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    label = np.array([rng.choice(5, p=row) for row in p])
    assert fit_temperature(true * 3.0, label) == pytest.approx(3.0, rel=0.08)
    said = 1 / (1 + np.exp(-3.0 * rng.normal(0, 1.2, 4000)))
    right = rng.random(4000) < 1 / (1 + np.exp(-np.log(said / (1 - said)) / 3.0))
    made = fit_platt(said, right)
    confidence = np.array([made.confidence(one) for one in said.tolist()])
    assert calibration_error(confidence, right) < 0.02 < calibration_error(said, right)
    assert (np.diff(confidence[np.argsort(said)]) >= 0).all()
    for every in (np.ones(5, dtype=bool), np.zeros(5, dtype=bool)):
        assert 0.1 < fit_platt(np.full(5, 0.7), every).confidence(0.7) < 0.9


# Calibration items, bad pairs


def test_calibration_items_are_never_trained_on(source: str) -> None:
    """A calib item is refused among new and replayed pairs, by id, by group and by text."""
    pairs = letter_pairs(40)
    for calib in (["0-3"], ["group"], [hash_key(pairs[7].prompt)]):
        grouped = [*pairs[:9], replace(pairs[9], group="group"), *pairs[10:]]
        for given in ({"pairs": grouped, "replay": ()}, {"pairs": letter_pairs(20, seed=3), "replay": grouped}):
            with pytest.raises(InputError, match="training pairs and calib share 1 ids or groups"):
                train_encoder("classifier", **given, options=tiny(source), tier="s", calib=hash_keys(calib))  # type: ignore[arg-type]


def test_mutant_fence_that_forgets_the_replay_lets_calibration_in(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked before the mix, a replayed calib item would be learned; so the mix is what is checked."""
    import exporters.students.encoder as module

    replayed = letter_pairs(40)
    calib = hash_keys(item_keys("", "", replayed[5].prompt))
    given = {"tier": "s", "replay": replayed, "calib": calib}
    with pytest.raises(InputError, match="share"):
        train_encoder("classifier", letter_pairs(40, seed=3), tiny(source), **given)  # type: ignore[arg-type]
    new = {key for pair in letter_pairs(40, seed=3) for key in pair.keys}
    real = module.refuse_calib
    monkeypatch.setattr(module, "refuse_calib", lambda what, _, keys: real(what, new, keys))
    assert train_encoder("classifier", letter_pairs(40, seed=3), tiny(source), **given).lineage["pairs"]["replay"] == 40  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "pairs", "message"),
    [
        ("classifier", [Pair("a", "x y", "one")] * 3, "needs two labels, the pairs have 1"),
        ("classifier", [Pair("a", "x y", "")], "has neither a label nor soft labels"),
        ("multilabel", [Pair("a", "x y", "one")], "a JSON list of labels, not 'one'"),
        ("multilabel", [Pair("a", "x", "[]"), Pair("b", "y", "[]")], "no pair has a label"),
        ("tagger", [Pair("a", "x y", "no json")], r"a JSON list of \[text, type\], not 'no json'"),
        ("tagger", [Pair("a", "x y", '[["z", "PER"]]')], "the entity 'z' is not in its text"),
        ("tagger", [Pair("a", "x y", "", tags=("O",))], "has 1 tags for 2 words"),
        ("tagger", [Pair("a", "x y", "", tags=("O", "PER"))], "the tag 'PER' is none of O, B-X, I-X"),
        ("tagger", [Pair("a", "x y", "[]", soft={"a": 1.0})], "soft labels are of whole texts"),
        ("oracle", [Pair("a", "x y", "one")], "classifier, multilabel, tagger, not 'oracle'"),
    ],
)
def test_bad_pairs_are_one_sentence(source: str, kind: str, pairs: list[Pair], message: str) -> None:
    """What cannot be learned is refused before the encoder is loaded."""
    with pytest.raises(InputError, match=message):
        train_encoder(kind, pairs, tiny(source), tier="s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "has an empty prompt"),
        ({"split": "calib"}, "learns from train and tune only"),
        ({"weight": 0.0}, "must be above 0"),
        ({"weight": float("nan")}, "must be above 0"),
        ({"source": "log"}, "use cluster, replay, seed"),
        ({"soft": {"a": 2.0}}, r"probabilities in \[0, 1\]"),
        ({"soft": {}}, r"probabilities in \[0, 1\]"),
    ],
)
def test_a_pair_says_what_is_wrong_with_it(changes: dict[str, object], message: str) -> None:
    """Fields out of range are refused where the pair is made."""
    with pytest.raises(InputError, match=message):
        replace(Pair("a", "x", "y"), **changes)  # type: ignore[arg-type]


def test_template_entities_and_tune_sides(source: str) -> None:
    """The template cuts prompts, foreign ones are refused; entities are aligned in order; texts stay on one side."""
    pairs = [replace(pair, prompt=f"Name the word: {pair.prompt}") for pair in letter_pairs(40)]
    made = train_encoder("classifier", pairs, tiny(source, prompt_template="Name the word: {text}"), tier="s")
    answer = make_student(made).answer("Name the word: prove prove item abc")
    assert answer.signals["template_matched"] == 1.0
    with pytest.raises(InputError, match="does not have the form of the prompt template"):
        train_encoder("classifier", letter_pairs(40), tiny(source, prompt_template="Say: {text}"), tier="s")
    pair = Pair("a", "Ann met Ann Lee", json.dumps([["Ann", "PER"], ["Ann Lee", "PER"]]))
    assert parse_tags(pair, pair.prompt) == ("B-PER", "O", "B-PER", "I-PER")
    twins = [replace(one, query_id=f"{one.query_id}{n}") for one in letter_pairs(60) for n in (0, 1)]
    sides: dict[str, set[str]] = {}
    for one in set_tune_aside(twins, by_answer=True):
        sides.setdefault(one.prompt, set()).add(one.split)
    assert all(len(side) == 1 for side in sides.values())
    rare = [*letter_pairs(60), Pair("r", "a rare one", "rare")]
    assert set_tune_aside(rare, by_answer=True)[-1].split == "train"
    for wrong in (
        {"max_tokens": 4},
        {"threshold": 1.0},
        {"folds": 1},
        {"replay_ratio": -1.0},
        {"prompt_template": "x"},
    ):
        with pytest.raises(InputError):
            EncoderOptions(**wrong)  # type: ignore[arg-type]
