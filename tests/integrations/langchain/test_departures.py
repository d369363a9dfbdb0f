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
    ],
)
def test_arguments_that_calib_did_not_have(make: Make, easy: str, asked: dict[str, Any]) -> None:
    """Structured output and tools are recognised under the names providers give them."""
    route = route_of(make()[0].invoke(easy, **asked))
    assert route["tier"] == "large"
    assert "calib did not have" in route["reason"]


def test_plain_conversation_is_no_departure(make: Make, easy: str) -> None:
    """System text, earlier turns and text blocks are routed as usual."""
    messages = [SystemMessage("Be brief."), HumanMessage("hello"), AIMessage("hi")]
    route = route_of(make()[0].invoke([*messages, HumanMessage([{"type": "text", "text": easy}])]))
    assert route["tier"] == "small"
