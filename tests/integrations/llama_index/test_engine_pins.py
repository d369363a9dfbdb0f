"""A group's certificate is about the engines that were recorded: whatever is changed about them, it lapses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines import ScriptedEngine, ScriptedSelector, local_embedding, tool
from llama_index.core import MockEmbedding, PromptTemplate
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.query_engine import RouterQueryEngine as Theirs
from llama_index.core.response_synthesizers import TreeSummarize
from llama_index.core.vector_stores import ExactMatchFilter, MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQueryMode

from routenlp_integrations.llama_index import RouterQueryEngine, engine_fingerprint, engine_pins, pin_engines
from routenlp_integrations.notebook.company import QUESTIONS
from routenlp_integrations.notebook.engines import PRICES, ReadingLLM, company_engines, company_index
from router_core.errors import InputError
from router_core.fingerprints import ENGINE
from router_core.lapse import LapseWatch
from router_core.portfolio import Portfolio
from router_core.router import Router

Engines = dict[str, Any]


def rebuilt(embedding: Any = None) -> Engines:
    """The engines that were recorded, made anew."""
    return company_engines(company_index(embedding or local_embedding()))


def _set(engine: str, part: str, name: str, value: Any) -> Callable[[], Engines]:
    """The engines with another setting of a part of one of them."""

    def changed() -> Engines:
        found = rebuilt()
        held = found[engine] if not part else getattr(found[engine], part)
        setattr(held, name, value)
        return found

    return changed


def _prompted() -> Engines:
    found = rebuilt()
    template = PromptTemplate("Ignore {context_str}; say no. {query_str}")
    found["docs_dear"].update_prompts({"response_synthesizer:text_qa_template": template})
    return found


def _filtered() -> Engines:
    kept = MetadataFilters(filters=[ExactMatchFilter(key="year", value=2011)])
    return _set("docs_dear", "_retriever", "_filters", kept)()


CHANGES: dict[str, Callable[[], Engines]] = {
    "embedding": lambda: rebuilt(MockEmbedding(embed_dim=8)),
    "similarity_top_k": _set("docs_dear", "_retriever", "_similarity_top_k", 1),
    "the cheap one's": _set("docs_cheap", "_retriever", "_similarity_top_k", 1),
    "filters": _filtered,
    "LLM": _set("docs_dear", "_response_synthesizer", "_llm", MockLLM()),
    "synthesizer": _set("docs_dear", "", "_response_synthesizer", TreeSummarize(llm=ReadingLLM())),
    "postprocessor": _set("docs_dear", "", "_node_postprocessors", [SimilarityPostprocessor(similarity_cutoff=0.5)]),
    "prompt": _prompted,
    "constant": lambda: {**rebuilt(), "docs_cheap": ScriptedEngine("It was introduced in 2011.")},
    "swapped": lambda: dict(zip(PRICES.names, reversed(rebuilt().values()), strict=True)),
}


def group_of(engines: Engines, router: Router) -> RouterQueryEngine:
    """A router whose only choice is a group of these engines."""
    tools = [tool(name, engine) for name, engine in engines.items()]
    return RouterQueryEngine(
        ScriptedSelector(0), tools, llm=ReadingLLM(), cascades={"docs": list(engines)}, router=router
    )


@pytest.fixture(scope="module")
def loaded(company: Path) -> Router:
    """The router of the bundle that pins both engines."""
    return Router.load(company / "bundle")


def fresh(router: Router, **changed: Any) -> Router:
    """The router without what other tests let lapse."""
    return replace(router, lapses=LapseWatch(), **changed)


def test_the_bundle_pins_what_was_recorded(loaded: Router) -> None:
    """Engines made anew, and ones that have answered, have the pinned fingerprints and keep the certificate."""
    found = rebuilt()
    assert dict(loaded.portfolio.models) == {name: engine_fingerprint(engine) for name, engine in found.items()}
    engine = group_of(found, router := fresh(loaded))
    for one in QUESTIONS[:6]:
        assert engine.query(one.text).metadata["routenlp"]["certificate"]["scope"] == "questions"
    assert group_of(found, router) is not None
    assert router.lapses.lapsed == ()


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_engine_is_not_the_certified_one(loaded: Router, change: str) -> None:
    """Nothing is claimed, the reference answers, and the reason names the tier and both fingerprints."""
    router = fresh(loaded)
    route = group_of(CHANGES[change](), router).query(QUESTIONS[0].text).metadata["routenlp"]
    assert (route["tier"], route["certificate"]) == ("docs_dear", None)
    assert "certificate lapsed: tier docs_" in route["reason"]
    assert route["reason"].count(f"another engine, {ENGINE}") == 1


def unnoticed(router: Router) -> list[str]:
    """Changes after which the certificate still stands."""
    pinned = fresh(router, portfolio=pin_engines(PRICES, rebuilt()))
    found = []
    for name, change in CHANGES.items():
        group_of(change(), mine := fresh(pinned))
        if not mine.lapses.why("questions"):
            found.append(name)
    return found


def test_class_names_alone_would_not_do(loaded: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change is noticed; by a fingerprint of the engine's class only, most are not."""
    assert unnoticed(loaded) == []
    monkeypatch.setattr(engine_pins, "engine_fingerprint", lambda engine: f"{ENGINE}{type(engine).__name__}")
    assert {"embedding", "similarity_top_k", "LLM", "prompt"} <= set(unnoticed(loaded))


