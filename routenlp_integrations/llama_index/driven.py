"""The way of one call through the tiers: planned, walked, shown, told; synchronously, asynchronously and in chunks."""

import asyncio
import time
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.span import active_span_id

from routenlp_integrations.llama_index.assembled import AssembledLLM
from routenlp_integrations.llama_index.calls import Asked, Call
from routenlp_integrations.llama_index.capabilities import lacking
from routenlp_integrations.llama_index.events import RoutingDecisionEvent
from routenlp_integrations.llama_index.forms import form_of
from routenlp_integrations.llama_index.messages import (
    Response,
    as_asked,
    content_departure,
    sent_tokens,
    with_route,
)
from routenlp_integrations.llama_index.prompts import TEMPLATE, MarkedMessages, MarkedText
from routenlp_integrations.llama_index.query import Query
from routenlp_integrations.llama_index.streaming import Screen, last_chunk
from router_core.call_plan import (
    decoding_changes,
    form_departure,
    plan_call,
    streamed_policy,
)
from router_core.driving import Step, Steps, advance, aperform, break_off, perform, walking
from router_core.errors import InputError
from router_core.logged_query import BROKEN, LEFT
from router_core.policy import CASCADE
from router_core.route import Route
from router_core.route_text import NOTHING_ASKED, asks, route_text
from router_core.showing import Deadline, leaving
from router_core.sticky import conversation_key
from router_core.walk import walk

__all__ = ["DrivenLLM"]

T = TypeVar("T")
dispatcher = get_dispatcher(__name__)


