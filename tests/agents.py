"""Tiers that work in an agent: a scripted model that calls a tool first and answers when the tool has spoken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from pydantic import PrivateAttr
from scripted import ScriptedModel


@tool
def look_up(query: str) -> str:
    """Look something up."""
    return f"found {query}"


class AgentModel(ScriptedModel):
    """A `ScriptedModel` that asks for `look_up` once after every human turn, if `looks_up`.

    `fails_on` lists the calls (counted from 0) that fail; None is none, and `fails` what they raise.
    """

    looks_up: bool = True
    fails_on: tuple[int, ...] | None = None

    _count: int = PrivateAttr(default=-1)

    def _asks(self, messages: list[BaseMessage]) -> bool:
        for message in reversed(messages):
            if isinstance(message, ToolMessage):
                return False
            if isinstance(message, HumanMessage):
                break
        return self.looks_up

    def _due(self) -> bool:
        self._count += 1
        return self.fails is not None and (self.fails_on is None or self._count in self.fails_on)

    def _result(self, messages: list[BaseMessage]) -> ChatResult:
        if self._due() and self.fails is not None:
            raise self.fails
        asks = self._asks(messages)
        call = {"name": "look_up", "args": {"query": "x"}, "id": f"call-{len(messages)}", "type": "tool_call"}
        message = AIMessage(
            content="" if asks else self._text(messages),
            tool_calls=[call] if asks else [],
            usage_metadata=self.usage,
            response_metadata={"model_name": self.model_name} if self.names_itself else {},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _pieces(self, messages: list[BaseMessage]) -> Iterator[ChatGenerationChunk]:
        due = self._due()
        asks = self._asks(messages)
        if asks:
            chunk = tool_call_chunk(name="look_up", args='{"query": "x"}', id=f"call-{len(messages)}", index=0)
            pieces = [AIMessageChunk(content="", tool_call_chunks=[chunk])]
        else:
            pieces = [AIMessageChunk(content=f"{word} ") for word in self._text(messages).split()]
        for number, piece in enumerate(pieces):
            if due and self.fails is not None and number >= self.fails_after:
                raise self.fails
            yield ChatGenerationChunk(message=piece)
        last = AIMessageChunk(content="", usage_metadata=self.usage, chunk_position="last")
        yield ChatGenerationChunk(message=last, generation_info={"model_name": self.model_name})


def answers(messages: list[BaseMessage]) -> list[AIMessage]:
    """The models' messages since the last human turn."""
    found: list[AIMessage] = []
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, AIMessage):
            found.append(message)
    return found[::-1]


def tools_of(call: dict[str, Any]) -> list[str]:
    """Names of the tools that were bound in one call of a scripted model."""
    return [bound["function"]["name"] for bound in call.get("tools", [])]
