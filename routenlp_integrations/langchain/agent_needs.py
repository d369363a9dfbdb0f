"""What one model call of an agent needs of a model, and what a model's profile says it lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from langchain.agents.middleware import ModelRequest
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import count_tokens_approximately

__all__ = ["Needs"]

_TOOLS, _STRUCTURE = "tool_calling", "structured_output"
_WORDS = {
    _TOOLS: "tool calling",
    _STRUCTURE: "structured output",
    "image_inputs": "image input",
    "audio_inputs": "audio input",
    "video_inputs": "video input",
    "pdf_inputs": "file input",
}
_INPUTS = {
    **dict.fromkeys(("image", "image_url", "input_image"), "image_inputs"),
    **dict.fromkeys(("audio", "input_audio"), "audio_inputs"),
    "video": "video_inputs",
    **dict.fromkeys(("file", "input_file", "document"), "pdf_inputs"),
}
"""Profile entry that a kind of content block asks for, under the names providers give the kinds."""


@dataclass(frozen=True)
class Needs:
    """What one call needs.

    Attributes
    ----------
    request
        The agent's request.
    messages
        Everything that is sent, the system message included.
    """

    request: ModelRequest[Any]
    messages: Sequence[BaseMessage]

    @cached_property
    def _features(self) -> tuple[tuple[str, ...], ...]:
        """Profile entries of which one each must not be false."""
        shape = self.request.response_format
        found: list[tuple[str, ...]] = []
        if self.request.tools or isinstance(shape, ToolStrategy):
            found.append((_TOOLS,))
        if isinstance(shape, ProviderStrategy):
            found.append((_STRUCTURE,))
        elif shape is not None and not found:
            # The agent asks for a schema by tool call of a model that cannot be given one.
            found.append((_STRUCTURE, _TOOLS))
        kinds = {
            str(block.get("type"))
            for message in self.messages
            if isinstance(message.content, list)
            for block in message.content
            if isinstance(block, dict)
        }
        return (*found, *((_INPUTS[kind],) for kind in sorted(kinds) if kind in _INPUTS))

    @cached_property
    def _tokens(self) -> int:
        return count_tokens_approximately(self.messages, tools=self.request.tools)

    def lacks(self, model: BaseChatModel) -> str:
        """What of this call the model cannot do by its profile, in a few words; ``""`` when nothing is known to lack.

        A profile that is absent, or silent on a capability, counts as capable; a class without a `bind_tools` of its
        own has no tool calling. Tokens are estimated.
        """
        profile: dict[str, Any] = dict(model.profile or {})
        if type(model).bind_tools is BaseChatModel.bind_tools:
            profile[_TOOLS] = False
        for either in self._features:
            if all(profile.get(feature) is False for feature in either):
                return f"has no {' or '.join(_WORDS[feature] for feature in either)}"
        room = profile.get("max_input_tokens")
        if isinstance(room, int) and self._tokens > room:
            return f"takes {room} tokens and the call has about {self._tokens}"
        return ""
