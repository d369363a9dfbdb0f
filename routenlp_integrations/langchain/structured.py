"""Structured output: asked of every tier in its own way, read from whatever the serving tier answered with."""

import json
from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from typing import Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import BaseCumulativeTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.runnables.base import RunnableParallel, RunnableSequence
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.json import parse_json_markdown, parse_partial_json
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import ConfigDict

from routenlp_integrations.langchain.tiers import TierModel
from router_core.errors import InputError

__all__ = ["METHODS", "Method", "Structure", "StructureParser", "structured"]

Method = Literal["json_schema", "function_calling", "json_mode"]
METHODS = ("json_schema", "function_calling", "json_mode")

_strict_json = partial(json.loads, strict=False)


class Structure:
    """What shape of answer was asked for, and how.

    Parameters
    ----------
    schema
        A Pydantic class, a TypedDict class, a JSON schema or an OpenAI function; None only with ``"json_mode"``.
    method
        How tiers are asked; None leaves it to each tier.
    strict
        Passed to tiers that take it; None leaves it to each tier.

    Raises
    ------
    InputError
        For an unknown method, a missing schema, or `strict` with ``"json_mode"``.
    """

    def __init__(self, schema: Any, method: Method | None = None, strict: bool | None = None) -> None:
        if method not in (None, *METHODS):
            msg = f"method = {method!r} is unknown; use {', '.join(METHODS)}, or none to leave it to the tiers"
            raise InputError(msg)
        if schema is None and method != "json_mode":
            msg = "with_structured_output needs a schema unless method is 'json_mode'"
            raise InputError(msg)
        if strict is not None and method == "json_mode":
            msg = "strict cannot be had with method 'json_mode'"
            raise InputError(msg)
        self.schema = schema
        self.method = method
        self.strict = strict
        self.name = "" if schema is None else str(convert_to_openai_tool(schema)["function"]["name"])
        self.json_schema: dict[str, Any] = {} if schema is None else convert_to_json_schema(schema)
        self.is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
        self._bound: dict[str, tuple[Any, TierModel]] = {}

    def __repr__(self) -> str:
        """Stable text: it is part of the key of a cache."""
        shape = json.dumps(self.json_schema, sort_keys=True)
        return f"Structure({shape}, method={self.method!r}, strict={self.strict!r})"

    def __reduce__(self) -> tuple[type["Structure"], tuple[Any, ...]]:
        return Structure, (self.schema, self.method, self.strict)

    def bound_to(self, tier: TierModel) -> TierModel:
        """The tier with this structure bound in its own mode; by a forced tool call where it has none.

        Raises
        ------
        NotImplementedError
            When the tier can do neither.
        """
        known = self._bound.get(tier.name)
        if known is None or known[0] is not tier.model:
            known = self._bound[tier.name] = (tier.model, self._bind(tier))
        return known[1]

    def _bind(self, tier: TierModel) -> TierModel:
        method = {} if self.method is None else {"method": self.method}
        strict = {} if self.strict is None else {"strict": self.strict}
        ways: list[dict[str, Any]] = [{**method, **strict}, method, {}]
        for i, options in enumerate(ways):
            if options in ways[:i]:
                continue
            try:
                chain = tier.model.with_structured_output(self.schema, include_raw=True, **options)
                return TierModel.of(tier.name, _asking(chain))
            except (NotImplementedError, TypeError, ValueError):
                # The tier does not take these options, or built something else than a bound model.
                continue
        if self.schema is None:
            msg = f"tier {tier.name} has no JSON mode"
            raise NotImplementedError(msg)
        return TierModel.of(tier.name, tier.model.bind_tools([self.schema], tool_choice=self.name))

    def read(self, message: AIMessage, *, lenient: bool = True) -> Any:
        """The answer as a JSON value or, when the provider has parsed it already, as an instance of the schema.

        Parameters
        ----------
        message
            A tier's answer: a call of the schema's tool, or JSON text.
        lenient
            Complete JSON that was cut off, as LangChain's parsers do.

        Raises
        ------
        OutputParserException
            When there is none.
        """
        parsed = message.additional_kwargs.get("parsed")
        if parsed is not None and self.is_class and isinstance(parsed, self.schema):
            return parsed
        if refusal := message.additional_kwargs.get("refusal"):
            msg = "the model refused to answer"
            raise OutputParserException(msg, llm_output=str(refusal))
        for call in message.tool_calls:
            if call["name"] == self.name:
                return call["args"]
        if message.tool_calls or message.invalid_tool_calls:
            msg = f"the model made no readable call of {self.name}"
            raise OutputParserException(msg, llm_output=str(message.text))
        try:
            return parse_json_markdown(str(message.text), parser=parse_partial_json if lenient else _strict_json)
        except (ValueError, RecursionError) as error:
            msg = "the answer is no JSON"
            raise OutputParserException(msg, llm_output=str(message.text)) from error

    def build(self, value: Any) -> Any:
        """An instance of a Pydantic schema, the value itself for any other.

        Raises
        ------
        OutputParserException
            When the value does not fit.
        """
        if not self.is_class or isinstance(value, self.schema):
            return value
        try:
            return (getattr(self.schema, "model_validate", None) or self.schema.parse_obj)(value)
        except ValueError as error:
            msg = f"the answer does not fit {self.name}: {error}"
            raise OutputParserException(msg, llm_output=json.dumps(value, default=str)) from error


def _asking(chain: Any) -> Any:
    """The part of a structured-output chain that calls the model."""
    step = chain
    while isinstance(step, RunnableSequence | RunnableParallel):
        step = step.first if isinstance(step, RunnableSequence) else step.steps__.get("raw")
    return step


class StructureParser(BaseCumulativeTransformOutputParser[Any]):
    """Reads structured output from a message, whatever mode the serving tier answered in.

    In a stream, JSON values are given as they grow, instances of a Pydantic class once they are whole.
    """

    structure: Structure

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Read one answer; None while a partial one says nothing yet."""
        generation = result[0]
        message = generation.message if isinstance(generation, ChatGeneration) else AIMessage(generation.text)
        if not isinstance(message, AIMessage):
            # A stream that was not streamed hands the fields of a whole message on.
            message = AIMessage(**message.model_dump(exclude={"type"}))
        whole = not partial or getattr(message, "chunk_position", "last") == "last"
        if whole:
            return self.structure.build(self.structure.read(message))
        if self.structure.is_class:
            return None
        try:
            return self.structure.read(message) or None
        except OutputParserException:
            return None

    def parse(self, text: str) -> Any:
        """Read JSON text."""
        return self.parse_result([Generation(text=text)])

    @property
    def _type(self) -> str:
        return "routenlp-structure"


def structured(
    model: Runnable[LanguageModelInput, AIMessage], structure: Structure, *, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    """Put the parser behind a model that asks for a structure, LangChain's way of `include_raw` kept."""
    parser = StructureParser(structure=structure)
    if not include_raw:
        return model | parser
    parsed: Runnable[Any, Any] = RunnablePassthrough.assign(
        parsed=RunnableLambda(itemgetter("raw")) | parser, parsing_error=RunnableLambda(_nothing)
    )
    failed: Runnable[Any, Any] = RunnablePassthrough.assign(parsed=RunnableLambda(_nothing))
    return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _nothing(_: Mapping[str, Any]) -> None:
    return None
