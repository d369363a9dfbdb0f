"""Calls of a kind that no calib row had go to the reference tier, which keeps a joint certificate, and say why."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from scripted import Make, route_of

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


@pytest.mark.parametrize("changed", [{"temperature": 2.0}, {"max_tokens": 1}, {"model": "another"}, {"top_p": 0.1}])
def test_other_decoding_carries_no_certificate(make: Make, easy: str, changed: dict[str, Any]) -> None:
    """A call that makes the tiers answer otherwise is routed, uncertified; what the model says anyway is no change."""
    model, _ = make(temperature=0.5)
    route = route_of(model.invoke(easy, **changed))
    assert (route["tier"], route["certificate"]) == ("small", None)
    assert "do not answer as they did" in route["reason"]
    assert route_of(model.invoke(easy, temperature=0.5))["certificate"] is not None


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
