"""`ConformalSelector`: right positions in any order, a fallback when it cannot decide, and nothing promised falsely."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_index.core", reason="needs routenlp[llama-index]")

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import CustomQueryEngine, RouterQueryEngine
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import QueryEngineTool
from llama_index.core.tools.types import ToolMetadata
from tiny_sentence import SENTENCE, TOKENS

from routenlp_integrations.llama_index import ConformalSelector
from router_core.choices import ChoiceJudge
from router_core.errors import BundleError, InputError

CHOICES = [
    ToolMetadata(name="fruit", description="Questions about fruit, orchards and juice."),
    ToolMetadata(name="ships", description="Questions about ships, harbours and sailors."),
    ToolMetadata(name="stars", description="Questions about stars, planets and telescopes."),
]
_WORDS = {
    "fruit": ("apple", "pear", "orchard", "juice", "cherry", "plum"),
    "ships": ("ship", "harbour", "sailor", "anchor", "ferry", "mast"),
    "stars": ("star", "planet", "telescope", "comet", "moon", "galaxy"),
}
_FRAMES = (
    "tell me about the {} of {}", "how old is the {} number {}", "which {} is best in {}", "is the {} in {} large",
    "who has seen a {} near {}", "compare one {} with another from {}",
)  # fmt: skip
_PLACES = ("Rome", "Oslo", "Lima", "Cairo", "Perth", "Quito")


def queries(seed: int = 0, count: int = 200, doubtful: float = 0.25) -> list[tuple[str, str]]:
    """Labelled queries; a share of them names a thing that may belong to any choice."""
    rng, found = np.random.default_rng(seed), {}
    names = list(_WORDS)
    while len(found) < count:
        label = names[int(rng.integers(3))]
        word = rng.choice(_WORDS[label]) if rng.random() >= doubtful else "thing"
        found[f"{rng.choice(_FRAMES).format(word, rng.choice(_PLACES))} {len(found)}"] = label
    return list(found.items())


@pytest.fixture(scope="module")
def selector() -> ConformalSelector:
    """Fitted on words alone."""
    return ConformalSelector.fit(CHOICES, queries())


class Told(BaseSelector):
    """A fallback that names positions it is told, and remembers what it was offered."""

    def __init__(self, *indices: int, error: Exception | None = None) -> None:
        self.indices, self.error, self.offered = indices, error, list[list[str | None]]()
        self.prompt = PromptTemplate("choose {one}")

    def _get_prompts(self) -> dict[str, Any]:
        return {"prompt": self.prompt}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        self.prompt = prompts.get("prompt", self.prompt)

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        self.offered.append([choice.name for choice in choices])
        if self.error is not None:
            raise self.error
        return SelectorResult(selections=[SingleSelection(index=i, reason="told") for i in self.indices])

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return self._select(choices, query)


def with_fallback(selector: ConformalSelector, fallback: BaseSelector, **options: Any) -> ConformalSelector:
    """The same judge with somebody to ask."""
    return ConformalSelector(selector.judge, fallback=fallback, **options)


class _Echo(CustomQueryEngine):
    """Says what it is asked."""

    def custom_query(self, query_str: str) -> str:
        return query_str


DOUBTFUL = "compare one thing with another thing"


def test_it_is_a_selector(selector: ConformalSelector) -> None:
    """The customary test: LlamaIndex's base class is in the MRO; no prompts of its own, those of its fallback."""
    assert BaseSelector in ConformalSelector.__mro__
    assert selector.get_prompts() == {}
    asked = with_fallback(selector, Told(0))
    assert set(asked.get_prompts()) == {"fallback:prompt"}
    asked.update_prompts({"fallback:prompt": PromptTemplate("other {one}")})
    assert asked.get_prompts()["fallback:prompt"].template == "other {one}"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_positions_follow_the_offer(selector: ConformalSelector, order: tuple[int, ...]) -> None:
    """Permuted choices give permuted positions, zero-based and in range; position 0 is the first (#23072)."""
    offered = [CHOICES[i] for i in order]
    for name, query in (
        ("fruit", "the orchard and its juice"),
        ("ships", "the anchor"),
        ("stars", "a comet near the moon"),
    ):
        found = selector.select(offered, query)
        assert offered[found.ind].name == name
        assert 0 <= found.ind < 3
        straight = selector.select(CHOICES, query)
        assert [s.reason for s in found.selections] == [s.reason for s in straight.selections]
    first = selector.select(offered, f"{offered[0].name}: {offered[0].description}")
    assert first.ind == 0


