"""What LlamaIndex's `predict` and programs make of a template: every tier by its own settings, as if it stood alone.

`predict` and its like extend a prompt by the LLM's settings (a system prompt, a model's template) and then call `chat`
or `complete`, which take it for finished. A `RoutingLLM` hands both on: the query as it is, which is routed and logged,
and what each tier needs to make its own prompt of it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import (
    BasePromptTemplate,
    ChatPromptTemplate,
    PromptTemplate,
    RichPromptTemplate,
    SelectorPromptTemplate,
)
from llama_index.core.types import BaseOutputParser

__all__ = ["SETTINGS", "TEMPLATE", "MarkedMessages", "MarkedText", "Template", "Unextended", "added_tokens"]

SETTINGS = ("system_prompt", "query_wrapper_prompt", "messages_to_prompt", "completion_to_prompt", "output_parser")
"""Fields of `LLM` that say what is made of a template."""

TEMPLATE = "routenlp_template"
"""Argument of a call that holds the `Template` of a program, whose prompt is text by the time of the call."""

_ALIKE = (PromptTemplate, ChatPromptTemplate, RichPromptTemplate)
"""Templates that are the same messages for every LLM."""


@dataclass(frozen=True, slots=True)
class Template:
    """A template and what is to be filled in.

    Attributes
    ----------
    prompt
        The template; nobody else changes it.
    args
        By variable.
    program
        It is a text program's, which leaves its prompt unextended where the LLM completes.
    made
        The messages that it is for most LLMs, None where that is not known, and the template they were made of.
    """

    prompt: BasePromptTemplate
    args: Mapping[str, Any]
    program: bool = False
    made: tuple[list[ChatMessage], BasePromptTemplate] | None = None

    @classmethod
    def of(cls, prompt: BasePromptTemplate, args: Mapping[str, Any], parser: BaseOutputParser | None = None) -> Self:
        """Take a template as it is now: programs and selectors change the parsers of templates they share.

        What it finds by functions, such as examples it retrieves, is found once for all tiers.

        Parameters
        ----------
        prompt
            The template.
        args
            By variable.
        parser
            Of a text program, which is about to give it to the template.
        """
        changed: dict[str, Any] = {} if parser is None else {"output_parser": parser}
        if prompt.function_mappings:
            changed["function_mappings"] = {name: _once(find) for name, find in prompt.function_mappings.items()}
        return cls(prompt.model_copy(update=changed), args, parser is not None)

    def making(self, messages: list[ChatMessage], llm: LLM) -> Self:
        """Note what it is for an LLM: for every other whose selectors pick the same, it need not be made again."""
        picked = _picked(self.prompt, llm)
        return replace(self, made=(messages, picked)) if type(picked) in _ALIKE else self

    @property
    def messages(self) -> list[ChatMessage]:
        """What it is as messages, as far as that is known."""
        return [] if self.made is None else self.made[0]

    def told(self, llm: LLM, *, chats: bool) -> dict[str, Any]:
        """What this LLM is called with: the messages of a chat, or a prompt to complete."""
        if self.program and chats:
            return {"messages": llm._extend_messages(self.prompt.format_messages(llm=llm, **self.args))}
        if self.program:
            return {"prompt": self.prompt.format(llm=llm, **self.args), "formatted": False}
        if chats:
            if self.made is not None and type(llm)._get_messages is LLM._get_messages:
                messages, picked = self.made
                if _picked(self.prompt, llm) is picked:
                    return {"messages": llm._extend_messages(list(messages))}
            return {"messages": llm._get_messages(self.prompt, **self.args)}
        return {"prompt": llm._get_prompt(self.prompt, **self.args), "formatted": True}


@dataclass(frozen=True, slots=True)
class Unextended:
    """Messages that an LLM extends before its `chat` is called, whether it is a chat model or not."""

    messages: list[ChatMessage]

    def told(self, llm: LLM, *, chats: bool) -> dict[str, Any]:
        """What this LLM is called with."""
        return {"messages": llm._extend_messages(list(self.messages))}


class MarkedMessages(list[ChatMessage]):
    """Messages on their way to `chat` that every tier is to extend, or to make of a template, itself."""

    def __init__(self, messages: Iterable[ChatMessage], template: Template | None = None) -> None:
        super().__init__(messages)
        self.template = template

    @property
    def source(self) -> Template | Unextended:
        """What a tier makes its own messages of."""
        return self.template or Unextended(list(self))


class MarkedText(str):
    """A prompt on its way to `complete` that every tier is to make of a template itself."""

    source: Template

    @classmethod
    def of(cls, text: str, source: Template) -> Self:
        """Mark a prompt."""
        made = cls(text)
        made.source = source
        return made


def added_tokens(llm: LLM, estimate: Callable[[str], int]) -> int:
    """Tokens that an LLM's settings add to a prompt, as far as they can be told without one.

    Parameters
    ----------
    llm
        The LLM.
    estimate
        Tokens of a text.
    """
    wrapper = llm.query_wrapper_prompt
    wrapped = 0 if wrapper is None or llm.metadata.is_chat_model else estimate(wrapper.get_template(llm=llm))
    return wrapped + (estimate(llm.system_prompt) if llm.system_prompt else 0)


def _picked(prompt: BasePromptTemplate, llm: LLM) -> BasePromptTemplate:
    while isinstance(prompt, SelectorPromptTemplate):
        prompt = prompt.select(llm)
    return prompt


def _once(find: Callable[..., Any]) -> Callable[..., Any]:
    found: list[Any] = []

    def first(**kwargs: Any) -> Any:
        if not found:
            found.append(find(**kwargs))
        return found[0]

    return first
