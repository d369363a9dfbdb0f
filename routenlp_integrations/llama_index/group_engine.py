"""A group of interchangeable query engines as one query engine: the cheapest that suffices answers."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import ExitStack, aclosing, closing
from dataclasses import replace
from typing import Any, TypeVar

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, StreamingResponse
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import QueryBundle
from llama_index.core.settings import Settings

from routenlp_integrations.llama_index.group_streams import AsyncStream, Stream
from routenlp_integrations.llama_index.groups import EngineGroup, streams
from routenlp_integrations.llama_index.node_evidence import answer_of, text_of
from routenlp_integrations.llama_index.routes import RouteLog, put, told_of
from router_core.call_plan import streamed_policy, unless_lapsed
from router_core.driving import Step, Steps, advance, aperform, break_off, perform, walking
from router_core.errors import InputError, TierError
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.route import Answer, Route
from router_core.router import Start
from router_core.walk import walk

__all__ = ["GroupEngine"]

T = TypeVar("T")


class GroupEngine(BaseQueryEngine):
    """Asks a group's engines in cascade order, judges every answer by its evidence, and serves it or escalates.

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
    log
        Where routes are kept for the router that this group belongs to.

    Raises
    ------
    InputError
        When the bundle's portfolio names other engines.
    """

    def __init__(
        self, name: str, group: EngineGroup, engines: Mapping[str, BaseQueryEngine], log: RouteLog | None = None
    ) -> None:
        super().__init__(callback_manager=Settings.callback_manager)
        self.name = name
        self.group = group
        self.router = group.load()
        self._engines = dict(engines)
        self._log = log or RouteLog()
        cheap = [engines[engine] for engine in group.engines[:-1]]
        streaming = group.fitted and any(map(streams, cheap))
        self._policy = streamed_policy(self.router, group.stream_policy, group.task) if streaming else CASCADE

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    # What one query is asked, and what an engine answers

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

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        start = self._start(query_bundle)
        with ExitStack() as stack:
            steps = stack.enter_context(walking(self._walk(start)))
            step = advance(steps)
            while isinstance(step, Step):
                show = _may_show(start, step)
                reply = perform(step, lambda name=step, show=show: self._ask(name, query_bundle, show))  # type: ignore[misc]
                if isinstance(reply, Stream):
                    return self._shown(stack.pop_all(), steps, start, step, query_bundle, reply)
                step = advance(steps, _checked(reply))
        return self._served(step, query_bundle)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        start = await self._aside(self._start, query_bundle)
        with ExitStack() as stack:
            steps = stack.enter_context(walking(self._walk(start)))
            step = advance(steps)
            while isinstance(step, Step):
                show = _may_show(start, step)
                reply = await aperform(step, lambda name=step, show=show: self._aask(name, query_bundle, show))  # type: ignore[misc]
                if isinstance(reply, Stream | AsyncStream):
                    return self._shown(stack.pop_all(), steps, start, step, query_bundle, reply)
                step = await self._aside(advance, steps, _checked(reply))
        return self._served(step, query_bundle)

    async def _aside(self, work: Callable[..., T], *given: Any) -> T:
        """Do what may take milliseconds off the event loop, and what takes less than the way to a thread here."""
        return work(*given) if self.router.quick else await asyncio.to_thread(work, *given)

    def _told(self, route: Route) -> dict[str, Any]:
        lapsed = "" if route.certificate is None else self.router.lapses.why(route.scope)
        return told_of(unless_lapsed(route, lapsed), self.name)

    def _served(self, route: Route, query: QueryBundle) -> RESPONSE_TYPE:
        told = self._told(route)
        self._log.add(query, told)
        return put(route.answer.raw, told)

    # Streams

    def _shown(
        self,
        walked: ExitStack,
        steps: Steps,
        start: Start,
        step: Step,
        query: QueryBundle,
        stream: Stream | AsyncStream,
    ) -> RESPONSE_TYPE:
        """A response that streams what an engine says, and finishes its route at the end; `walked` ends the walk."""
        told: dict[str, Any] = {
            "group": self.name,
            "tier": str(step),
            "attempts": [],
            "cost_usd": None,
            "task": start.task,
            "policy": start.policy_name,
            "bundle": self.router.bundle_id or None,
            "certificate": None,
            "reason": "the stream has not ended",
        }
        self._log.add(query, told)
        if isinstance(stream, Stream):
            tokens = self._tokens(walked, steps, step, query, stream, told)
            return put(replace(stream.response, response_gen=tokens, response_txt=None), told)
        atokens = self._atokens(walked, steps, step, query, stream, told)
        return put(replace(stream.response, response_gen=atokens, response_txt=None), told)

    def _tokens(
        self, walked: ExitStack, steps: Steps, step: Step, query: QueryBundle, stream: Stream, told: dict[str, Any]
    ) -> Generator[str, None, None]:
        with walked:
            try:
                with closing(stream.rest()) as pieces:
                    yield from pieces
            except Exception as error:
                raise _broken(steps, step, stream.text, told, error) from error
            self._ended(steps, step, query, stream, told)

    async def _atokens(
        self, walked: ExitStack, steps: Steps, step: Step, query: QueryBundle, stream: AsyncStream, told: dict[str, Any]
    ) -> AsyncGenerator[str, None]:
        with walked:
            try:
                async with aclosing(stream.rest()) as pieces:
                    async for piece in pieces:
                        yield piece
            except Exception as error:
                raise _broken(steps, step, stream.text, told, error) from error
            await self._aside(self._ended, steps, step, query, stream, told)

    def _ended(
        self, steps: Steps, step: Step, query: QueryBundle, stream: Stream | AsyncStream, told: dict[str, Any]
    ) -> None:
        answer = replace(self._read(step, query, stream.response, stream.text), shown=True)
        route = advance(steps, answer)
        assert isinstance(route, Route), "what was shown is served"  # noqa: S101
        told.update(self._told(route))


def _may_show(start: Start, step: Step) -> bool:
    """Whether an answer may be shown before it is whole: nothing will judge it."""
    return step.final or start.policy_name == ROUTE_ONLY


def _checked(reply: Any) -> Any:
    """A reply to the walk; a mistake of the caller is no failure of the engine.

    Raises
    ------
    InputError
        As the engine's call did.
    """
    if isinstance(reply, InputError):
        raise reply
    return reply


def _broken(steps: Steps, step: Step, said: str, told: dict[str, Any], error: Exception) -> TierError:
    """What is raised when an engine fails after something was shown: another answer cannot be put behind it."""
    break_off(steps, error)
    failed = (
        f"{step} failed in the middle of its answer, after {len(said)} characters of it were shown: "
        f"{type(error).__name__}"
    )
    told["reason"] = failed
    return TierError(failed)
