"""What happens to one call, whatever the framework: whether a policy covers it, and where it starts.

The faces say what a call holds (its text, what its tiers lack, content that calib did not have); the rules are here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from router_core.errors import InputError
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.route import Answer, Route
from router_core.router import Router, Start

__all__ = [
    "FILTERED",
    "SCHEMA_VALID",
    "STRUCTURE",
    "Plan",
    "StreamPolicy",
    "Uncalibrated",
    "changed_departure",
    "checked_model",
    "decoding_changes",
    "form_departure",
    "plan_call",
    "streamed_policy",
    "unless_lapsed",
]

StreamPolicy = Literal["auto", "route", "buffer"]
Uncalibrated = Literal["reference", "cascade"]

STRUCTURE = "routenlp_structure"
"""Argument of a call that holds the structure asked for."""
SCHEMA_VALID = "schema_valid"
"""Signal: 1 when an answer fits the schema it was asked in, 0 when it does not."""
FILTERED = frozenset({
    "content_filter", "content_filtered", "safety", "refusal", "recitation", "prohibited_content", "blocklist", "spii",
    "image_safety", "guardrail_intervened",
})  # fmt: skip
"""Reasons, as providers name them, that an answer was withheld."""

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
_FORM_OPTIONS = frozenset({"strict", "parallel_tool_calls", "structured_output_format"})
"""Call arguments that say more about a form asked for, and nothing without one."""
_HARMLESS = frozenset({
    "user", "safety_identifier", "metadata", "store", "headers", "extra_headers", "include_response_headers", "timeout",
    "request_timeout", "max_retries", "stream", "stream_options", "stream_usage", "cache_control", "prompt_cache_key",
    "prompt_cache_retention", "keep_alive", "logprobs", "top_logprobs", "langsmith_extra",
})  # fmt: skip
"""Call arguments, under the names providers give them, that say who asks, how it is sent, kept and told, but change
neither which model answers nor what it says. Any other one may."""
_NOT_CHANGING = _HARMLESS | _FORM_OPTIONS | _FORMS.keys()
_TRACING = "ls_"


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

    call: Any
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


def checked_model(router: Router, tier: str, answer: Answer, name: str | None) -> Answer:
    """Note which model answered; an answer of another one than was certified is covered by nothing.

    Parameters
    ----------
    router
        The router that decided.
    tier
        Who was asked.
    answer
        What it returned.
    name
        The model's name as the answer gives it, None when it gives none.
    """
    if router.saw(tier, name):
        return replace(answer, covered=answer.covered or f"{tier} answered with another model than was certified")
    return answer


def form_departure(params: Mapping[str, Any]) -> str:
    """Why no calib row asked for an answer of this form; ``""`` for plain text."""
    told = next((told for name, told in _FORMS.items() if params.get(name)), "") if params else ""
    return f"{told} asked for, which calib did not have" if told else ""


def plan_call(
    router: Router,
    call: Any,
    text: str,
    policy: str,
    *,
    task: str | None,
    tier: str | None,
    forced_by: str,
    uncalibrated: Uncalibrated,
    lacks: Mapping[str, str],
    content: str,
    form: str,
    changed: Sequence[str] = (),
) -> Plan:
    """Decide where a query starts, from its text, its task, a forced tier, what it needs and what no calib row had.

    Parameters
    ----------
    router
        A loaded router.
    call
        What the tiers are called with; kept.
    text
        What is routed.
    policy
        ``"cascade"`` or ``"route_only"``.
    task
        As for `Router.start`.
    tier
        A forced tier.
    forced_by
        What forces it, for messages.
    uncalibrated
        Where calls of a kind that calib did not have go.
    lacks
        Tiers that cannot serve the call, and what they lack.
    content, form
        Why no calib row was a query, or asked for an answer, of this kind; empty where some were.
    changed
        Arguments by which this call makes the tiers answer otherwise than they did for the records; the query is
        routed, and a cheap answer carries no certificate.

    Raises
    ------
    InputError
        When the forced tier cannot serve the call, or the portfolio has none of its name.
    """
    names, reference = router.portfolio.names, router.portfolio.reference.name

    def forced(name: str, why: str) -> Plan:
        return Plan(call, router.force(text, task, policy, name, why), lacks, "", True, names)

    if tier is not None:
        if tier in lacks:
            msg = f"tier {tier!r} is forced by {forced_by}, but lacks {lacks[tier]}"
            raise InputError(msg)
        return forced(tier, f"tier forced by {forced_by}")
    why = content or form
    if why and not content and _calibrated(router, task):
        why = ""
    if why and uncalibrated == "reference":
        return forced(reference, why)
    why = why or changed_departure(changed)
    start = router.start(text, task, policy)
    return Plan(call, start, lacks, why, router.outlives_departure(start), names)


def decoding_changes(given: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Names of a call's arguments that may make a tier answer otherwise.

    Those are all but a few that are known to be harmless, those that ask for a form (see `form_departure`), those that
    are None, and those that say what the model says anyway.
    """
    if not given:
        return []
    return sorted(
        name
        for name, value in given.items()
        if name not in _NOT_CHANGING and not name.startswith(_TRACING) and not _same(value, own.get(name))
    )


def changed_departure(changed: Sequence[str]) -> str:
    """Why the answers to a call with these arguments are none that calib had; ``""`` without any."""
    if not changed:
        return ""
    return f"the call sets {', '.join(changed)}, so the tiers do not answer as they did for the records"


def _same(value: Any, own: Any) -> bool:
    """Whether an argument says what the model says; what cannot be compared does not."""
    if value is None or own is None:
        return value is own
    try:
        return bool(value == own)
    except Exception:
        return False


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
