"""What may be shown of a stream, and when: what was shown cannot be taken back."""

from collections.abc import Iterator
from dataclasses import replace

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks

from routenlp_integrations.langchain.messages import answer_of, model_name_of, route_metadata, text_of
from routenlp_integrations.langchain.tiers import Call, as_chunk
from router_core.cascade import Answer, Route
from router_core.errors import TierError
from router_core.showing import Deadline, leaving

__all__ = ["Deadline", "Screen", "last_chunks", "leaving"]


class Screen:
    """Holds one tier's chunks back until there is something to show.

    A stream that ends, or breaks, without anything shown can still be escalated. From a cheap tier only text counts,
    and tool calls where they were asked for: an answer that begins with calls unasked goes to the reference tier.

    Parameters
    ----------
    call
        What the tier was called with.
    final
        The tier's answer is served whatever it is: the reference tier, or a forced one.
    """

    def __init__(self, call: Call, *, final: bool) -> None:
        self._call = call
        self._final = final
        self._calls = False
        self._waiting: list[ChatGenerationChunk] = []
        self._all: list[ChatGenerationChunk] = []
        self.shown = False

    def add(self, chunk: ChatGenerationChunk) -> list[ChatGenerationChunk]:
        """Take the tier's next chunk; return those to be shown now, the last position left to `last_chunks`."""
        self._all.append(chunk)
        message = chunk.message
        if isinstance(message, AIMessageChunk) and message.chunk_position:
            chunk = ChatGenerationChunk(
                message=message.model_copy(update={"chunk_position": None}), generation_info=chunk.generation_info
            )
        self._waiting.append(chunk)
        if not self.shown and not self._worth_showing(chunk):
            return []
        self.shown = True
        ready, self._waiting = self._waiting, []
        return ready

    def _worth_showing(self, chunk: ChatGenerationChunk) -> bool:
        message = chunk.message
        self._calls = self._calls or bool(getattr(message, "tool_call_chunks", None))
        if self._final:
            content = message.content
            return self._calls or bool(content.strip() if isinstance(content, str) else content)
        if self._calls:
            return self._call.form is not None
        return bool(text_of(message).strip())

    def answer(self) -> Answer:
        """The whole answer, once the stream has ended."""
        merged = merge_chat_generation_chunks(self._all)
        result = ChatResult(generations=[merged] if merged else [])
        return replace(answer_of(result, self._call.messages, self._call.form), shown=self.shown)

    def broken(self, tier: str, error: Exception) -> TierError:
        """What is raised when a tier fails after something was shown: another answer cannot be put behind it."""
        told = sum(len(text_of(chunk.message)) for chunk in self._all)
        return TierError(
            f"{tier} failed in the middle of its answer, after {told} characters of it were shown: "
            f"{type(error).__name__}"
        )


def last_chunks(route: Route, declared: str) -> Iterator[ChatGenerationChunk]:
    """Yield what is left to show when a route is finished: an answer held back, then the chunk with the route.

    Parameters
    ----------
    route
        A finished route whose answer holds a `ChatResult`.
    declared
        The tier's model name, for answers that do not give one.
    """
    result: ChatResult = route.answer.raw
    whole = as_chunk(result)
    if not route.answer.shown:
        message = whole.message.model_copy(update={"chunk_position": None})
        yield ChatGenerationChunk(message=message, generation_info=whole.generation_info)
    told: dict[str, object] = {"routenlp": route_metadata(route)}
    # A name of another type that a provider gave is shown already, and LangChain cannot add text to it.
    given = {**(whole.generation_info or {}), **whole.message.response_metadata}.get("model_name")
    if model_name_of(result) is None and isinstance(given, str | None):
        told["model_name"] = declared
    content: str | list[str | dict[str, object]] = "" if isinstance(whole.message.content, str) else []
    last = AIMessageChunk(content=content, response_metadata=told, chunk_position="last")
    yield ChatGenerationChunk(message=last)
