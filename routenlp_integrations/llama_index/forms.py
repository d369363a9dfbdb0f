"""What an answer must look like: tool calls against their tools' schemas, structured output against its class.

The verdict is the signal ``schema_valid``; the calls as canonical JSON are the answer's text, so that calls of
several tiers are compared like any answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.output_parsers import PydanticOutputParser
from pydantic import BaseModel

from routenlp_integrations.forms import Verdict, canonical
from routenlp_integrations.llama_index.calls import ToolRequest
from routenlp_integrations.llama_index.messages import Response, calls_tools, text_of
from router_core.call_plan import STRUCTURE, form_departure

__all__ = ["Form", "form_of"]

_FREE_CHOICES = (None, False, "auto", "none")


@dataclass(frozen=True, slots=True)
class Form:
    """What the answers to one call must look like.

    Attributes
    ----------
    schemas
        Class of the arguments by name of the tool, None for a tool that takes one ``input``.
    open
        The tools were named in a provider's words, so that nothing can be said of their calls.
    forced
        A tool must be called.
    output
        Class of the structured output asked for.
    """

    schemas: Mapping[str, type[BaseModel] | None]
    open: bool
    forced: bool
    output: type[BaseModel] | None

    def judge(self, response: Response, llm: Any) -> Verdict:
        """Compare one answer with this form; `llm` is the one that gave it."""
        if isinstance(response, ChatResponse) and calls_tools(response.message):
            return self._called(response, llm)
        text = text_of(response)
        if self.forced and not self.open:
            return Verdict(text, False, "no tool was called")
        if self.output is None or self.schemas:
            return Verdict(text, None if self.open else True)
        try:
            value = PydanticOutputParser(self.output).parse(text)
        except ValueError:
            return Verdict(text, False, f"the answer does not fit {self.output.__name__}")
        return Verdict(canonical(value), True)

    def _called(self, response: ChatResponse, llm: Any) -> Verdict:
        text = text_of(response)
        if self.open or not isinstance(llm, FunctionCallingLLM):
            return Verdict(text, None)
        try:
            calls = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        except Exception:  # whatever the provider's own reader raises
            return Verdict(text, False, "a tool call cannot be read")
        text = canonical([{"name": call.tool_name, "args": call.tool_kwargs} for call in calls])
        for call in calls:
            if call.tool_name not in self.schemas:
                return Verdict(text, False, "a tool was called that was not offered")
            schema = self.schemas[call.tool_name]
            if schema is None:
                continue
            try:
                schema.model_validate(call.tool_kwargs)
            except ValueError:
                return Verdict(text, False, f"arguments of {call.tool_name} do not fit its schema")
        return Verdict(text, True)


def form_of(params: Mapping[str, Any]) -> Form | None:
    """The form that the arguments of a call ask for, None when they ask for text."""
    output, tools = params.get(STRUCTURE), params.get("tools")
    if isinstance(tools, ToolRequest) and tools:
        # Providers may change a name to what their grammar allows; both are the tool's.
        known = zip(tools.tools, tools, strict=True)
        names = {
            name: t.metadata.fn_schema for t, told in known for name in (t.metadata.name, told["function"]["name"])
        }
        forced = tools.tool_required or params.get("tool_choice") not in _FREE_CHOICES
        return Form({str(name): schema for name, schema in names.items()}, False, forced, output)
    if output is not None:
        return Form({}, False, False, output)
    return Form({}, True, False, None) if form_departure(params) else None
