"""What is told to those who watch: one LLM event a query, its attempts as tagged spans, and where it went."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from bundles import DOUBTFUL, TIERS
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span.simple import SimpleSpan
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from scripted_llm import EVERY, STREAMS, WHOLE, Events, Make, ask, chunks_of, route_of, user

from routenlp_integrations.llama_index import RoutingDecisionEvent
from router_core.errors import TierError

DOUBTS: dict[str, dict[str, Any]] = {"small": {"reply": DOUBTFUL}, "medium": {"reply": DOUBTFUL}}


@pytest.fixture
def spans() -> Iterator[SimpleSpanHandler]:
    """A span handler at the root."""
    root, handler = get_dispatcher(), SimpleSpanHandler()
    before = list(root.span_handlers)
    root.span_handlers = [*before, handler]
    yield handler
    root.span_handlers = before


@pytest.mark.parametrize("how", EVERY)
async def test_the_decision_is_told_once(make: Make, easy: str, events: Events, how: str) -> None:
    """One event with the route of the response, in the query's span, before the query ends; no text in it."""
    llm, _ = make(DOUBTS)
    response = await ask(llm, how, easy)
    (event,) = [e for e in events.seen if isinstance(e, RoutingDecisionEvent)]
    told = event.model_dump()
    route = route_of(response)
    assert {name: told[name] for name in route} == route
    assert told["class_name"] == "RoutingDecisionEvent"
    assert event.span_id is not None
    assert event.span_id.startswith(f"RoutingLLM.{how}-")
    assert easy not in str(event)
    names = [e.class_name() for e in events.seen]
    assert names.index("RoutingDecisionEvent") < len(names) - 1
    assert names[-1] == ("LLMChatEndEvent" if "chat" in how else "LLMCompletionEndEvent")


@pytest.mark.parametrize("how", EVERY)
async def test_a_query_is_one_event_and_its_attempts_are_tagged(
    make: Make, easy: str, events: Events, how: str
) -> None:
    """Start, progress and end of the query without a tag; the tiers' own under the tag, each tier's once."""
    llm, _ = make(DOUBTS)
    chunks = await chunks_of(llm, how, easy)
    kind = "Chat" if "chat" in how else "Completion"
    start, end, between = (f"LLM{kind}{what}Event" for what in ("Start", "End", "InProgress"))
    shown = [between] * len(chunks) if how in STREAMS else []
    assert [name for name in events.names(None) if name.startswith("LLM")] == [start, *shown, end]
    for attempt in route_of(chunks[-1])["attempts"]:
        names = events.names(attempt["tier"])
        assert (names.count(start), names.count(end)) == (1, 1)
    assert not events.names("large") or how in WHOLE


@pytest.mark.parametrize("how", EVERY)
async def test_attempts_are_spans_under_the_query(make: Make, easy: str, spans: SimpleSpanHandler, how: str) -> None:
    """The tree shows who was asked for what, even when a stream is read long after it was begun."""
    llm, _ = make(DOUBTS)
    await ask(llm, how, easy)
    done: list[SimpleSpan] = spans.completed_spans
    query = next(span for span in done if span.id_.startswith(f"RoutingLLM.{how}-"))
    attempts = [span for span in done if span.id_.startswith(f"ScriptedLLM.{how}-")]
    assert len(attempts) == (3 if how in WHOLE else 1)
    assert {span.parent_id for span in attempts} == {query.id_}
    assert not spans.open_spans


@pytest.mark.parametrize("how", EVERY)
async def test_tokens_are_counted_once(make: Make, easy: str, how: str) -> None:
    """With one handler on the router and on every tier, the served answer counts, with the provider's own count."""
    counter = TokenCountingHandler(tokenizer=str.split)
    debug = LlamaDebugHandler(print_trace_on_end=False)
    shared = CallbackManager([counter, debug])
    llm, _ = make(
        {name: {**DOUBTS.get(name, {}), "callback_manager": shared} for name in TIERS}, callback_manager=shared
    )
    await ask(llm, how, easy)
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (10, 5)
    assert len(counter.llm_token_counts) == 1
    ((start, end),) = debug.get_event_pairs(CBEventType.LLM)
    assert (start.id_, end.payload["response" if "chat" in how else "completion"]) == (
        end.id_,
        end.payload["response" if "chat" in how else "completion"],
    )
    assert len(shared.handlers) == 2


def test_a_tiers_own_handlers_are_left_alone(make: Make, easy: str) -> None:
    """They hear of calls made to the tier itself, before and after it served behind the router."""
    counter = TokenCountingHandler(tokenizer=str.split)
    llm, tiers = make({"small": {"callback_manager": CallbackManager([counter])}})
    llm.chat(user(easy))
    assert counter.llm_token_counts == []
    assert len(tiers["small"].calls) == 1
    tiers["small"].chat(user(easy))
    assert len(counter.llm_token_counts) == 1
    tiers["small"].reply = "I am sure it is good."
    assert llm.chat(user(easy), tier="small").message.content == "I am sure it is good."
    assert len(counter.llm_token_counts) == 1


@pytest.mark.parametrize("how", EVERY)
async def test_a_query_that_fails(make: Make, easy: str, events: Events, how: str) -> None:
    """Handlers see the exception; no decision is told, and the event is ended once."""
    debug = LlamaDebugHandler(print_trace_on_end=False)
    fails = {"fails": ConnectionError()}
    llm, _ = make(dict.fromkeys(TIERS, fails), callback_manager=CallbackManager([debug]))
    with pytest.raises(TierError):
        await ask(llm, how, easy)
    assert "RoutingDecisionEvent" not in events.names(None)
    ends = [e for e in debug.get_events(CBEventType.LLM) if "exception" in (e.payload or {})]
    assert len(ends) == 1


@pytest.mark.parametrize("how", ["achat", "astream_chat"])
async def test_many_queries_tell_their_own(make: Make, easy: str, events: Events, how: str) -> None:
    """64 at once: every decision is in the span of its own query, with its own tier."""
    llm, _ = make({name: {"delay": 0.002} for name in TIERS})
    found = await asyncio.gather(*(ask(llm, how, f"{easy} {i}", tier=TIERS[i % 3]) for i in range(64)))
    told = [e for e in events.seen if isinstance(e, RoutingDecisionEvent)]
    assert len({e.span_id for e in told}) == len(told) == 64
    assert sorted(e.tier for e in told) == sorted(route_of(r)["tier"] for r in found)
    starts = {e.span_id: e.messages[0].content for e in events.seen if e.class_name() == "LLMChatStartEvent"}
    for event in told:
        number = int(starts[event.span_id].rpartition(" ")[2])
        assert event.tier == TIERS[number % 3]


def test_what_is_told_of_the_model_is_no_secret(make: Make, easy: str, events: Events) -> None:
    """The start event's picture of the router names no key; those of the attempts are the tiers' own."""
    llm, _ = make()
    llm.chat(user(easy))
    start = next(e for e in events.seen if e.class_name() == "LLMChatStartEvent" and not e.tags)
    assert "sk-secret" not in str(start.model_dump())
    assert start.model_dump()["model_dict"]["class_name"] == "RoutingLLM"
