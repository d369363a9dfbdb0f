"""What LlamaIndex documents of its `RouterQueryEngine`, of theirs, of ours, and of ours where a group is not asked."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
from engines import ScriptedEngine, ScriptedSelector, tool
from llama_index.core import QueryBundle, Settings
from llama_index.core.base.response.schema import (
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.query import QueryEndEvent, QueryStartEvent
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RouterQueryEngine as Theirs
from llama_index.core.response_synthesizers import TreeSummarize
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector
from pydantic import BaseModel

from routenlp_integrations.llama_index import RouterQueryEngine as Ours

HOWS = ("query", "aquery")


class JoiningLLM(CustomLLM):
    """Says what it is told to, or how many of the words "alpha" and "beta" it was given."""

    says: str = ""

    @property
    def metadata(self) -> LLMMetadata:
        """A small completion model."""
        return LLMMetadata(context_window=4096, num_output=64, model_name="joining")

    def _text(self, prompt: str) -> str:
        return self.says or " ".join(word for word in ("alpha", "beta", "gamma") if word in prompt)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer at once."""
        return CompletionResponse(text=self._text(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer word by word."""

        def words() -> CompletionResponseGen:
            said = ""
            for word in self._text(prompt).split():
                said += f"{word} "
                yield CompletionResponse(text=said, delta=f"{word} ")

        return words()


Build = Callable[..., Any]


@pytest.fixture(params=["theirs", "ours", "ours with a group"])
def build(request: pytest.FixtureRequest) -> Build:
    """Make an engine of either class; the third has a group as its last choice, which nobody selects."""

    def make(selector: Any, tools: list[Any], **params: Any) -> Any:
        params.setdefault("llm", JoiningLLM())
        if request.param == "theirs":
            return Theirs(selector, tools, **params)
        if request.param == "ours":
            return Ours(selector, tools, **params)
        spare = [tool("spare_cheap", ScriptedEngine()), tool("spare_dear", ScriptedEngine())]
        return Ours(selector, [*tools, *spare], cascades={"spare": ["spare_cheap", "spare_dear"]}, **params)

    return make


@pytest.fixture(params=[Theirs, Ours])
def kind(request: pytest.FixtureRequest) -> type[Theirs]:
    """Either class."""
    return request.param


@pytest.fixture
def settings() -> Iterator[Any]:
    """LlamaIndex's global settings, put back afterwards."""
    before = Settings._llm, Settings._callback_manager
    yield Settings
    Settings._llm, Settings._callback_manager = before


async def ask(engine: Any, how: str, query: Any) -> Any:
    """Query an engine either way."""
    found = getattr(engine, how)(query)
    return await found if inspect.isawaitable(found) else found


def two(**params: Any) -> tuple[list[ScriptedEngine], list[Any]]:
    """Two engines and their tools."""
    engines = [
        ScriptedEngine("the alpha answer", node="alpha node", **params),
        ScriptedEngine("the beta answer", node="beta node", **params),
    ]
    return engines, [tool("alpha", engines[0]), tool("beta", engines[1])]


@pytest.mark.parametrize("how", HOWS)
async def test_the_selected_engine_alone_answers(build: Build, how: str) -> None:
    """Its text and nodes are the response's; the other engine is never asked."""
    engines, tools = two()
    response = await ask(build(ScriptedSelector(1), tools), how, "which?")
    assert isinstance(response, Response)
    assert (str(response), [node.text for node in response.source_nodes]) == ("the beta answer", ["beta node"])
    assert [len(engine.calls) for engine in engines] == [0, 1]
    assert engines[1].calls[0].query_str == "which?"


@pytest.mark.parametrize("how", HOWS)
async def test_the_selection_is_in_the_metadata(build: Build, how: str) -> None:
    """`selector_result` holds index and reason; metadata of the engine stays, and None becomes a dict."""
    tools = [tool("alpha", ScriptedEngine(metadata={"own": 1})), tool("beta", ScriptedEngine())]
    kept = await ask(build(ScriptedSelector(0), tools), how, "q")
    assert kept.metadata["own"] == 1
    fresh = await ask(build(ScriptedSelector(1), tools), how, "q")
    assert (fresh.metadata["selector_result"].ind, fresh.metadata["selector_result"].reason) == (1, "because 1")
    assert set(fresh.metadata) == {"selector_result"}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("query", ["text", QueryBundle("text")])
async def test_the_selector_sees_names_and_descriptions(build: Build, how: str, query: Any) -> None:
    """It is given every tool's metadata in order, and the query as a bundle."""
    selector, (_, tools) = ScriptedSelector(0), two()
    await ask(build(selector, tools), how, query)
    [(choices, asked)] = selector.asked
    assert [(one.name, one.description) for one in choices][:2] == [
        ("alpha", "answers about alpha"),
        ("beta", "answers about beta"),
    ]
    assert (type(asked), asked.query_str) == (QueryBundle, "text")


@pytest.mark.parametrize("how", HOWS)
async def test_several_answers_are_summarised(build: Build, how: str) -> None:
    """A selection of several asks each, summarises their answers, and keeps all nodes in order."""
    engines, tools = two()
    response = await ask(build(ScriptedSelector(1, 0), tools), how, "both?")
    assert str(response) == "alpha beta"
    assert [node.text for node in response.source_nodes] == ["beta node", "alpha node"]
    assert response.metadata["selector_result"].inds == [1, 0]
    assert set(response.metadata) == {"selector_result"}
    assert [len(engine.calls) for engine in engines] == [1, 1]


@pytest.mark.parametrize("how", HOWS)
async def test_streams_are_read_to_be_summarised(build: Build, how: str) -> None:
    """Streaming engines of a selection of several are read to the end, structured answers taken as JSON."""

    class Found(BaseModel):
        word: str

    class Structured(ScriptedEngine):
        def _query(self, query_bundle: QueryBundle) -> Any:
            return PydanticResponse(Found(word="gamma"), self.nodes)

        async def _aquery(self, query_bundle: QueryBundle) -> Any:
            return self._query(query_bundle)

    engines, tools = two(streaming=True)
    tools.append(tool("gamma", Structured()))
    response = await ask(build(ScriptedSelector(0, 1, 2), tools), how, "all?")
    assert str(response) == "alpha beta gamma"
    assert [engine.said for engine in engines] == [3, 3]


def test_an_asynchronous_stream_is_refused_in_a_synchronous_summary(build: Build) -> None:
    """`query` cannot read it, and says so."""

    class Asynchronous(ScriptedEngine):
        def _query(self, query_bundle: QueryBundle) -> Any:
            async def words() -> AsyncGenerator[str, None]:
                yield "word"

            return AsyncStreamingResponse(words())

    tools = [tool("alpha", Asynchronous()), tool("beta", ScriptedEngine())]
    with pytest.raises(ValueError, match="AsyncStreamingResponse not supported in sync code"):
        build(ScriptedSelector(0, 1), tools).query("q")


async def test_a_stream_passes_through(build: Build) -> None:
    """The selected engine's stream is handed on unread, in both worlds, with the selection in its metadata."""
    engines, tools = two(streaming=True)
    engine = build(ScriptedSelector(0), tools)
    stream = engine.query("q")
    assert isinstance(stream, StreamingResponse)
    assert stream.metadata["selector_result"].ind == 0
    assert (engines[0].said, "".join(stream.response_gen)) == (0, "the alpha answer")
    astream = await engine.aquery("q")
    assert isinstance(astream, AsyncStreamingResponse)
    assert "".join([piece async for piece in astream.async_response_gen()]) == "the alpha answer"


@pytest.mark.parametrize("how", HOWS)
async def test_a_streaming_summariser_streams(build: Build, how: str) -> None:
    """The combined response is then a stream with all nodes."""
    _, tools = two()
    summarizer = TreeSummarize(llm=JoiningLLM(), streaming=True)
    response = await ask(build(ScriptedSelector(0, 1), tools, summarizer=summarizer), how, "q")
    if how == "query":
        assert isinstance(response, StreamingResponse)
        said = "".join(response.response_gen)
    else:
        assert isinstance(response, AsyncStreamingResponse)
        said = "".join([piece async for piece in response.async_response_gen()])
    assert said.split() == ["alpha", "beta"]
    assert len(response.source_nodes) == 2


async def test_several_engines_are_asked_at_once(build: Build) -> None:
    """Under `aquery` the second engine has begun before the first has ended."""
    engines, tools = two(hangs=0.02)
    order: list[str] = []
    for name, engine in zip("ab", engines, strict=True):
        engine.reply = lambda _, name=name: order.append(name) or name
        engine.hangs = 0.04 if name == "a" else 0.0
    await build(ScriptedSelector(0, 1), tools).aquery("q")
    assert order == ["b", "a"]


@pytest.mark.parametrize("how", HOWS)
async def test_no_selection_is_an_error(build: Build, how: str) -> None:
    """A selector that selects nothing fails the query in LlamaIndex's words."""
    selector, (_, tools) = ScriptedSelector(), two()
    selector.indices = ()
    with pytest.raises(ValueError, match="Failed to select query engine"):
        await ask(build(selector, tools), how, "q")


# LlamaIndex drops the first engine's coroutine.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine")
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("indices", [(7,), (0, 7)])
async def test_a_selection_out_of_range_is_an_error(build: Build, how: str, indices: tuple[int, ...]) -> None:
    """There is no such engine."""
    _, tools = two()
    with pytest.raises(IndexError):
        await ask(build(ScriptedSelector(*indices), tools), how, "q")


@pytest.mark.parametrize("how", HOWS)
async def test_an_engine_s_failure_is_the_caller_s(build: Build, how: str) -> None:
    """Its exception comes through as it is; another source is no substitute."""
    engines, tools = two()
    engines[0].fails = KeyError("down")
    with pytest.raises(KeyError, match="down"):
        await ask(build(ScriptedSelector(0), tools), how, "q")
    assert not engines[1].calls


def test_the_constructor_is_the_same() -> None:
    """Positional parameters, their order and their defaults; ours are keywords behind them."""
    told = [inspect.signature(cls.__init__).parameters for cls in (Theirs, Ours)]
    assert list(told[1])[: len(told[0])] == list(told[0])
    assert all(told[0][name].default == told[1][name].default for name in told[0])
    assert all(p.kind is p.KEYWORD_ONLY for name, p in told[1].items() if name not in told[0])
    assert issubclass(Ours, Theirs)


@pytest.mark.parametrize("multi", [False, True])
async def test_from_defaults_asks_an_llm(kind: type[Theirs], multi: bool) -> None:
    """Without a selector the LLM selects by JSON, one-based, one or several."""
    choice = '[{"choice": 2, "reason": "about beta"}]'
    engines, tools = two()
    engine = kind.from_defaults(tools, llm=JoiningLLM(says=choice), select_multi=multi, verbose=False)
    assert isinstance(engine, kind)
    assert isinstance(engine._get_prompt_modules()["selector"], LLMMultiSelector if multi else LLMSingleSelector)
    assert str(engine.query("q")) == str(await engine.aquery("q")) == "the beta answer"
    assert not engines[0].calls


def test_from_defaults_keeps_what_it_is_given(kind: type[Theirs]) -> None:
    """Selector, summariser and further arguments."""
    selector, summarizer, (_, tools) = ScriptedSelector(), TreeSummarize(llm=JoiningLLM()), two()
    engine = kind.from_defaults(tools, llm=JoiningLLM(), selector=selector, summarizer=summarizer, verbose=True)
    assert engine._get_prompt_modules() == {"summarizer": summarizer, "selector": selector}
    assert engine._verbose


def test_the_llm_of_the_settings_is_the_default(kind: type[Theirs], settings: Any) -> None:
    """Without `llm=`, `Settings.llm` summarises and selects."""
    settings.llm = JoiningLLM(says="from settings")
    _, tools = two()
    assert str(kind(ScriptedSelector(0, 1), tools).query("q")) == "from settings"
    settings.llm = JoiningLLM(says='{"choice": 1, "reason": "r"}')
    assert str(kind.from_defaults(tools).query("q")) == "the alpha answer"


def test_prompts_are_those_of_summariser_and_selector(build: Build) -> None:
    """`get_prompts` lists them, `update_prompts` changes them; tools are left out."""
    selector = LLMSingleSelector.from_defaults(llm=JoiningLLM())
    engine = build(selector, two()[1])
    assert {name.partition(":")[0] for name in engine.get_prompts()} == {"summarizer", "selector"}
    engine.update_prompts({"summarizer:summary_template": PromptTemplate("gamma {context_str} {query_str}")})
    engine._selector = ScriptedSelector(0, 1)
    assert str(engine.query("q")) == "alpha beta gamma"


class Noted(BaseCallbackHandler):
    """Keeps every event and trace."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.events: list[tuple[str, CBEventType, dict[str, Any]]] = []
        self.traces: list[str | None] = []

    def on_event_start(self, event_type: CBEventType, payload: Any = None, **kwargs: Any) -> str:
        """Note it."""
        self.events.append(("start", event_type, payload or {}))
        return "id"

    def on_event_end(self, event_type: CBEventType, payload: Any = None, **kwargs: Any) -> None:
        """Note it."""
        self.events.append(("end", event_type, payload or {}))

    def start_trace(self, trace_id: str | None = None) -> None:
        """Note it."""
        self.traces.append(trace_id)

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        """Nothing."""


@pytest.mark.parametrize("how", HOWS)
async def test_callbacks_hear_of_the_query(build: Build, how: str, settings: Any) -> None:
    """One QUERY event of the router with the text and the response, within a trace."""
    handler = Noted()
    settings.callback_manager = CallbackManager([handler])
    engine = build(ScriptedSelector(0), two()[1])
    response = await ask(engine, how, "heard?")
    mine = [event for event in handler.events if event[1] is CBEventType.QUERY]
    assert [event[0] for event in mine] == ["start", "end"]
    assert mine[0][2][EventPayload.QUERY_STR] == "heard?"
    assert mine[1][2][EventPayload.RESPONSE] is response
    assert handler.traces == ["query"]


@pytest.mark.parametrize("how", HOWS)
async def test_instrumentation_hears_of_the_query(build: Build, how: str) -> None:
    """Start and end of the router's query, and of the engine's within them."""
    heard: list[Any] = []

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            if isinstance(event, QueryStartEvent | QueryEndEvent):
                heard.append(event)

    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(Handler())
    try:
        response = await ask(build(ScriptedSelector(0), two()[1]), how, "heard?")
    finally:
        dispatcher.event_handlers.pop()
    assert [type(event).__name__ for event in heard] == ["QueryStartEvent"] * 2 + ["QueryEndEvent"] * 2
    assert heard[0].query == "heard?"
    assert str(heard[-1].response) == str(response)


@pytest.mark.parametrize("how", HOWS)
async def test_the_choice_is_logged_and_told_when_verbose(
    build: Build, how: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for each selected engine, printed only when asked for."""
    with caplog.at_level(logging.INFO, "llama_index.core.query_engine.router_query_engine"):
        await ask(build(ScriptedSelector(0, 1), two()[1]), how, "q")
    assert "Selecting query engine 1: because 1." in caplog.text
    assert not capsys.readouterr().out
    await ask(build(ScriptedSelector(0), two()[1], verbose=True), how, "q")
    assert "Selecting query engine 0: because 0." in capsys.readouterr().out


@pytest.mark.parametrize("method", ["retrieve", "synthesize"])
def test_a_router_cannot_retrieve(build: Build, method: str) -> None:
    """It is a query engine only."""
    with pytest.raises(NotImplementedError):
        getattr(build(ScriptedSelector(0), two()[1]), method)(*[QueryBundle("q"), []][: 1 + (method == "synthesize")])


async def test_a_router_is_a_tool_of_another(build: Build) -> None:
    """Routers nest, and as a tool give their text."""
    inner = build(ScriptedSelector(1), two()[1])
    outer = build(ScriptedSelector(0), [tool("inner", inner), tool("other", ScriptedEngine())])
    assert str(outer.query("q")) == "the beta answer"
    assert (await tool("inner", inner).acall("q")).content == "the beta answer"


async def test_many_queries_do_not_mix(build: Build) -> None:
    """Sixty-four at once: every response answers its own query."""
    engine = build(ScriptedSelector(0), [tool("echo", ScriptedEngine(lambda text: f"echo {text}", hangs=0.001))])
    texts = [f"query {i}" for i in range(64)]
    found = await asyncio.gather(*(engine.aquery(text) for text in texts))
    assert [str(one) for one in found] == [f"echo {text}" for text in texts]


def test_tools_are_taken_as_they_come(kind: type[Theirs]) -> None:
    """A generator of tools is read once, and a tool given twice keeps both its places."""
    one = tool("once", ScriptedEngine("once"))
    engine = kind(ScriptedSelector(1), (each for each in (one, one)), llm=JoiningLLM())  # type: ignore[arg-type]
    assert len(engine._query_engines) == 2
    assert str(engine.query("text")) == "once"
