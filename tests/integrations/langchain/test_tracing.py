"""Runs: one for the user, one child for each attempt for tracers, parented in every entrance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest
from bundles import DOUBTFUL
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer
from langchain_core.tracers.schemas import Run
from scripted import STREAMS, USAGE, WHOLE, Make, ask, route_of

from routenlp_integrations.langchain.tracing import ATTEMPT_TAG


class Kept(BaseTracer):
    """Keeps the root runs, children inside."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []
        self.begun: list[str] = []

    def _on_run_create(self, run: Run) -> None:
        self.begun.append(run.name)

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


class KeptAsync(AsyncBaseTracer):
    """Keeps the root runs, children inside."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    async def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


class Everything(BaseCallbackHandler):
    """A user's own handler: it must see one run."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_chat_model_start(self, *_args: Any, **_kwargs: Any) -> None:
        """A run began."""
        self.seen.append("start")

    def on_llm_end(self, *_args: Any, **_kwargs: Any) -> None:
        """A run ended."""
        self.seen.append("end")


class Feeding(Kept):
    """Keeps runs in order to feed a stream, as `astream_log` does."""

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Pass on."""
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        """Pass on."""
        return output


@pytest.mark.parametrize("how", WHOLE + STREAMS)
@pytest.mark.parametrize("policy", ["route", "buffer"])
async def test_attempts_are_child_runs(make: Make, easy: str, how: str, policy: str) -> None:
    """Each attempt is a child of the query's run, with its tier, its usage and its tag; others see one run."""
    model, _ = make({"small": {"reply": DOUBTFUL}}, stream_policy=policy)
    kept, seen = Kept(), Everything()
    config: Any = {"callbacks": [kept, seen], "tags": ["mine"], "metadata": {"user": "u"}}
    with get_usage_metadata_callback() as usage:
        message = await ask(model, how, easy, config=config)
    route = route_of(message)
    (root,) = kept.roots
    assert [run.name for run in root.child_runs] == [a["tier"] for a in route["attempts"]]
    for run in root.child_runs:
        assert run.parent_run_id == root.id
        assert run.run_type in ("llm", "chat_model")
        assert {ATTEMPT_TAG, "mine"} <= set(run.tags or [])
        assert run.extra["metadata"]["routenlp_tier"] == run.name
        assert run.extra["metadata"]["user"] == "u"
        assert run.outputs is not None
        told = run.outputs["generations"][0][0]["message"]["kwargs"]
        assert told["usage_metadata"] == USAGE
        assert "routenlp" not in told.get("response_metadata", {})
        assert "sk-" not in str(run.serialized)
    assert ATTEMPT_TAG not in (root.tags or [])
    assert seen.seen == ["start", "end"]
    assert usage.usage_metadata == {message.response_metadata["model_name"]: USAGE}


@pytest.mark.parametrize("how", WHOLE + STREAMS)
async def test_a_failing_attempt_says_so(make: Make, easy: str, how: str) -> None:
    """The child run of a tier that fails ends with its error; the query's own run does not."""
    model, _ = make({"small": {"fails": ConnectionError("down")}})
    kept = Kept()
    await ask(model, how, easy, config={"callbacks": [kept]})
    (root,) = kept.roots
    assert root.error is None
    assert [run.error is None for run in root.child_runs] == [False, True]
    assert "ConnectionError" in str(root.child_runs[0].error)


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
async def test_asynchronous_tracers_keep_attempts_too(make: Make, easy: str, how: str) -> None:
    """An `AsyncBaseTracer` is a tracer, and so is one that was given to the model itself."""
    kept = KeptAsync()
    own = Kept()
    model, _ = make(callbacks=[own])
    await ask(model, how, easy, config={"callbacks": [kept]})
    for tracer in (kept, own):
        (root,) = tracer.roots
        assert [run.name for run in root.child_runs] == ["small"]


