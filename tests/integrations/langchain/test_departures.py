"""Departures: failures, empty answers, tool calls, tools, structured output, images, tasks, strange input."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from bundles import DOUBTFUL
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableBinding
from pydantic import BaseModel
from scripted import STREAMS, Make, ask, route_of

from router_core.errors import TierError

EVERY = ("invoke", "ainvoke", "stream", "astream")
CALL = {"name": "look_up", "args": {}, "id": "c1", "type": "tool_call"}
BROKEN: dict[str, dict[str, Any]] = {
    "raises": {"fails": TimeoutError("slow")},
    "empty": {"reply": ""},
    "blank": {"reply": " \n "},
    "tool calls": {"reply": "", "tool_calls": [CALL]},
    "filtered": {"reply": "", "finish_reason": "content_filter"},
}


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("broken", BROKEN)
async def test_a_broken_cheap_tier_goes_to_the_reference(make: Make, easy: str, how: str, broken: str) -> None:
    """A cheap tier that fails in any way sends the query to the reference, still certified."""
    model, tiers = make({"small": BROKEN[broken]})
    message = await ask(model, how, easy)
    route = route_of(message)
    assert [a["tier"] for a in route["attempts"]] == ["small", "large"]
    assert [a["accepted"] for a in route["attempts"]] == [False, True]
    assert route["certificate"]["risk"] == "joint"
    assert "sent to large" in route["reason"]
    assert message.text == "The answer is good."
    assert message.response_metadata["model_name"] == "large-1"
    assert not message.tool_calls
    assert not tiers["medium"].calls
    paid = 0.0 if broken == "raises" else (10 * 0.1 + 5 * 0.4) / 1e6
    assert route["attempts"][0]["cost_usd"] == paid


@pytest.mark.parametrize("how", EVERY)
async def test_one_tier_up_is_uncertified(make: Make, easy: str, how: str) -> None:
    """With on_failure="next" the next tier answers and the certificate is void, with the reason."""
    model, _ = make({"small": BROKEN["raises"]}, on_failure="next")
    route = route_of(await ask(model, how, easy))
    assert (route["attempts"][1]["tier"], route["certificate"]) == ("medium", None)
    assert "small failed: TimeoutError" in route["reason"]


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("broken", ["raises", "empty"])
async def test_no_tier_left_raises(make: Make, easy: str, how: str, broken: str) -> None:
    """When the reference fails too, the error says so and keeps the cause."""
    model, _ = make({"small": BROKEN["raises"], "large": BROKEN[broken]})
    with pytest.raises(TierError, match="reference tier failed") as caught:
        await ask(model, how, easy)
    assert isinstance(caught.value.__cause__, TimeoutError) == (broken == "raises")


@pytest.mark.parametrize("how", EVERY)
async def test_the_best_cheap_answer_can_be_served(make: Make, easy: str, how: str) -> None:
    """With on_reference_failure="best" a rejected cheap answer is served uncertified, once, also in a stream."""
    model, _ = make(
        {"small": {"reply": DOUBTFUL}, "medium": {"reply": DOUBTFUL}, "large": BROKEN["raises"]},
        on_reference_failure="best",
        stream_policy="buffer",
    )
    message = await ask(model, how, easy)
    route = route_of(message)
    assert message.text == DOUBTFUL
    assert route["tier"] in {"small", "medium"}
    assert (route["certificate"], message.response_metadata["model_name"]) == (None, f"{route['tier']}-1")
    assert "uncertified" in route["reason"]


@pytest.mark.parametrize("how", STREAMS)
async def test_a_failure_in_mid_stream_raises(make: Make, easy: str, how: str) -> None:
    """What was shown cannot be taken back: the tier's own error is raised and no other tier is called."""
    model, tiers = make({"small": {"fails": ConnectionError("cut"), "fails_after": 3}})
    seen: list[str] = []

    async def read() -> None:
        if how == "stream":
            for chunk in model.stream(easy):
                seen.append(chunk.text)
        else:
            async for chunk in model.astream(easy):
                seen.append(chunk.text)

    with pytest.raises(ConnectionError, match="cut"):
        await read()
    assert "".join(seen) == "The answer"
    assert not tiers["large"].calls


@pytest.mark.parametrize("how", STREAMS)
async def test_tool_calls_after_text_are_served_uncertified(make: Make, easy: str, how: str) -> None:
    """A cheap answer whose text was shown before it called tools stays, without a certificate."""
    model, tiers = make({"small": {"tool_calls": [CALL]}})
    message = await ask(model, how, easy)
    route = route_of(message)
    assert (route["tier"], route["certificate"]) == ("small", None)
    assert "after it was shown" in route["reason"]
    assert message.tool_calls[0]["name"] == "look_up"
    assert not tiers["large"].calls


