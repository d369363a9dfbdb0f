"""The transformer router on a tiny random encoder: training, losses, export, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs routenlp[train]")
pytest.importorskip("transformers", reason="needs routenlp[train]")
pytest.importorskip("onnx", reason="needs routenlp[train]")

from bundles import PORTFOLIO, TIERS, small_records
from tiny_encoder import MAX_TOKENS, POSITIONS, tiny_examples, tiny_options, write_folder

from exporters.transformer import Preference, TransformerOptions, TransformerTrainer
from exporters.transformer.body import Body, export_body, quantise
from exporters.transformer.features import FeatureStore, buckets, padded
from exporters.transformer.fitted import agreement
from exporters.transformer.graph import Projection
from exporters.transformer.heads import RawScores
from exporters.transformer.labels import LabelTable, group_folds
from exporters.transformer.losses import LossWeights, Targets, total_loss
from exporters.transformer.source import keep_layers, load_source
from exporters.transformer.targets import TrainingSet
from router_core.bundle import Bundle
from router_core.encoder import Encoder, Examples, load_encoder
from router_core.errors import InputError
from router_core.fitting.fit_bundle import FitSettings, fit
from router_core.fitting.stack import StackTrainer
from router_core.fitting.static import StaticTrainer
from router_core.groups import normalise
from router_core.router import Router
from router_core.text_tokens import TextTokens

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tiny encoder."""
    return write_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def trainer(folder: Path) -> TransformerTrainer:
    """A trainer of the tiny encoder; its features are shared by the tests."""
    return TransformerTrainer(str(folder), tiny_options(min_agreement=0.5, max_difference=0.5))


def test_training_gives_an_encoder_that_its_parts_give_back(trainer: TransformerTrainer) -> None:
    """Fitted halves and the loaded graph agree to the last bit, and training twice gives the same bytes."""
    examples = tiny_examples(80)
    fitted = trainer.train(examples, seed=1)
    assert isinstance(fitted, Encoder)
    served = load_encoder(fitted.parts())
    for text in [*examples.text[:20], "something else entirely", ""]:
        one, two = fitted.predict(text, "sums", "long"), served.predict(text, "sums", "long")
        assert np.array_equal(one.pass_probability, two.pass_probability)
        assert np.array_equal(one.gap, two.gap)
        assert np.array_equal(one.hidden, two.hidden)
        assert one.difficulty == two.difficulty
        assert np.array_equal(fitted.embed(text), one.hidden)
    assert trainer.train(examples, seed=1).parts() == fitted.parts()
    other = TransformerTrainer(trainer.source_name, trainer.options)
    assert other.train(examples, seed=1).parts() == fitted.parts()


def test_the_router_serves_as_a_base_of_the_stack(trainer: TransformerTrainer) -> None:
    """Static + transformer + neighbours: the loaded stack predicts as the fitted one, byte for byte the same twice."""
    examples = tiny_examples(80)
    stacked = StackTrainer([StaticTrainer(), trainer])
    fitted = stacked.train(examples, seed=0)
    parts = fitted.parts()
    assert {"base0.encoder.npz", "base1.encoder.onnx", "base1.tokenizer.json"} < set(parts)
    assert stacked.train(examples, seed=0).parts() == parts
    served = load_encoder(parts)
    assert served.hidden_size == tiny_options().hidden
    for text in [*examples.text[:10], "something else entirely", ""]:
        one, two = fitted.predict(text, "sums", "long"), served.predict(text, "sums", "long")
        assert np.array_equal(one.pass_probability, two.pass_probability)
        assert np.array_equal(one.gap, two.gap)
        assert np.array_equal(one.hidden, two.hidden)


def test_a_trainer_goes_by_its_name(folder: Path) -> None:
    """The source names it unless it was named."""
    assert TransformerTrainer(str(folder)).name == str(folder)
    assert TransformerTrainer(str(folder), name="minilm6").name == "minilm6"


def test_labels_bear_on_the_head_but_not_on_the_hidden_vector(trainer: TransformerTrainer) -> None:
    """Shuffled grades change the predictions and leave the hidden vectors as they are."""
    examples = tiny_examples(80)
    order = np.random.default_rng(0).permutation(80)
    shuffled = replace(examples, quality=examples.quality[order])
    one, two = trainer.train(examples, seed=0), trainer.train(shuffled, seed=0)
    assert np.array_equal(one.embed("name the sum"), two.embed("name the sum"))
    first, second = one.predict("prove the sum", None, None), two.predict("prove the sum", None, None)
    assert not np.array_equal(first.pass_probability, second.pass_probability)


