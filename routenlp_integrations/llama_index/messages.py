"""Between LlamaIndex's messages and responses and the core's words: turns, answers, the route."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse

from routenlp_integrations.llama_index.calls import Call
from router_core.call_plan import FILTERED, SCHEMA_VALID
from router_core.route import Answer, Route, route_metadata
from router_core.router import estimate_tokens

__all__ = [
    "ANSWERING",
    "ROUTE",
    "Response",
    "answer_of",
    "as_asked",
    "block_kind",
    "calls_tools",
    "content_departure",
    "model_name_of",
    "sent_tokens",
    "text_of",
    "with_route",
]

Response = ChatResponse | CompletionResponse

ROUTE = "routenlp"
"""Key of ``additional_kwargs`` that holds the route."""
ANSWERING = "routenlp_tier"
"""Key of ``additional_kwargs`` that names the tier on chunks before the one with the route."""

_TOOL_ROLES = ("tool", "function")
_TEXT = frozenset({"text", "thinking", "cache"})
"""Content blocks that are text, that a model thought before its text, or that only mark a place."""
_OLD_CALLS = ("tool_calls", "function_call")
_SENT = ("prompt_tokens", "input_tokens", "prompt_token_count", "prompt_eval_count")
_RECEIVED = ("completion_tokens", "output_tokens", "candidates_token_count", "eval_count")


def sent_tokens(call: Call, llm: Any = None) -> int:
    """Tokens that a tier's LLM is sent, at four bytes each; without one, those of the query itself."""
    if llm is None or call.source is None:
        return sum(estimate_tokens(text) for _, text in call.said)
    told = call.source.told(llm, chats=llm.metadata.is_chat_model)
    said = (message.content or "" for message in told["messages"]) if "messages" in told else (told["prompt"],)
    return sum(estimate_tokens(text) for text in said)


def block_kind(block: Any) -> str:
    """What a content block holds, in LlamaIndex's words; older versions know fewer, and some name none."""
    return str(getattr(block, "block_type", None) or type(block).__name__)


def calls_tools(message: ChatMessage) -> bool:
    """Whether a message holds tool calls, as blocks or in the older way of providers."""
    if any(message.additional_kwargs.get(name) for name in _OLD_CALLS):
        return True
    return any(block_kind(block) == "tool_call" for block in message.blocks)


def content_departure(messages: Sequence[ChatMessage] | None) -> str:
    """Why no calib row was a conversation of this kind; ``""`` for text."""
    for message in messages or ():
        if message.role.value in _TOOL_ROLES or calls_tools(message):
            return "the conversation holds tool calls, which calib did not have"
        for block in message.blocks:
            if (kind := block_kind(block)) not in _TEXT:
                return f"the query holds {kind!r} content, which calib did not have"
    return ""


def text_of(response: Response) -> str:
    """The answer's text."""
    return (response.message.content or "") if isinstance(response, ChatResponse) else response.text


def answer_of(response: Response, call: Call, llm: Any = None) -> Answer:
    """Read what a tier returned; `raw` is the response itself.

    Without usage the prompt is estimated over the whole conversation.

    Parameters
    ----------
    response
        What the tier returned.
    call
        What it was called with.
    llm
        The tier's LLM, which reads its own tool calls and extends its own prompts.
    """
    sent, received = _usage(response)
    text, signals, invalid = text_of(response), _signals(response), ""
    if call.form is not None:
        verdict = call.form.judge(response, llm)
        text, invalid = verdict.text, verdict.why
        if verdict.valid is not None:
            signals = {**signals, SCHEMA_VALID: float(verdict.valid)}
    return Answer(
        text,
        prompt_tokens=sent_tokens(call, llm) if sent is None else sent,
        completion_tokens=received,
        signals=signals,
        covered=_uncovered(response, asked=call.form is not None),
        invalid=invalid,
        raw=response,
    )


def _read(holder: Any, name: str) -> Any:
    """A value of a mapping or an attribute of an object, None where there is none."""
    if type(holder) is dict or isinstance(holder, Mapping):
        return holder.get(name)
    return getattr(holder, name, None)


def _usage(response: Response) -> tuple[int | None, int | None]:
    """Prompt and completion tokens that a provider counted, under the names they give them."""
    raw = response.raw
    told = () if raw is None else (_read(raw, "usage"), _read(raw, "usage_metadata"), raw)
    for holder in (response.additional_kwargs, *told):
        if not holder:
            continue
        sent, received = (
            next((n for name in names if isinstance(n := _read(holder, name), int)), None)
            for names in (_SENT, _RECEIVED)
        )
        if sent or received:
            return sent, received
    return None, None


def _signals(response: Response) -> dict[str, float]:
    """``additional_kwargs["signals"]``, and ``mean_logprob`` from the first of every token's log-probabilities."""
    given = response.additional_kwargs.get("signals")
    told = {
        str(name): float(value)
        for name, value in (given.items() if isinstance(given, Mapping) else ())
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
    values = [token[0].logprob for token in response.logprobs or () if token]
    mean = math.fsum(values) / len(values) if values else math.nan
    return {"mean_logprob": mean, **told} if math.isfinite(mean) else told


def _uncovered(response: Response, *, asked: bool) -> str:
    message = response.message if isinstance(response, ChatResponse) else None
    if message is not None and calls_tools(message) and not asked:
        return "answer has tool calls, which calib did not have"
    if set(_endings(response)) & FILTERED:
        return "answer was filtered by the provider"
    choice = _first(_read(response.raw, "choices"))
    if (message is not None and message.additional_kwargs.get("refusal")) or _read(_read(choice, "message"), "refusal"):
        return "the model refused to answer"
    return ""


def _endings(response: Response) -> Iterator[str]:
    """Why the answer ended, wherever providers say so."""
    choice = _first(_read(response.raw, "choices"))
    for holder in (response.additional_kwargs, response.raw, choice):
        if not holder:
            continue
        for name in ("finish_reason", "stop_reason", "stopReason"):
            if (told := _read(holder, name)) is not None:
                yield str(getattr(told, "name", told)).lower()


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, Sequence) and values else None


def model_name_of(response: Response) -> str | None:
    """Name of the model as the answering provider gives it, None when it does not."""
    for holder in (response.additional_kwargs, response.raw):
        for name in ("model_name", "model"):
            told = _read(holder, name)
            if isinstance(told, str) and told:
                return told
    return None


def with_route(route: Route) -> Response:
    """The served tier's own response with the route beside it; the tier's objects are left as they were."""
    response: Response = route.answer.raw
    told = {**response.additional_kwargs, ROUTE: route_metadata(route)}
    return response.model_copy(update={"additional_kwargs": told})


def as_asked(response: Response, call: Call) -> Response:
    """The response in the form of the call: a chat model that is asked to complete was asked its own way, by a chat."""
    if call.messages is not None or isinstance(response, CompletionResponse):
        return response
    return CompletionResponse(
        text=text_of(response),
        additional_kwargs={**response.message.additional_kwargs, **response.additional_kwargs},
        raw=response.raw,
        logprobs=response.logprobs,
        delta=response.delta,
    )
