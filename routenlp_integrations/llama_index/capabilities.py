"""What a call requires and what a tier can do: tiers that cannot serve a call are no candidates for it.

What a tier can do is read from its LLM's metadata and from what the user declares; a declaration wins, and what
neither states is taken to be possible.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import LLMMetadata, MessageRole
from llama_index.core.constants import DEFAULT_NUM_OUTPUTS
from llama_index.core.llms.function_calling import FunctionCallingLLM

from routenlp_integrations.capabilities import MEDIA_TOKENS, Abilities, check_named, none_able, room
from routenlp_integrations.llama_index.calls import Call
from routenlp_integrations.llama_index.messages import block_kind, sent_tokens
from routenlp_integrations.llama_index.tiers import TierLLM

__all__ = ["CAPABILITIES", "abilities_of", "check_declared", "common_metadata", "lacking"]

_MEDIA = ("image", "audio", "video", "document")
CAPABILITIES = ("is_function_calling_model", "context_window", *(f"{kind}_inputs" for kind in _MEDIA))
"""What can be declared of a tier: two fields of `LLMMetadata`, and content blocks that it reads."""

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")


def check_declared(declared: Mapping[str, Mapping[str, Any]], tiers: Sequence[str]) -> None:
    """Check the declared capabilities.

    Raises
    ------
    InputError
        When they name no tier, or an unknown capability.
    """
    check_named(declared, tiers, CAPABILITIES, f"; use {', '.join(CAPABILITIES)}")


def abilities_of(tier: TierLLM, declared: Mapping[str, Any]) -> Abilities:
    """What one tier can do: declared, else in its metadata; tools only by an LLM that can prepare them.

    A context window that the metadata leaves at LlamaIndex's default states nothing: longer prompts are let through, as
    they are to the tier itself.
    """
    told = tier.llm.metadata
    own: dict[str, Any] = {"is_function_calling_model": told.is_function_calling_model}
    if "context_window" in told.model_fields_set:
        own["context_window"] = told.context_window
    if not isinstance(tier.llm, FunctionCallingLLM):
        declared = {**declared, "is_function_calling_model": False}
    return {**own, **declared}


def common_metadata(
    name: str, tiers: Sequence[TierLLM], abilities: Mapping[str, Abilities], function_calling: bool | None
) -> LLMMetadata:
    """What every tier can do: a chat or function-calling model where all are, the smallest context window.

    `num_output` is such that a prompt that leaves it free in the smallest window leaves every tier its own.

    Parameters
    ----------
    name
        Of the router.
    tiers
        In cascade order.
    abilities
        By tier.
    function_calling
        What to say of function calling; None is what all tiers can.
    """
    told = [tier.llm.metadata for tier in tiers]
    windows = [
        int(abilities[tier.name].get("context_window", own.context_window))
        for tier, own in zip(tiers, told, strict=True)
    ]
    outputs = [DEFAULT_NUM_OUTPUTS if own.num_output < 0 else own.num_output for own in told]
    room = min(window - output for window, output in zip(windows, outputs, strict=True))
    roles = {own.system_role for own in told}
    return LLMMetadata(
        context_window=min(windows),
        num_output=-1 if all(own.num_output < 0 for own in told) else min(windows) - room,
        is_chat_model=all(own.is_chat_model for own in told),
        is_function_calling_model=all(abilities[tier.name]["is_function_calling_model"] for tier in tiers)
        if function_calling is None
        else function_calling,
        model_name=name,
        system_role=roles.pop() if len(roles) == 1 else MessageRole.SYSTEM,
    )


def lacking(call: Call, abilities: Mapping[str, Abilities], added: Mapping[str, int]) -> dict[str, str]:
    """For each tier that cannot serve this call, what it lacks.

    Parameters
    ----------
    call
        The call.
    abilities
        By tier, in cascade order.
    added
        By tier, the tokens of what it adds to a prompt that it extends.

    Raises
    ------
    InputError
        When no tier can, with what each of them lacks.
    """
    needs = list(dict.fromkeys(_needs(call)))
    asked = _tokens(call)
    found: dict[str, str] = {}
    for name, stated in abilities.items():
        lacks = [told for key, told in needs if stated.get(key) is False]
        tokens = asked + (0 if call.source is None else added[name])
        if (window := stated.get("context_window")) is not None and tokens > window:
            lacks.append(f"a context of {tokens} tokens (it has {window})")
        if lacks:
            found[name] = ", ".join(lacks)
    if len(found) == len(abilities):
        raise none_able(found)
    return found


def _needs(call: Call) -> Iterator[tuple[str, str]]:
    """Capabilities that a call requires, and their names for people."""
    if call.params.get("tools"):
        yield "is_function_calling_model", "function calling"
    for message in call.content:
        for block in message.blocks:
            if (kind := block_kind(block).lower().removesuffix("block")) in _MEDIA:
                yield f"{kind}_inputs", f"{kind} inputs"


def _tokens(call: Call) -> int:
    """Tokens a call needs: its text and tools at four bytes a token, its media, and room for the answer."""
    media = sum(
        MEDIA_TOKENS
        for message in call.content
        for block in message.blocks
        if block_kind(block).lower().removesuffix("block") in _MEDIA
    )
    return sent_tokens(call) + media + room(call.params, _LIMITS)