def test_fit_end_to_end_serves_what_was_certified(trainer: TransformerTrainer, tmp_path: Path) -> None:
    """`fit` with this trainer writes a bundle whose loaded router routes as the fitted one scored."""
    records = small_records()
    bundle = fit(
        records, out=tmp_path / "bundle", portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1),
        trainers=[trainer],
    )  # fmt: skip
    assert bundle.report["encoder"] == "onnx"
    again = Bundle.load(tmp_path / "bundle")
    for prompt in records.prompt[:30]:
        one = bundle.scorer.encoder.predict(prompt, "mood", None)
        assert np.array_equal(one.pass_probability, again.scorer.encoder.predict(prompt, "mood", None).pass_probability)
    assert Router.load(tmp_path / "bundle").decide(records.prompt[0], task="mood").tier in TIERS


@pytest.mark.parametrize("loss", ["passes", "difficulty", "quality", "gap", "tier", "preference"])
def test_every_loss_can_be_switched_off_and_counts_when_on(loss: str) -> None:
    """A loss alone is positive and has a gradient; with all switched off nothing is left."""
    k = 3
    leaves = [torch.randn(2, 4, n, requires_grad=True) for n in (k - 1, k, k, k)]
    difficulty = torch.randn(2, 4, requires_grad=True)
    scores = RawScores(leaves[0], leaves[1], difficulty, leaves[2], leaves[3])
    targets = TrainingSet.of(tiny_examples(4), (), ()).targets
    off = LossWeights(passes=0, difficulty=0, quality=0, gap=0, tier=0, preference=0)
    assert not total_loss(scores, targets, off).any()
    total = total_loss(scores, targets, replace(off, **{loss: 1.0}))
    assert total.shape == (2, 4)
    assert (total > 0).all()
    total.sum().backward()
    assert any(one.grad is not None and one.grad.any() for one in [*leaves, difficulty])


def test_tier_loss_is_the_papers() -> None:
    """Cross-entropy + 0.3 cost + 0.5 quality hinge, computed by hand for one query."""
    logits = torch.tensor([[[0.5, -0.2, 0.1]]])
    blank = torch.zeros(1, 1, 3)
    scores = RawScores(torch.zeros(1, 1, 2), blank, torch.zeros(1, 1), logits, blank)
    quality, cost = torch.tensor([[0.2, 0.9, 0.8]]), torch.tensor([[0.1, 0.4, 1.0]])
    targets = Targets(
        torch.tensor([[0.0, 1.0, 1.0]]), quality, cost, (quality[:, -1:] - quality).clamp_min(0),
        torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), torch.ones(1),
    )  # fmt: skip
    share = np.exp([0.5, -0.2, 0.1]) / np.exp([0.5, -0.2, 0.1]).sum()
    wanted = -np.log(share[1]) + 0.3 * (share @ [0.1, 0.4, 1.0]) + 0.5 * share[0] * 0.6
    off = LossWeights(passes=0, difficulty=0, quality=0, gap=0, tier=1.0)
    assert float(total_loss(scores, targets, off)) == pytest.approx(wanted, abs=1e-6)


def test_preferences_teach_the_order_of_tiers(folder: Path) -> None:
    """Preference records about foreign prompts move the preference scores, and their number is told."""
    examples = tiny_examples(60)
    asked = [
        Preference(f"{word}{i}", "sums/short", f"{word} the letter item {i}", winner, loser)
        for i in range(60, 90)
        for word, winner, loser in (("prove", "large", "small"), ("name", "small", "large"))
    ]
    trainer = TransformerTrainer(str(folder), tiny_options(min_agreement=0.1, max_difference=1), preferences=asked)
    fitted = trainer.train(examples, seed=0)
    assert fitted.header.told["preferences"] == len(asked)
    assert fitted.header.told["losses"]["preference"] == 0.5
    held = TransformerTrainer(
        str(folder), tiny_options(), preferences=asked, graded={normalise(one.prompt) for one in asked}
    )
    assert held.train(examples, seed=0).header.told["preferences"] == 0
    with pytest.raises(InputError, match="unknown tier 'huge'"):
        TransformerTrainer(
            str(folder), tiny_options(), preferences=[Preference("1", "sums", "x", "huge", "small")]
        ).train(examples, seed=0)


