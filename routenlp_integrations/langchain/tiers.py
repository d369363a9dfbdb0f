"""One tier behind the router: a chat model that is called flat, so that a query is one run.

The tier's own `_generate`, `_stream` and their asynchronous twins are called. Its rate limiter and whatever was
bound to it are respected; its cache, callbacks and tags belong to runs of its own and are not used.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableBinding

from routenlp_integrations.langchain.messages import answer_of
from router_core.cascade import Answer
from router_core.errors import InputError

__all__ = ["Call", "TierModel", "as_chunk"]

_TOOL_OPTIONS = ("tool_choice", "strict", "parallel_tool_calls")


@dataclass(frozen=True, slots=True)
class Call:
    """What every tier of one query is called with."""

    messages: list[BaseMessage]
    stop: list[str] | None
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TierModel:
    """A tier's chat model and what was bound to it.

    Attributes
    ----------
    name
        The portfolio's name.
    model
        The chat model.
    bound
        Keyword arguments from ``model.bind(...)``; those of the call win over them.
    """

    name: str
    model: BaseChatModel
    bound: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, given: Any) -> "TierModel":
        """Take a chat model, or one with arguments bound to it.

        Raises
        ------
        InputError
            For anything else.
        """
        bound: dict[str, Any] = {}
        model = given
        while isinstance(model, RunnableBinding):
            bound = {**model.kwargs, **bound}
            model = model.bound
        if not isinstance(model, BaseChatModel):
            msg = (
                f"tier {name!r} is a {type(given).__name__}; give a chat model, or one with arguments bound by .bind()"
            )
            raise InputError(msg)
        return cls(name, model, bound)

    @property
    def model_name(self) -> str | None:
        """The model's own name for itself, if it has one."""
        return self.model._get_ls_params().get("ls_model_name")

    def _ready(self, call: Call) -> tuple[BaseChatModel, dict[str, Any]]:
        """The model and all keyword arguments of its call; OpenAI-format tools are bound its own way."""
        params = {**self.bound, **call.params}
        if call.stop is not None:
            params["stop"] = call.stop
        if not call.params.get("tools"):
            return self.model, {"stop": None, **params}
        options = {name: params.pop(name) for name in _TOOL_OPTIONS if name in params}
        tools = TierModel.of(self.name, self.model.bind_tools(params.pop("tools"), **options))
        return tools.model, {"stop": None, **params, **tools.bound}

    def generate(self, call: Call, run_manager: CallbackManagerForLLMRun | None) -> ChatResult:
        """Answer at once."""
        model, params = self._ready(call)
        if model.rate_limiter:
            model.rate_limiter.acquire(blocking=True)
        return model._generate(call.messages, run_manager=run_manager, **params)

    async def agenerate(self, call: Call, run_manager: AsyncCallbackManagerForLLMRun | None) -> ChatResult:
        """Answer at once, without blocking the event loop."""
        model, params = self._ready(call)
        if model.rate_limiter:
            await model.rate_limiter.aacquire(blocking=True)
        return await model._agenerate(call.messages, run_manager=run_manager, **params)

    def ask(self, call: Call, run_manager: CallbackManagerForLLMRun | None) -> Answer | Exception:
        """Answer, or what the tier raised."""
        try:
            return answer_of(self.generate(call, run_manager), call.messages)
        except Exception as error:
            return error

    async def aask(self, call: Call, run_manager: AsyncCallbackManagerForLLMRun | None) -> Answer | Exception:
        """Answer, or what the tier raised."""
        try:
            return answer_of(await self.agenerate(call, run_manager), call.messages)
        except Exception as error:
            return error

    def stream(self, call: Call, run_manager: CallbackManagerForLLMRun | None) -> Iterator[ChatGenerationChunk]:
        """Answer chunk by chunk; in one chunk where the tier cannot stream."""
        model, params = self._ready(call)
        if not model._should_stream(async_api=False, **{**params, "stream": True}):
            yield as_chunk(self.generate(call, run_manager))
            return
        if model.rate_limiter:
            model.rate_limiter.acquire(blocking=True)
        yield from model._stream(call.messages, run_manager=run_manager, **params)

    async def astream(
        self, call: Call, run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        """Answer chunk by chunk, without blocking the event loop."""
        model, params = self._ready(call)
        if not model._should_stream(async_api=True, **{**params, "stream": True}):
            yield as_chunk(await self.agenerate(call, run_manager))
            return
        if model.rate_limiter:
            await model.rate_limiter.aacquire(blocking=True)
        source = model._astream(call.messages, run_manager=run_manager, **params)
        try:
            async for chunk in source:
                yield chunk
        finally:
            # A consumer that leaves early must not keep the provider's connection open.
            if isinstance(source, AsyncGenerator):
                await source.aclose()


def as_chunk(result: ChatResult) -> ChatGenerationChunk:
    """A whole answer as one chunk, the provider's ``llm_output`` kept in its metadata."""
    if not result.generations:
        return ChatGenerationChunk(message=AIMessageChunk(content=""))
    first: ChatGeneration = result.generations[0]
    fields = first.message.model_dump(exclude={"type"}) if isinstance(first.message, AIMessage) else {}
    told = {**(result.llm_output or {}), **first.message.response_metadata}
    message = AIMessageChunk(**{**fields, "content": first.message.content, "response_metadata": told})
    return ChatGenerationChunk(message=message, generation_info=first.generation_info)
