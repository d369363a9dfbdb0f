"""Streams of `RoutingLLM`: they stream, the route is on the last chunk, what was shown is never taken back."""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import replace
from typing import Any

import pytest
from bundles import DOUBTFUL, TIERS
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.llms import MockLLM
from scripted_llm import STREAMS, Make, ask, chunks_of, route_of, said, user

from router_core.errors import TierError


@pytest.mark.parametrize("policy", ["route", "buffer"])
@pytest.mark.parametrize("how", STREAMS)
async def test_the_route_is_on_the_last_chunk(make: Make, easy: str, how: str, policy: str) -> None:
    """Exactly one chunk has it, the last, which also holds the whole answer; what is new adds up to the answer."""
    llm, _ = make(stream_policy=policy)
    chunks = await chunks_of(llm, how, easy)
    assert [i for i, chunk in enumerate(chunks) if "routenlp" in chunk.additional_kwargs] == [len(chunks) - 1]
    assert said(chunks[-1]) == "The answer is good." == "".join(chunk.delta or "" for chunk in chunks)
    assert route_of(chunks[-1])["certificate"]["policy"] == {"route": "route_only", "buffer": "cascade"}[policy]
    assert (len(chunks) > 1) == (policy == "route")
    assert chunks[-1].raw["model"] == "small-1"


@pytest.mark.parametrize("how", STREAMS)
async def test_chunks_come_as_they_are_made(make: Make, easy: str, how: str) -> None:
    """The first words are shown while the tier still works on the rest."""
    llm, tiers = make({"small": {"fails": TimeoutError("late"), "fails_after": 3}})
    asked = user(easy) if "chat" in how else easy
    found = getattr(llm, how)(asked)
    if how.startswith("stream"):
        shown = [next(found).delta, next(found).delta]
    else:
        found = await found
        shown = [(await anext(found)).delta, (await anext(found)).delta]
    # The scripted tier's first chunk is empty and comes with the second.
    assert shown == ["", "The"]
    assert tiers["small"].noted["closed"] == 0


@pytest.mark.parametrize("how", STREAMS)
async def test_a_break_in_the_middle(make: Make, easy: str, how: str) -> None:
    """A tier that fails after something was shown raises, names the tier, and no other is asked."""
    llm, tiers = make({"small": {"fails": ConnectionError("gone sk-secret"), "fails_after": 3}})
    with pytest.raises(TierError, match=r"small failed in the middle of its answer, after 10 characters") as caught:
        await chunks_of(llm, how, easy)
    assert "sk-secret" not in str(caught.value)
    assert not tiers["large"].calls


@pytest.mark.parametrize("how", STREAMS)
@pytest.mark.parametrize("after", [0, 1])
async def test_a_break_before_anything_is_shown(make: Make, easy: str, how: str, after: int) -> None:
    """It is a failure as in any call: the reference answers, and streams."""
    llm, _ = make({"small": {"fails": ConnectionError(), "fails_after": after}})
    chunks = await chunks_of(llm, how, easy)
    route = route_of(chunks[-1])
    assert (route["tier"], [a["tier"] for a in route["attempts"]]) == ("large", ["small", "large"])
    assert len(chunks) > 2
    assert "small failed: ConnectionError" in route["reason"]


@pytest.mark.parametrize("how", STREAMS)
async def test_nothing_said(make: Make, easy: str, how: str) -> None:
    """An empty cheap stream goes to the reference; an empty reference is served as it is."""
    llm, _ = make({"small": {"reply": ""}})
    assert route_of(await ask(llm, how, easy))["tier"] == "large"
    llm, _ = make({name: {"reply": ""} for name in TIERS})
    (*_, last) = await chunks_of(llm, how, easy)
    assert (route_of(last)["tier"], said(last)) == ("large", "")


@pytest.mark.parametrize("how", STREAMS)
async def test_a_buffered_doubt_is_never_shown(make: Make, easy: str, how: str) -> None:
    """Cheap answers that are rejected stay hidden; the reference streams."""
    llm, tiers = make(
        {"small": {"reply": DOUBTFUL}, "medium": {"reply": DOUBTFUL}, "large": {"reply": "Surely it is bad."}},
        stream_policy="buffer",
    )
    chunks = await chunks_of(llm, how, easy)
    assert said(chunks[-1]) == "Surely it is bad." == "".join(chunk.delta or "" for chunk in chunks)
    assert not any("However" in said(chunk) for chunk in chunks)
    assert len(chunks) > 2
    assert [a["tier"] for a in route_of(chunks[-1])["attempts"]] == list(TIERS)
    assert tiers["small"].calls[0]["how"] == how.replace("astream_", "a").replace("stream_", "")