def test_the_same_query_gets_the_same_answer(selector: ConformalSelector) -> None:
    """Twice, from a copy, a pickle, threads, and asynchronously: nothing is random and nothing is shared (P21)."""
    texts = [text for text, _ in queries(1, 60)]
    wanted = [selector.select(CHOICES, text) for text in texts]
    for other in (selector, copy.deepcopy(selector), pickle.loads(pickle.dumps(selector))):  # noqa: S301 - our own
        assert [other.select(CHOICES, text) for text in texts] == wanted
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: selector.select(CHOICES, text), texts)) == wanted

    async def together() -> list[SelectorResult]:
        return list(await asyncio.gather(*(selector.aselect(CHOICES, text) for text in texts)))

    assert asyncio.run(together()) == wanted


def test_calibration_and_serving_compute_the_same_numbers() -> None:
    """Replayed through the serving path, the calibration queries give the stored scores bit for bit (P13)."""
    calib = queries(4, 60)
    known = [choice.name for choice in CHOICES]
    fitted = ConformalSelector.fit(CHOICES, queries(0, 60), calibration=calib)
    own = []
    for text, label in dict(calib).items():
        own.append(1.0 - fitted.verdict(CHOICES, text).probability[known.index(label)])
    assert fitted.judge.counts.calib == len(own)
    assert np.array_equal(np.sort(own), fitted.judge.sets.scores[0])


@pytest.mark.parametrize(
    "text", ["", " ", "🙂", "\ud800", "\x00", "apple " * 20_000, "どの星が一番明るいですか", "¿dónde está el barco?"]
)
def test_any_query_is_answered(selector: ConformalSelector, text: str) -> None:
    """Empty, odd and very long queries give one position in range, finite numbers and a reason."""
    for mode in ("single", "multi"):
        found = ConformalSelector(selector.judge, mode=mode).select(CHOICES, text)
        assert found.inds
        assert all(0 <= at < 3 for at in found.inds)
        assert all("p-value" in one.reason and "nan" not in one.reason for one in found.selections)


def test_sets_and_singles(selector: ConformalSelector) -> None:
    """Multi gives the calibrated set, most probable first; single one choice, and says when it cannot decide."""
    multi = ConformalSelector(selector.judge, mode="multi")
    unsure = multi.select(CHOICES, DOUBTFUL)
    verdict = multi.verdict(CHOICES, DOUBTFUL)
    assert tuple(unsure.inds) == verdict.members
    assert len(unsure.inds) > 1
    chances = [verdict.probability[at] for at in unsure.inds]
    assert chances == sorted(chances, reverse=True)
    alone = selector.select(CHOICES, DOUBTFUL)
    assert alone.ind == unsure.inds[0]
    assert "cannot decide" in alone.reason
    assert f"set of {len(unsure.inds)} of 3" in alone.reason
    sure = selector.select(CHOICES, "the harbour and its ship")
    assert sure.reason.startswith("alone in the set: p-value")
    assert sum(verdict.probability) == pytest.approx(1.0)


def test_the_fallback_is_asked_only_when_needed(selector: ConformalSelector) -> None:
    """It sees only the choices of the set, and its position among those is turned into one of the offer."""
    members = selector.verdict(CHOICES, DOUBTFUL).members
    told = Told(len(members) - 1)
    found = with_fallback(selector, told).select(CHOICES, DOUBTFUL)
    assert told.offered == [[CHOICES[at].name for at in members]]
    assert found.ind == members[-1]
    assert "told" in found.reason
    assert with_fallback(selector, told).select(CHOICES, "the harbour and its ship").ind == 1
    assert len(told.offered) == 1
    assert asyncio.run(with_fallback(selector, told).aselect(CHOICES, DOUBTFUL)) == found