# Tools and structured output


def look_up(word: str) -> str:
    """Look a word up."""
    return word


class Mood(BaseModel):
    """A mood."""

    mood: str


@pytest.mark.parametrize("how", EVERY)
async def test_tools_go_to_the_reference(make: Make, easy: str, how: str) -> None:
    """With tools bound the reference tier is asked with them, its tool calls come back, the certificate is kept."""
    model, tiers = make({"large": {"reply": "", "tool_calls": [CALL]}})
    bound = model.bind_tools([look_up], tool_choice="any")
    assert isinstance(bound, RunnableBinding)
    message = await ask(bound, how, easy)
    route = route_of(message)
    assert (route["tier"], route["certificate"]["risk"]) == ("large", "joint")
    assert "tools" in route["reason"]
    assert message.tool_calls[0]["name"] == "look_up"
    assert tiers["large"].calls[0]["tool_choice"] == "any"
    assert tiers["large"].calls[0]["tools"][0]["function"]["name"] == "look_up"
    assert not tiers["small"].calls


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_structured_output_goes_to_the_reference(make: Make, easy: str, method: str) -> None:
    """with_structured_output parses what the reference tier answers."""
    reply = {"name": "Mood", "args": {"mood": "good"}, "id": "c1", "type": "tool_call"}
    model, tiers = make({"large": {"reply": "", "tool_calls": [reply]}})
    assert model.with_structured_output(Mood, method=method).invoke(easy) == Mood(mood="good")
    assert "ls_structured_output_format" not in tiers["large"].calls[0]
    assert not tiers["small"].calls


@pytest.mark.parametrize("params", [{"response_format": {"type": "json_object"}}, {"functions": [{"name": "f"}]}])
def test_other_structure_goes_to_the_reference(make: Make, easy: str, params: dict[str, Any]) -> None:
    """Structure asked for by the call's own arguments counts too, and reaches the tier."""
    model, tiers = make()
    route = route_of(model.invoke(easy, **params))
    assert (route["tier"], route["certificate"]["risk"]) == ("large", "joint")
    assert tiers["large"].calls[0].items() >= params.items()


def test_an_image_goes_to_the_reference(make: Make, easy: str) -> None:
    """A query with an image is not one that calib had; text blocks alone are routed as their text."""
    model, _ = make()
    text = {"type": "text", "text": easy}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    route = route_of(model.invoke([HumanMessage([text, image])]))
    assert route["tier"] == "large"
    assert "image" in route["reason"]
    assert route_of(model.invoke([HumanMessage([text])])) == route_of(model.invoke(easy))


# Tasks


def test_no_task_is_the_mixture(make: Make, easy: str) -> None:
    """Several tasks and none named: scope "*", certified on the mixture."""
    model, _ = make(task=None)
    route = route_of(model.invoke(easy))
    assert (route["task"], route["certificate"]["scope"]) == (None, "*")


def test_a_subtask_never_seen_uses_the_task(make: Make, easy: str) -> None:
    """The part before "/" is the task."""
    model, _ = make(task="mood/of songs")
    route = route_of(model.invoke(easy))
    assert (route["tier"], route["certificate"]["scope"]) == ("small", "mood")


@pytest.mark.parametrize("how", EVERY)
async def test_an_unknown_task_escalates_and_warns_once(make: Make, easy: str, how: str) -> None:
    """A task never calibrated goes to the reference, uncertified, and warns the first time only."""
    model, tiers = make(task=f"poetry by {how}")
    with pytest.warns(UserWarning, match="never calibrated"):
        first = route_of(await ask(model, how, easy))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = route_of(await ask(model, how, easy))
    assert (first["tier"], first["certificate"]) == ("large", None)
    assert "never calibrated" in first["reason"]
    assert second == first
    assert not tiers["small"].calls


# Strange input


STRANGE = {
    "empty": "",
    "blank": "   ",
    "long": "word " * 20_000,
    "NUL": "is this\x00good?",
    "emoji": "👍🏽🙃 " * 30,
    "right to left": "هل هذا جيد؟ זה טוב?",
    "lone surrogate": "broken \ud800 text",
}


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("name", STRANGE)
async def test_strange_text_is_answered(make: Make, how: str, name: str) -> None:
    """Any text is routed and answered, handed to the tier as it came."""
    model, tiers = make()
    message = await ask(model, how, STRANGE[name])
    route = route_of(message)
    assert message.text == "The answer is good."
    assert tiers[route["tier"]].calls[0]["messages"][0].content == STRANGE[name]
    assert all(a["cost_usd"] > 0 for a in route["attempts"])
