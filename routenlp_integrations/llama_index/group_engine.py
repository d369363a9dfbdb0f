"""A group of interchangeable query engines as one: the cheapest that suffices answers."""

import asyncio
import copy
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import ExitStack, aclosing, closing
from dataclasses import replace
from typing import Any, TypeVar

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, StreamingResponse
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.schema import QueryBundle

from routenlp_integrations.llama_index.events import RoutingDecisionEvent
from routenlp_integrations.llama_index.group_query import GroupQuery, broken, checked, may_show
from routenlp_integrations.llama_index.group_streams import AsyncStream, Stream
from routenlp_integrations.llama_index.groups import EngineGroup, streams
from routenlp_integrations.llama_index.node_evidence import answer_of, text_of
from routenlp_integrations.llama_index.routes import QueryRoutes, put, remade, told_of
from router_core.call_plan import Plan, streamed_policy
from router_core.driving import Step, Steps, advance, aperform, perform, walking, within
from router_core.errors import InputError
from router_core.logged_query import BROKEN, LEFT
from router_core.policy import CASCADE
from router_core.route import Answer, Route
from router_core.route_log import RouteLog
from router_core.router import Start
from router_core.walk import walk

__all__ = ["GroupEngine"]

T = TypeVar("T")
dispatcher = get_dispatcher(__name__)


