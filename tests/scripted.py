"""A scripted chat model: answers, fails, calls tools and streams as a test tells it to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr, SecretStr

from routenlp_integrations.langchain import RoutingChatModel

Make = Callable[..., tuple[RoutingChatModel, dict[str, "ScriptedModel"]]]
"""Makes a routing model over scripted tiers; see the fixture `make`."""

WHOLE = ("invoke", "ainvoke", "batch", "abatch")
STREAMS = ("stream", "astream")

USAGE = UsageMetadata(input_tokens=10, output_tokens=5, total_tokens=15)


class ScriptedModel(BaseChatModel):
    """One tier of a test.

    `reply` is the text, or a function of the messages; `fails` is raised, in a stream after `fails_after` chunks.
    """

    model_name: str = "scripted"
    reply: str | Callable[[list[BaseMessage]], str] = "The answer is good."
    fails: Exception | None = None
    fails_after: int = 0
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)
    usage: UsageMetadata | None = USAGE
    logprobs: list[float] | None = None
    names_itself: bool = True
    finish_reason: str = "stop"
    closed: int = 0
    delay: float = 0.0
    api_key: SecretStr = SecretStr("sk-secret")
    header: str = "Bearer sk-plain"

    _calls: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The keyword arguments and messages of every call so far."""
        return self._calls

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = {"finish_reason": self.finish_reason}
        if self.names_itself:
            told["model_name"] = self.model_name
        if self.logprobs is not None:
            told["logprobs"] = {"content": [{"token": "x", "logprob": value} for value in self.logprobs]}
        return told

    def _text(self, messages: list[BaseMessage]) -> str:
        return self.reply if isinstance(self.reply, str) else self.reply(messages)

    def _note(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any], how: str) -> None:
        told = {"messages": messages, "stop": stop, "how": how, "thread": threading.get_ident(), **kwargs}
        self._calls.append(told)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._note(messages, stop, kwargs, "generate")
        if run_manager is not None:
            run_manager.on_llm_new_token("leaked")
        return self._result(messages)

    def _result(self, messages: list[BaseMessage]) -> ChatResult:
        if self.fails is not None:
            raise self.fails
        message = AIMessage(
            content=self._text(messages),
            tool_calls=self.tool_calls,
            usage_metadata=self.usage,
            response_metadata={"model_name": self.model_name} if self.names_itself else {},
        )
        return ChatResult(generations=[ChatGeneration(message=message, generation_info=self._told())])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._note(messages, stop, kwargs, "agenerate")
        if run_manager is not None:
            await run_manager.on_llm_new_token("leaked")
        await asyncio.sleep(self.delay)
        return self._result(messages)

    def _pieces(self, messages: list[BaseMessage]) -> Iterator[ChatGenerationChunk]:
        words = self._text(messages).split(" ") if self._text(messages) else []
        pieces = [AIMessageChunk(content="")]
        pieces += [AIMessageChunk(content=word if i == 0 else f" {word}") for i, word in enumerate(words)]
        for call in self.tool_calls:
            chunk = tool_call_chunk(name=call["name"], args="{}", id=call["id"], index=0)
            pieces.append(AIMessageChunk(content="", tool_call_chunks=[chunk]))
        for number, piece in enumerate(pieces):
            if self.fails is not None and number == self.fails_after:
                raise self.fails
            yield ChatGenerationChunk(message=piece)
        last = AIMessageChunk(content="", usage_metadata=self.usage, chunk_position="last")
        yield ChatGenerationChunk(message=last, generation_info=self._told())

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self._note(messages, stop, kwargs, "stream")
        try:
            yield from self._pieces(messages)
        finally:
            self.closed += 1

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self._note(messages, stop, kwargs, "astream")
        try:
            for chunk in self._pieces(messages):
                await asyncio.sleep(self.delay)
                yield chunk
        finally:
            self.closed += 1

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any) -> Runnable[Any, Any]:
        """Bind tools in OpenAI's format."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)


def route_of(message: AIMessage) -> dict[str, Any]:
    """The route in a message's metadata."""
    found: dict[str, Any] = message.response_metadata["routenlp"]
    return found


async def ask(model: Any, how: str, query: Any, **kwargs: Any) -> AIMessage:
    """Ask by any entrance and return one message."""
    merged: AIMessage | None = None
    if how == "invoke":
        merged = model.invoke(query, **kwargs)
    elif how == "ainvoke":
        merged = await model.ainvoke(query, **kwargs)
    elif how == "batch":
        merged = model.batch([query], **kwargs)[0]
    elif how == "abatch":
        merged = (await model.abatch([query], **kwargs))[0]
    elif how == "stream":
        for chunk in model.stream(query, **kwargs):
            merged = chunk if merged is None else merged + chunk
    else:
        async for chunk in model.astream(query, **kwargs):
            merged = chunk if merged is None else merged + chunk
    assert merged is not None
    return merged
