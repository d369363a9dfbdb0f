"""Tools and structured output: asked of every tier in its own way, read by the tier that answered."""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools.types import BaseTool
from pydantic import BaseModel

from routenlp_integrations.llama_index.calls import Asked, ToolRequest
from routenlp_integrations.llama_index.driven import DrivenLLM
from routenlp_integrations.llama_index.messages import ANSWERING, ROUTE
from routenlp_integrations.llama_index.prompts import TEMPLATE, MarkedMessages
from router_core.call_plan import STRUCTURE

__all__ = ["ToolCallingLLM"]


class ToolCallingLLM(DrivenLLM):
    """The parts of a `RoutingLLM` that have to do with tools and structured output."""

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments of a chat with tools; each tier prepares the tools its own way when it is called."""
        history = chat_history or []
        messages = MarkedMessages(history) if isinstance(history, MarkedMessages) else list(history)
        if user_msg is not None:
            said = user_msg
            messages.append(ChatMessage(role=MessageRole.USER, content=said) if isinstance(said, str) else said)
        request = ToolRequest(
            tools,
            verbose=verbose,
            allow_parallel_tool_calls=allow_parallel_tool_calls,
            tool_required=tool_required,
        )
        return {"messages": messages, **kwargs, **({"tools": request} if request else {})}

    def _answering(self, response: ChatResponse) -> Any:
        """The LLM whose response this is; the reference tier's where that is not known."""
        route = response.additional_kwargs.get(ROUTE)
        name = route.get("tier") if isinstance(route, Mapping) else response.additional_kwargs.get(ANSWERING)
        return self.tiers[str(name) if name in self.tiers else self.current.portfolio.reference.name]

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Sequence[BaseTool], allow_parallel_tool_calls: bool = False, **kwargs: Any
    ) -> ChatResponse:
        llm = self._answering(response)
        if not isinstance(llm, FunctionCallingLLM):
            return response
        _, rest = Asked.taken(kwargs)
        for name in (STRUCTURE, TEMPLATE):
            rest.pop(name, None)
        return llm._validate_chat_with_tools_response(
            response, tools, allow_parallel_tool_calls=allow_parallel_tool_calls, **rest
        )

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Tool calls of a response, read by the tier that gave it.

        Parameters
        ----------
        response
            A response or chunk of this LLM.
        error_on_no_tool_call
            Whether none is an error.

        Raises
        ------
        ValueError
            When there is none and there should be.
        """
        llm = self._answering(response)
        if isinstance(llm, FunctionCallingLLM):
            return llm.get_tool_calls_from_response(response, error_on_no_tool_call=error_on_no_tool_call, **kwargs)
        if error_on_no_tool_call:
            msg = "the answer holds no tool call: the tier that gave it is no function-calling model"
            raise ValueError(msg)
        return []

    # Both of LlamaIndex's ways to structured output hand these arguments on to `chat` or `complete`.

    def _shaped(
        self, output: type[BaseModel], prompt: Any, llm_kwargs: Mapping[str, Any] | None, args: Mapping[str, Any]
    ) -> dict[str, Any]:
        told = {**(llm_kwargs or {}), STRUCTURE: output}
        if not self.metadata.is_chat_model:
            told[TEMPLATE] = self._template(prompt, args, PydanticOutputParser(output))
        return told

    def structured_predict(
        self, output_cls: Any, prompt: PromptTemplate, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """Answer with an instance of a class; see `LLM.structured_predict`."""
        llm_kwargs = self._shaped(output_cls, prompt, llm_kwargs, prompt_args)
        return super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    async def astructured_predict(
        self, output_cls: Any, prompt: PromptTemplate, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """Answer with an instance of a class; see `LLM.astructured_predict`."""
        llm_kwargs = self._shaped(output_cls, prompt, llm_kwargs, prompt_args)
        return await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    def stream_structured_predict(
        self, output_cls: Any, prompt: PromptTemplate, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        """Answer with an instance of a class as it grows; see `LLM.stream_structured_predict`."""
        llm_kwargs = self._shaped(output_cls, prompt, llm_kwargs, prompt_args)
        return super().stream_structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    async def astream_structured_predict(
        self, output_cls: Any, prompt: PromptTemplate, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        """Answer with an instance of a class as it grows; see `LLM.astream_structured_predict`."""
        llm_kwargs = self._shaped(output_cls, prompt, llm_kwargs, prompt_args)
        return await super().astream_structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
