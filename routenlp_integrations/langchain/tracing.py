"""Attempts as child runs, for tracers only: the user's own callbacks, streams and usage counters see one run.

A handler is a tracer when it is LangChain's `BaseTracer` or `AsyncBaseTracer` and does not feed a stream
(`astream_events`, `astream_log`). `BaseChatModel.stream` and `astream` start their run without telling `_stream`
which; they are therefore given a run id and handlers that are already known here (`of_config`).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.callbacks.base import BaseCallbackManager
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.utils.uuid import uuid7

__all__ = ["ATTEMPT_TAG", "Trace", "afirst_under", "ended", "first_under", "of_config"]

ATTEMPT_TAG = "routenlp:attempt"

_HANDED: ContextVar["Trace | None"] = ContextVar("routenlp_trace", default=None)


@dataclass(frozen=True, slots=True)
class Trace:
    """Where the attempts of one query are reported.

    Attributes
    ----------
    tracers
        Handlers that keep runs.
    run_id
        The query's run, parent of its attempts.
    tags, metadata
        Inherited by every attempt.
    """

    tracers: Sequence[BaseCallbackHandler]
    run_id: UUID
    tags: Sequence[str]
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None) -> "Trace | None":
        """The trace of a run, None when nobody traces it."""
        if run is None or not run.handlers:
            return None
        tracers = _tracers(run.handlers)
        return cls(tracers, run.run_id, run.inheritable_tags, run.inheritable_metadata) if tracers else None

    @staticmethod
    def hand_over(run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun) -> None:
        """Keep a run for the `_stream` that is called next in this context."""
        _HANDED.set(Trace.of(run))

    @staticmethod
    def taken() -> "Trace | None":
        """What was kept for this `_stream`; it is kept for one only."""
        trace = _HANDED.get()
        if trace is not None:
            _HANDED.set(None)
        return trace

    def _told(self, tier: str, model: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a child run; a tier's own fields stay out, they may hold keys."""
        kind = type(model)
        return {
            "serialized": {"lc": 1, "type": "not_implemented", "id": [*kind.__module__.split("."), kind.__name__]},
            "name": tier,
            "invocation_params": {k: v for k, v in params.items() if not k.startswith("routenlp_")},
        }

    def _manager(self, kind: type[BaseCallbackManager], tier: str, model: Any, params: Mapping[str, Any]) -> Any:
        metadata = {**self.metadata, **model._get_ls_params(**params), "routenlp_tier": tier}
        return kind(
            handlers=list(self.tracers),
            parent_run_id=self.run_id,
            tags=[*self.tags, ATTEMPT_TAG],
            metadata=metadata,
        )

    def begin(
        self, tier: str, model: Any, messages: list[BaseMessage], params: Mapping[str, Any]
    ) -> CallbackManagerForLLMRun:
        """Start the child run of one attempt."""
        told = self._told(tier, model, params)
        manager: CallbackManager = self._manager(CallbackManager, tier, model, params)
        return manager.on_chat_model_start(told.pop("serialized"), [messages], **told)[0]

    async def abegin(
        self, tier: str, model: Any, messages: list[BaseMessage], params: Mapping[str, Any]
    ) -> AsyncCallbackManagerForLLMRun:
        """Start the child run of one attempt."""
        told = self._told(tier, model, params)
        manager: AsyncCallbackManager = self._manager(AsyncCallbackManager, tier, model, params)
        return (await manager.on_chat_model_start(told.pop("serialized"), [messages], **told))[0]


def ended(answer: ChatResult | list[ChatGenerationChunk]) -> LLMResult:
    """What a child run ends with."""
    if isinstance(answer, ChatResult):
        return LLMResult(generations=[list(answer.generations)], llm_output=answer.llm_output)
    merged = merge_chat_generation_chunks(answer)
    return LLMResult(generations=[[merged] if merged else []])


def of_config(
    config: RunnableConfig | None, own: Any, kind: type[CallbackManager] | type[AsyncCallbackManager]
) -> tuple[RunnableConfig, Trace | None]:
    """A configuration whose run is known beforehand, and its trace; as it was when nobody traces.

    Parameters
    ----------
    config
        Of the call.
    own
        Callbacks of the model itself.
    kind
        The manager to configure.
    """
    config = ensure_config(config)
    manager = kind.configure(config.get("callbacks"))
    local = own.handlers if isinstance(own, BaseCallbackManager) else own or []
    if not manager.handlers and not local:
        return config, None
    tracers = _tracers([*manager.handlers, *local])
    if not tracers:
        return config, None
    run_id = config.get("run_id") or uuid7()
    known = cast("RunnableConfig", {**config, "callbacks": manager, "run_id": run_id})
    tags = [*manager.inheritable_tags, *(config.get("tags") or [])]
    return known, Trace(tracers, run_id, tags, {**manager.inheritable_metadata, **(config.get("metadata") or {})})


def first_under(trace: Trace | None, source: Iterator[AIMessageChunk]) -> Generator[AIMessageChunk, None, None]:
    """The same chunks; the step that starts the stream finds the trace handed over."""
    token = _HANDED.set(trace)
    try:
        first = next(source, None)
    finally:
        _HANDED.reset(token)
    if first is not None:
        yield first
        yield from source


async def afirst_under(
    trace: Trace | None, source: AsyncIterator[AIMessageChunk]
) -> AsyncGenerator[AIMessageChunk, None]:
    """The same chunks; the step that starts the stream finds the trace handed over."""
    async with aclosing(cast("AsyncGenerator[AIMessageChunk, None]", source)) as chunks:
        token = _HANDED.set(trace)
        try:
            first = await anext(chunks, None)
        finally:
            _HANDED.reset(token)
        if first is not None:
            yield first
            async for chunk in chunks:
                yield chunk


def _tracers(handlers: Sequence[BaseCallbackHandler]) -> list[BaseCallbackHandler]:
    from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer

    # LangChain tells handlers that feed a stream by this method.
    return [h for h in handlers if isinstance(h, BaseTracer | AsyncBaseTracer) and not hasattr(h, "tap_output_aiter")]
