"""Between LangChain's messages and the core's words: turns, answers, the route as metadata."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatResult

from router_core.call_plan import FILTERED, SCHEMA_VALID
from router_core.cascade import Answer, Route
from router_core.route import route_metadata
from router_core.router import estimate_tokens

if TYPE_CHECKING:
    from routenlp_integrations.langchain.forms import Form

__all__ = [
    "SCHEMA_VALID",
    "answer_of",
    "human_id",
    "model_name_of",
    "recalled",
    "route_metadata",
    "text_of",
    "turns",
    "with_route",
]

_ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (HumanMessage, "human"),
    (AIMessage, "ai"),
    (SystemMessage, "system"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)
_OTHER_ROLES = {"user": "human", "assistant": "ai", "developer": "system"}


def text_of(message: BaseMessage) -> str:
    """Text of a message; of a list of content blocks only the text blocks are read."""
    content = message.content
    return content if isinstance(content, str) else str(message.text)


def turns(messages: Sequence[BaseMessage]) -> list[tuple[str, str]]:
    """(role, text) of every message."""
    return [(_role(message), text_of(message)) for message in messages]


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return _OTHER_ROLES.get(message.role, message.role)
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    return message.type


def human_id(messages: Sequence[BaseMessage]) -> str | None:
    """Id of the last human message, None without one; LangGraph gives every message of a state one."""
    return next((message.id for message in reversed(messages) if _role(message) == "human"), None)


def answer_of(result: ChatResult, messages: Sequence[BaseMessage], form: "Form | None" = None) -> Answer:
    """Read what a tier returned; `raw` is the result itself.

    Without usage metadata the prompt is estimated over the whole conversation.

    Parameters
    ----------
    result
        What the tier returned.
    messages
        The conversation.
    form
        What the answer must look like when tools or structured output were asked for: the text is then the calls or
        the value as canonical JSON, and the signal ``schema_valid`` is set.
    """
    if not result.generations:
        return Answer("", raw=result)
    generation = result.generations[0]
    message = generation.message
    usage = getattr(message, "usage_metadata", None)
    sent = None if usage else sum(estimate_tokens(text_of(m)) for m in messages)
    told = _metadata(generation)
    text, signals, invalid = text_of(message), _signals(told), ""
    if form is not None and isinstance(message, AIMessage):
        verdict = form.judge(message)
        text, invalid = verdict.text, verdict.why
        if verdict.valid is not None:
            signals = {**signals, SCHEMA_VALID: float(verdict.valid)}
    return Answer(
        text,
        prompt_tokens=usage["input_tokens"] if usage else sent,
        completion_tokens=usage["output_tokens"] if usage else None,
        signals=signals,
        covered=_uncovered(message, told, asked=form is not None),
        invalid=invalid,
        raw=result,
    )


def _metadata(generation: ChatGeneration) -> dict[str, Any]:
    return {**(generation.generation_info or {}), **generation.message.response_metadata}


def _signals(metadata: Mapping[str, Any]) -> dict[str, float]:
    """What stands under ``"signals"``, and ``mean_logprob`` from token log-probabilities in OpenAI's shape."""
    given = metadata.get("signals")
    told = {
        str(name): float(value)
        for name, value in (given.items() if isinstance(given, Mapping) else ())
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
    found = metadata.get("logprobs")
    tokens = found.get("content") if isinstance(found, Mapping) else None
    values = [
        float(token["logprob"])
        for token in (tokens if isinstance(tokens, list) else [])
        if isinstance(token, Mapping) and isinstance(token.get("logprob"), (int, float))
    ]
    mean = math.fsum(values) / len(values) if values else math.nan
    return {"mean_logprob": mean, **told} if math.isfinite(mean) else told


def _uncovered(message: BaseMessage, told: Mapping[str, Any], *, asked: bool) -> str:
    old_style = message.additional_kwargs.keys() & {"tool_calls", "function_call"}
    calls = getattr(message, "tool_calls", None) or getattr(message, "invalid_tool_calls", None) or old_style
    if calls and not asked:
        return "answer has tool calls, which calib did not have"
    if {str(told.get(name, "")).lower() for name in ("finish_reason", "stop_reason", "stopReason")} & FILTERED:
        return "answer was filtered by the provider"
    if message.additional_kwargs.get("refusal"):
        return "the model refused to answer"
    return ""


def model_name_of(result: ChatResult) -> str | None:
    """Name of the model as the answering provider gives it, None when it does not."""
    known = {**(result.llm_output or {}), **(_metadata(result.generations[0]) if result.generations else {})}
    name = known.get("model_name")
    return name if isinstance(name, str) and name else None


def recalled(generation: ChatGeneration) -> ChatGeneration:
    """An answer from LangChain's cache: its route says so, and that it cost nothing this time."""
    route = generation.message.response_metadata.get("routenlp")
    if not isinstance(route, Mapping):
        return generation
    attempts = [{**attempt, "cost_usd": 0.0} for attempt in route.get("attempts", ())]
    told = {name: value for name, value in route.items() if name != "budget"}
    told |= {"attempts": attempts, "cost_usd": 0.0, "cached": True}
    metadata = {**generation.message.response_metadata, "routenlp": told}
    message = generation.message.model_copy(update={"response_metadata": metadata})
    return ChatGeneration(message=message, generation_info=generation.generation_info)


def with_route(route: Route, declared: str) -> ChatResult:
    """The served tier's own result with the route in its metadata; the tier's objects are left as they were.

    Parameters
    ----------
    route
        A finished route whose answer holds a `ChatResult`.
    declared
        The tier's model name, for answers that do not give one.
    """
    result: ChatResult = route.answer.raw
    first, *rest = result.generations
    told = {
        **first.message.response_metadata,
        "model_name": model_name_of(result) or declared,
        "routenlp": route_metadata(route),
    }
    message = first.message.model_copy(update={"response_metadata": told})
    generation = ChatGeneration(message=message, generation_info=first.generation_info)
    return ChatResult(generations=[generation, *rest], llm_output=result.llm_output)
