"""Calls of a kind that no calib row had go to the reference tier, which keeps a joint certificate, and say why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from bundles import DOUBTFUL
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from scripted import EVERY, Make, ScriptedModel, ask, route_of

from routenlp_integrations.langchain import RoutingChatModel
from router_core.errors import TierError
from router_core.router import Router

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"name": "look_up", "args": {}, "id": "1", "type": "tool_call"}


@pytest.mark.parametrize(
    "before",
    [
        [SystemMessage([{"type": "text", "text": "Look."}, IMAGE])],
        [ChatMessage(role="developer", content=[IMAGE])],
        [ChatMessage(role="user", content=[IMAGE])],
        [AIMessage("", tool_calls=[CALL]), ToolMessage("42", tool_call_id="1")],
        [ToolMessage([IMAGE], tool_call_id="1")],
        [ChatMessage(role="tool", content="42")],
        [AIMessage("", additional_kwargs={"function_call": {"name": "look_up", "arguments": "{}"}})],
    ],
)
def test_messages_that_calib_did_not_have(make: Make, easy: str, before: list[BaseMessage]) -> None:
    """Images in any message, and a history of tool calls, are departures whoever sent them."""
    route = route_of(make()[0].invoke([HumanMessage("hello"), *before, HumanMessage(easy)]))
    assert route["tier"] == "large"
    assert "calib did not have" in route["reason"]
    assert route["certificate"] is not None


@pytest.mark.parametrize(
    "asked",
    [
        {"tool_choice": "any"},
        {"response_format": {"type": "json_object"}},
        {"response_mime_type": "application/json"},
        {"guided_json": {"type": "object"}},
        {"text": {"format": {"type": "json_schema"}}},
        {"format": "json"},
        {"guided_choice": ["a", "b"]},
        {"output_config": {"format": "json"}},
    ],
)
def test_arguments_that_calib_did_not_have(make: Make, easy: str, asked: dict[str, Any]) -> None:
    """Structured output and tools are recognised under the names providers give them."""
    route = route_of(make()[0].invoke(easy, **asked))
    assert route["tier"] == "large"
    assert "calib did not have" in route["reason"]


CHANGED = [
    {name: value}
    for name, value in {
        "temperature": 2.0, "max_tokens": 1, "model": "another", "top_p": 0.1, "stop": ["."], "stop_sequences": ["."],
        "max_new_tokens": 1, "repetition_penalty": 2.0, "do_sample": True, "num_ctx": 10, "seed": 3, "n": 3,
        "thinking_budget": 0, "model_id": "other", "deployment_name": "z", "system": "lie", "prompt": "other",
        "whatever_comes_next": 1,
    }.items()
]  # fmt: skip


@pytest.mark.parametrize("how", ["invoke", "stream"])
@pytest.mark.parametrize("changed", CHANGED, ids=lambda changed: next(iter(changed)))
async def test_other_decoding_carries_no_certificate(make: Make, easy: str, changed: dict[str, Any], how: str) -> None:
    """A call that may make the tiers answer otherwise is routed, uncertified."""
    model, _ = make(temperature=0.5)
    route = route_of(await ask(model.bind(**changed), how, easy))
    assert (route["tier"], route["certificate"]) == ("small", None)
    assert f"the call sets {next(iter(changed))}, so the tiers do not answer as they did" in route["reason"]
    if how == "invoke":
        assert route_of(model.invoke(easy, **changed))["certificate"] is None


@pytest.mark.parametrize(
    "harmless",
    [
        {"temperature": 0.5, "max_tokens": 9, "stop": ["END"]},
        {"temperature": None, "seed": None, "stop": None},
        {"user": "u1", "extra_headers": {"x": "y"}, "timeout": 3, "stream_options": {}},
        {"logprobs": True, "store": False, "ls_whatever": {}, "strict": True},
    ],
)
def test_what_changes_no_answer(make: Make, easy: str, harmless: dict[str, Any]) -> None:
    """What the model says anyway, None, and what is about books and transport keep the certificate."""
    model, tiers = make(temperature=0.5, max_tokens=9, stop=["END"])
    assert route_of(model.invoke(easy, **harmless))["certificate"] is not None
    [call] = tiers["small"].calls
    assert (call["temperature"], call["stop"]) == (0.5, ["END"])


def test_what_is_bound_to_a_tier_is_its_own(small_router: Router, easy: str) -> None:
    """It changes nothing, and neither an empty stop nor None of a call takes it away."""
    small = ScriptedModel(model_name="small-1")
    others = {name: ScriptedModel(model_name=f"{name}-1") for name in ("medium", "large")}
    model = RoutingChatModel(
        router=small_router, tiers={"small": small.bind(stop=["B"], top_k=3), **others}, task="mood"
    )
    assert route_of(model.invoke(easy, stop=[], top_k=None))["certificate"] is not None
    assert (small.calls[0]["stop"], small.calls[0]["top_k"]) == (["B"], 3)


@pytest.mark.parametrize(
    "reason", ["content_filter", "refusal", "RECITATION", "PROHIBITED_CONTENT", "guardrail_intervened"]
)
def test_a_filtered_answer_goes_to_the_reference(make: Make, easy: str, reason: str) -> None:
    """An answer that a provider withheld is a departure under every name providers have for it."""
    model, _ = make({"small": {"finish_reason": reason}})
    route = route_of(model.invoke(easy))
    assert route["tier"] == "large"
    assert "filtered" in route["reason"]


def test_plain_conversation_is_no_departure(make: Make, easy: str) -> None:
    """System text, earlier turns and text blocks are routed as usual."""
    messages = [SystemMessage("Be brief."), HumanMessage("hello"), AIMessage("hi")]
    route = route_of(make()[0].invoke([*messages, HumanMessage([{"type": "text", "text": easy}])]))
    assert route["tier"] == "small"


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("uncalibrated", ["reference", "cascade"])
@pytest.mark.parametrize(
    "query", [[], "", "  \n", [SystemMessage("You are X")], [AIMessage("hi")], [ChatMessage(role="user", content=" ")]]
)
async def test_nobody_asked_anything(make: Make, query: Any, uncalibrated: str, how: str) -> None:
    """Records hold no empty prompts: such a call is the reference tier's, and never a certified cheap answer."""
    model, _ = make(uncalibrated=uncalibrated)
    route = route_of(await ask(model, how, query))
    assert "nobody asked anything" in route["reason"]
    if uncalibrated == "reference":
        assert (route["tier"], route["certificate"]["risk"]) == ("large", "joint")
    assert route["tier"] == "large" or route["certificate"] is None


