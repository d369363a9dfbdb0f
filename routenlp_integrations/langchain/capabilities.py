"""What a call requires and what a tier can do: tiers that cannot serve a call are no candidates for it.

What a tier can do is read from its chat model's `profile` and from what the user declares; a declaration wins, and
what neither states is taken to be possible.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, ModelProfile
from langchain_core.messages import BaseMessage, FunctionMessage, ToolMessage

from routenlp_integrations.capabilities import MEDIA_TOKENS, Abilities, check_named, none_able, room
from routenlp_integrations.langchain.tiers import FREE_CHOICES, STRUCTURE, Call, TierModel
from router_core.router import estimate_tokens

__all__ = ["abilities_of", "check_declared", "common_profile", "lacking"]

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def check_declared(declared: Mapping[str, Mapping[str, Any]], tiers: Sequence[str]) -> None:
    """Check the declared capabilities.

    Raises
    ------
    InputError
        When they name no tier, or a capability that `ModelProfile` does not know.
    """
    check_named(declared, tiers, ModelProfile.__annotations__, ", which LangChain's ModelProfile does not know")


def abilities_of(tier: TierModel, declared: Mapping[str, Any]) -> Abilities:
    """What one tier can do: declared, else in its profile; tools only with a `bind_tools` of its own."""
    own: dict[str, Any] = dict(tier.model.profile or {})
    kind = type(tier.model)
    if kind.bind_tools is BaseChatModel.bind_tools:
        own["tool_calling"] = False
        if kind.with_structured_output is BaseChatModel.with_structured_output:
            own["structured_output"] = False
    return {**own, **declared}


def common_profile(abilities: Sequence[Abilities]) -> ModelProfile | None:
    """What every tier can do: false where one cannot, true where all can, the least of all numbers."""
    found: dict[str, Any] = {}
    for key in ModelProfile.__annotations__:
        values = [stated[key] for stated in abilities if key in stated]
        if not values:
            continue
        if all(isinstance(value, bool) for value in values):
            if not all(values) or len(values) == len(abilities):
                found[key] = all(values)
        elif all(isinstance(value, int) for value in values):
            found[key] = min(values)
    return ModelProfile(**found) if found else None  # type: ignore[typeddict-item]


def lacking(call: Call, abilities: Mapping[str, Abilities]) -> dict[str, str]:
    """For each tier that cannot serve this call, what it lacks.

    Raises
    ------
    InputError
        When no tier can, with what each of them lacks.
    """
    needs = list(dict.fromkeys(_needs(call)))
    found: dict[str, str] = {}
    tokens = None
    for name, stated in abilities.items():
        lacks = [told for keys, told in needs if all(stated.get(key) is False for key in keys)]
        if (window := stated.get("max_input_tokens")) is not None:
            tokens = _tokens(call) if tokens is None else tokens
            if tokens > window:
                lacks.append(f"a context of {tokens} tokens (it has {window})")
        if lacks:
            found[name] = ", ".join(lacks)
    if len(found) == len(abilities):
        raise none_able(found)
    return found


_Need = tuple[tuple[str, ...], str]
"""Keys of the profile of which one is enough, and their name for people."""


def _needs(call: Call) -> Iterator[_Need]:
    params = call.params
    if params.get("tools"):
        yield ("tool_calling",), "tool calling"
        if params.get("tool_choice") not in FREE_CHOICES:
            yield ("tool_choice",), "tool choice"
    if params.get(STRUCTURE):
        # Where a tier has no mode of its own, a forced tool call stands in.
        yield ("structured_output", "tool_calling"), "structured output"
    wanted = params.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        yield ("structured_output",), "structured output"
    for message in call.messages:
        yield from _media(message)


def _media(message: BaseMessage) -> Iterator[_Need]:
    if not isinstance(message.content, list):
        return
    told = "_tool_message" if isinstance(message, ToolMessage | FunctionMessage) else "_inputs"
    for block in message.content:
        kind = _kind(block)
        if kind in ("image", "pdf"):
            yield (kind + told,), f"{kind} {'tool messages' if told == '_tool_message' else 'inputs'}"
        elif kind:
            yield (kind + "_inputs",), f"{kind} inputs"
        if kind == "image" and told == "_inputs" and _is_link(block):
            yield ("image_url_inputs",), "image URLs"


def _kind(block: Any) -> str:
    """What a content block of any provider's shape holds, in the profile's words; "" for text and the unknown."""
    if not isinstance(block, dict):
        return ""
    kind = str(block.get("type", ""))
    for name in ("image", "audio", "video"):
        if name in kind:
            return name
    return "pdf" if kind in ("file", "document", "input_file") else ""


def _is_link(block: Any) -> bool:
    source = block.get("image_url") or block.get("url") or block.get("source")
    url = source.get("url") if isinstance(source, Mapping) else source
    return isinstance(url, str) and url.startswith(("http://", "https://"))


def _tokens(call: Call) -> int:
    """Tokens a call needs: its text and tools at four bytes a token, its media, and room for the answer."""
    sent = sum(estimate_tokens(str(message.text)) for message in call.messages)
    media = sum(
        MEDIA_TOKENS for m in call.messages if isinstance(m.content, list) for block in m.content if _kind(block)
    )
    return sent + media + room(call.params, _LIMITS)
