"""One tier behind the router: a chat model that is called flat, so that a query is one run.

The tier's own `_generate`, `_stream` and their asynchronous twins are called. Whatever was bound to it, its rate
limiter and a cache of its own are respected; its callbacks and tags belong to runs of its own and are not used.
"""

from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableBinding

from routenlp_integrations.langchain.messages import answer_of
from routenlp_integrations.langchain.student import StudentChatModel
from routenlp_integrations.langchain.task_config import TASK
from routenlp_integrations.langchain.tracing import Trace, ended
from routenlp_integrations.student import FINGERPRINT
from router_core.call_plan import STRUCTURE
from router_core.cascade import Answer
from router_core.errors import InputError

if TYPE_CHECKING:
    from routenlp_integrations.langchain.forms import Form

__all__ = ["FREE_CHOICES", "STRUCTURE", "Call", "TierModel", "as_chunk"]

FREE_CHOICES = (None, False, "auto", "none")
"""Values of `tool_choice` that leave the model free to answer in text."""

_TOOL_OPTIONS = ("tool_choice", "strict", "parallel_tool_calls")
_TRACING_ONLY = ("ls_structured_output_format", "structured_output_format")


@dataclass(frozen=True, slots=True)
class Call:
    """What every tier of one query is called with.

    `form` is what its answers must look like. Students are told the query's `task` and, by tier, the model that its
    router names (`pins`), so that they answer from the same release.
    """

    messages: list[BaseMessage]
    stop: list[str] | None
    params: Mapping[str, Any]
    form: "Form | None" = None
    task: str | None = None
    pins: Mapping[str, str | None] = field(default_factory=dict)


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

    @property
    def identity(self) -> str:
        """Name and a hash of all that decides its answers, for the key of a cache; holds no secret."""
        own = {**self.model._identifying_params, "_type": self.model._llm_type, "bound": dict(self.bound)}
        shown = sha256(repr(sorted(own.items())).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self.model_name or self.name} {shown[:16]}"

    def _ready(self, call: Call) -> tuple[BaseChatModel, dict[str, Any]]:
        """The model and all keyword arguments of its call; tools and structure are bound its own way."""
        params = {**self.bound, **call.params}
        if call.stop is not None:
            params["stop"] = call.stop
        model = self.model
        if structure := params.pop(STRUCTURE, None):
            shaped = structure.bound_to(self)
            model, params = shaped.model, {**params, **shaped.bound}
        elif call.params.get("tools"):
            options = {name: params.pop(name) for name in _TOOL_OPTIONS if name in params}
            tools = TierModel.of(self.name, model.bind_tools(params.pop("tools"), **options))
            model, params = tools.model, {**params, **tools.bound}
        for name in _TRACING_ONLY:
            params.pop(name, None)
        if isinstance(model, StudentChatModel):
            params |= {TASK: call.task, FINGERPRINT: call.pins.get(self.name)}
        return model, {"stop": None, **params}

    def generate(self, call: Call, run_manager: CallbackManagerForLLMRun | None, trace: Trace | None) -> Answer:
        """Answer at once."""
        model, params = self._ready(call)
        attempt = trace.begin(self.name, model, call.messages, params) if trace else None
        try:
            key = _cache_key(model, call, params)
            if key and (hit := key[0].lookup(*key[1:])):
                result, price = ChatResult(generations=list(hit)), 0.0  # type: ignore[arg-type]
            else:
                if model.rate_limiter:
                    model.rate_limiter.acquire(blocking=True)
                result, price = model._generate(call.messages, run_manager=run_manager, **params), None
                if key:
                    key[0].update(*key[1:], list(result.generations))
        except BaseException as error:
            if attempt:
                attempt.on_llm_error(error)
            raise
        if attempt:
            attempt.on_llm_end(ended(result))
        answer = answer_of(result, call.messages, call.form)
        return answer if price is None else replace(answer, cost_usd=price)

    async def agenerate(
        self, call: Call, run_manager: AsyncCallbackManagerForLLMRun | None, trace: Trace | None
    ) -> Answer:
        """Answer at once, without blocking the event loop."""
        model, params = self._ready(call)
        attempt = await trace.abegin(self.name, model, call.messages, params) if trace else None
        try:
            key = _cache_key(model, call, params)
            if key and (hit := await key[0].alookup(*key[1:])):
                result, price = ChatResult(generations=list(hit)), 0.0  # type: ignore[arg-type]
            else:
                if model.rate_limiter:
                    await model.rate_limiter.aacquire(blocking=True)
                result, price = await model._agenerate(call.messages, run_manager=run_manager, **params), None
                if key:
                    await key[0].aupdate(*key[1:], list(result.generations))
        except BaseException as error:
            if attempt:
                await attempt.on_llm_error(error)
            raise
        if attempt:
            await attempt.on_llm_end(ended(result))
        answer = answer_of(result, call.messages, call.form)
        return answer if price is None else replace(answer, cost_usd=price)

    def stream(
        self, call: Call, run_manager: CallbackManagerForLLMRun | None, trace: Trace | None = None
    ) -> Generator[ChatGenerationChunk, None, None]:
        """Answer chunk by chunk; in one chunk where the tier cannot stream."""
        model, params = self._ready(call)
        if not model._should_stream(async_api=False, **{**params, "stream": True}):
            whole: ChatResult = self.generate(call, run_manager, trace).raw
            if whole.generations:
                yield as_chunk(whole)
            return
        attempt = trace.begin(self.name, model, call.messages, params) if trace else None
        seen: list[ChatGenerationChunk] = []
        try:
            if model.rate_limiter:
                model.rate_limiter.acquire(blocking=True)
            for chunk in model._stream(call.messages, run_manager=run_manager, **params):
                if attempt:
                    seen.append(chunk.model_copy(deep=True))
                yield chunk
        except BaseException as error:
            if attempt:
                attempt.on_llm_error(error, response=ended(seen))
            raise
        if attempt:
            attempt.on_llm_end(ended(seen))

    async def astream(
        self, call: Call, run_manager: AsyncCallbackManagerForLLMRun | None, trace: Trace | None = None
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        """Answer chunk by chunk, without blocking the event loop."""
        model, params = self._ready(call)
        if not model._should_stream(async_api=True, **{**params, "stream": True}):
            whole: ChatResult = (await self.agenerate(call, run_manager, trace)).raw
            if whole.generations:
                yield as_chunk(whole)
            return
        attempt = await trace.abegin(self.name, model, call.messages, params) if trace else None
        seen: list[ChatGenerationChunk] = []
        try:
            if model.rate_limiter:
                await model.rate_limiter.aacquire(blocking=True)
            source = model._astream(call.messages, run_manager=run_manager, **params)
            try:
                async for chunk in source:
                    if attempt:
                        seen.append(chunk.model_copy(deep=True))
                    yield chunk
            finally:
                # A consumer that leaves early must not keep the provider's connection open.
                if isinstance(source, AsyncGenerator):
                    await source.aclose()
        except BaseException as error:
            if attempt:
                await attempt.on_llm_error(error, response=ended(seen))
            raise
        if attempt:
            await attempt.on_llm_end(ended(seen))


def _cache_key(model: BaseChatModel, call: Call, params: Mapping[str, Any]) -> tuple[BaseCache, str, str] | None:
    """Where a tier's own cache keeps this answer, as the tier itself would; None without one of its own.

    The global cache is left to the router's own run: one answer is not kept twice.
    """
    if not model.cache:
        return None
    from langchain_core.globals import get_llm_cache
    from langchain_core.load import dumps

    cache = model.cache if isinstance(model.cache, BaseCache) else get_llm_cache()
    if cache is None:
        msg = f"{type(model).__name__} has cache=True, but no global cache is set"
        raise InputError(msg)
    prompt = dumps([m if m.id is None else m.model_copy(update={"id": None}) for m in call.messages])
    return cache, prompt, model._get_llm_string(**params)


def as_chunk(result: ChatResult) -> ChatGenerationChunk:
    """A whole answer as one chunk, the provider's ``llm_output`` kept in its metadata."""
    first: ChatGeneration = result.generations[0]
    fields = first.message.model_dump(exclude={"type"}) if isinstance(first.message, AIMessage) else {}
    told = {**(result.llm_output or {}), **first.message.response_metadata}
    kept = {"content": first.message.content, "additional_kwargs": first.message.additional_kwargs}
    message = AIMessageChunk(**{**fields, **kept, "response_metadata": told})
    return ChatGenerationChunk(message=message, generation_info=first.generation_info)
