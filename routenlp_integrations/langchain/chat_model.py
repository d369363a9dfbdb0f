"""`RoutingChatModel`: a certified router that is a LangChain chat model."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, InstanceOf, PrivateAttr, model_validator

from routenlp_integrations.langchain.configured import TASK, TIER, ConfiguredChatModel
from routenlp_integrations.langchain.messages import departure, turns, with_route
from routenlp_integrations.langchain.streaming import Screen, closing
from routenlp_integrations.langchain.tiers import Call, TierModel
from router_core.cascade import OnFailure, OnReferenceFailure, Steps, advance, match_tiers, walk
from router_core.errors import InputError
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.route_text import route_text
from router_core.router import Router, Start

__all__ = ["RoutingChatModel"]


class RoutingChatModel(ConfiguredChatModel):
    """Sends every query to the cheapest model that was shown, at a named risk, to answer as well as the last one.

    Make it with `from_bundle`. `invoke` and `batch` follow the bundle's ``cascade`` policy: a cheap tier answers,
    its answer is judged, and it is served or the next tier is asked. A stream follows the ``route_only`` policy,
    whose tier is chosen before anything is generated, unless `stream_policy` is ``"buffer"``. An `invoke` that
    LangChain turns into a stream (`astream_events`, LangGraph's message streaming) is a stream.

    The answer is the answering tier's own, its `usage_metadata` counts that tier alone, and
    ``response_metadata["routenlp"]`` holds the route: ``tier``, ``attempts`` (each with ``tier``, ``confidence``,
    ``cost_usd``, ``accepted``, ``reason``), ``cost_usd`` of all attempts in US dollars, ``task``, ``bundle``,
    ``certificate`` (None when nothing was shown) and ``reason``. In a stream it is on the last chunk.

    With tools bound or structured output asked for, queries go straight to the reference tier, as do queries with
    images: calib had none of these, and a joint risk stays certified where no cheap answer is served. A cheap tier
    that fails, returns nothing, or answers with tool calls unasked is treated alike.

    ``config={"configurable": {"task": "t", "tier": "frontier"}}`` names the task of one call and forces a tier; a
    forced tier before the reference has no certificate. The text routed is the last human turn.

    Parameters
    ----------
    router
        A loaded router.
    tiers
        For every tier of the portfolio a chat model, or one with arguments bound to it. Tiers are called flat,
        inside this model's run: their rate limiters act, their caches and callbacks do not.
    task
        Task of every call that does not name one, ``"task"`` or ``"task/subtask"``. None is the only task, or any.
    stream_policy
        ``"auto"`` and ``"route"``: choose the tier first, then stream its chunks as they come. ``"buffer"``: judge
        cheap answers before showing them.
    on_failure
        Where a query goes when a cheap tier fails: ``"reference"``, or ``"next"``, which is uncertified.
    on_reference_failure
        ``"raise"``, or serve the ``"best"`` cheap answer so far, uncertified.
    temperature, max_tokens, timeout, stop
        Given to every tier with each call when set; `timeout` in seconds, one number or ``{tier: seconds}``. They
        should be what the records were made with.
    max_retries
        Accepted as LangChain's standard parameter. Clients read it only when they are made: set it on the tiers.
    """

    router: InstanceOf[Router] = Field(repr=False, exclude=True)
    tiers: Mapping[str, Any] = Field(repr=False, exclude=True)
    task: str | None = None
    stream_policy: Literal["auto", "route", "buffer"] = "auto"
    on_failure: OnFailure = "reference"
    on_reference_failure: OnReferenceFailure = "raise"
    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | dict[str, float] | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    max_retries: int | None = None
    streaming: bool = False

    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True)

    _models: dict[str, TierModel] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_bundle(cls, path: str | Path, tiers: Mapping[str, Any], **params: Any) -> Self:
        """Load a bundle and put a chat model behind each of its tiers.

        Parameters
        ----------
        path
            Folder of the bundle.
        tiers
            ``{name: chat model}``; the names are the portfolio's.
        **params
            Everything else the class takes.

        Raises
        ------
        InputError
            When the names of the tiers are not the portfolio's (lists both sides), a tier is no chat model, or a
            parameter is unknown.
        BundleError
            When the bundle is changed, incomplete, newer than this reader, or none.
        """
        known = {name for field, info in cls.model_fields.items() for name in (field, info.alias) if name}
        if unknown := sorted(set(params) - known):
            msg = f"RoutingChatModel has no parameter {unknown[0]!r}; what a provider needs belongs to its tier"
            raise InputError(msg)
        router = Router.load(path)
        match_tiers(tiers, router.portfolio.names)
        for name, given in tiers.items():
            TierModel.of(name, given)
        return cls(router=router, tiers=tiers, **params)

    @model_validator(mode="after")
    def _match(self) -> Self:
        names = self.router.portfolio.names
        match_tiers(self.tiers, names)
        if isinstance(self.timeout, dict) and not set(self.timeout) <= set(names):
            msg = f"timeout names {', '.join(sorted(self.timeout))}; the tiers are {', '.join(names)}"
            raise InputError(msg)
        self._models = {name: TierModel.of(name, self.tiers[name]) for name in names}
        return self

    # What it is

    @property
    def _llm_type(self) -> str:
        return "routenlp"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self._name,
            "bundle": self.router.bundle_id,
            "tiers": {name: tier.model_name or name for name, tier in self._models.items()},
            "task": self.task,
            "policies": {"invoke": CASCADE, "stream": self._stream_policy},
            "on_failure": self.on_failure,
            "on_reference_failure": self.on_reference_failure,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stop_sequences": self.stop,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "routenlp"
        params.setdefault("ls_model_name", self._name)
        return params

    @property
    def _name(self) -> str:
        return f"routenlp-{self.router.bundle_id[:12]}"

    @property
    def _stream_policy(self) -> str:
        return CASCADE if self.stream_policy == "buffer" else ROUTE_ONLY

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        # Tiers hold keys and headers; their names say enough.
        told = [("bundle", self.router.bundle_id[:12]), ("tiers", list(self._models))]
        return [*told, ("task", self.task), ("stream_policy", self.stream_policy)]

    # One query

    def _call(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]) -> Call:
        params = {name: value for name, value in kwargs.items() if name not in (TASK, TIER)}
        for name in ("temperature", "max_tokens"):
            if getattr(self, name) is not None:
                params.setdefault(name, getattr(self, name))
        return Call(messages, (self.stop or None) if stop is None else stop, params)

    def _tier(self, name: str, call: Call) -> tuple[TierModel, Call]:
        seconds = self.timeout.get(name) if isinstance(self.timeout, dict) else self.timeout
        if seconds is not None:
            call = Call(call.messages, call.stop, {"timeout": seconds, **call.params})
        return self._models[name], call

    def _start(self, call: Call, policy: str, kwargs: Mapping[str, Any]) -> Start:
        """Decide where a query starts, from its text, its task, a forced tier, and what no calib row had."""
        text = route_text(turns(call.messages))
        task = kwargs.get(TASK) or self.task
        forced = kwargs.get(TIER)
        if forced is not None:
            return self.router.force(text, task, policy, forced, "tier forced by configurable['tier']")
        if why := departure(call.messages, call.params):
            return self.router.force(text, task, policy, self._reference, why)
        return self.router.start(text, task, policy)

    @property
    def _reference(self) -> str:
        return self.router.portfolio.reference.name

    def _walk(self, start: Start) -> Steps:
        return walk(self.router, start, self.on_failure, self.on_reference_failure)

    def _final(self, start: Start, name: str) -> bool:
        """Whether this tier's answer is served whatever it is."""
        return start.forced or name == self._reference

    def _check_tier(self, name: str) -> None:
        self.router.portfolio.index(name)

    def _declared(self, name: str) -> str:
        return self.router.portfolio.tiers[self.router.portfolio.index(name)].model or name

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs)
        start = self._start(call, CASCADE, kwargs)
        steps = self._walk(start)
        step = advance(steps)
        while isinstance(step, str):
            tier, mine = self._tier(step, call)
            # Tokens of an answer that may be rejected must not reach the caller's callbacks.
            step = advance(steps, tier.ask(mine, run_manager if self._final(start, step) else None))
        return with_route(step, self._declared(step.tier))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs)
        start = await run_in_executor(None, self._start, call, CASCADE, kwargs)
        steps = self._walk(start)
        step = advance(steps)
        while isinstance(step, str):
            tier, mine = self._tier(step, call)
            reply = await tier.aask(mine, run_manager if self._final(start, step) else None)
            step = await run_in_executor(None, advance, steps, reply)
        return with_route(step, self._declared(step.tier))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        start = self._start(call, self._stream_policy, kwargs)
        steps = self._walk(start)
        step = advance(steps)
        while isinstance(step, str):
            tier, mine = self._tier(step, call)
            final = self._final(start, step)
            if start.policy_name == CASCADE and not final:
                step = advance(steps, tier.ask(mine, None))
                continue
            screen = Screen(final=final)
            try:
                for chunk in tier.stream(mine, run_manager):
                    yield from screen.add(chunk)
            except Exception as error:
                if screen.shown:
                    raise
                step = advance(steps, error)
            else:
                step = advance(steps, screen.answer(mine))
        yield from closing(step, self._declared(step.tier))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        start = await run_in_executor(None, self._start, call, self._stream_policy, kwargs)
        steps = self._walk(start)
        step = advance(steps)
        while isinstance(step, str):
            tier, mine = self._tier(step, call)
            final = self._final(start, step)
            if start.policy_name == CASCADE and not final:
                step = await run_in_executor(None, advance, steps, await tier.aask(mine, None))
                continue
            screen = Screen(final=final)
            try:
                async with aclosing(tier.astream(mine, run_manager)) as chunks:
                    async for chunk in chunks:
                        for ready in screen.add(chunk):
                            yield ready
            except Exception as error:
                if screen.shown:
                    raise
                step = advance(steps, error)
            else:
                step = advance(steps, screen.answer(mine))
        for chunk in closing(step, self._declared(step.tier)):
            yield chunk

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools; queries then go straight to the reference tier, which keeps a joint certificate.

        Parameters
        ----------
        tools
            Tools in any form LangChain takes; kept in OpenAI's format and bound to the tier when it is called.
        tool_choice
            As the tier takes it.
        **kwargs
            Further arguments of the call, such as `strict` and `parallel_tool_calls`.

        Returns
        -------
        Runnable
            A `RunnableBinding` of this model; ``configurable`` works on it as before.
        """
        formatted = [convert_to_openai_tool(tool, strict=kwargs.get("strict")) for tool in tools]
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return super().bind(tools=formatted, **kwargs)
