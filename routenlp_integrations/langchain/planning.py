"""What happens to one call: what of it calib did not have, and the plan the core makes of it."""

from collections.abc import Mapping, Sequence

from langchain_core.messages import BaseMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage

from routenlp_integrations.capabilities import Abilities
from routenlp_integrations.langchain.capabilities import lacking
from routenlp_integrations.langchain.messages import model_name_of, turns
from routenlp_integrations.langchain.tiers import Call
from router_core.call_plan import (
    Plan,
    StreamPolicy,
    Uncalibrated,
    changed_departure,
    checked_model,
    decoding_changes,
    form_departure,
    plan_call,
    streamed_policy,
    unless_lapsed,
)
from router_core.cascade import Answer
from router_core.route_text import NOTHING_ASKED, asks, route_text
from router_core.router import Router

__all__ = [
    "decoding_changes",
    "Plan",
    "StreamPolicy",
    "Uncalibrated",
    "changed_departure",
    "checked",
    "content_departure",
    "form_departure",
    "plan",
    "streamed_policy",
    "unless_lapsed",
]

_TOOL_ROLES = frozenset({"tool", "function"})
_TOOL_MESSAGES = (ToolMessage, FunctionMessage)
_PLAIN = (HumanMessage, SystemMessage)
_TEXT = frozenset({"text", "reasoning", "thinking", "redacted_thinking"})
"""Content blocks that are text, or that a model thought before its text."""


def checked(router: Router, tier: str, answer: Answer) -> Answer:
    """Note which model answered; an answer of another one than was certified is covered by nothing."""
    return checked_model(router, tier, answer, model_name_of(answer.raw))


def content_departure(messages: Sequence[BaseMessage], said: Sequence[tuple[str, str]]) -> str:
    """Why no calib row was a conversation of this kind, `said` being its turns; ``""`` for text that a person asks."""
    for message in messages:
        if (
            _calls(message)
            or isinstance(message, _TOOL_MESSAGES)
            or (isinstance(message, ChatMessage) and message.role in _TOOL_ROLES)
            or message.additional_kwargs.keys() & {"tool_calls", "function_call"}
        ):
            return "the conversation holds tool calls, which calib did not have"
        blocks = message.content
        for block in blocks if isinstance(blocks, list) else ():
            kind = block.get("type", "other") if isinstance(block, dict) else "text"
            if kind not in _TEXT:
                return f"the query holds {kind!r} content, which calib did not have"
    return "" if asks(said) else NOTHING_ASKED


def _calls(message: BaseMessage) -> bool:
    # Pydantic takes its time to say that a message has no such attribute.
    if type(message) in _PLAIN and not message.model_extra:
        return False
    return bool(getattr(message, "tool_calls", None) or getattr(message, "invalid_tool_calls", None))


def plan(
    router: Router,
    call: Call,
    policy: str,
    *,
    task: str | None,
    tier: str | None,
    uncalibrated: Uncalibrated,
    abilities: Mapping[str, Abilities],
    changed: Sequence[str] = (),
) -> Plan:
    """Decide where a query starts, from its text, its task, a forced tier, what it needs and what no calib row had.

    `changed` names arguments by which this call makes the tiers answer otherwise than they did for the records; the
    query is routed, and a cheap answer carries no certificate.

    Raises
    ------
    InputError
        When no tier can serve the call, or the forced one cannot.
    """
    said = turns(call.messages)
    return plan_call(
        router,
        call,
        route_text(said),
        policy,
        task=task,
        tier=tier,
        forced_by="configurable['tier']",
        uncalibrated=uncalibrated,
        lacks=lacking(call, abilities),
        content=content_departure(call.messages, said),
        form=form_departure(call.params),
        changed=changed,
    )