class Silent(Told):
    """A fallback that gives no result at all, as one without a match may."""

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    "fallback",
    [Told(3), Told(-1), Told(), Told(0, error=ValueError("no JSON")), Silent()],
    ids=["3", "-1", "none", "error", "no result"],
)
def test_a_fallback_out_of_range_is_not_believed(selector: ConformalSelector, fallback: Told) -> None:
    """A wrong position, none, no result or an exception: the most probable choice, and the reason says so."""
    for found in (
        with_fallback(selector, fallback).select(CHOICES, DOUBTFUL),
        asyncio.run(with_fallback(selector, fallback).aselect(CHOICES, DOUBTFUL)),
    ):
        assert found.ind == selector.select(CHOICES, DOUBTFUL).ind
        assert "the most probable choice is taken" in found.reason
        assert "fallback" in found.reason


def test_certified_mode_takes_above_its_threshold(selector: ConformalSelector) -> None:
    """decide="certified" takes what reaches the threshold and asks about everything else."""
    claim = selector.judge.taken
    assert claim.threshold is not None
    told = Told(0)
    certified = with_fallback(selector, told, decide="certified")
    wrong = asked = 0
    fresh = queries(9, 300)
    for text, label in fresh:
        before = len(told.offered)
        found = certified.select(CHOICES, text)
        top = max(certified.verdict(CHOICES, text).probability)
        assert (len(told.offered) == before) == (top >= claim.threshold)
        if len(told.offered) == before:
            wrong += CHOICES[found.ind].name != label
        else:
            asked += 1
    assert 0 < asked < len(fresh)
    assert wrong / len(fresh) <= 2 * claim.alpha
    nothing = ConformalSelector.fit(CHOICES, queries(0, 60), alpha=0.02, decide="certified")
    assert nothing.judge.taken.threshold is None
    assert "nothing was shown" in repr(nothing)
    assert "cannot decide" in nothing.select(CHOICES, "the anchor").reason


def test_choices_never_fitted_are_uncovered(selector: ConformalSelector) -> None:
    """A new choice competes by its description, nothing is promised, and nothing certified is taken."""
    new = ToolMetadata(name="bread", description="Bakery, bread, rye, wheat loaves and ovens.")
    found = selector.select([*CHOICES, new], "the anchor of a ship")
    assert found.ind == 1
    assert "uncovered: 'bread' never fitted" in found.reason
    verdict = selector.verdict([*CHOICES, new], "the anchor of a ship")
    assert not verdict.taken
    assert 0.0 < verdict.probability[3] < 1.0
    only = selector.select([new], "bread")
    assert only.ind == 0
    assert "uncovered" in only.reason


def test_part_of_the_choices_is_another_question(selector: ConformalSelector) -> None:
    """With fitted choices missing the marginal promise is void; per choice it is not."""
    assert "2 of 3 fitted choices not on offer" not in selector.select(CHOICES, "x").reason
    assert "1 of 3 fitted choices not on offer" in selector.select(CHOICES[:2], "the anchor").reason
    per_choice = ConformalSelector.fit(CHOICES, queries(0, 90), per_choice=True)
    verdict = per_choice.verdict(CHOICES[:2], "the anchor")
    assert verdict.void == ""
    assert not verdict.taken
    assert "for the queries of each choice" in repr(per_choice)


