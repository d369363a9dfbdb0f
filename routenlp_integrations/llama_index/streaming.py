"""What may be shown of a stream, and when: what was shown cannot be taken back.

LlamaIndex's chunks hold the whole answer so far and, in `delta`, what is new; the last chunk is the answer.
"""

from dataclasses import replace
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole

from routenlp_integrations.llama_index.calls import Call
from routenlp_integrations.llama_index.messages import (
    ANSWERING,
    Response,
    answer_of,
    block_kind,
    calls_tools,
    text_of,
    with_route,
)
from router_core.errors import TierError
from router_core.route import Answer, Route

__all__ = ["Screen", "last_chunk"]


class Screen:
    """Holds one tier's chunks back until there is something to show.

    A stream that ends, or breaks, without anything shown can still be escalated. From a cheap tier only text counts,
    and tool calls where they were asked for: an answer that begins with calls unasked goes to the reference tier.

    Parameters
    ----------
    tier
        Its name, noted on every chunk.
    call
        What the tier was called with.
    final
        The tier's answer is served whatever it is: the reference tier, or a forced one.
    """

    def __init__(self, tier: str, call: Call, *, final: bool) -> None:
        self._tier = tier
        self._call = call
        self._final = final
        self._waiting: list[Response] = []
        self._last: Response | None = None
        self._text: list[str] = []
        self.shown = False

    def add(self, chunk: Response) -> list[Response]:
        """Take the tier's next chunk; return those to be shown now."""
        self._last = chunk
        self._text.append(chunk.delta or "")
        told = {**chunk.additional_kwargs, ANSWERING: self._tier}
        self._waiting.append(chunk.model_copy(update={"additional_kwargs": told}))
        if not self.shown and not self._worth_showing(chunk):
            return []
        self.shown = True
        ready, self._waiting = self._waiting, []
        return ready

    def _worth_showing(self, chunk: Response) -> bool:
        if isinstance(chunk, ChatResponse) and calls_tools(chunk.message):
            return self._final or self._call.form is not None
        if (chunk.delta or text_of(chunk)).strip():
            return True
        return (
            self._final
            and isinstance(chunk, ChatResponse)
            and any(block_kind(b) != "text" for b in chunk.message.blocks)
        )

    def answer(self, llm: Any) -> Answer:
        """The whole answer, once the stream has ended; `llm` is the one that gave it."""
        whole = self._last
        if whole is None:
            whole = _said("", self._call)
        elif not text_of(whole) and (told := "".join(self._text)) and not _calls(whole):
            # Some providers' last chunk counts tokens and holds no text.
            said = _said(told, self._call)
            kept = {"raw": whole.raw, "logprobs": whole.logprobs, "additional_kwargs": whole.additional_kwargs}
            whole = said.model_copy(update=kept)
        return replace(answer_of(whole, self._call, llm), shown=self.shown)

    def broken(self, error: Exception) -> TierError:
        """What is raised when a tier fails after something was shown: another answer cannot be put behind it."""
        told = len("".join(self._text))
        return TierError(
            f"{self._tier} failed in the middle of its answer, after {told} characters of it were shown: "
            f"{type(error).__name__}"
        )


def _said(text: str, call: Call) -> Response:
    if call.messages is None:
        return CompletionResponse(text=text)
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text))


def _calls(response: Response) -> bool:
    return isinstance(response, ChatResponse) and calls_tools(response.message)


def last_chunk(route: Route) -> Response:
    """The chunk that ends a stream: the whole answer with the route; all of it is new where it was held back."""
    whole = with_route(route)
    if not route.answer.shown:
        return whole.model_copy(update={"delta": text_of(whole)})
    told = {name: value for name, value in whole.additional_kwargs.items() if not name.endswith("_delta")}
    return whole.model_copy(update={"delta": "", "additional_kwargs": told})
