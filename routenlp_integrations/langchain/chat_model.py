"""`RoutingChatModel`: a certified router that is a LangChain chat model."""

import asyncio
import time
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from routenlp_integrations.langchain.messages import with_route
from routenlp_integrations.langchain.queried import QueriedChatModel
from routenlp_integrations.langchain.run_config import described
from routenlp_integrations.langchain.streaming import Deadline, Screen, last_chunks, leaving
from routenlp_integrations.langchain.structured import Method, Structure, structured
from routenlp_integrations.langchain.tiers import STRUCTURE
from routenlp_integrations.langchain.tracing import Trace
from router_core.driving import Step, advance, break_off, walking
from router_core.errors import InputError
from router_core.logged_query import BROKEN, LEFT
from router_core.policy import CASCADE

__all__ = ["RoutingChatModel"]


class RoutingChatModel(QueriedChatModel):
    """Sends every query to the cheapest model that was shown, at a named risk, to answer as well as the last one.

    Make it with `from_bundle`. `invoke` and `batch` follow the bundle's ``cascade`` policy: a cheap tier answers,
    its answer is judged, and it is served or the next tier is asked. A stream follows the ``route_only`` policy,
    whose tier is chosen before anything is generated, unless `stream_policy` says otherwise. An `invoke` that
    LangChain turns into a stream (`astream_events`, LangGraph's message streaming) is a stream.

    The answer is the answering tier's own, its `usage_metadata` counts that tier alone, and
    ``response_metadata["routenlp"]`` holds the route: ``tier``, ``attempts`` (each with ``tier``, ``confidence``,
    ``cost_usd``, ``accepted``, ``reason``), ``cost_usd`` of all attempts in US dollars, ``task``, ``bundle``,
    ``certificate`` (None when nothing was shown) and ``reason``; an answer from LangChain's cache adds ``cached`` and
    costs 0. In a stream it is on the last chunk. A query is one run; tracers alone see its attempts, as child runs
    tagged ``routenlp:attempt``.

    A tier that cannot serve a call (tools, images, structured output, context length: from its `profile` or from
    `capabilities`) is no candidate. Calls of a kind that calib did not have (tools, structured output, images) go
    straight to the reference tier, where a joint risk stays certified, or are routed `uncalibrated`. A cheap tier
    that fails, returns nothing, or answers with tool calls unasked is treated alike.

    ``config={"configurable": {"task": "t", "tier": "frontier"}}`` names the task of one call and forces a tier; a
    forced tier before the reference has no certificate. What of a conversation is routed says
    `router_core.route_text.route_text`; certificates are about traffic like the records.

    Parameters
    ----------
    bundle
        Folder of a bundle or a release ROOT, read when no `router` is given.
    router
        A loaded router.
    releases
        A `RouterSource` (`Router.watch`) in its place: every query takes the current release's router once, and
        `StudentChatModel` tiers answer it with the students of that release. Made by itself for a ROOT.
    watch
        Follow the releases of a ROOT; False stays with the one that is current now.
    tiers
        For every tier of the portfolio a chat model, or one with arguments bound to it. Tiers are called flat,
        inside this model's run: their rate limiters and caches act, their callbacks do not.
    task
        Task of every call that does not name one, ``"task"`` or ``"task/subtask"``. None is the only task, or any.
    stream_policy
        ``"route"``: choose the tier first, then stream its chunks as they come. ``"buffer"``: judge cheap answers
        before showing them. ``"auto"``: ``"route"``, but ``"buffer"`` where only the cascade was certified.
    capabilities
        ``{tier: {capability: value}}`` in the words of LangChain's `ModelProfile`, over what the tier's own profile
        states, such as ``{"cheap": {"tool_calling": False, "max_input_tokens": 4096}}``.
    uncalibrated
        Where calls of a kind that calib did not have go: to the ``"reference"`` tier, or through the ``"cascade"``,
        uncertified, where an answer that does not fit its schema is escalated. Tools and structured output are
        covered like any query where the records of the scope had the signal ``schema_valid``.
    on_failure
        Where a query goes when a cheap tier fails or cannot serve it: ``"reference"``, or ``"next"``, which is
        uncertified.
    on_reference_failure
        ``"raise"``, or serve the ``"best"`` cheap answer so far, uncertified. A tier that fails after something of
        its stream was shown always raises `TierError`.
    temperature, max_tokens, stop
        Given to every tier with each call when set. They should be what the records were made with. A call with other
        ones, or with any argument not known to be harmless (``user``, ``metadata``, ``extra_headers``, time-outs,
        tracing and the like are), is routed, but a cheap answer to it carries no certificate. What was bound to a tier
        (``tier.bind(...)``) is the tier's own.
    timeout
        Seconds that one attempt may take, one number or ``{tier: seconds}``; in a stream, until something is shown.
        An attempt that takes longer is a failure of its tier. It is enforced here and not handed to the tier, whose
        client may not know the argument; a synchronous call goes on in a thread, its answer dropped.
    max_retries
        How often a tier is called again after a time-out, a broken connection, 429 or 5xx; ``Retry-After`` is
        honoured. None by default, since providers' clients retry themselves.
    breaker
        A `Breaker` that keeps queries from a tier that is down.
    budget
        A `Budget` per call, per run or per time window. A run is LangGraph's ``thread_id``, else what follows one
        human message that has an id (those of an agent's state do), else what the calling run does.
    sticky
        ``"conversation"`` or a `Sticky`: stay with the tier that answered a conversation last, because switching
        throws away the provider's prompt cache. A conversation is LangGraph's ``thread_id``, else how it began.
    ledger
        A `Ledger`, or the URL of one, which is then kept without texts. Every finished query is appended, a stream
        that was left or broke after something was shown as far as it came; ``response_metadata["routenlp"]["id"]``
        names it for `Ledger.feedback`. Queries that raise before anything is shown, and answers from LangChain's
        cache, are not kept. Appending never fails or delays an answer. A copy shares the ledger; a pickle opens it
        again by its URL, password included; LangChain's JSON leaves it out.
    audits
        An `AuditPlan`, carried out in the background with this model's own tiers, or an `Auditor` whose callables
        take the messages. A copy spends from the same budget; a pickle keeps the plan.
    """

    # One query

    @described
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        query, trace = self._begin(messages, stop, kwargs, CASCADE), Trace.of(run_manager)
        with walking(self._walk(query)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                step = advance(steps, self._ask(query, step, run_manager, trace))
        return with_route(self._finish(query, step), query.declared(step.tier))

    @described
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        trace = Trace.of(run_manager)
        query = await self._aside(None, self._begin, messages, stop, kwargs, CASCADE)
        with walking(self._walk(query)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                reply = await self._aask(query, step, run_manager, trace)
                step = await self._aside(query, advance, steps, reply)
        return with_route(self._finish(query, step), query.declared(step.tier))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        trace = Trace.taken() or Trace.of(run_manager)
        query = self._begin(messages, stop, kwargs, None)
        buffered = query.plan.start.policy_name == CASCADE
        with walking(self._walk(query)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                if buffered and not step.final:
                    step = advance(steps, self._ask(query, step, None, trace))
                    continue
                tier, call = query.parts.models[step], query.plan.call
                screen = Screen(call, final=step.final)
                if step.wait_seconds:
                    time.sleep(step.wait_seconds)
                until_shown = Deadline(step.timeout_seconds)
                try:
                    with leaving(tier.stream(call, run_manager, trace)) as chunks:
                        while (chunk := until_shown.next(chunks)) is not None:
                            for ready in screen.add(chunk):
                                until_shown.lift()
                                yield ready
                except GeneratorExit:
                    query.leave(step, screen.answer, LEFT)
                    raise
                except Exception as error:
                    if screen.shown:
                        break_off(steps, error)
                        query.leave(step, screen.answer, BROKEN)
                        raise screen.broken(step, error) from error
                    step = advance(steps, error)
                else:
                    step = advance(steps, query.heard(step, screen.answer()))
        yield from last_chunks(self._finish(query, step), query.declared(step.tier))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        trace = Trace.taken() or Trace.of(run_manager)
        query = await self._aside(None, self._begin, messages, stop, kwargs, None)
        buffered = query.plan.start.policy_name == CASCADE
        with walking(self._walk(query)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                if buffered and not step.final:
                    step = await self._aside(query, advance, steps, await self._aask(query, step, None, trace))
                    continue
                tier, call = query.parts.models[step], query.plan.call
                screen = Screen(call, final=step.final)
                await asyncio.sleep(step.wait_seconds)
                until_shown = Deadline(step.timeout_seconds)
                try:
                    async with aclosing(tier.astream(call, run_manager, trace)) as chunks:
                        while (chunk := await until_shown.of(anext(chunks, None))) is not None:
                            for ready in screen.add(chunk):
                                until_shown.lift()
                                yield ready
                except (GeneratorExit, CancelledError):
                    query.leave(step, screen.answer, LEFT)
                    raise
                except Exception as error:
                    if screen.shown:
                        break_off(steps, error)
                        query.leave(step, screen.answer, BROKEN)
                        raise screen.broken(step, error) from error
                    step = advance(steps, error)
                else:
                    step = await self._aside(query, advance, steps, query.heard(step, screen.answer()))
        for chunk in last_chunks(self._finish(query, step), query.declared(step.tier)):
            yield chunk

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools; see `uncalibrated` for where queries then go.

        Parameters
        ----------
        tools
            Tools in any form LangChain takes; kept in OpenAI's format and bound to the tier when it is called.
        tool_choice
            As the tier takes it: ``"auto"``, ``"any"``, or the name of a tool.
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

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method | None = None,
        strict: bool | None = None,
        include_raw: bool = False,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Ask for answers of a schema; every tier is asked in its own mode, by a forced tool call where it has none.

        An answer of a cheap tier that does not fit is escalated, with the reason in its attempt.

        Parameters
        ----------
        schema
            A Pydantic class, a `TypedDict` class, a JSON schema or an OpenAI function.
        method
            ``"json_schema"``, ``"function_calling"`` or ``"json_mode"``; None leaves it to each tier.
        strict
            Passed to tiers that take it.
        include_raw
            Return ``{"raw", "parsed", "parsing_error"}`` and raise nothing, as LangChain does.

        Raises
        ------
        InputError
            For an unknown method, a missing schema, or arguments this method does not take.
        """
        if kwargs:
            msg = f"with_structured_output takes no {', '.join(map(repr, kwargs))}"
            raise InputError(msg)
        structure = Structure(schema, method, strict)
        told: dict[str, Any] = {STRUCTURE: structure}
        if schema is not None:
            options = {"method": structure.method or "native", "strict": strict}
            told["ls_structured_output_format"] = {"kwargs": options, "schema": schema}
        return structured(super().bind(**told), structure, include_raw=include_raw)