def test_choices_are_recognised_by_name_or_description(selector: ConformalSelector) -> None:
    """A renamed tool keeps its description's place, a reworded one its name's, uncovered; repeats count once."""
    spaced = ToolMetadata(name="fruit", description=CHOICES[0].description.replace(" ", "\n  "))
    changed = [
        spaced,
        ToolMetadata(name="vessels", description=CHOICES[1].description),
        CHOICES[2],
        CHOICES[2],
    ]
    verdict = selector.verdict(changed, "the anchor of a ship")
    assert verdict.void == ""
    assert verdict.order[0] == 1
    assert set(verdict.order) == {0, 1, 2}
    assert selector.verdict([one.description for one in CHOICES], "the anchor").void == ""
    changed[0] = ToolMetadata(name="fruit", description="All about fruit!")
    reworded = selector.verdict(changed, "the anchor of a ship")
    assert reworded.probability == verdict.probability
    assert reworded.void == "'fruit' described otherwise than fitted"
    assert not reworded.taken


def test_descriptions_that_are_swapped_are_uncovered(selector: ConformalSelector) -> None:
    """Two choices with each other's descriptions are not what was fitted: it says so of both, and asks."""
    fruit, ships, stars = CHOICES
    swapped = [
        ToolMetadata(name=fruit.name, description=ships.description),
        ToolMetadata(name=ships.name, description=fruit.description),
        stars,
    ]
    uncovered = "uncovered: 'fruit' described otherwise than fitted; 'ships' described otherwise than fitted"
    for decide in ("set", "certified"):
        told, order = Told(2), selector.verdict(swapped, "the anchor of a ship").order
        found = with_fallback(selector, told, decide=decide).select(swapped, "the anchor of a ship")  # type: ignore[arg-type]
        assert told.offered == [[swapped[at].name for at in order]]
        assert found.ind == order[2]
        assert found.reason.endswith(uncovered)
    without = [choice._replace(description="") for choice in selector.judge.choices]
    older = ConformalSelector(replace(selector.judge, choices=tuple(without)))
    assert older.verdict(swapped, "the anchor of a ship").void == ""


@pytest.mark.parametrize("decide", ["set", "certified"])
@pytest.mark.parametrize("void", ["new", "missing", "meaningless"])
def test_the_fallback_is_asked_where_nothing_is_promised(selector: ConformalSelector, decide: Any, void: str) -> None:
    """A choice never fitted, one not on offer, one of another meaning: nothing is decided alone, and all are asked."""
    offered = {
        "new": [*CHOICES, ToolMetadata(name="bread", description="Bakery, bread, rye, wheat loaves and ovens.")],
        "missing": CHOICES[:2],
        "meaningless": [CHOICES[0], ToolMetadata(name="ships", description="Nuclear physics."), CHOICES[2]],
    }[void]
    sure = "the anchor of a ship"
    assert selector.verdict(CHOICES, sure).members == selector.verdict(offered, sure).members == (1,)
    told, order = Told(1), selector.verdict(offered, sure).order
    found = with_fallback(selector, told, decide=decide).select(offered, sure)
    assert told.offered == [[offered[at].name for at in order]]
    assert found.ind == order[1]
    alone = ConformalSelector(selector.judge, decide=decide).select(offered, sure)
    assert alone.ind == 1
    assert alone.reason.startswith("cannot decide (nothing is promised for these choices)")
    assert "uncovered: " in alone.reason
    assert with_fallback(selector, told, decide=decide, mode="multi").select(offered, sure).inds == [1]
    assert len(told.offered) == 1


def test_one_choice_and_alike_choices() -> None:
    """One choice is always it; equal descriptions under two names are told apart by labels; twins are refused."""
    lone = ConformalSelector.fit(["anything"], [(text, 0) for text, _ in queries(2, 30)])
    found = lone.select(["anything"], "whatever")
    assert found.ind == 0
    assert "probability 1.000" in found.reason
    twins = [ToolMetadata(name=name, description="Answers questions.") for name in ("fruit", "ships", "stars")]
    alike = ConformalSelector.fit(twins, queries(0, 90))
    assert alike.select(twins, "the anchor of a ship").ind == 1
    assert alike.select(twins[::-1], "the anchor of a ship").ind == 1
    unnamed = [ToolMetadata(name="query_engine_tool", description=one.description) for one in CHOICES]
    indexed = [(text, list(_WORDS).index(label)) for text, label in queries()]
    assert ConformalSelector.fit(unnamed, indexed[:90]).select(unnamed, "the anchor of a ship").ind == 1
    with pytest.raises(InputError, match="Two choices"):
        ConformalSelector.fit([twins[0], twins[0]], [("a", 0)])
    two = ConformalSelector.fit(CHOICES[:2], [one for one in queries(0, 90) if one[1] != "stars"])
    assert two.select(CHOICES[:2], "the anchor of a ship").ind == 1
    assert two.select(CHOICES[:2], "the orchard and its juice").ind == 0


