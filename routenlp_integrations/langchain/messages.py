"""Between LangChain's messages and the core's words: turns, answers, departures, the route as metadata."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

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

from router_core.cascade import Answer, Route
from router_core.router import estimate_tokens

__all__ = ["answer_of", "departure", "model_name_of", "route_metadata", "turns", "with_route"]

_ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (HumanMessage, "human"),
    (AIMessage, "ai"),
    (SystemMessage, "system"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)
_OTHER_ROLES = {"user": "human", "assistant": "ai", "developer": "system"}
_STRUCTURE = {
    "tools": "tools are",
    "tool_choice": "a tool is",
    "functions": "functions are",
    "function_call": "a function is",
    **dict.fromkeys(
        ("response_format", "response_mime_type", "response_schema", "guided_json", "json_schema", "format", "text"),
        "structured output is",
    ),
}
"""Call arguments, under the names providers give them, that ask for something else than text."""
_FILTERED = frozenset({"content_filter", "safety"})


def turns(messages: Sequence[BaseMessage]) -> list[tuple[str, str]]:
    """(role, text) of every message; of a list of content blocks only the text blocks are read."""
    return [(_role(message), str(message.text)) for message in messages]


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return _OTHER_ROLES.get(message.role, message.role)
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    return message.type


def departure(messages: Sequence[BaseMessage], params: Mapping[str, Any]) -> str:
    """Why no calibrated policy applies to this call; ``""`` when one does.

    Parameters
    ----------
    messages
        The conversation.
    params
        Keyword arguments of the call.
    """
    for name, told in _STRUCTURE.items():
        if params.get(name):
            return f"{told} asked for, which calib did not have"
    for message in messages:
        if getattr(message, "tool_calls", None) or isinstance(message, ToolMessage | FunctionMessage):
            return "the conversation holds tool calls, which calib did not have"
        blocks = message.content
        for block in blocks if isinstance(blocks, list) else ():
            kind = block.get("type", "other") if isinstance(block, dict) else "text"
            if kind != "text":
                return f"the query holds {kind!r} content, which calib did not have"
    return ""


def answer_of(result: ChatResult, messages: Sequence[BaseMessage]) -> Answer:
    """Read what a tier returned; `raw` is the result itself.

    Without usage metadata the prompt is estimated over the whole conversation.
    """
    if not result.generations:
        return Answer("", raw=result)
    generation = result.generations[0]
    message = generation.message
    usage = getattr(message, "usage_metadata", None)
    sent = sum(estimate_tokens(str(m.text)) for m in messages)
    return Answer(
        str(message.text),
        prompt_tokens=usage["input_tokens"] if usage else sent,
        completion_tokens=usage["output_tokens"] if usage else None,
        signals=_signals(generation),
        covered=_uncovered(generation),
        raw=result,
    )


def _metadata(generation: ChatGeneration) -> dict[str, Any]:
    return {**(generation.generation_info or {}), **generation.message.response_metadata}


def _signals(generation: ChatGeneration) -> dict[str, float]:
    """``response_metadata["signals"]``, and ``mean_logprob`` from token log-probabilities in OpenAI's shape."""
    metadata = _metadata(generation)
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


def _uncovered(generation: ChatGeneration) -> str:
    message = generation.message
    old_style = message.additional_kwargs.keys() & {"tool_calls", "function_call"}
    if getattr(message, "tool_calls", None) or getattr(message, "invalid_tool_calls", None) or old_style:
        return "answer has tool calls, which calib did not have"
    if str(_metadata(generation).get("finish_reason", "")).lower() in _FILTERED:
        return "answer was filtered by the provider"
    return ""


def model_name_of(result: ChatResult) -> str | None:
    """Name of the model as the answering provider gives it, None when it does not."""
    known = {**(result.llm_output or {}), **(_metadata(result.generations[0]) if result.generations else {})}
    name = known.get("model_name")
    return name if isinstance(name, str) and name else None


def route_metadata(route: Route) -> dict[str, Any]:
    """What ``response_metadata["routenlp"]`` holds: plain JSON values."""
    return {
        "tier": route.tier,
        "attempts": [
            {
                "tier": attempt.tier,
                "confidence": _finite(attempt.confidence),
                "cost_usd": attempt.cost_usd,
                "accepted": attempt.accepted,
                "reason": attempt.reason,
            }
            for attempt in route.attempts
        ],
        "cost_usd": route.cost_usd,
        "task": route.task,
        "bundle": route.bundle,
        "certificate": route.certificate,
        "reason": route.reason,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


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
