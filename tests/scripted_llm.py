"""A scripted LlamaIndex LLM: it answers, fails, calls tools and streams as told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    LogProb,
    MessageRole,
)
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from pydantic import Field, PrivateAttr

from routenlp_integrations.llama_index import RoutingDecisionEvent, RoutingLLM
from routenlp_integrations.llama_index.tiers import ATTEMPT_TAG

Make = Callable[..., tuple[RoutingLLM, dict[str, "ScriptedLLM"]]]
"""Makes a routing LLM over scripted tiers; see the fixture `make`."""

WHOLE = ("chat", "achat", "complete", "acomplete")
STREAMS = ("stream_chat", "astream_chat", "stream_complete", "astream_complete")
EVERY = (*WHOLE, *STREAMS)


def user(text: str) -> list[ChatMessage]:
    """A conversation of one turn."""
    return [ChatMessage(role=MessageRole.USER, content=text)]


class ScriptedLLM(FunctionCallingLLM):
    """One tier of a test.

    `reply` is the text, or a function of the last text asked; `fails` is raised by every call, or by the `fails_first`
    first ones, in a stream after `fails_after` chunks. One that `hangs` waits for that event, or until it is cancelled.
    `picks` are the calls it makes when tools are offered, unless the last message is a tool's; with `unasked` always.
    """

    model: str = "scripted"
    reply: str | Callable[[str], str] = "The answer is good."
    fails: Exception | None = None
    fails_after: int = 0
    fails_first: int | None = None
    hangs: threading.Event | None = Field(default=None, exclude=True)
    picks: list[dict[str, Any]] = Field(default_factory=list)
    unasked: bool = False
    usage: dict[str, int] | None = Field(default_factory=lambda: {"prompt_tokens": 10, "completion_tokens": 5})
    logprobs: list[float] | None = None
    names_itself: bool = True
    finish_reason: str = "stop"
    delay: float = 0.0
    window: int = 4096
    longest: int = 256
    functions: bool = True
    chats: bool = True
    api_key: str = "sk-secret"

    _calls: list[dict[str, Any]] = PrivateAttr(default_factory=list)
    _noted: dict[str, int] = PrivateAttr(default_factory=lambda: {"cancelled": 0, "closed": 0})

    @property
    def calls(self) -> list[dict[str, Any]]:
        """How, with what and on which thread it was called so far."""
        return self._calls

    @property
    def noted(self) -> dict[str, int]:
        """How often a call was cancelled, a stream closed."""
        return self._noted

    @classmethod
    def class_name(cls) -> str:
        """Class name."""
        return "ScriptedLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """As told."""
        return LLMMetadata(
            context_window=self.window,
            num_output=self.longest,
            is_chat_model=self.chats,
            is_function_calling_model=self.functions,
            model_name=self.model,
        )

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[Any],
        user_msg: Any = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        named = [f"{self.model}:{tool.metadata.name}" for tool in tools]
        return {"messages": chat_history or [], "offered": named, "required": tool_required, **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """In a shape that only this LLM reads."""
        found = response.message.additional_kwargs.get("tool_calls", [])
        if not found and error_on_no_tool_call:
            raise ValueError("expected at least one tool call")
        return [ToolSelection(tool_id=c["id"], tool_name=c[self.model], tool_kwargs=c["args"]) for c in found]

    # One answer

    def _note(self, how: str, asked: Any, kwargs: dict[str, Any]) -> str:
        self._calls.append({"how": how, "asked": asked, "thread": threading.get_ident(), **kwargs})
        return asked if isinstance(asked, str) else str(asked[-1].content or "")

    def _fail(self) -> None:
        if self.fails is not None and (self.fails_first is None or len(self._calls) <= self.fails_first):
            raise self.fails

    def _hang(self) -> None:
        if self.hangs is not None:
            self.hangs.wait(60)
        time.sleep(self.delay)

    async def _ahang(self) -> None:
        await asyncio.sleep(self.delay)
        if self.hangs is not None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self._noted["cancelled"] += 1
                raise

    def _said(self, asked: str) -> str:
        return self.reply if isinstance(self.reply, str) else self.reply(asked)

    def _fields(self) -> dict[str, Any]:
        raw: dict[str, Any] = {"finish_reason": self.finish_reason, **({"usage": self.usage} if self.usage else {})}
        if self.names_itself:
            raw["model"] = self.model
        given = self.logprobs
        return {"raw": raw, "logprobs": None if given is None else [[LogProb(logprob=v)] for v in given]}

    def _message(self, asked: Sequence[ChatMessage], kwargs: dict[str, Any]) -> ChatMessage:
        offered = kwargs.get("offered")
        if self.picks and (self.unasked or (offered and asked[-1].role != MessageRole.TOOL)):
            told = [{"id": f"call-{i}", self.model: c["name"], "args": c["args"]} for i, c in enumerate(self.picks)]
            return ChatMessage(role=MessageRole.ASSISTANT, content="", additional_kwargs={"tool_calls": told})
        return ChatMessage(role=MessageRole.ASSISTANT, content=self._said(str(asked[-1].content or "")))

    def _chatted(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> ChatResponse:
        self._fail()
        return ChatResponse(message=self._message(messages, kwargs), **self._fields())

    def _completed(self, prompt: str) -> CompletionResponse:
        self._fail()
        return CompletionResponse(text=self._said(prompt), **self._fields())

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer."""
        self._note("chat", messages, kwargs)
        self._hang()
        return self._chatted(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer."""
        self._note("complete", prompt, {"formatted": formatted, **kwargs})
        self._hang()
        return self._completed(prompt)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer."""
        self._note("achat", messages, kwargs)
        await self._ahang()
        return self._chatted(messages, kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer."""
        self._note("acomplete", prompt, {"formatted": formatted, **kwargs})
        await self._ahang()
        return self._completed(prompt)

    # Chunks

    def _pieces(self, whole: ChatResponse | CompletionResponse) -> Generator[Any, None, None]:
        """An empty chunk, then word by word, each with all that was said so far; tool calls whole."""
        text = whole.text if isinstance(whole, CompletionResponse) else (whole.message.content or "")
        words = text.split(" ") if text else []
        deltas = ["", *(word if i == 0 else f" {word}" for i, word in enumerate(words))]
        so_far = ""
        for number, delta in enumerate(deltas):
            if number == self.fails_after:
                self._fail()
            so_far += delta
            last = number == len(deltas) - 1
            told = {"raw": whole.raw if last else None, "logprobs": whole.logprobs if last else None, "delta": delta}
            if isinstance(whole, CompletionResponse):
                yield whole.model_copy(update={"text": so_far, **told})
            else:
                message = ChatMessage(role=MessageRole.ASSISTANT, content=so_far)
                yield whole.model_copy(update={"message": whole.message if last else message, **told})

    def _unfailing(self) -> ScriptedLLM:
        return self.model_copy(update={"fails": None})

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        """Answer chunk by chunk."""
        self._note("stream_chat", messages, kwargs)
        return self._told(lambda: self._unfailing()._chatted(messages, kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Answer chunk by chunk."""
        self._note("stream_complete", prompt, {"formatted": formatted, **kwargs})
        return self._told(lambda: self._unfailing()._completed(prompt))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        """Answer chunk by chunk."""
        self._note("astream_chat", messages, kwargs)
        return self._atold(lambda: self._unfailing()._chatted(messages, kwargs))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Answer chunk by chunk."""
        self._note("astream_complete", prompt, {"formatted": formatted, **kwargs})
        return self._atold(lambda: self._unfailing()._completed(prompt))

    def _told(self, whole: Callable[[], Any]) -> Generator[Any, None, None]:
        self._hang()
        try:
            yield from self._pieces(whole())
        finally:
            self._noted["closed"] += 1

    async def _atold(self, whole: Callable[[], Any]) -> AsyncGenerator[Any, None]:
        try:
            for chunk in self._pieces(whole()):
                await self._ahang()
                yield chunk
        finally:
            self._noted["closed"] += 1


class Events(BaseEventHandler):
    """Keeps every event."""

    seen: list[Any] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        """Class name."""
        return "Events"

    def handle(self, event: Any, **kwargs: Any) -> None:
        """Keep one."""
        self.seen.append(event)

    def names(self, tag: str | None) -> list[str]:
        """Names of the events of the query itself (None), or of one tier's attempts."""
        return [e.class_name() for e in self.seen if e.tags.get(ATTEMPT_TAG) == tag]

    @property
    def decisions(self) -> list[RoutingDecisionEvent]:
        """The decisions among them."""
        return [event for event in self.seen if isinstance(event, RoutingDecisionEvent)]


def route_of(response: Any) -> dict[str, Any]:
    """The route beside a response."""
    found: dict[str, Any] = response.additional_kwargs["routenlp"]
    return found


def said(response: Any) -> str:
    """The text of a response."""
    return response.message.content or "" if isinstance(response, ChatResponse) else response.text


async def chunks_of(llm: Any, how: str, query: str, **kwargs: Any) -> list[Any]:
    """Ask by any entrance; all chunks, or the whole answer as one."""
    asked = user(query) if "chat" in how else query
    found = getattr(llm, how)(asked, **kwargs)
    if how in ("chat", "complete"):
        return [found]
    if how in ("achat", "acomplete"):
        return [await found]
    if how.startswith("stream"):
        return list(found)
    return [chunk async for chunk in await found]


async def ask(llm: Any, how: str, query: str, **kwargs: Any) -> Any:
    """Ask by any entrance; the last chunk is the answer."""
    return (await chunks_of(llm, how, query, **kwargs))[-1]