async def test_attempts_find_their_parent_inside_a_chain(make: Make, easy: str) -> None:
    """Behind other runnables, in streams and under `configurable`, attempts hang under the model's run."""
    model, _ = make()
    chain: Any = RunnableLambda(lambda text: text) | model.with_config(tags=["inner"])
    for stream in (False, True):
        kept = Kept()
        config: Any = {"callbacks": [kept], "configurable": {"tier": "medium"}}
        if stream:
            assert list(chain.stream(easy, config))
        else:
            chain.invoke(easy, config)
        (root,) = kept.roots
        (inner,) = [run for run in root.child_runs if run.name == "RoutingChatModel"]
        assert [run.name for run in inner.child_runs] == ["medium"]


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_event_streams_show_no_attempt(make: Make, easy: str) -> None:
    """Attempts are in no event of v2 or v3, also when an `invoke` is turned into a stream; a tracer still has them."""
    model, _ = make({"small": {"fails": ConnectionError("down")}})
    kept = Kept()
    config: Any = {"callbacks": [kept]}
    chain: Any = RunnableLambda(lambda text, config: model.invoke(text, config))  # noqa: PLW0108 - its signature asks for the config
    for runnable in (model, chain):
        events = [event async for event in runnable.astream_events(easy, config, version="v2")]
        starts = [event["name"] for event in events if event["event"] == "on_chat_model_start"]
        assert starts == ["RoutingChatModel"]
        assert not any(ATTEMPT_TAG in event.get("tags", []) for event in events)
    (own, chained) = kept.roots
    assert [run.name for run in own.child_runs] == ["small", "large"]
    assert [run.name for run in chained.child_runs[0].child_runs] == ["small", "large"]
    third = model.stream_events(easy, config, version="v3")
    assert route_of(third.output)["tier"] == "large"
    assert [run.name for run in kept.roots[-1].child_runs] == ["small", "large"]


@pytest.mark.parametrize("how", WHOLE + STREAMS)
async def test_a_handler_that_feeds_a_stream_sees_no_attempt(make: Make, easy: str, how: str) -> None:
    """A tracer that is a stream's source gets the query's run alone, another one beside it the attempts."""
    model, _ = make()
    feeding, kept = Feeding(), Kept()
    await ask(model, how, easy, config={"callbacks": [feeding, kept]})
    assert [len(root.child_runs) for root in feeding.roots] == [0]
    assert [len(root.child_runs) for root in kept.roots] == [1]


def test_a_trace_is_handed_over_once(make: Make, easy: str) -> None:
    """A later stream in the same context does not report to the run of an earlier one."""
    model, tiers = make()
    kept = Kept()
    model.invoke(easy, {"callbacks": [Feeding(), kept]})
    assert list(model._stream([HumanMessage(easy)]))
    assert len(tiers["small"].calls) == 2
    assert kept.begun == ["RoutingChatModel", "small"]


async def test_a_stream_left_early_ends_its_child_run(make: Make, easy: str) -> None:
    """Leaving a stream closes the tier's stream and the child run, in both worlds."""
    model, tiers = make()
    kept = Kept()
    now = model.stream(easy, {"callbacks": [kept]})
    next(now)
    now.close()  # type: ignore[attr-defined]
    later = model.astream(easy, {"callbacks": [kept]})
    await anext(later)
    await later.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0.05)
    assert tiers["small"].closed == 2
    assert [[run.end_time is not None for run in root.child_runs] for root in kept.roots] == [[True], [True]]


async def test_concurrent_streams_keep_their_own_attempts(make: Make, easy: str) -> None:
    """Streams that interleave on one event loop do not take each other's parent."""
    model, _ = make({"small": {"delay": 0.001}})
    tracers = [Kept() for _ in range(8)]
    await asyncio.gather(*(ask(model, "astream", easy, config={"callbacks": [kept]}) for kept in tracers))
    sources = [model.stream(easy, {"callbacks": [kept]}) for kept in tracers]
    for chunks in zip(*sources, strict=True):
        assert len(chunks) == len(tracers)
    for kept in tracers:
        assert [[run.name for run in root.child_runs] for root in kept.roots] == [["small"], ["small"]]
