"""`RoutingLLM` inside LlamaIndex: settings, predict, query engines, synthesisers, chat engines, agents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bundles import DOUBTFUL, TIERS
from llama_index.core import Settings, SummaryIndex, get_response_synthesizer
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import Document
from llama_index.core.tools import FunctionTool
from scripted_llm import Events, Make, route_of, user

from routenlp_integrations.llama_index import RoutingLLM

# LlamaIndex's workflows look at every member of an agent, deprecated ones of pydantic included.
agents = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")

QUESTION = PromptTemplate("{review}")


@pytest.fixture
def settings() -> Iterator[Any]:
    """LlamaIndex's settings, as they were afterwards."""
    kept = {name: getattr(Settings, name) for name in ("_llm", "_callback_manager")}
    yield Settings
    for name, value in kept.items():
        setattr(Settings, name, value)


@pytest.mark.parametrize("chats", [True, False])
async def test_predict(make: Make, easy: str, events: Events, chats: bool) -> None:
    """Prompts are asked as messages of chat models, as prompts of others."""
    llm, tiers = make({name: {"chats": chats} for name in TIERS})
    assert llm.predict(QUESTION, review=easy) == "The answer is good."
    assert await llm.apredict(QUESTION, review=easy) == "The answer is good."
    assert "".join(llm.stream(QUESTION, review=easy)) == "The answer is good."
    assert "".join([token async for token in await llm.astream(QUESTION, review=easy)]) == "The answer is good."
    how = [call["how"] for call in tiers["small"].calls]
    kinds = ("chat", "achat", "stream_chat", "astream_chat")
    assert how == [kind if chats else kind.replace("chat", "complete") for kind in kinds]
    assert [event.tier for event in events.decisions] == ["small"] * 4


def _index() -> SummaryIndex:
    return SummaryIndex.from_documents([Document(text="The harbour has a lamp."), Document(text="The lamp is good.")])


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
def test_a_query_engine(make: Make, events: Events, mode: str) -> None:
    """`as_query_engine(llm=...)` routes every prompt of its synthesiser; a block names their task."""
    llm, tiers = make(task=None)
    engine: Any = _index().as_query_engine(llm=llm, response_mode=mode)
    with RoutingLLM.asking(task="mood"):
        assert str(engine.query("Is the lamp good?")) == "The answer is good."
    told = events.decisions
    assert {event.task for event in told} == {"mood"}
    assert len(told) == sum(len(tier.calls) for tier in tiers.values()) >= 1
    assert all(call["how"] == "chat" for tier in tiers.values() for call in tier.calls)


def test_a_streaming_query_engine(make: Make, events: Events) -> None:
    """It streams, and the decision is told at the end of the stream."""
    llm, _ = make()
    response = _index().as_query_engine(llm=llm, streaming=True).query("Is the lamp good?")
    tokens = response.response_gen  # type: ignore[union-attr]
    first = next(tokens)
    assert not events.decisions
    assert (first + "".join(tokens)).strip() == "The answer is good."
    assert len(events.decisions) == 1


async def test_a_synthesiser_of_the_settings(make: Make, settings: Any, events: Events) -> None:
    """`Settings.llm` is a router like any LLM; the settings' token counter counts each answer once."""
    counter = TokenCountingHandler(tokenizer=str.split)
    settings.callback_manager = CallbackManager([counter])
    llm, _ = make({"small": {"reply": DOUBTFUL}, "medium": {"reply": DOUBTFUL}})
    settings.llm = llm
    assert settings.llm is llm
    made = get_response_synthesizer(response_mode="compact")  # type: ignore[arg-type]
    found = await made.aget_response("Is the lamp good?", ["The lamp is good."])
    assert "good" in str(found)
    assert len(counter.llm_token_counts) == len(events.decisions) == 1


def _memory() -> ChatMemoryBuffer:
    """A memory without a database."""
    return ChatMemoryBuffer(token_limit=2_000, tokenizer_fn=str.split)


def test_a_chat_engine(make: Make, easy: str, events: Events) -> None:
    """A chat engine's history reaches the tiers as messages; a streamed answer is written to its memory."""
    llm, tiers = make()
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=_memory(), system_prompt="Be brief.")
    assert str(engine.chat(easy)) == "The answer is good."
    stream = engine.stream_chat(easy)
    assert "".join(stream.response_gen) == "The answer is good."
    assert [message.content for message in engine.chat_history][-1] == "The answer is good."
    asked = next(call["asked"] for tier in tiers.values() for call in tier.calls if call["how"] == "stream_chat")
    assert [message.role.value for message in asked] == ["system", "user", "assistant", "user"]
    assert len(events.decisions) == 2


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@agents
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("uncalibrated", ["reference", "cascade"])
async def test_a_function_agent(make: Make, events: Events, streaming: bool, uncalibrated: str) -> None:
    """The agent calls the tool with the arguments of whoever answered, and ends with the answer after it."""
    pick = {"name": "add", "args": {"a": 2, "b": 3}}
    llm, tiers = make({name: {"picks": [pick], "reply": "It is 5."} for name in TIERS}, uncalibrated=uncalibrated)
    agent = FunctionAgent(llm=llm, tools=[FunctionTool.from_defaults(add)], streaming=streaming)
    with RoutingLLM.asking(task="mood", conversation="c"):
        handler = agent.run("What is 2 and 3?", memory=_memory())
        streamed = [event async for event in handler.stream_events()]
        output = await handler
    assert str(output) == "It is 5."
    assert [str(call.tool_output) for call in output.tool_calls] == ["5"]
    told = events.decisions
    assert len(told) == 2
    assert {event.task for event in told} == {"mood"}
    assert all("asked for" in event.reason or "tool calls" in event.reason for event in told)
    if uncalibrated == "reference":
        assert [event.tier for event in told] == ["large", "large"]
        assert not tiers["small"].calls
    else:
        assert all(event.certificate is None for event in told)
    if streaming:
        assert "It is 5." in "".join(getattr(event, "delta", "") or "" for event in streamed)


@agents
async def test_an_agent_wants_functions_of_every_tier(make: Make) -> None:
    """Or of one, where the user says so: tools then go to the tiers that can."""
    pick = {"name": "add", "args": {"a": 2, "b": 3}}
    tiers = {"small": {"functions": False}, "large": {"picks": [pick], "reply": "It is 5."}}
    llm, _ = make(tiers)
    with pytest.raises(ValueError, match="FunctionCallingLLM"):
        await FunctionAgent(llm=llm, tools=[FunctionTool.from_defaults(add)]).run("What is 2 and 3?", memory=_memory())
    llm, _ = make(tiers, is_function_calling_model=True)
    output = await FunctionAgent(llm=llm, tools=[FunctionTool.from_defaults(add)]).run(
        "What is 2 and 3?", memory=_memory()
    )
    assert str(output) == "It is 5."


def test_a_router_behind_a_router(make: Make, easy: str) -> None:
    """A routing LLM is an LLM, so it can be a tier; its own route stays in what its answer told."""
    inner, _ = make()
    outer, _ = make()
    outer.tiers = {**outer.tiers, "large": inner}
    route = route_of(outer.chat(user(easy), tier="large"))
    assert route["tier"] == "large"
    assert set(route) >= {"attempts", "reason"}