@pytest.mark.parametrize(
    ("choices", "labelled", "message"),
    [
        ([], [("a", 0)], "at least one choice"),
        (CHOICES, [("a", 3)], "index of one of 3"),
        (CHOICES, [("a", -1)], "index of one of 3"),
        (CHOICES, [("a", 1.9)], "index of one of 3"),
        (CHOICES, [("a", True)], "index of one of 3"),
        (CHOICES, [("a", None)], "index of one of 3"),
        (
            [QueryEngineTool.from_defaults(_Echo(), name="a")],
            [("x", 0)],
            "^Choice 0 is a QueryEngineTool; give tool.metadata.$",
        ),
        ([*CHOICES, 3], [("x", 0)], "^Choice 3 is a int; give a ToolMetadata or a description.$"),
        (CHOICES, [("a", "trains")], "not among the choices"),
        (CHOICES, [("apple", "fruit")] * 5, "left to train on"),
        (CHOICES, [], "left to train on"),
    ],
)
def test_bad_input_is_one_sentence(choices: list[Any], labelled: list[Any], message: str) -> None:
    """What was wrong, where, and what to do."""
    with pytest.raises(InputError, match=message):
        ConformalSelector.fit(choices, labelled)


def test_bad_options_are_one_sentence(selector: ConformalSelector) -> None:
    """Unknown modes, encoders that are none, an empty offer, levels out of range."""
    with pytest.raises(InputError, match="mode"):
        ConformalSelector(selector.judge, mode="both")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="neither"):
        ConformalSelector.fit(CHOICES, queries(), encoder="/nowhere/at/all")
    with pytest.raises(InputError, match="embed"):
        ConformalSelector.fit(CHOICES, queries(), encoder=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="No choice"):
        selector.select([], "x")
    with pytest.raises(InputError, match=r"^Choice 0 is a QueryEngineTool; give tool.metadata\.$"):
        selector.verdict([QueryEngineTool.from_defaults(_Echo(), name="a")], "x")  # type: ignore[list-item]
    for name in ("alpha", "delta", "calibration_share"):
        for level in (0.0, 1.0, float("nan"), "0.1", None, True):
            with pytest.raises(InputError, match=rf"^{name} = {level!r} must be a number between 0 and 1\.$"):
                ConformalSelector.fit(CHOICES, queries(0, 60), **{name: level})  # type: ignore[arg-type]


def test_training_and_calibration_stay_apart() -> None:
    """Repeats of a query stay on one side and count once; training queries near calibration ones are taken out."""
    plain = queries(0, 90)
    once = ConformalSelector.fit(CHOICES, plain).judge
    five = ConformalSelector.fit(CHOICES, [(f"{text}{'!' * i}", label) for text, label in plain for i in range(5)])
    assert five.judge.counts.calib == once.counts.calib
    assert five.judge.counts.repeats == 4 * once.counts.calib
    given = ConformalSelector.fit(CHOICES, plain, calibration=plain[:30]).judge.counts
    assert (given.train, given.calib, given.straddlers) == (60, 30, 30)
    again = ConformalSelector.fit(CHOICES, plain).judge
    assert again.parts() == once.parts()


