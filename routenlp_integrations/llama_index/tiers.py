"""One tier behind the router: an LLM that is called with its callbacks silent, so that a query is one LLM event.

The tier's own methods are called, its rate limiter acts, and its instrumentation events and spans go out as children of
the query's span with the tag ``routenlp.attempt``: whoever watches by instrumentation sees every attempt, and can tell
it from the query.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.dispatcher import (  # type: ignore[attr-defined]
    active_instrument_tags,
    instrument_tags,
)
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM

from routenlp_integrations.llama_index.calls import Call, ToolRequest
from routenlp_integrations.llama_index.messages import Response, answer_of
from routenlp_integrations.llama_index.student import StudentLLM
from routenlp_integrations.student import FINGERPRINT
from router_core.call_plan import STRUCTURE
from router_core.errors import InputError
from router_core.route import Answer
from router_core.showing import leaving

__all__ = ["ATTEMPT_TAG", "TierLLM", "attempt"]

ATTEMPT_TAG = "routenlp.attempt"
"""Instrumentation tag of events and spans of one attempt; its value is the tier."""

_END: Any = object()


@contextmanager
def attempt(tier: str, span: str | None) -> Iterator[None]:
    """Tag what is dispatched in this block as an attempt, under the query's span."""
    token = active_span_id.set(span)
    try:
        with instrument_tags({**active_instrument_tags.get(), ATTEMPT_TAG: tier}):
            yield
    finally:
        active_span_id.reset(token)


@dataclass(slots=True)
class TierLLM:
    """A tier's LLM.

    Attributes
    ----------
    name
        The portfolio's name.
    llm
        The LLM, as given.
    settings
        What stands in the place of its own prompt settings.
    chats
        It is a chat model; read from its metadata when it was given.
    """

    name: str
    llm: LLM
    settings: Mapping[str, Any] = field(default_factory=dict)
    chats: bool = field(init=False)
    _silent: LLM | None = field(default=None, repr=False)
    _copied: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.chats = self.llm.metadata.is_chat_model

    @classmethod
    def of(cls, name: str, given: Any, settings: Mapping[str, Any] | None = None) -> "TierLLM":
        """Take an LLM.

        Raises
        ------
        InputError
            For anything else.
        """
        if not isinstance(given, LLM):
            msg = f"tier {name!r} is a {type(given).__name__}; give a LlamaIndex LLM"
            raise InputError(msg)
        return cls(name, given, settings or {})

    @property
    def quiet(self) -> LLM:
        """The LLM, or a shallow copy of it, with other settings and no handlers: answers must not be counted twice."""
        if not self.settings and not self.llm.callback_manager.handlers:
            return self.llm
        silent, now = self._silent, self.llm.__dict__
        if silent is None or any(self._copied.get(name) is not value for name, value in now.items()):
            manager = CallbackManager()
            # A new manager takes over the handlers of the settings; they are theirs and stay as they are.
            manager.handlers = []
            silent = self.llm.model_copy(update={**self.settings, "callback_manager": manager})
            self._silent, self._copied = silent, dict(now)
        return silent

    def _kind(self, call: Call) -> str:
        """How it is asked: one that chats makes a chat of a template, whatever the other tiers make of it."""
        return "complete" if call.messages is None and not (call.source is not None and self.chats) else "chat"

    def _arguments(self, llm: LLM, call: Call) -> dict[str, Any]:
        """All arguments of this tier's call; tools are prepared its own way."""
        params = {name: value for name, value in call.params.items() if name != STRUCTURE}
        if isinstance(llm, StudentLLM):
            params |= {"task": call.task, FINGERPRINT: call.pins.get(self.name)}
        if call.source is not None:
            told = call.source.told(llm, chats=self.chats)
        elif call.messages is None:
            told = {"prompt": call.prompt, "formatted": call.formatted}
        else:
            told = {"messages": list(call.messages)}
        request = params.get("tools")
        if call.messages is None or not isinstance(request, ToolRequest):
            return {**told, **params}
        if not isinstance(llm, FunctionCallingLLM):
            msg = f"tier {self.name!r} takes no tools"
            raise NotImplementedError(msg)
        del params["tools"]
        return llm._prepare_chat_with_tools_compat(
            request.tools,
            chat_history=told["messages"],
            verbose=request.verbose,
            allow_parallel_tool_calls=request.allow_parallel_tool_calls,
            tool_required=request.tool_required,
            **params,
        )

    def ask(self, call: Call, span: str | None) -> Answer | Exception:
        """Answer, or what the tier raised."""
        llm = self.quiet
        try:
            with attempt(self.name, span):
                response = getattr(llm, self._kind(call))(**self._arguments(llm, call))
            return answer_of(response, call, llm)
        except Exception as error:
            return error

    async def aask(self, call: Call, span: str | None) -> Answer | Exception:
        """Answer, or what the tier raised, without blocking the event loop."""
        llm, kind = self.quiet, self._kind(call)
        if _blocks(llm, f"a{kind}"):
            return await asyncio.to_thread(self.ask, call, span)
        try:
            with attempt(self.name, span):
                response = await getattr(llm, f"a{kind}")(**self._arguments(llm, call))
            return answer_of(response, call, llm)
        except Exception as error:
            return error

    def stream(self, call: Call, span: str | None) -> Generator[Response, None, None]:
        """Answer chunk by chunk."""
        llm = self.quiet
        with attempt(self.name, span):
            source = getattr(llm, f"stream_{self._kind(call)}")(**self._arguments(llm, call))
        chunks: Iterator[Any] = iter(source)
        try:
            while True:
                # Set anew for every chunk: what a generator sets would be seen by whoever reads it.
                with attempt(self.name, span):
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                yield chunk
        finally:
            # A consumer that leaves early must not keep the provider's connection open.
            if isinstance(source, Generator):
                source.close()

    async def astream(self, call: Call, span: str | None) -> AsyncGenerator[Response, None]:
        """Answer chunk by chunk, without blocking the event loop."""
        llm, kind = self.quiet, self._kind(call)
        if _blocks(llm, f"astream_{kind}"):
            with leaving(self.stream(call, span)) as chunks:
                while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                    yield chunk
            return
        with attempt(self.name, span):
            source = await getattr(llm, f"astream_{kind}")(**self._arguments(llm, call))
        pieces = aiter(source)
        try:
            while True:
                with attempt(self.name, span):
                    found: Response = await anext(pieces, _END)
                if found is _END:
                    return
                yield found
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()


def _blocks(llm: LLM, name: str) -> bool:
    """Whether an asynchronous method is `CustomLLM`'s own, which answers synchronously on the event loop."""
    return isinstance(llm, CustomLLM) and next(k for k in type(llm).__mro__ if name in k.__dict__) is CustomLLM