def test_every_process_finds_the_same() -> None:
    """The fingerprints of engines that other processes make, whatever the order of their sets, are the same."""
    code = (
        "from routenlp_integrations.llama_index import engine_fingerprint\n"
        "from routenlp_integrations.notebook.engines import WordEmbedding, company_engines, company_index\n"
        "made = company_engines(company_index(WordEmbedding()), streaming=True)\n"
        "print(*map(engine_fingerprint, made.values()))\n"
    )
    from routenlp_integrations.notebook.engines import WordEmbedding

    mine = [engine_fingerprint(engine) for engine in rebuilt(WordEmbedding()).values()]
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)  # noqa: S603
        assert done.stdout.split() == mine


def test_an_older_bundle_is_held_to_no_engine(loaded: Router) -> None:
    """A portfolio that names no engine, or models, keeps its certificate whatever the engines are."""
    for model in (None, "some-model"):
        tiers = tuple(replace(tier, model=model) for tier in loaded.portfolio.tiers)
        router = fresh(loaded, portfolio=Portfolio(tiers))
        group_of(CHANGES["constant"](), router)
        assert router.lapses.lapsed == ()
        assert router.fingerprints.counts == {}


def test_an_engine_that_names_its_model(loaded: Router) -> None:
    """Beside a pinned engine a model that answers name is no change; a second one is."""
    told = {name: ScriptedEngine("It is 2011.", metadata={"model_name": f"{name}-1"}) for name in PRICES.names}
    router = fresh(loaded, portfolio=pin_engines(PRICES, told))
    engine = group_of(told, router)
    assert engine.query(QUESTIONS[0].text).metadata["routenlp"]["certificate"] is not None
    for one in told.values():
        one.metadata = {"model_name": "other-2"}
    assert engine.query(QUESTIONS[0].text).metadata["routenlp"]["certificate"] is None
    assert "'other-2', before with 'docs_" in router.lapses.why("questions")


def test_routers_and_engines_within_engines() -> None:
    """Of a router its selector, its tools' descriptions and every engine count; a group counts with its bundle."""

    def nested(kind: Any, top: int = 4, about: str = "the documents", **more: Any) -> str:
        found = rebuilt()
        found["docs_dear"]._retriever._similarity_top_k = top
        tools = [tool(name, engine, about) for name, engine in found.items()]
        return engine_fingerprint(kind(ScriptedSelector(0), tools, llm=ReadingLLM(), **more))

    grouped = {"cascades": {"docs": list(PRICES.names)}}
    for kind, more in ((Theirs, {}), (RouterQueryEngine, {}), (RouterQueryEngine, grouped)):
        assert nested(kind, **more) == nested(kind, **more)
        assert len({nested(kind, **more), nested(kind, 3, **more), nested(kind, 4, "else", **more)}) == 3
    assert nested(RouterQueryEngine) != nested(RouterQueryEngine, **grouped)


def test_what_no_setting_is_changes_nothing() -> None:
    """Counters, caches, keys, `verbose` and streaming are not part of it; an engine that holds itself is read once."""
    before = engine_fingerprint((found := rebuilt())["docs_dear"])
    engine = found["docs_dear"]
    engine._retriever._asked, engine._retriever._verbose, engine._retriever._api_key = 3, True, "secret"
    engine._retriever._node_ids = ["a"]
    engine._response_synthesizer._streaming = True
    engine._response_synthesizer._llm.calls = 7
    assert engine_fingerprint(engine) == before
    engine._retriever._alpha = [[VectorStoreQueryMode.HYBRID, 0.5]]
    assert engine_fingerprint(engine) != before
    engine._retriever._alpha = None
    assert engine_fingerprint(engine) == before
    engine._itself = engine
    assert engine_fingerprint(engine) != before
    assert len(engine_fingerprint(engine)) == len(ENGINE) + 12


def test_an_engine_of_ones_own_is_known_by_its_class_and_its_parts() -> None:
    """Its class, its prompts and an LLM in it; what raises when it is looked at is left out."""

    class Mine(CustomQueryEngine):
        llm: Any
        prompt: Any

        def custom_query(self, query_str: str) -> str:
            return query_str

    class Unknown(MockLLM):
        @property
        def metadata(self) -> Any:
            raise ValueError("an LLM that knows no such model")

    class Odd(ScriptedEngine):
        def _get_prompts(self) -> Any:
            raise NotImplementedError

    made = [
        Mine(llm=ReadingLLM(), prompt=PromptTemplate("Say {query_str}")),
        Mine(llm=ReadingLLM(), prompt=RichPromptTemplate("Do not say {{ query_str }}")),
        Mine(llm=MockLLM(), prompt=PromptTemplate("Say {query_str}")),
        Mine(llm=Unknown(), prompt=PromptTemplate("Say {query_str}").partial_format(query_str="no")),
        ScriptedEngine(),
        Odd(),
    ]
    assert len(set(map(engine_fingerprint, made))) == len(made)
    assert engine_fingerprint(ScriptedEngine("a")) == engine_fingerprint(ScriptedEngine("b"))


def test_engines_and_portfolio_must_fit() -> None:
    """Both sides are listed; prices and order of the portfolio stay."""
    engines = rebuilt()
    pinned = pin_engines(PRICES, dict(reversed(engines.items())))
    assert Portfolio(tuple(replace(tier, model=None) for tier in pinned.tiers)) == PRICES
    with pytest.raises(InputError, match="the engines are docs_dear, and the portfolio has docs_cheap, docs_dear"):
        pin_engines(PRICES, {"docs_dear": engines["docs_dear"]})