def encoders(small_bundle: Path) -> dict[str, str]:
    """Every kind of encoder there is here."""
    found = {"words": "static", "tokens": str(TOKENS), "onnx": str(SENTENCE), "bundle": str(small_bundle)}
    if made := os.environ.get("ROUTENLP_MINILM"):
        found["minilm bundle"] = str(Path(made) / "bundle")
    return found


def test_a_saved_selector_serves_the_same(small_bundle: Path, tmp_path: Path) -> None:
    """Saved and loaded with every kind of encoder: the same answers; a copy of the encoder travels along."""
    texts = [text for text, _ in queries(3, 12)]
    for name, encoder in encoders(small_bundle).items():
        made = ConformalSelector.fit(CHOICES, queries(0, 60), encoder=encoder)
        made.save(tmp_path / name)
        loaded = ConformalSelector.load(tmp_path / name, decide="certified")
        assert loaded.decide == "certified"
        assert loaded.statement == made.statement
        for text in texts:
            assert loaded.verdict(CHOICES, text).probability == made.verdict(CHOICES, text).probability
        twin = pickle.loads(pickle.dumps(loaded))  # noqa: S301 - our own
        assert twin.select(CHOICES, texts[0]) == loaded.select(CHOICES, texts[0])
        assert asyncio.run(made.aselect(CHOICES, texts[0])) == made.select(CHOICES, texts[0])


