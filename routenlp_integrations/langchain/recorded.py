"""A chat model that replays recorded answers, for demos, notebooks and tests without a key or a network."""

import math
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from routenlp_integrations.langchain.messages import turns
from router_core.errors import InputError
from router_core.records import Records
from router_core.route_text import last_turn

__all__ = ["RecordedChatModel", "recorded_tiers"]


class RecordedChatModel(BaseChatModel):
    """Answers every known prompt as it was answered before.

    Parameters
    ----------
    answers
        Prompt -> (response, prompt tokens, completion tokens); token counts may be None.
    name
        The model's name, given back as ``model_name``.
    signals
        Prompt -> numbers that came with the answer, given back as ``response_metadata["signals"]``.

    Examples
    --------
    >>> model = RecordedChatModel(answers={"2 + 2?": ("4", 5, 1)}, name="small")
    >>> model.invoke("2 + 2?").content
    '4'
    """

    answers: Mapping[str, tuple[str, int | None, int | None]] = Field(repr=False)
    signals: Mapping[str, Mapping[str, float]] = Field(default_factory=dict, repr=False)

    @property
    def _llm_type(self) -> str:
        return "routenlp-recorded"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.name}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "routenlp"
        params.setdefault("ls_model_name", self.name or "recorded")
        return params

    def _told(self, messages: list[BaseMessage]) -> dict[str, Any]:
        told: dict[str, Any] = {"model_name": self.name} if self.name else {}
        signals = self.signals.get(last_turn(turns(messages)))
        return {**told, "signals": dict(signals)} if signals else told

    def _recall(self, messages: list[BaseMessage]) -> tuple[str, UsageMetadata | None]:
        prompt = last_turn(turns(messages))
        if prompt not in self.answers:
            msg = f"{self.name or 'recorded model'} has no answer recorded for the prompt {prompt[:80]!r}"
            raise InputError(msg)
        text, sent, received = self.answers[prompt]
        if sent is None or received is None:
            return text, None
        return text, UsageMetadata(input_tokens=sent, output_tokens=received, total_tokens=sent + received)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        text, usage = self._recall(messages)
        told = self._told(messages)
        message = AIMessage(content=text, usage_metadata=usage, response_metadata=told)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages, stop)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        text, usage = self._recall(messages)
        for piece in text.splitlines(keepends=True):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        told = self._told(messages)
        last = AIMessageChunk(content="", usage_metadata=usage, response_metadata=told, chunk_position="last")
        yield ChatGenerationChunk(message=last)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages, stop):
            yield chunk


def recorded_tiers(records: Records) -> dict[str, RecordedChatModel]:
    """One recorded chat model for every model of the records, ready to be given as `tiers`.

    Of two queries with the same prompt the later one's answer is kept; queries without an answer are left out.
    """
    tiers = {}
    for m, name in enumerate(records.models):
        answers, signals = {}, {}
        for i, prompt in enumerate(records.prompt):
            response = records.response[i][m]
            if response is not None:
                sent, received = records.prompt_tokens[i, m], records.completion_tokens[i, m]
                answers[prompt] = (
                    response,
                    None if sent != sent else int(sent),  # noqa: PLR0124 - nan, the missing value, is not itself
                    None if received != received else int(received),  # noqa: PLR0124
                )
                signals[prompt] = {
                    signal: float(values[i, m])
                    for signal, values in records.signals.items()
                    if math.isfinite(values[i, m])
                }
        tiers[name] = RecordedChatModel(answers=answers, signals=signals, name=name)
    return tiers
