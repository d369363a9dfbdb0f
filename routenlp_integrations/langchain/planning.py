"""What happens to one call: which tiers can serve it, whether a policy covers it, and where it starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_core.messages import BaseMessage, ChatMessage, FunctionMessage, ToolMessage

from routenlp_integrations.langchain.capabilities import Abilities, lacking
from routenlp_integrations.langchain.messages import SCHEMA_VALID, model_name_of, turns
from routenlp_integrations.langchain.tiers import STRUCTURE, Call
from router_core.cascade import Answer, Route
from router_core.errors import InputError
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.route_text import route_text
from router_core.router import Router, Start

__all__ = [
    "decoding_changes",
    "Plan",
    "StreamPolicy",
    "Uncalibrated",
    "checked",
    "content_departure",
    "form_departure",
    "plan",
    "streamed_policy",
    "unless_lapsed",
]

StreamPolicy = Literal["auto", "route", "buffer"]
Uncalibrated = Literal["reference", "cascade"]

_FORMS = {
    STRUCTURE: "structured output is",
    "tools": "tools are",
    "tool_choice": "a tool is",
    "functions": "functions are",
    "function_call": "a function is",
    **dict.fromkeys(
        [
            "response_format",
            "response_mime_type",
            "response_schema",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "grammar",
            "structured_outputs",
            "output_config",
            "output_format",
            "json_schema",
            "format",
            "text",
        ],
        "structured output is",
    ),
}
"""Call arguments, under the names providers give them, that ask for something else than text."""
_DECODING = frozenset(
    [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "num_predict",
        "frequency_penalty",
        "presence_penalty",
        "repeat_penalty",
        "logit_bias",
        "model",
        "model_name",
        "reasoning",
        "reasoning_effort",
        "thinking",
        "modalities",
        "web_search_options",
        "generation_config",
        "model_kwargs",
        "extra_body",
        "options",
    ]
)
"""Call arguments, under the names providers give them, that change which model answers or how it decodes."""
_TOOL_ROLES = frozenset({"tool", "function"})
_TEXT = frozenset({"text", "reasoning", "thinking", "redacted_thinking"})
"""Content blocks that are text, or that a model thought before its text."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One call on its way.

    Attributes
    ----------
    call
        What the tiers are called with.
    start
        Where the query starts.
    lacks
        Tiers that cannot serve the call, and what they lack.
    void
        Why nothing covers an answer of a cheap tier, empty when the policy's certificate does.
    kept
        Whether the certificate outlives a departure straight to the reference tier.
    names
        All tiers in cascade order.
    key
        Of the conversation, where its tier is remembered.
    run
        Agent run or conversation that a budget per run counts for.
    prompt_tokens
        Tokens a tier will be sent, where a budget needs to know.
    """

    call: Call
    start: Start
    lacks: Mapping[str, str]
    void: str
    kept: bool
    names: tuple[str, ...]
    key: str | None = None
    run: str | None = None
    prompt_tokens: int | None = None

    @property
    def able(self) -> list[str] | None:
        """Tiers that can serve the call, None when all can."""
        return [name for name in self.names if name not in self.lacks] if self.lacks else None

    def finish(self, route: Route, lapsed: str = "") -> Route:
        """The route, told what tiers lack, its certificate taken away where the policy was followed without cover.

        Parameters
        ----------
        route
            From the walk.
        lapsed
            Why nothing is claimed of the scope any more, empty while its certificate stands.
        """
        if self.lacks:
            attempts = tuple(replace(attempt, reason=self._told(attempt.reason)) for attempt in route.attempts)
            route = replace(route, reason=self._told(route.reason), attempts=attempts)
        route = unless_lapsed(route, lapsed)
        if not self.void or (self.kept and route.attempts[0].tier == self.names[-1]):
            return route
        return replace(route, certificate=None, reason=f"{route.reason}; uncertified: {self.void}")

    def _told(self, reason: str) -> str:
        for name, lacks in self.lacks.items():
            reason = reason.replace(f"{name} cannot take this query", f"{name} lacks {lacks}")
        return reason


def unless_lapsed(route: Route, lapsed: str) -> Route:
    """The route without its certificate where nothing is claimed of the scope any more, `lapsed` saying why."""
    if lapsed and route.certificate is not None:
        return replace(route, certificate=None, reason=f"{route.reason}; {lapsed}")
    return route


def checked(router: Router, tier: str, answer: Answer) -> Answer:
    """Note which model answered; an answer of another one than was certified is covered by nothing."""
    if router.saw(tier, model_name_of(answer.raw)):
        return replace(answer, covered=answer.covered or f"{tier} answered with another model than was certified")
    return answer


def form_departure(params: Mapping[str, Any]) -> str:
    """Why no calib row asked for an answer of this form; ``""`` for plain text."""
    for name, told in _FORMS.items():
        if params.get(name):
            return f"{told} asked for, which calib did not have"
    return ""


def content_departure(messages: Sequence[BaseMessage]) -> str:
    """Why no calib row was a conversation of this kind; ``""`` for text."""
    for message in messages:
        if (
            getattr(message, "tool_calls", None)
            or getattr(message, "invalid_tool_calls", None)
            or isinstance(message, ToolMessage | FunctionMessage)
            or (isinstance(message, ChatMessage) and message.role in _TOOL_ROLES)
            or message.additional_kwargs.keys() & {"tool_calls", "function_call"}
        ):
            return "the conversation holds tool calls, which calib did not have"
        blocks = message.content
        for block in blocks if isinstance(blocks, list) else ():
            kind = block.get("type", "other") if isinstance(block, dict) else "text"
            if kind not in _TEXT:
                return f"the query holds {kind!r} content, which calib did not have"
    return ""


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
    text = route_text(turns(call.messages))
    names, reference = router.portfolio.names, router.portfolio.reference.name
    lacks = lacking(call, abilities)

    def forced(name: str, why: str) -> Plan:
        return Plan(call, router.force(text, task, policy, name, why), lacks, "", True, names)

    if tier is not None:
        if tier in lacks:
            msg = f"tier {tier!r} is forced by configurable['tier'], but lacks {lacks[tier]}"
            raise InputError(msg)
        return forced(tier, "tier forced by configurable['tier']")
    content, form = content_departure(call.messages), form_departure(call.params)
    why = content or form
    if why and not content and _calibrated(router, task):
        why = ""
    if why and uncalibrated == "reference":
        return forced(reference, why)
    if changed and not why:
        why = f"the call sets {', '.join(changed)}, so the tiers do not answer as they did for the records"
    start = router.start(text, task, policy)
    return Plan(call, start, lacks, why, router.outlives_departure(start), names)


def decoding_changes(given: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Names of a call's arguments that make a tier answer otherwise, unless they say what the model says anyway."""
    return sorted(name for name in given if name in _DECODING and given[name] != own.get(name))


def _calibrated(router: Router, task: str | None) -> bool:
    """Whether the answers that this scope was calibrated on were judged by their schema."""
    view = router.scopes.resolve(task or None)
    if view is None:
        return False
    models = [model for model in router.scorer.models[view.models].answers if model is not None]
    return bool(models) and all(SCHEMA_VALID in model.signals for model in models)


def streamed_policy(router: Router, chosen: StreamPolicy, task: str | None) -> str:
    """Policy of a stream: ``"auto"`` buffers only where nothing but the cascade was certified."""
    if chosen == "route":
        return ROUTE_ONLY
    if chosen == "buffer":
        return CASCADE
    view = router.scopes.resolve(task or None)
    if view is None:
        return ROUTE_ONLY
    shown = {name: router.certificates[view.scope, name].certified for name in (CASCADE, ROUTE_ONLY)}
    return CASCADE if shown[CASCADE] and not shown[ROUTE_ONLY] else ROUTE_ONLY
