"""Streams: chunks as they come, the route and usage exactly once, held back where an answer may be rejected."""

from __future__ import annotations

from typing import Any

import pytest
from bundles import DOUBTFUL
from langchain_core.messages import AIMessageChunk, HumanMessage
from scripted import USAGE, Make, ask, route_of


async def chunks_of(model: Any, how: str, query: str) -> list[AIMessageChunk]:
    if how == "stream":
        return list(model.stream(query))
    return [chunk async for chunk in model.astream(query)]


@pytest.mark.parametrize("how", ["stream", "astream"])
@pytest.mark.parametrize("policy", ["auto", "route", "buffer"])
async def test_the_route_is_on_the_last_chunk_alone(make: Make, easy: str, how: str, policy: str) -> None:
    """Exactly one chunk holds the route, exactly one the usage, exactly one is the last."""
    model, _ = make(stream_policy=policy)
    chunks = await chunks_of(model, how, easy)
    assert ["routenlp" in c.response_metadata for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [c.chunk_position == "last" for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [c.usage_metadata for c in chunks if c.usage_metadata] == [USAGE]
    assert "".join(c.text for c in chunks) == "The answer is good."
    assert sum("model_name" in c.response_metadata for c in chunks) == 1


@pytest.mark.parametrize("how", ["stream", "astream"])
@pytest.mark.parametrize("policy", ["auto", "route"])
async def test_words_come_one_by_one(make: Make, easy: str, how: str, policy: str) -> None:
    """The chosen tier's chunks are passed on as they come, from its own stream."""
    model, tiers = make(stream_policy=policy)
    texts = [c.text for c in await chunks_of(model, how, easy)]
    assert [text for text in texts if text] == ["The", " answer", " is", " good."]
    assert [call["how"] for call in tiers["small"].calls] == [how]


def test_the_first_word_does_not_wait_for_the_second(make: Make, easy: str) -> None:
    """Nothing is held back once there is text: a stream that breaks after one word has shown it."""
    model, _ = make({"small": {"fails": ConnectionError("cut"), "fails_after": 2}})
    stream = model.stream(easy)
    assert [next(stream).text, next(stream).text] == ["", "The"]
    with pytest.raises(ConnectionError):
        next(stream)


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_buffer_shows_no_rejected_answer(make: Make, easy: str, how: str) -> None:
    """Buffered, a rejected cheap answer is never seen and the certificate is the cascade's."""
    model, tiers = make({"small": {"reply": DOUBTFUL}}, stream_policy="buffer")
    message = await ask(model, how, easy)
    route = route_of(message)
    assert message.text == "The answer is good."
    assert (route["attempts"][0]["accepted"], route["certificate"]["policy"]) == (False, "cascade")
    assert len(tiers["small"].calls) == 1


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_buffer_streams_the_reference_live(make: Make, easy: str, how: str) -> None:
    """Only answers that may be rejected are held: the reference tier's words come one by one."""
    model, tiers = make({"small": {"reply": DOUBTFUL}, "medium": {"reply": DOUBTFUL}}, stream_policy="buffer")
    chunks = await chunks_of(model, how, easy)
    assert [c.text for c in chunks if c.text] == ["The", " answer", " is", " good."]
    assert [call["how"] for call in tiers["large"].calls] == [how]


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_invoke_and_buffered_stream_agree(make: Make, easy: str, how: str) -> None:
    """The same query has the same route, asked for whole or buffered."""
    model, _ = make(stream_policy="buffer")
    assert route_of(await ask(model, how, easy)) == route_of(model.invoke(easy))


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_a_tier_that_cannot_stream_answers_in_one_chunk(make: Make, easy: str, how: str) -> None:
    """A tier with streaming disabled is asked for its whole answer, tool calls and metadata kept."""
    model, tiers = make({"small": {"disable_streaming": True}})
    message = await ask(model, how, easy)
    assert message.text == "The answer is good."
    assert message.usage_metadata == USAGE
    assert message.response_metadata["model_name"] == "small-1"
    assert tiers["small"].calls[0]["how"] == ("generate" if how == "stream" else "agenerate")


async def test_streaming_can_be_switched_off(make: Make, easy: str) -> None:
    """disable_streaming and streaming=False turn a stream into one judged answer."""
    for params in ({"disable_streaming": True}, {"streaming": False}):
        model, _ = make(**params)
        for how in ("stream", "astream"):
            chunks = await chunks_of(model, how, easy)
            assert len(chunks) == 1
            assert chunks[0].response_metadata["routenlp"]["certificate"]["policy"] == "cascade"


async def test_leaving_early_closes_the_tiers_stream(make: Make, easy: str) -> None:
    """A consumer that stops reading ends the tier's stream at once, so that no connection stays open."""
    model, tiers = make()
    later = model._astream([HumanMessage(easy)])
    await anext(later)
    assert tiers["small"].closed == 0
    await later.aclose()  # type: ignore[attr-defined]
    assert tiers["small"].closed == 1
    now = model._stream([HumanMessage(easy)])
    next(now)
    now.close()  # type: ignore[attr-defined]
    assert tiers["small"].closed == 2
