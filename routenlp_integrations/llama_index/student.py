"""`StudentLLM`: a distilled checkpoint as a LlamaIndex LLM."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

from routenlp_integrations.llama_index.calls import Asked, Call
from routenlp_integrations.llama_index.messages import block_kind
from routenlp_integrations.student import FINGERPRINT, StudentModel, refuse
from router_core.errors import InputError
from router_core.route_text import last_turn

__all__ = ["StudentLLM"]

_UNABLE = ("tools", "functions", "response_format")
_TEXT = frozenset({"text", "thinking", "cache"})
_CONTEXT_WINDOW = 1_000_000


class StudentLLM(StudentModel, CustomLLM):
    """Answers with a cheap tier that was trained by distillation; no torch, no network, no key.

    The student reads the prompt, or the last human turn of a chat, as prompts stand in the records, and cuts its own
    template out of it. ``additional_kwargs`` of a response holds ``model_name``
    (``routenlp-student/<tier>@<12 digits of the fingerprint>``) and ``signals``: ``own_confidence``, P(the answer is
    right), and ``template_matched``, whether the prompt had the form it was trained on. Behind `RoutingLLM` the signals
    are evidence. ``raw["usage"]`` counts tokens by the student's tokenizer.

    Where the tier has one student per task, the task of a query is the call's ``task=``, else that of the
    `RoutingLLM.asking` block around it, else `task`; behind `RoutingLLM` it is the task of the routed query. Without a
    student for it the call raises InputError, and a router goes on to the reference tier.

    It cannot call tools or follow a schema: calls that ask for either raise NotImplementedError. It takes texts of any
    length, reading head and tail of long ones, so its metadata states a window that limits nobody. A stream is one
    chunk.

    Parameters
    ----------
    root
        Folder of a checkpoint, or a release ROOT.
    tier
        Which of a ROOT's tiers.
    task
        Task of every call that does not name one.
    watch
        Serve the release that is current when a query comes, looked up at most once a second and loaded in the
        background. A query has one release from start to end, behind `RoutingLLM` its router's. By default a ROOT is
        watched.

    Raises
    ------
    BundleError
        When there is no such checkpoint, or it is damaged, newer than this version, or another tier's.

    Examples
    --------
    >>> llm = StudentLLM("releases-of-mine", tier="small")  # doctest: +SKIP
    >>> llm.complete("I hate this lamp.").text  # doctest: +SKIP
    'bad'
    """

    # What it is

    @classmethod
    def class_name(cls) -> str:
        """Class name."""
        return "StudentLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """A chat model without tools."""
        return LLMMetadata(context_window=_CONTEXT_WINDOW, is_chat_model=True, model_name=self._source.get().name)

    # One query

    def _named(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call with its task, read at once: a stream may be consumed outside of its block."""
        asked, rest = Asked.taken(params)
        return {**rest, "task": asked.task or self.task}

    def _answer(self, prompt: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer, as text and the fields that chat and completion responses share."""
        refuse(params, _UNABLE)
        students = self._source.get(params.get(FINGERPRINT))
        found = students.answer(prompt, params.get("task"))
        usage = {"prompt_tokens": found.prompt_tokens, "completion_tokens": found.completion_tokens}
        total = found.prompt_tokens + found.completion_tokens
        return {
            "text": found.text,
            "delta": found.text,
            "raw": {"model": students.name, "finish_reason": "stop", "usage": {**usage, "total_tokens": total}},
            "additional_kwargs": {"model_name": students.name, "signals": dict(found.signals)},
        }

    def _chatted(self, messages: Sequence[ChatMessage], params: Mapping[str, Any]) -> ChatResponse:
        last = next((message for message in reversed(messages) if message.role == MessageRole.USER), None)
        for block in last.blocks if last is not None else ():
            if (kind := block_kind(block)) not in _TEXT:
                msg = f"a student reads text only, and the query holds {kind!r} content"
                raise InputError(msg)
        told = self._answer(last_turn(Call(list(messages), "", False, params).said), params)
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=told.pop("text")), **told)

    # LlamaIndex's entrances

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last human turn."""
        params = self._named(kwargs)
        return self._chatted(messages, params)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt."""
        params = self._named(kwargs)
        return CompletionResponse(**self._answer(prompt, params))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last human turn, off the event loop."""
        params = self._named(kwargs)
        return await asyncio.to_thread(self._chatted, messages, params)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, off the event loop."""
        params = self._named(kwargs)
        return CompletionResponse(**await asyncio.to_thread(self._answer, prompt, params))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer the last human turn in one chunk."""
        params = self._named(kwargs)

        def chunks() -> ChatResponseGen:
            yield self._chatted(messages, params)

        return chunks()

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a prompt in one chunk."""
        params = self._named(kwargs)

        def chunks() -> CompletionResponseGen:
            yield CompletionResponse(**self._answer(prompt, params))

        return chunks()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer the last human turn in one chunk, off the event loop."""
        params = self._named(kwargs)

        async def chunks() -> ChatResponseAsyncGen:
            yield await asyncio.to_thread(self._chatted, messages, params)

        return chunks()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Answer a prompt in one chunk, off the event loop."""
        params = self._named(kwargs)

        async def chunks() -> CompletionResponseAsyncGen:
            yield CompletionResponse(**await asyncio.to_thread(self._answer, prompt, params))

        return chunks()