class Nothing(ScriptedModel):
    """A tier that returns no generation at all, in a stream no chunk."""

    streams: bool = False

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[])

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[])

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        yield from ()

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in ():
            yield chunk

    def _should_stream(self, **_: Any) -> bool:
        return self.streams


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("streams", [True, False])
async def test_no_generation_is_a_failure(small_router: Router, easy: str, how: str, streams: bool) -> None:
    """A tier that returns no generation has failed, the reference tier too; alike in all entrances."""
    doubtful = ScriptedModel(model_name="small-1", reply=DOUBTFUL)
    medium, large = (Nothing(model_name=f"{name}-1", streams=streams) for name in ("medium", "large"))
    tiers = {"small": doubtful, "medium": medium, "large": large}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood", stream_policy="buffer")
    with pytest.raises(TierError, match="large failed: TierError"):
        await ask(model, how, easy)
    model.on_reference_failure = "best"
    answer = await ask(model, how, easy)
    assert answer.text == DOUBTFUL
    assert (route_of(answer)["tier"], route_of(answer)["certificate"]) == ("small", None)


@pytest.mark.parametrize("how", EVERY)
async def test_a_model_name_that_is_no_text(make: Make, easy: str, how: str) -> None:
    """It is none, and breaks no entrance."""
    model, tiers = make()
    object.__setattr__(tiers["small"], "model_name", ["small-1"])
    answer = await ask(model, how, easy)
    assert route_of(answer)["tier"] == "small"