class DrivenLLM(AssembledLLM):
    """The part of a `RoutingLLM` that carries a call through the tiers."""

    def _call(self, messages: Sequence[ChatMessage] | None, prompt: str, formatted: bool, kwargs: Any) -> Call:
        given = None if messages is None else list(messages)
        if given is not None and not given:
            raise InputError("the conversation has no messages; give chat at least one, such as a user's")
        # None says nothing: it must not take away what a tier was made with.
        told = {name: value for name, value in kwargs.items() if value is not None}
        template = told.pop(TEMPLATE, None)
        if given is not None:
            source = messages.source if isinstance(messages, MarkedMessages) else None
        else:
            source = prompt.source if isinstance(prompt, MarkedText) else template
        return Call(given, str(prompt), formatted, told, form_of(told), source)

    def _begin(self, call: Call, asked: Asked, policy: str | None, span: str | None) -> Query:
        """Plan a query; without a policy, by that of streams."""
        router, log, task = self.current, self._log, asked.task or self.task
        decision = None if log is None else log.begin()
        pins = {tier.name: tier.model for tier in router.portfolio.tiers}
        call = replace(call, task=router.scopes.named(task), pins=pins)
        made = plan_call(
            router,
            call,
            route_text(call.said),
            policy or streamed_policy(router, self.stream_policy, task),
            task=task,
            tier=asked.tier,
            forced_by="tier=",
            uncalibrated=self.uncalibrated,
            lacks=lacking(call, self._abilities, self._added),
            content=content_departure(call.content) or ("" if asks(call.said) else NOTHING_ASKED),
            form=form_departure(call.params),
            changed=decoding_changes(call.params, {}),
        )
        if self._sticky is not None:
            key = conversation_key(call.said, asked.conversation)
            made = replace(made, start=self._sticky.start(router, made.start, key), key=key)
        if self.budget is not None:
            added = 0 if call.source is None else max(self._added.values())
            made = replace(made, run=asked.conversation or asked.run, prompt_tokens=sent_tokens(call) + added)
        return Query(router, made, log, decision, asked.conversation, span=span)

    async def _aside(self, query: Query | None, work: Callable[..., T], *given: Any) -> T:
        """Do what may take milliseconds off the event loop, and what takes less than the way to a thread here."""
        if (self.current if query is None else query.router).quick:
            return work(*given)
        return await asyncio.to_thread(work, *given)

    def _walk(self, query: Query) -> Steps:
        made = query.plan
        return walk(
            query.router,
            made.start,
            self.on_failure,
            self.on_reference_failure,
            limits=self._limits,
            able=made.able,
            run=made.run,
            prompt_tokens=made.prompt_tokens,
        )

    def _finish(self, query: Query, route: Route) -> Route:
        if self._sticky is not None and query.plan.key is not None:
            self._sticky.served(query.plan.key, route.tier)
        route = query.finish(route)
        dispatcher.event(RoutingDecisionEvent.of(route, span_id=query.span))
        return route

    def _answer(self, call: Call, asked: Asked) -> Response:
        query = self._begin(call, asked, CASCADE, active_span_id.get())
        call = query.plan.call
        with walking(self._walk(query)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                tier = self._tiers[step]
                step = advance(steps, query.heard(step, perform(step, lambda: tier.ask(call, query.span))))  # noqa: B023
        return as_asked(with_route(self._finish(query, step)), call)

    async def _aanswer(self, call: Call, asked: Asked) -> Response:
        query = await self._aside(None, self._begin, call, asked, CASCADE, active_span_id.get())
        call = query.plan.call
        with walking(self._walk(query)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                tier = self._tiers[step]
                reply = await aperform(step, lambda: tier.aask(call, query.span))  # noqa: B023
                step = await self._aside(query, advance, steps, query.heard(step, reply))
        return as_asked(with_route(self._finish(query, step)), call)

    def _chunks(self, query: Query) -> Generator[Response, None, None]:
        call: Call = query.plan.call
        with walking(self._walk(query)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                tier = self._tiers[step]
                if query.plan.start.policy_name == CASCADE and not step.final:
                    step = advance(steps, query.heard(step, perform(step, lambda: tier.ask(call, query.span))))  # noqa: B023
                    continue
                screen = Screen(step, call, final=step.final)
                if step.wait_seconds:
                    time.sleep(step.wait_seconds)
                until_shown = Deadline(step.timeout_seconds)
                try:
                    with leaving(tier.stream(call, query.span)) as chunks:
                        while (chunk := until_shown.next(chunks)) is not None:
                            for ready in screen.add(chunk):
                                until_shown.lift()
                                yield as_asked(ready, call)
                except GeneratorExit:
                    query.leave(step, lambda: screen.answer(tier.quiet), LEFT)  # noqa: B023
                    raise
                except Exception as error:
                    if screen.shown:
                        break_off(steps, error)
                        query.leave(step, lambda: screen.answer(tier.quiet), BROKEN)  # noqa: B023
                        raise screen.broken(error) from error
                    step = advance(steps, error)
                else:
                    step = advance(steps, query.heard(step, screen.answer(tier.quiet)))
        yield as_asked(last_chunk(self._finish(query, step)), call)

    async def _achunks(self, query: Query) -> AsyncGenerator[Response, None]:
        call: Call = query.plan.call
        with walking(self._walk(query)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                tier = self._tiers[step]
                if query.plan.start.policy_name == CASCADE and not step.final:
                    reply = await aperform(step, lambda: tier.aask(call, query.span))  # noqa: B023
                    step = await self._aside(query, advance, steps, query.heard(step, reply))
                    continue
                screen = Screen(step, call, final=step.final)
                await asyncio.sleep(step.wait_seconds)
                until_shown = Deadline(step.timeout_seconds)
                try:
                    async with aclosing(tier.astream(call, query.span)) as chunks:
                        while (chunk := await until_shown.of(anext(chunks, None))) is not None:
                            for ready in screen.add(chunk):
                                until_shown.lift()
                                yield as_asked(ready, call)
                except (GeneratorExit, CancelledError):
                    query.leave(step, lambda: screen.answer(tier.quiet), LEFT)  # noqa: B023
                    raise
                except Exception as error:
                    if screen.shown:
                        break_off(steps, error)
                        query.leave(step, lambda: screen.answer(tier.quiet), BROKEN)  # noqa: B023
                        raise screen.broken(error) from error
                    step = advance(steps, error)
                else:
                    step = await self._aside(query, advance, steps, query.heard(step, screen.answer(tier.quiet)))
        yield as_asked(last_chunk(self._finish(query, step)), call)
