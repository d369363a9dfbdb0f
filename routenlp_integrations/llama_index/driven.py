"""The way of one call through the tiers: planned, walked, shown, told; synchronously, asynchronously and in chunks."""

import asyncio
import time
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
    content_departure,
    model_name_of,
    sent_tokens,
    with_route,
)
from routenlp_integrations.llama_index.streaming import Screen, last_chunk
from router_core.call_plan import (
    Plan,
    checked_model,
    decoding_changes,
    form_departure,
    plan_call,
    streamed_policy,
)
from router_core.driving import Step, Steps, advance, aperform, break_off, perform, walking
from router_core.policy import CASCADE
from router_core.route import Answer, Route
from router_core.route_text import route_text
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
        return Call(given, prompt, formatted, kwargs, form_of(kwargs))

    def _plan(self, call: Call, asked: Asked, policy: str | None) -> Plan:
        """The plan of a call; policy None is that of streams."""
        task = asked.task or self.task
        made = plan_call(
            self.router,
            call,
            route_text(call.said),
            policy or streamed_policy(self.router, self.stream_policy, task),
            task=task,
            tier=asked.tier,
            forced_by="tier=",
            uncalibrated=self.uncalibrated,
            lacks=lacking(call, self._abilities),
            content=content_departure(call.messages),
            form=form_departure(call.params),
            changed=decoding_changes(call.params, {}),
        )
        if self._sticky is not None:
            key = conversation_key(call.said, asked.conversation)
            made = replace(made, start=self._sticky.start(self.router, made.start, key), key=key)
        if self.budget is not None:
            made = replace(made, run=asked.conversation or asked.run, prompt_tokens=sent_tokens(call))
        return made

    async def _aside(self, work: Callable[..., T], *given: Any) -> T:
        """Do what may take milliseconds off the event loop, and what takes less than the way to a thread here."""
        if self.router.quick:
            return work(*given)
        return await asyncio.to_thread(work, *given)

    def _walk(self, made: Plan) -> Steps:
        return walk(
            self.router,
            made.start,
            self.on_failure,
            self.on_reference_failure,
            limits=self._limits,
            able=made.able,
            run=made.run,
            prompt_tokens=made.prompt_tokens,
        )

    def _heard(self, tier: str, reply: Answer | Exception) -> Answer | Exception:
        return checked_model(self.router, tier, reply, model_name_of(reply.raw)) if isinstance(reply, Answer) else reply

    def _finish(self, made: Plan, route: Route, span: str | None) -> Route:
        if self._sticky is not None and made.key is not None:
            self._sticky.served(made.key, route.tier)
        route = made.finish(route, self.router.lapses.why(route.scope))
        dispatcher.event(RoutingDecisionEvent.of(route, span_id=span))
        return route

    def _answer(self, call: Call, asked: Asked) -> Response:
        span, made = active_span_id.get(), self._plan(call, asked, CASCADE)
        with walking(self._walk(made)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                tier = self._tiers[step]
                step = advance(steps, self._heard(step, perform(step, lambda: tier.ask(call, span))))  # noqa: B023
        return with_route(self._finish(made, step, span))

    async def _aanswer(self, call: Call, asked: Asked) -> Response:
        span, made = active_span_id.get(), await self._aside(self._plan, call, asked, CASCADE)
        with walking(self._walk(made)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                tier = self._tiers[step]
                reply = await aperform(step, lambda: tier.aask(call, span))  # noqa: B023
                step = await self._aside(advance, steps, self._heard(step, reply))
        return with_route(self._finish(made, step, span))

    def _chunks(self, made: Plan, span: str | None) -> Generator[Response, None, None]:
        call: Call = made.call
        with walking(self._walk(made)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                tier = self._tiers[step]
                if made.start.policy_name == CASCADE and not step.final:
                    step = advance(steps, self._heard(step, perform(step, lambda: tier.ask(call, span))))  # noqa: B023
                    continue
                screen = Screen(step, call, final=step.final)
                if step.wait_seconds:
                    time.sleep(step.wait_seconds)
                until_shown = Deadline(step.timeout_seconds)
                try:
                    with leaving(tier.stream(call, span)) as chunks:
                        while (chunk := until_shown.next(chunks)) is not None:
                            for ready in screen.add(chunk):
                                until_shown.lift()
                                yield ready
                except Exception as error:
                    if screen.shown:
                        break_off(steps, error)
                        raise screen.broken(error) from error
                    step = advance(steps, error)
                else:
                    step = advance(steps, self._heard(step, screen.answer(tier.llm)))
        yield last_chunk(self._finish(made, step, span))

    async def _achunks(self, made: Plan, span: str | None) -> AsyncGenerator[Response, None]:
        call: Call = made.call
        with walking(self._walk(made)) as steps:
            step = advance(steps)
            while isinstance(step, Step):
                tier = self._tiers[step]
                if made.start.policy_name == CASCADE and not step.final:
                    reply = await aperform(step, lambda: tier.aask(call, span))  # noqa: B023
                    step = await self._aside(advance, steps, self._heard(step, reply))
                    continue
                screen = Screen(step, call, final=step.final)
                await asyncio.sleep(step.wait_seconds)
                until_shown = Deadline(step.timeout_seconds)
                try:
                    async with aclosing(tier.astream(call, span)) as chunks:
                        while (chunk := await until_shown.of(anext(chunks, None))) is not None:
                            for ready in screen.add(chunk):
                                until_shown.lift()
                                yield ready
                except Exception as error:
                    if screen.shown:
                        break_off(steps, error)
                        raise screen.broken(error) from error
                    step = advance(steps, error)
                else:
                    step = await self._aside(advance, steps, self._heard(step, screen.answer(tier.llm)))
        yield last_chunk(self._finish(made, step, span))
