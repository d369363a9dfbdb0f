"""The task of a call by ``config["configurable"]``, also behind `bind_tools` and `with_config`.

LangChain does not hand the configuration to `_generate`. What it names becomes keyword arguments of the call, so it
reaches it, is seen by tracers, and is part of the key of a cache.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core._api import suppress_langchain_beta_warning
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig, ensure_config

from routenlp_integrations.langchain.run_config import named

__all__ = ["TASK", "TaskChatModel"]

TASK = "routenlp_task"


class TaskChatModel(BaseChatModel):
    """A chat model whose calls take a task from the configuration."""

    task: str | None = None

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What ``config["configurable"]`` may hold."""
        told = "Task of the query."
        return [ConfigurableFieldSpec(id="task", annotation=str | None, description=told, default=self.task)]

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Answer one query; see `BaseChatModel.invoke`."""
        return super().invoke(input, config, **self._chosen(config, kwargs))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """Answer one query; see `BaseChatModel.ainvoke`."""
        return await super().ainvoke(input, config, **self._chosen(config, kwargs))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Answer one query chunk by chunk; see `BaseChatModel.stream`."""
        return super().stream(input, config, **self._chosen(config, kwargs))

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer one query chunk by chunk; see `BaseChatModel.astream`."""
        return super().astream(input, config, **self._chosen(config, kwargs))

    def _chat_model_stream_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        with suppress_langchain_beta_warning():
            return super()._chat_model_stream_v3(input, config, **self._chosen(config, kwargs))

    async def _achat_model_stream_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        with suppress_langchain_beta_warning():
            return await super()._achat_model_stream_v3(input, config, **self._chosen(config, kwargs))

    def _chosen(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments with what the configuration names.

        Raises
        ------
        InputError
            When it is not text.
        """
        task = named(ensure_config(config).get("configurable", {}), "task")
        return kwargs if task is None else {**kwargs, TASK: task}