class GroupEngine:
    """Asks a group's engines in cascade order, judges every answer by its evidence, and serves it or escalates.

    It stands where a router keeps a query engine, and is none itself: the query has the router's span and events, and
    those of every engine that was asked. Where it went is a `RoutingDecisionEvent`.

    The response is the answering engine's own, with the route under ``metadata["routenlp"]``; that of a stream is
    completed when the stream ends.

    Parameters
    ----------
    name
        Name of the group.
    group
        Which engines, and what decides.
    engines
        The engine behind every name.
    routes
        Where routes are found again by the router that this group belongs to.
    ledger, audits
        As for `RouterQueryEngine`.

    Raises
    ------
    InputError
        When the bundle's portfolio names other engines.
    """

    def __init__(
        self,
        name: str,
        group: EngineGroup,
        engines: Mapping[str, BaseQueryEngine],
        routes: QueryRoutes,
        ledger: Any = None,
        audits: Any = None,
    ) -> None:
        self.name = name
        self.group = group
        self.router = group.load()
        self._engines = dict(engines)
        self._routes = routes
        self._log = RouteLog.of(ledger, audits, {name: self._asking(name) for name in group.engines}, self.router.price)
        cheap = [engines[engine] for engine in group.engines[:-1]]
        streaming = group.fitted and any(map(streams, cheap))
        self._policy = streamed_policy(self.router, group.stream_policy, group.task) if streaming else CASCADE

    def _asking(self, name: str) -> Callable[[QueryBundle], Any]:
        """An engine as an audit asks it: as a whole, and for so many seconds."""
        seconds = None if self.group.limits is None else self.group.limits.seconds(name)
        return lambda query: within(seconds, lambda: self._ask(name, query, False))

    # What one query is asked, and what an engine answers

    def _begin(self, query: QueryBundle) -> GroupQuery:
        decision = None if self._log is None else self._log.begin()
        plan = Plan(query, self._start(query), {}, "", True, self.router.portfolio.names)
        return GroupQuery(self.router, plan, self._log, decision, span=active_span_id.get())

    def _start(self, query: QueryBundle) -> Start:
        if query.image_path:
            why, reference = "the query holds an image, which calib did not have", self.router.portfolio.reference.name
            return self.router.force(query.query_str, self.group.task, self._policy, reference, why)
        return self.router.start(query.query_str, self.group.task, self._policy)

    def _walk(self, start: Start) -> Steps:
        group = self.group
        return walk(self.router, start, group.on_failure, group.on_reference_failure, limits=group.limits)

    def _read(self, name: str, query: QueryBundle, response: RESPONSE_TYPE, text: str) -> Answer:
        return answer_of(name, query.query_str, response, text, self.group.price)

    def _ask(self, name: str, query: QueryBundle, show: bool) -> Answer | Stream:
        # A copy: retrievers leave their embedding in the query, and another engine's may be of another model.
        response = self._engines[name].query(copy.copy(query))
        if isinstance(response, AsyncStreamingResponse):
            msg = f"engine {name!r} answered query() with an asynchronous stream; use aquery()"
            raise InputError(msg)
        if isinstance(response, StreamingResponse):
            return self._begun(name, query, Stream(response), show)
        return self._read(name, query, response, text_of(response))

    def _begun(self, name: str, query: QueryBundle, stream: Stream, show: bool) -> Answer | Stream:
        if show and stream.begin():
            return stream
        whole = stream.whole()
        return self._read(name, query, whole, stream.text)

    async def _aask(self, name: str, query: QueryBundle, show: bool) -> Answer | Stream | AsyncStream:
        response = await self._engines[name].aquery(copy.copy(query))
        if isinstance(response, StreamingResponse):
            return await asyncio.to_thread(self._begun, name, query, Stream(response), show)
        if not isinstance(response, AsyncStreamingResponse):
            return self._read(name, query, response, text_of(response))
        stream = AsyncStream(response)
        if show and await stream.begin():
            return stream
        whole = await stream.whole()
        return self._read(name, query, whole, stream.text)

    # One query

    def query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        """Answer; see `BaseQueryEngine.query`."""
        query = self._begin(query_bundle)
        with ExitStack() as stack:
            steps = stack.enter_context(walking(self._walk(query.start)))
            step = advance(steps)
            while isinstance(step, Step):
                show = may_show(query.start, step)
                reply = perform(step, lambda name=step, show=show: self._ask(name, query_bundle, show))  # type: ignore[misc]
                if isinstance(reply, Stream):
                    return self._shown(stack.pop_all(), steps, query, step, reply)
                step = advance(steps, query.heard(step, checked(reply)))
        return self._served(step, query)

    async def aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        """Answer without blocking the event loop; see `BaseQueryEngine.aquery`."""
        query = await self._aside(self._begin, query_bundle)
        with ExitStack() as stack:
            steps = stack.enter_context(walking(self._walk(query.start)))
            step = advance(steps)
            while isinstance(step, Step):
                show = may_show(query.start, step)
                reply = await aperform(step, lambda name=step, show=show: self._aask(name, query_bundle, show))  # type: ignore[misc]
                if isinstance(reply, Stream | AsyncStream):
                    return await self._ashown(stack.pop_all(), steps, query, step, reply)
                step = await self._aside(advance, steps, query.heard(step, checked(reply)))
        return self._served(step, query)

    async def _aside(self, work: Callable[..., T], *given: Any) -> T:
        """Do what may take milliseconds off the event loop, and what takes less than the way to a thread here."""
        return work(*given) if self.router.quick else await asyncio.to_thread(work, *given)

    def _told(self, route: Route, query: GroupQuery) -> dict[str, Any]:
        route = query.finish(route)
        dispatcher.event(RoutingDecisionEvent.of(route, group=self.name, span_id=query.span))
        return told_of(route, self.name, query.answers)

    def _served(self, route: Route, query: GroupQuery) -> RESPONSE_TYPE:
        told = self._told(route, query)
        self._routes.add(query.bundle, told)
        return put(route.answer.raw, told)

    # Streams: begun at once, so that one that nobody reads is left as well, when it is collected.

    def _shown(
        self,
        walked: ExitStack,
        steps: Steps,
        query: GroupQuery,
        step: Step,
        stream: Stream,
    ) -> RESPONSE_TYPE:
        """A response that streams what an engine says, and finishes its route at the end; `walked` ends the walk."""
        told = self._opened(query, step)
        tokens = self._tokens(walked, steps, step, query, stream, told)
        next(tokens)
        return put(remade(stream.response, response_gen=tokens, response_txt=None), told)

    async def _ashown(
        self, walked: ExitStack, steps: Steps, query: GroupQuery, step: Step, stream: Stream | AsyncStream
    ) -> RESPONSE_TYPE:
        if isinstance(stream, Stream):
            return self._shown(walked, steps, query, step, stream)
        told = self._opened(query, step)
        tokens = self._atokens(walked, steps, step, query, stream, told)
        await anext(tokens)
        return put(remade(stream.response, response_gen=tokens, response_txt=None), told)

    def _opened(self, query: GroupQuery, step: Step) -> dict[str, Any]:
        """The route of a stream that has not ended."""
        told: dict[str, Any] = {
            "group": self.name,
            "tier": str(step),
            "attempts": [],
            "cost_usd": None,
            "task": query.start.task,
            "policy": query.start.policy_name,
            "bundle": self.router.bundle_id or None,
            "certificate": None,
            "reason": "the stream has not ended",
        }
        self._routes.add(query.bundle, told)
        return told

    def _tokens(
        self, walked: ExitStack, steps: Steps, step: Step, query: GroupQuery, stream: Stream, told: dict[str, Any]
    ) -> Generator[str, None, None]:
        with walked:
            try:
                with stream.left(), closing(stream.rest()) as pieces:
                    yield ""
                    yield from pieces
            except GeneratorExit:
                self._cut(step, query, stream, told, LEFT)
                raise
            except Exception as error:
                self._cut(step, query, stream, told, BROKEN)
                raise broken(steps, step, stream.text, told, error) from error
            self._ended(steps, step, query, stream, told)

    async def _atokens(
        self, walked: ExitStack, steps: Steps, step: Step, query: GroupQuery, stream: AsyncStream, told: dict[str, Any]
    ) -> AsyncGenerator[str, None]:
        with walked:
            try:
                async with stream.left(), aclosing(stream.rest()) as pieces:
                    yield ""
                    async for piece in pieces:
                        yield piece
            except (GeneratorExit, CancelledError):
                self._cut(step, query, stream, told, LEFT)
                raise
            except Exception as error:
                self._cut(step, query, stream, told, BROKEN)
                raise broken(steps, step, stream.text, told, error) from error
            await self._aside(self._ended, steps, step, query, stream, told)

    def _ended(
        self, steps: Steps, step: Step, query: GroupQuery, stream: Stream | AsyncStream, told: dict[str, Any]
    ) -> None:
        route = advance(steps, query.heard(step, self._whole(step, query, stream)))
        assert isinstance(route, Route), "what was shown is served"  # noqa: S101
        told.update(self._told(route, query))

    def _cut(self, step: Step, query: GroupQuery, stream: Stream | AsyncStream, told: dict[str, Any], why: str) -> None:
        """Tell what is known of a stream that did not come to its end, of what was paid for it above all."""
        route = query.left(step, lambda: self._whole(step, query, stream), why)
        if route is not None:
            told.update(told_of(route, self.name, query.answers))

    def _whole(self, step: Step, query: GroupQuery, stream: Stream | AsyncStream) -> Answer:
        """What was shown of a stream."""
        return replace(self._read(step, query.bundle, stream.response, stream.text), shown=True)
