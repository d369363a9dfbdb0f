"""Streams: chunks as they come, the route and usage exactly once, held back where an answer may be rejected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bundles import DOUBTFUL, TIERS
from langchain_core.messages import AIMessageChunk, HumanMessage
from scripted import USAGE, Make, ScriptedModel, ask, route_of

from routenlp_integrations.langchain import RoutingChatModel
from routenlp_integrations.langchain.planning import streamed_policy
from router_core.errors import TierError
from router_core.router import Router


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


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_a_stream_that_breaks_after_a_word_raises(make: Make, easy: str, how: str) -> None:
    """Nothing is held back once there is text; what was shown cannot be taken back, so the tier's failure is raised."""
    model, tiers = make({"small": {"fails": ConnectionError("sk-secret cut"), "fails_after": 3}})
    with pytest.raises(TierError, match=r"small failed .* after 10 characters .*: ConnectionError") as caught:
        await chunks_of(model, how, easy)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert "sk-secret" not in str(caught.value)
    assert [len(tiers[name].calls) for name in ("small", "medium", "large")] == [1, 0, 0]
    stream = model.stream(easy)
    assert [next(stream).text for _ in range(3)] == ["", "The", " answer"]
    with pytest.raises(TierError):
        next(stream)


@pytest.mark.parametrize("how", ["stream", "astream"])
@pytest.mark.parametrize(("on_failure", "tier"), [("reference", "large"), ("next", "medium")])
async def test_a_stream_that_breaks_before_a_word_goes_on(
    make: Make, easy: str, how: str, on_failure: str, tier: str
) -> None:
    """Before anything was shown a failing stream is like any failing tier."""
    model, _ = make({"small": {"fails": ConnectionError("cut"), "fails_after": 1}}, on_failure=on_failure)
    message = await ask(model, how, easy)
    route = route_of(message)
    assert (route["tier"], message.text) == (tier, "The answer is good.")
    assert "small failed: ConnectionError" in route["attempts"][0]["reason"]
    assert (route["certificate"] is None) == (on_failure == "next")


def test_auto_buffers_where_only_the_cascade_was_certified(small_router: Router, easy: str) -> None:
    """The choice "auto" streams by the policy that was certified, and by the route where both or neither was."""
    tiers = {name: ScriptedModel(model_name=name) for name in TIERS}
    for cascade, direct, expected in ((1, 0, "cascade"), (1, 1, "route_only"), (0, 0, "route_only")):
        certificates = dict(small_router.certificates)
        for policy, shown in (("cascade", cascade), ("route_only", direct)):
            certificates["mood", policy] = replace(certificates["mood", policy], certified=bool(shown), step=shown)
        router = replace(small_router, certificates=certificates)
        assert streamed_policy(router, "auto", "mood") == expected
        assert streamed_policy(router, "route", "mood") == "route_only"
        assert streamed_policy(router, "buffer", "mood") == "cascade"
        assert streamed_policy(router, "auto", "never calibrated") == "route_only"
        model = RoutingChatModel(router=router, tiers=tiers, task="mood")
        assert (
            sum(route is not None for route in (c.response_metadata.get("routenlp") for c in model.stream(easy))) == 1
        )


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