def test_an_encoder_of_ones_own(tmp_path: Path) -> None:
    """Any object with embed(text) will do, but only folders can be saved with the selector."""

    class Letters:
        def embed(self, text: str) -> np.ndarray:
            return np.array([text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"], dtype=float)

    made = ConformalSelector.fit(CHOICES, queries(0, 60), encoder=Letters())
    assert made.select(CHOICES, "the anchor of a ship").ind in range(3)
    assert "Letters" in repr(made)
    with pytest.raises(InputError, match="cannot be saved"):
        made.save(tmp_path / "selector")
    assert not (tmp_path / "selector").exists()


def test_a_damaged_folder_is_refused(selector: ConformalSelector, tmp_path: Path) -> None:
    """Changed, missing, extra, newer, or something else: one sentence, and nothing is half-written."""
    made = selector.save(tmp_path / "selector")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["selector"]
    for damage, message in (
        (lambda folder: (folder / "choices.npz").write_bytes(b"x"), "was changed"),
        (lambda folder: (folder / "choices.json").unlink(), "is missing"),
        (lambda folder: (folder / "more.txt").write_text("x"), "does not belong"),
        (shutil.rmtree, "not a selector"),
    ):
        copied = shutil.copytree(made, tmp_path / "copy", dirs_exist_ok=True)
        damage(copied)
        with pytest.raises(BundleError, match=message):
            ConformalSelector.load(copied)
        shutil.rmtree(copied, ignore_errors=True)
    manifest = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(BundleError, match="upgrade"):
        ConformalSelector.load(made)


def test_another_format_and_odd_arrays_are_refused(
    selector: ConformalSelector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is whole but not ours to read: newer format, or parts that do not fit together."""
    from router_core.arrays import dump_arrays, load_arrays

    parts = selector.judge.parts()
    header, arrays = json.loads(parts["choices.json"]), load_arrays("choices.npz", parts["choices.npz"])
    changed: list[dict[str, bytes]] = [
        {"choices.json": json.dumps(header | change).encode()}
        for change in ({"format": 2}, {"choices": []}, {"taken": [1]}, {"counts": "x"}, {"alpha": 7})
    ]
    changed += [{"choices.npz": dump_arrays({**arrays, name: arrays[name][:1]})} for name in ("words", "offset")]
    changed += [{"choices.npz": dump_arrays({**arrays, "buckets": arrays["buckets"][::-1]})}]
    for number, change in enumerate(changed):
        monkeypatch.setattr(ChoiceJudge, "parts", lambda _, change=change: parts | change)
        folder = selector.save(tmp_path / str(number))
        with pytest.raises(BundleError):
            ConformalSelector.load(folder)


def test_it_shows_itself(selector: ConformalSelector) -> None:
    """n, alpha, the kind of coverage and what voids it; HTML is escaped."""
    shown = repr(selector)
    for words in (f"n = {selector.judge.sets.n}", ">= 0.9", "marginal", "Void", "in expectation", "confidence 0.9"):
        assert words in shown
    odd = [ToolMetadata(name="<script>", description="a & b"), *CHOICES[1:]]
    labelled = [(text, list(_WORDS).index(label)) for text, label in queries()]
    html = ConformalSelector.fit(odd, labelled[:60])._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "a &amp; b" in html


class Source(CustomQueryEngine):
    """Answers with its own name."""

    name: str

    def custom_query(self, query_str: str) -> str:
        """Answer."""
        return f"{self.name}: {query_str}"


def test_it_drives_llama_index_router_query_engine(selector: ConformalSelector) -> None:
    """As `selector=` of LlamaIndex's own engine: the right source answers, and the result is in the metadata."""
    tools = [
        QueryEngineTool.from_defaults(Source(name=str(one.name)), name=one.name, description=one.description)
        for one in CHOICES[::-1]
    ]
    engine = RouterQueryEngine(selector=selector, query_engine_tools=tools, llm=MockLLM())
    response = engine.query("the anchor of a ship")
    assert str(response) == "ships: the anchor of a ship"
    assert response.metadata is not None
    assert response.metadata["selector_result"].ind == 1
    assert str(asyncio.run(engine.aquery("a comet near the moon"))) == "stars: a comet near the moon"
    several = RouterQueryEngine(ConformalSelector(selector.judge, mode="multi"), tools, llm=MockLLM())
    assert len(several.query(DOUBTFUL).metadata["selector_result"].inds) > 1  # type: ignore[index]


def test_serving_needs_no_fitting_library(selector: ConformalSelector, tmp_path: Path) -> None:
    """A fresh process that loads and selects imports neither torch nor the fitting libraries."""
    selector.save(tmp_path / "selector")
    code = (
        "import sys\n"
        "from router_core.choices import ChoiceJudge, Choice\n"
        "from router_core.choice_verdict import ChoiceVerdicts\n"
        f"judge = ChoiceJudge.load({str(tmp_path / 'selector')!r})\n"
        "ChoiceVerdicts(judge).judge_query('the anchor', judge.choices)\n"
        "heavy = {'torch', 'transformers', 'scipy', 'sklearn', 'pandas', 'crepes', 'onnx', 'onnxruntime'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


def test_alone_in_the_set_is_what_is_taken() -> None:
    """With a threshold per choice the only member may be the less probable one; it is taken, not the other."""
    draw = np.random.default_rng(1)
    words = {"bill": ["invoice", "charge", "payment", "refund"], "tech": ["crash", "error", "login", "bug"]}
    names, noise = list(words), {"bill": 0.02, "tech": 0.45}

    def query(label: str) -> str:
        other = next(name for name in names if name != label)
        picked = [str(draw.choice(words[label if draw.random() > noise[label] else other])) for _ in range(5)]
        return f"{' '.join(picked)} {draw.integers(10**6)}"

    def queries(n: int) -> list[tuple[str, int]]:
        return [(query(names[i]), int(i)) for i in draw.choice(2, size=n, p=[0.8, 0.2])]

    choices = ["about bill", "about tech"]
    selector = ConformalSelector.fit(choices, queries(800), per_choice=True, alpha=0.1)
    unlike = 0
    for text, _ in queries(600):
        verdict = selector.verdict(choices, text)
        if len(verdict.members) == 1:
            assert selector.select(choices, text).ind == verdict.members[0]
            unlike += verdict.members[0] != verdict.order[0]
    assert unlike > 0, "the population no longer tells the two rules apart"


def test_a_labelled_query_that_is_no_pair() -> None:
    """The error says which one and what to give."""
    with pytest.raises(InputError, match="Labelled query 1 is"):
        ConformalSelector.fit(["a", "b"], [("one", 0), ("two",)])  # type: ignore[list-item]