def test_fine_tuning_changes_the_top_and_leaves_likeness_alone(folder: Path) -> None:
    """The tuned encoder differs from the frozen one; hidden vectors come from the layers below and do not change."""
    examples = tiny_examples(60)
    tuned = TransformerTrainer(str(folder), tiny_options(finetune=1, min_agreement=0.1, max_difference=1))
    fitted = tuned.train(examples, seed=0)
    order = np.random.default_rng(0).permutation(60)
    other = tuned.train(replace(examples, quality=examples.quality[order]), seed=0)
    text = "prove the letter item 3"
    assert np.allclose(fitted.embed(text), other.embed(text))
    assert fitted.predict(text, None, None).pass_probability[0] != other.predict(text, None, None).pass_probability[0]
    assert load_encoder(fitted.parts()).predict(text, None, None).pass_probability.shape == (3,)
    with pytest.raises(InputError, match="has 2 layers; fine-tune fewer"):
        TransformerTrainer(str(folder), tiny_options(finetune=2)).train(examples, seed=0)


def test_a_student_learns_the_features_of_the_whole_encoder(tmp_path: Path) -> None:
    """Distilling brings a one-layer student's features nearer to the teacher's, without labels."""
    from exporters.transformer.student import distil

    teacher = load_source(str(write_folder(tmp_path / "three", layers=3)), MAX_TOKENS)
    texts = tiny_examples(64).text
    student = keep_layers(teacher, (0, 2))
    assert student.layers == 2
    tokens = TextTokens(teacher.tokenizer, MAX_TOKENS)
    batch, mask = (torch.from_numpy(one) for one in padded([tokens.ids(text) for text in texts], 0))

    def distance() -> float:
        with torch.no_grad():
            wanted = Body(teacher.model, (3,))(batch, mask)
            return float((Body(student.model, (2,))(batch, mask) - wanted).square().mean())

    before = distance()
    distil(teacher, student, texts, MAX_TOKENS, 40, 0)
    assert distance() < 0.9 * before
    with pytest.raises(InputError, match=r"has layers 0 to 2; it cannot keep \(0, 7\)"):
        keep_layers(teacher, (0, 7))


def test_export_is_the_torch_encoder(folder: Path) -> None:
    """The fused float32 graph gives torch's features; int8 stays near; padding changes nothing."""
    source = load_source(str(folder), MAX_TOKENS)
    tokens = TextTokens(source.tokenizer, MAX_TOKENS)
    texts = ["name the sum", "prove the letter item 3 of the sum", "which?"]
    graph = export_body(source, (1, 2), ("mean", "max"))
    served = FeatureStore(graph, tokens).of(texts)
    batch, mask = (torch.from_numpy(one) for one in padded([tokens.ids(text) for text in texts], 0))
    with torch.no_grad():
        wanted = Body(source.model, (1, 2), ("mean", "max")).eval()(batch, mask).numpy()
    assert served.shape == (3, 64)
    assert np.abs(served - wanted).max() < 1e-4
    small = FeatureStore(quantise(graph), tokens).of(texts)
    assert 0 < np.abs(small - wanted).mean() < 0.1


def test_an_int8_router_too_far_from_float32_is_refused(folder: Path) -> None:
    """Agreement below the limit raises and names both numbers; it is stored where it is good enough."""
    strict = TransformerTrainer(str(folder), tiny_options(min_agreement=1.0, max_difference=1e-9))
    with pytest.raises(InputError, match="too far from the float32 one: start tiers agree on"):
        strict.train(tiny_examples(80), seed=0).parts()
    whole = TransformerTrainer(str(folder), tiny_options(quantised=False)).train(tiny_examples(80), seed=0)
    assert json.loads(whole.parts()["encoder.json"])["told"]["agreement"] == {"queries": 0}


def test_agreement_of_a_router_with_itself_is_perfect() -> None:
    """Equal probabilities agree; reversed ones do not."""
    rng = np.random.default_rng(0)
    one = np.column_stack((rng.random((50, 2)), np.ones(50)))
    found = agreement(one, one)
    assert found["start_tier"] == found["start_tier_worst"] == found["correlation"] == 1.0
    assert found["mean_difference"] == 0.0
    assert agreement(np.column_stack((1 - one[:, :2], np.ones(50))), one)["start_tier"] < 0.8


