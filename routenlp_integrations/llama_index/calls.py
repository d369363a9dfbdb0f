"""What one call asks for: messages or a prompt, the tools behind it, and the task, tier and conversation it names."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools.types import BaseTool

from router_core.errors import InputError

if TYPE_CHECKING:
    from routenlp_integrations.llama_index.forms import Form
    from routenlp_integrations.llama_index.prompts import Template, Unextended

__all__ = ["Asked", "Call", "ToolRequest", "asking"]


_ROLES = {
    "user": "human", "assistant": "ai", "chatbot": "ai", "model": "ai", "system": "system", "developer": "system",
    "tool": "tool", "function": "tool",
}  # fmt: skip


class ToolRequest(list[dict[str, Any]]):
    """Tools asked for: in OpenAI's form for those who watch, as they are for the tiers, which prepare them their way.

    Attributes
    ----------
    tools
        The tools.
    verbose, allow_parallel_tool_calls, tool_required
        As for `FunctionCallingLLM.chat_with_tools`.
    """

    def __init__(
        self,
        tools: Sequence[BaseTool] = (),
        *,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
    ) -> None:
        super().__init__(tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools)
        self.tools = list(tools)
        self.verbose = verbose
        self.allow_parallel_tool_calls = allow_parallel_tool_calls
        self.tool_required = tool_required


@dataclass(frozen=True, slots=True)
class Call:
    """What every tier of one query is called with.

    Attributes
    ----------
    messages
        Of a chat; None for a completion.
    prompt, formatted
        Of a completion.
    params
        Further arguments of the call, in the words of the tiers.
    form
        What answers must look like, None for text.
    said
        (role, text) of every message; of content blocks only text is read. A prompt to complete is one human turn.
    source
        What every tier makes its own messages or prompt of; None where these are what a tier is sent.
    task, pins
        For students: the task of the query, and by tier the model that its router names, so that they answer from the
        same release.
    """

    messages: list[ChatMessage] | None
    prompt: str
    formatted: bool
    params: Mapping[str, Any]
    form: "Form | None" = None
    source: "Template | Unextended | None" = None
    task: str | None = None
    pins: Mapping[str, str | None] = field(default_factory=dict)
    said: list[tuple[str, str]] = field(init=False)

    @property
    def content(self) -> list[ChatMessage]:
        """Its messages, or those that chat models make of its template, for what they hold beside text."""
        if self.messages is not None:
            return self.messages
        return [] if self.source is None else self.source.messages

    def __post_init__(self) -> None:
        said = [("human", self.prompt)]
        if self.messages is not None:
            said = [(_ROLES.get(one.role.value, one.role.value), one.content or "") for one in self.messages]
        object.__setattr__(self, "said", said)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call, or the block it stands in, names.

    Attributes
    ----------
    task
        ``"task"`` or ``"task/subtask"``.
    tier
        A forced tier.
    conversation
        Id of the conversation that stickiness and a budget per run are about.
    run
        What a budget per run counts for where no conversation is named.
    """

    task: str | None = None
    tier: str | None = None
    conversation: str | None = None
    run: str | None = None

    @classmethod
    def taken(cls, kwargs: Mapping[str, Any]) -> "tuple[Asked, dict[str, Any]]":
        """What these arguments name, else the block around the call, and the arguments without it.

        Raises
        ------
        InputError
            When one is not text.
        """
        own = {name: kwargs[name] for name in _NAMES if kwargs.get(name) is not None}
        rest = {name: value for name, value in kwargs.items() if name not in _NAMES}
        around = _AROUND.get()
        return (replace(around, **_checked(own)) if own else around), rest


_NAMES = ("task", "tier", "conversation")
_AROUND: ContextVar[Asked] = ContextVar("routenlp_asked", default=Asked())  # noqa: B039 - frozen


def _checked(named: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in named.items():
        if not isinstance(value, str):
            msg = f"{name} must be text, not {value!r}"
            raise InputError(msg)
    return named


@contextmanager
def asking(*, task: str | None = None, tier: str | None = None, conversation: str | None = None) -> Iterator[None]:
    """Name the task, force a tier or name the conversation of every call in a block.

    For calls that are made elsewhere: inside query engines, chat engines, agents. What a call names itself wins, and
    an inner block over an outer one. The outermost block is one run of a budget per run.

    Raises
    ------
    InputError
        When one is not text.
    """
    given = {"task": task, "tier": tier, "conversation": conversation}
    own = _checked({name: value for name, value in given.items() if value is not None})
    around = _AROUND.get()
    token = _AROUND.set(replace(around, **own, run=around.run or uuid.uuid4().hex))
    try:
        yield
    finally:
        _AROUND.reset(token)
