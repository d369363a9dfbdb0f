"""Task, tier and conversation by ``config["configurable"]``, also behind `bind_tools` and `with_config`.

LangChain does not hand the configuration to `_generate`. What it names becomes keyword arguments of the call, so it
reaches it, is seen by tracers, and (but for the run that calls) is part of the key of a cache. Streams are started
under a known run, so that attempts can be traced as its children.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig, ensure_config

from routenlp_integrations.langchain.run_config import named
from routenlp_integrations.langchain.task_config import TASK, TaskChatModel
from routenlp_integrations.langchain.tracing import Trace, afirst_under, first_under, of_config

__all__ = ["CONVERSATION", "RUN", "TASK", "TIER", "ConfiguredChatModel"]

TIER, CONVERSATION, RUN = "routenlp_tier", "routenlp_conversation", "routenlp_run"
_KEYS = {"task": TASK, "tier": TIER}


class ConfiguredChatModel(TaskChatModel):
    """A chat model whose calls take a task and a tier from the configuration."""

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What ``config["configurable"]`` may hold."""
        kind = str | None
        told = "Conversation that stickiness and budgets are about." if self._by_conversation else ""
        return [
            ConfigurableFieldSpec(id="task", annotation=kind, description="Task of the query.", default=self.task),
            ConfigurableFieldSpec(id="tier", annotation=kind, description="Tier to force.", default=None),
            *([ConfigurableFieldSpec(id="thread_id", annotation=Any, description=told, default=None)] if told else []),
        ]

    @property
    def _by_conversation(self) -> bool:
        """Whether it matters to which conversation a call belongs."""
        return False

    def _check_tier(self, name: str) -> None:
        """Raise InputError for a tier that does not exist."""
        raise NotImplementedError

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Answer one query chunk by chunk; see `BaseChatModel.stream`."""
        kwargs = self._chosen(config, kwargs)
        known, trace = of_config(config, self.callbacks, CallbackManager)
        return first_under(trace, BaseChatModel.stream(self, input, known, **kwargs))

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer one query chunk by chunk; see `BaseChatModel.astream`."""
        kwargs = self._chosen(config, kwargs)
        known, trace = of_config(config, self.callbacks, AsyncCallbackManager)
        return afirst_under(trace, BaseChatModel.astream(self, input, known, **kwargs))

    def _should_stream(
        self,
        *,
        async_api: bool,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> bool:
        streams = super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs)
        if streams and run_manager is not None:
            # An `invoke` that LangChain turns into a stream does not tell `_stream` its run either.
            Trace.hand_over(run_manager)
        return streams

    def _chosen(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments with what the configuration names: task, tier, conversation and calling run.

        Raises
        ------
        InputError
            When task or tier is not text, or the portfolio has no such tier.
        """
        known = ensure_config(config)
        configurable = known.get("configurable", {})
        if self._by_conversation:
            # `_stream` is not told its run, so the one that calls is noted here for every entrance.
            calling = getattr(known.get("callbacks"), "parent_run_id", None)
            for key, known_by in ((CONVERSATION, configurable.get("thread_id")), (RUN, calling)):
                kwargs = kwargs if known_by is None else {**kwargs, key: str(known_by)}
        for name, key in _KEYS.items():
            value = named(configurable, name)
            kwargs = kwargs if value is None else {**kwargs, key: value}
        if TIER in kwargs:
            self._check_tier(kwargs[TIER])
        return kwargs