def test_folders_that_are_no_encoder_are_refused(folder: Path, tmp_path: Path) -> None:
    """Each says what is wrong with the folder."""

    def variant(name: str, change: dict[str, object] | None = None, drop: str = "") -> str:
        target = tmp_path / name
        target.mkdir()
        for file in folder.iterdir():
            if file.name != drop:
                (target / file.name).write_bytes(file.read_bytes())
        if change:
            config = json.loads((target / "config.json").read_text()) | change
            (target / "config.json").write_text(json.dumps(config))
        return str(target)

    with pytest.raises(InputError, match=r"no config\.json"):
        load_source(variant("empty", drop="config.json"))
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        load_source(variant("weightless", drop="model.safetensors"), MAX_TOKENS)
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        load_source(variant("wordless", drop="tokenizer.json"), MAX_TOKENS)
    with pytest.raises(InputError, match="is a gpt2 model, not a sentence encoder"):
        load_source(variant("decoder", {"model_type": "gpt2"}))
    broken = variant("broken")
    (Path(broken) / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be loaded as a sentence encoder"):
        load_source(broken, MAX_TOKENS)


def test_a_vocabulary_that_does_not_match_and_too_short_positions_are_refused(folder: Path, tmp_path: Path) -> None:
    """A tokenizer with more words than the token table has rows, and texts longer than the position table."""
    target = tmp_path / "words"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["extra"] = len(vocabulary)
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="has ids up to 90, its token table 90 rows"):
        load_source(str(target), MAX_TOKENS)
    with pytest.raises(InputError, match=f"up to {POSITIONS} tokens, its position table; max_tokens = 128"):
        load_source(str(folder), 128)


def test_a_name_the_hub_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable hub or an unknown id gives one sentence."""

    def unknown(name: str, **_: object) -> str:
        raise ValueError(f"no model {name}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unknown)
    with pytest.raises(InputError, match="no/such-model is neither a folder nor a model that the hub gives"):
        load_source("no/such-model")


def test_too_few_or_ungraded_examples_are_refused(trainer: TransformerTrainer) -> None:
    """Fewer than two queries a member, and a missing grade, are input errors."""
    with pytest.raises(InputError, match="at least 10 train queries, not 9"):
        trainer.train(tiny_examples(9), seed=0)
    examples = tiny_examples(20)
    examples.quality[3, 1] = np.nan
    with pytest.raises(InputError, match="a query without quality"):
        trainer.train(examples, seed=0)
    with pytest.raises(InputError, match="max_tokens must be at least 8"):
        TransformerOptions(max_tokens=4)


def test_one_task_without_subtasks_and_a_tier_that_always_passes(trainer: TransformerTrainer) -> None:
    """Degenerate records train too, and unnamed labels give the masked answer."""
    base = tiny_examples(40)
    quality = base.quality.copy()
    quality[:, 0] = 1.0
    examples = Examples(base.text, ["t"] * 40, [""] * 40, quality, base.cost, 0.0, base.tiers)
    fitted = trainer.train(examples, seed=0)
    found = fitted.predict("name the sum", "t", None)
    assert found.pass_probability[0] > 0.9
    assert np.array_equal(found.pass_probability, fitted.predict("name the sum", None, None).pass_probability)


def test_folds_keep_like_texts_together_and_label_means_are_out_of_fold() -> None:
    """Texts alike but for case share a fold; a query's own grade does not enter its label mean."""
    texts = [f"text {i // 2}" if i % 2 else f"Text {i // 2}!" for i in range(100)]
    fold = group_folds(texts, 5, 0)
    assert (fold[::2] == fold[1::2]).all()
    assert set(fold.tolist()) == set(range(5))
    examples = tiny_examples(50)
    table = LabelTable.of(examples)
    target = np.zeros((50, 1))
    spread = np.arange(50) % 5
    target[spread == 0] = 1.0
    _, out = table.priors(target, spread, 1.0)
    assert np.allclose(out[-1][spread == 0], 0.0)


def test_buckets_hold_every_row_once_and_like_lengths() -> None:
    """Batches partition the rows; in sorted order no batch spans more than it must."""
    lengths = [5, 1, 9, 2, 8, 7, 3]
    batches = list(buckets(lengths, 3))
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))
    assert [lengths[i] for i in np.concatenate(batches).tolist()] == sorted(lengths)
    shuffled = np.concatenate(list(buckets(lengths, 3, np.random.default_rng(0))))
    assert sorted(shuffled.tolist()) == list(range(7))


def test_projection_keeps_the_most_variance_first() -> None:
    """Components have falling variance, mean square one over all, and ignore columns left out."""
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((200, 3)) @ rng.standard_normal((3, 12))).astype(np.float32)
    z = Projection.of(features, 4, slice(0, 6)).apply(features)
    assert (np.diff(z.var(axis=0)) < 1e-3).all()
    assert np.square(z).mean() == pytest.approx(1.0, rel=0.05)
    moved = features.copy()
    moved[:, 6:] += 5.0
    assert np.allclose(Projection.of(features, 4, slice(0, 6)).apply(moved), z, atol=1e-4)
