"""What an answer must look like: tool calls against their tools' schemas, structured output against its own.

The verdict is the signal ``schema_valid``; the calls as canonical JSON are the answer's text, so that calls of
several tiers are compared like any answers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage

from routenlp_integrations.forms import Verdict, canonical
from routenlp_integrations.langchain.structured import Structure
from routenlp_integrations.langchain.tiers import FREE_CHOICES, STRUCTURE
from router_core.errors import MissingExtraError

__all__ = ["Form", "form_of"]


@dataclass(frozen=True, slots=True)
class Form:
    """What the answers to one call must look like.

    Attributes
    ----------
    schemas
        Arguments' JSON schema by name of the tool.
    open
        Some tools have no schema here (a provider's own), so that unknown names say nothing.
    forced
        A tool must be called.
    structure
        Structured output asked for by `with_structured_output`.
    text_schema
        JSON schema of the text, from a `response_format`.
    """

    schemas: Mapping[str, Mapping[str, Any]]
    open: bool
    forced: bool
    structure: Structure | None
    text_schema: Mapping[str, Any] | None

    def judge(self, message: AIMessage) -> Verdict:
        """Compare one answer with this form."""
        if self.structure is not None:
            return self._structured(message, self.structure)
        if message.tool_calls or message.invalid_tool_calls:
            return self._called(message)
        text = str(message.text)
        if self.forced:
            return Verdict(text, False, "no tool was called")
        if self.text_schema is None:
            return Verdict(text, True)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return Verdict(text, False, "the answer is no JSON")
        return _verdict(value, [("the answer", self.text_schema, value)])

    def _called(self, message: AIMessage) -> Verdict:
        calls: list[dict[str, Any]] = [{"name": c["name"], "args": c["args"]} for c in message.tool_calls]
        broken: list[dict[str, Any]] = [{"name": c["name"], "args": c["args"]} for c in message.invalid_tool_calls]
        if broken:
            return Verdict(canonical([*calls, *broken]), False, f"arguments of {broken[0]['name']} are no JSON")
        unknown = [call["name"] for call in calls if call["name"] not in self.schemas]
        if unknown and not self.open:
            return Verdict(canonical(calls), False, "a tool was called that was not offered")
        known = [(c["name"], self.schemas[c["name"]], c["args"]) for c in calls if c["name"] in self.schemas]
        return _verdict(calls, known)

    @staticmethod
    def _structured(message: AIMessage, structure: Structure) -> Verdict:
        try:
            value = structure.read(message, lenient=False)
        except OutputParserException as error:
            return Verdict(str(message.text), False, str(error).partition("\n")[0])
        if not structure.is_class:
            return _verdict(value, [("the answer", structure.json_schema, value)])
        try:
            structure.build(value)
        except OutputParserException:
            return Verdict(canonical(value), False, f"the answer does not fit {structure.name}")
        return Verdict(canonical(value), True)


def form_of(params: Mapping[str, Any]) -> Form | None:
    """The form that the arguments of a call ask for, None when they ask for text."""
    if not params:
        return None
    structure, tools, wanted = params.get(STRUCTURE), params.get("tools") or (), params.get("response_format")
    described = wanted.get("json_schema") if isinstance(wanted, Mapping) else None
    text_schema = described.get("schema") if isinstance(described, Mapping) else None
    if structure is None and not tools and text_schema is None:
        return None
    functions = [tool.get("function") for tool in tools if isinstance(tool, Mapping)]
    known = [function for function in functions if isinstance(function, Mapping) and "name" in function]
    return Form(
        {str(function["name"]): function.get("parameters") or {} for function in known},
        len(known) < len(tools),
        bool(tools) and params.get("tool_choice") not in FREE_CHOICES,
        structure,
        text_schema,
    )


def _verdict(value: Any, parts: list[tuple[str, Mapping[str, Any], Any]]) -> Verdict:
    text = canonical(value)
    for name, schema, part in parts:
        validator = _validator(json.dumps(schema, sort_keys=True))
        if validator is None:
            return Verdict(text, None)
        try:
            error = next(iter(validator.iter_errors(part)), None)
        except Exception:  # a reference that leads nowhere: the fault is the schema's
            return Verdict(text, None)
        if error is not None:
            where = ".".join(str(step) for step in error.absolute_path)
            return Verdict(
                text, False, f"{name} does not fit its schema: {error.validator!r}{where and f' at {where}'}"
            )
    return Verdict(text, True)


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """A compiled validator that fetches nothing, None for a schema that is none."""
    try:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import Draft202012Validator, validator_for
        from referencing import Registry
    except ImportError as error:
        raise MissingExtraError("langchain", "judge tool calls and structured output") from error
    parsed = json.loads(schema)
    kind = validator_for(parsed, default=Draft202012Validator)
    try:
        kind.check_schema(parsed)
    except SchemaError:
        return None
    return kind(parsed, registry=Registry())