@pytest.mark.parametrize("how", ["stream_chat", "astream_chat"])
async def test_calls_unasked_are_not_shown(make: Make, easy: str, how: str) -> None:
    """A cheap stream that turns out to be tool calls nobody asked for goes to the reference."""
    pick = {"name": "weather", "args": {}}
    llm, _ = make({"small": {"picks": [pick], "unasked": True}})
    last = await ask(llm, how, easy)
    assert route_of(last)["tier"] == "large"
    assert "tool calls" in route_of(last)["reason"]


@pytest.mark.parametrize("how", STREAMS)
async def test_leaving_early_closes_the_tier(make: Make, easy: str, how: str) -> None:
    """A consumer that leaves keeps no connection open and nothing reserved."""
    llm, tiers = make()
    asked = user(easy) if "chat" in how else easy
    found = getattr(llm, how)(asked)
    if how.startswith("stream"):
        next(found)
        found.close()
    else:
        found = await found
        await anext(found)
        await found.aclose()
    # LlamaIndex's wrapper around a stream is not ours to close: what is inside is when it is collected.
    del found
    gc.collect()
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert tiers["small"].noted["closed"] == 1


@pytest.mark.parametrize("how", STREAMS)
async def test_a_stream_that_says_nothing_in_time(make: Make, easy: str, how: str) -> None:
    """The time-out holds until something is shown; then the next tier streams."""
    late = threading.Event()
    llm, _ = make({"small": {"hangs": late}}, timeout={"small": 0.05})
    try:
        last = await ask(llm, how, easy)
    finally:
        late.set()
    assert route_of(last)["tier"] == "large"
    assert "small failed: TimeoutError" in route_of(last)["reason"]


@pytest.mark.parametrize("how", ["astream_chat", "astream_complete"])
async def test_a_synchronous_stream_that_hangs(make: Make, easy: str, how: str) -> None:
    """A tier that only streams synchronously is given up in time, and the failure is told as what it is."""
    late = threading.Event()

    class Hanging(MockLLM):
        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            late.wait(60)
            yield from super().stream_complete(prompt, formatted, **kwargs)

    llm, tiers = make(timeout={"small": 0.05})
    llm.tiers = {**tiers, "small": Hanging()}
    try:
        last = await ask(llm, how, easy)
    finally:
        late.set()
    assert route_of(last)["tier"] == "large"
    assert "small failed: TimeoutError" in route_of(last)["reason"]


async def test_auto_buffers_only_where_it_must(make: Make, easy: str) -> None:
    """``"auto"`` follows the policy that was certified."""
    llm, _ = make()
    assert route_of(await ask(llm, "stream_chat", easy))["certificate"]["policy"] == "route_only"
    shown = dict(llm.router.certificates)
    shown["mood", "route_only"] = replace(shown["mood", "route_only"], certified=False, step=0)
    llm.router = replace(llm.router, certificates=shown)
    assert route_of(await ask(llm, "stream_chat", easy))["certificate"]["policy"] == "cascade"


def test_a_last_chunk_without_text(make: Make, easy: str) -> None:
    """Some providers end with a chunk that only counts tokens: the answer is what was streamed."""
    llm, tiers = make()
    told = {"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "model": "small-1"}

    def stream(self: Any, messages: Any, **kwargs: Any) -> Any:
        def empty(delta: str, raw: Any = None) -> ChatResponse:
            return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT), delta=delta, raw=raw)

        yield from (empty("It is "), empty("good."), empty("", told))

    kind = type(tiers["small"])
    tiers["small"].__class__ = type("Bare", (kind,), {"stream_chat": stream})
    last = list(llm.stream_chat(user(easy)))[-1]
    assert said(last) == "It is good."
    assert route_of(last)["cost_usd"] == llm.router.portfolio.tiers[0].price(3, 2)
