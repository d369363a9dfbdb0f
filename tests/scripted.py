"""Scripted chat models: one answers, fails, calls tools and streams as told, one behaves like a whole provider."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import Field, PrivateAttr, SecretStr

from routenlp_integrations.langchain import RoutingChatModel

Make = Callable[..., tuple[RoutingChatModel, dict[str, "ScriptedModel"]]]
"""Makes a routing model over scripted tiers; see the fixture `make`."""

WHOLE = ("invoke", "ainvoke", "batch", "abatch")
STREAMS = ("stream", "astream")
EVERY = ("invoke", "ainvoke", "batch", *STREAMS)

USAGE = UsageMetadata(input_tokens=10, output_tokens=5, total_tokens=15)


class ScriptedModel(BaseChatModel):
    """One tier of a test.

    `reply` is the text, or a function of the messages; `fails` is raised by every call, or by the `fails_first` first
    ones, in a stream after `fails_after` chunks. One that `hangs` waits for that event, or until it is cancelled.
    """

    model_name: str = "scripted"
    reply: str | Callable[[list[BaseMessage]], str] = "The answer is good."
    fails: Exception | None = None
    fails_after: int = 0
    fails_first: int | None = None
    hangs: threading.Event | None = None
    cancelled: int = 0
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)
    usage: UsageMetadata | None = USAGE
    logprobs: list[float] | None = None
    names_itself: bool = True
    finish_reason: str = "stop"
    closed: int = 0
    delay: float = 0.0
    api_key: SecretStr | None = SecretStr("sk-secret")
    header: str = "Bearer sk-plain"

    _calls: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The keyword arguments and messages of every call so far."""
        return self._calls

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """As partner packages' models are."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The declared secret; the header is not."""
        return {"api_key": "SCRIPTED_API_KEY"}

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

    def _failure(self) -> Exception | None:
        return self.fails if self.fails_first is None or len(self._calls) <= self.fails_first else None

    async def _wait(self) -> None:
        await asyncio.sleep(self.delay)
        if self.hangs is not None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    def _message(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> AIMessage:
        """The whole answer."""
        if (error := self._failure()) is not None:
            raise error
        return AIMessage(
            content=self._text(messages),
            tool_calls=self.tool_calls,
            usage_metadata=self.usage,
            response_metadata={"model_name": self.model_name} if self.names_itself else {},
        )

    def _result(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> ChatResult:
        generation = ChatGeneration(message=self._message(messages, kwargs), generation_info=self._told())
        return ChatResult(generations=[generation])

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._note(messages, stop, kwargs, "generate")
        if run_manager is not None:
            run_manager.on_llm_new_token("leaked")
        if self.hangs is not None:
            self.hangs.wait(60)
        return self._result(messages, kwargs)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._note(messages, stop, kwargs, "agenerate")
        if run_manager is not None:
            await run_manager.on_llm_new_token("leaked")
        await self._wait()
        return self._result(messages, kwargs)

    def _pieces(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> Iterator[ChatGenerationChunk]:
        whole = self.model_copy(update={"fails": None})._message(messages, kwargs)
        words = str(whole.text).split(" ") if whole.text else []
        pieces = [AIMessageChunk(content="")]
        pieces += [AIMessageChunk(content=word if i == 0 else f" {word}") for i, word in enumerate(words)]
        for index, call in enumerate(whole.tool_calls):
            args = json.dumps(call["args"])
            half = len(args) // 2
            for name, part in ((call["name"], args[:half]), (None, args[half:])):
                chunk = tool_call_chunk(name=name, args=part, id=call["id"] if name else None, index=index)
                pieces.append(AIMessageChunk(content="", tool_call_chunks=[chunk]))
        for number, piece in enumerate(pieces):
            if number == self.fails_after and (error := self._failure()) is not None:
                raise error
            yield ChatGenerationChunk(message=piece)
        last = AIMessageChunk(content="", usage_metadata=whole.usage_metadata, chunk_position="last")
        told = {**self._told(), **whole.response_metadata}
        yield ChatGenerationChunk(message=last, generation_info=told)

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self._note(messages, stop, kwargs, "stream")
        if self.hangs is not None:
            self.hangs.wait(60)
        try:
            yield from self._pieces(messages, kwargs)
        finally:
            self.closed += 1

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self._note(messages, stop, kwargs, "astream")
        try:
            for chunk in self._pieces(messages, kwargs):
                await self._wait()
                yield chunk
        finally:
            self.closed += 1

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any) -> Runnable[Any, Any]:
        """Bind tools in OpenAI's format."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)


DETAILED = UsageMetadata(
    input_tokens=30,
    output_tokens=20,
    total_tokens=50,
    input_token_details={"audio": 5, "cache_read": 7, "cache_creation": 3},
    output_token_details={"audio": 4, "reasoning": 6},
)


class ProviderModel(ScriptedModel):
    """A model with a provider's manners: calls tools, answers in JSON modes, names the model asked for, counts usage.

    `native` is its default mode of structured output; ``"tools"`` has no mode of its own. `breaks` gives answers that
    do not fit their schema. The arguments it makes up are the first number and the quoted words of the question.
    """

    usage: UsageMetadata | None = DETAILED
    native: str = "json_schema"
    breaks: bool = False

    def with_structured_output(self, schema: Any, *, include_raw: bool = False, **kwargs: Any) -> Runnable[Any, Any]:
        """Structured output by response format, or by a forced tool call."""
        if self.native == "tools":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        method = kwargs.get("method") or self.native
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        wanted: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            shape = convert_to_json_schema(schema)
            described = {"name": shape["title"], "schema": shape, "strict": kwargs.get("strict")}
            wanted = {"type": "json_schema", "json_schema": described}
        llm = self.bind(response_format=wanted, ls_structured_output_format={"kwargs": {}, "schema": schema})
        return RunnableMap(raw=llm) | RunnableLambda(lambda found: found) if include_raw else llm

    def _message(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> AIMessage:
        whole = super()._message(messages, kwargs)
        whole.response_metadata["model_name"] = kwargs.get("model", self.model_name)
        asked = str(messages[-1].text)
        wanted, tools = kwargs.get("response_format"), kwargs.get("tools")
        if wanted:
            shape = wanted["json_schema"]["schema"] if wanted["type"] == "json_schema" else _keys(asked)
            whole.content = json.dumps(self._made_up(shape, asked), ensure_ascii=False)
        elif tools and (kwargs.get("tool_choice") or not isinstance(messages[-1], ToolMessage)):
            named = [tool for tool in tools if tool["function"]["name"] == kwargs.get("tool_choice")]
            function = (named or tools)[0]["function"]
            args = self._made_up(function.get("parameters") or {}, asked)
            whole.content = ""
            whole.tool_calls = [ToolCall(name=function["name"], args=args, id="call_1", type="tool_call")]
        return whole

    def _made_up(self, shape: dict[str, Any], asked: str) -> dict[str, Any]:
        found = {}
        number = re.search(r"-?\d+", asked)
        quoted = re.search(r"'([^']+)'", asked)
        for name, kind in shape.get("properties", {}).items():
            if "int" in str(kind.get("type")) or kind.get("type") == "number":
                found[name] = int(number[0]) if number else 1
            else:
                found[name] = quoted[1] if quoted else "words"
        return {name: [None] for name in found} if self.breaks else found


def _keys(asked: str) -> dict[str, Any]:
    """A schema of the keys a question names in quotes."""
    return {"properties": {name: {"type": "string"} for name in re.findall(r"'(\w+)'", asked)}}


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
