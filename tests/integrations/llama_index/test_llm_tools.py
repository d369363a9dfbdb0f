"""Tools and structured output: prepared by each tier its own way, judged by their schemas, read by who answered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from bundles import TIERS
from llama_index.core.llms import MockLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel
from scripted_llm import Make, ScriptedLLM, route_of, said, user

from routenlp_integrations.llama_index import RoutingLLM
from routenlp_integrations.llama_index.calls import Asked, Call, ToolRequest
from routenlp_integrations.llama_index.forms import form_of
from router_core import InputError


def weather(city: str, days: int = 1) -> str:
    """Weather of a city."""
    return f"{city}: sunny for {days}"


TOOL = FunctionTool.from_defaults(weather)
GOOD = {"name": "weather", "args": {"city": "Rome", "days": 2}}
BAD = {"name": "weather", "args": {"days": "many"}}
OTHER = {"name": "delete_all", "args": {}}
TOOLS = ("chat_with_tools", "achat_with_tools", "stream_chat_with_tools", "astream_chat_with_tools")


async def call(llm: Any, how: str, query: str, **kwargs: Any) -> list[Any]:
    """Offer the tool by any entrance."""
    found = getattr(llm, how)([TOOL], user_msg=query, **kwargs)
    found = await found if how.startswith("a") else found
    if how.startswith("astream"):
        return [chunk async for chunk in found]
    return list(found) if how.startswith("stream") else [found]


@pytest.mark.parametrize("how", TOOLS)
async def test_tools_go_to_the_reference(make: Make, easy: str, how: str) -> None:
    """Calib had no tools: the reference prepares them its way, and reads its own calls, chunk by chunk too."""
    llm, tiers = make({name: {"picks": [GOOD]} for name in TIERS})
    chunks = await call(llm, how, easy)
    route = route_of(chunks[-1])
    assert route["tier"] == "large"
    assert "tools are asked for, which calib did not have" in route["reason"]
    assert route["certificate"] is not None
    told = tiers["large"].calls[0]
    assert (told["offered"], told["required"]) == (["large-1:weather"], False)
    assert "tools" not in told
    found = llm.get_tool_calls_from_response(chunks[-1])
    assert found == [ToolSelection(tool_id="call-0", tool_name="weather", tool_kwargs=GOOD["args"])]
    for chunk in chunks:
        llm.get_tool_calls_from_response(chunk, error_on_no_tool_call=False)


@pytest.mark.parametrize("how", TOOLS)
@pytest.mark.parametrize(("picks", "why"), [([BAD], "arguments of weather do not fit"), ([OTHER], "not offered")])
async def test_a_call_that_does_not_fit_escalates(
    make: Make, easy: str, how: str, picks: list[dict[str, Any]], why: str
) -> None:
    """Through the cascade, a cheap tier's calls are held to the schema; a stream shows them uncertified instead."""
    llm, _ = make(
        {"small": {"picks": picks}, "medium": {"picks": picks}, "large": {"picks": [GOOD]}},
        uncalibrated="cascade",
        stream_policy="buffer",
    )
    (*_, last) = await call(llm, how, easy)
    route = route_of(last)
    assert (route["tier"], route["certificate"]) == ("large", None)
    assert why in route["attempts"][0]["reason"]
    assert llm.get_tool_calls_from_response(last)[0].tool_kwargs == GOOD["args"]


def test_calls_that_cannot_be_read(make: Make, easy: str) -> None:
    """A cheap tier whose own reader fails on its calls is escalated, not raised."""
    llm, tiers = make({"small": {"picks": [{"name": "weather", "args": None}]}}, uncalibrated="cascade")
    tiers["small"].model = "small-1"
    route = route_of(llm.chat_with_tools([TOOL], user_msg=easy))
    assert not route["attempts"][0]["accepted"]
    assert "weather" in route["attempts"][0]["reason"] or "cannot be read" in route["attempts"][0]["reason"]


async def test_a_call_that_fits_is_read_by_who_made_it(make: Make, easy: str) -> None:
    """The small tier's calls are in a shape that only it reads."""
    llm, tiers = make({name: {"picks": [GOOD]} for name in TIERS}, uncalibrated="cascade", stream_policy="route")
    chunks = await call(llm, "astream_chat_with_tools", easy)
    assert route_of(chunks[-1])["tier"] == "small"
    assert all(chunk.additional_kwargs["routenlp_tier"] == "small" for chunk in chunks[:-1])
    for chunk in chunks:
        assert llm.get_tool_calls_from_response(chunk)[0].tool_kwargs == GOOD["args"]
    assert not tiers["large"].calls


def test_who_answered_is_not_known(make: Make, easy: str) -> None:
    """A response from elsewhere is read by the reference tier; none of a tier without functions holds a call."""
    llm, tiers = make({"large": {"picks": [GOOD]}})
    bare = tiers["large"].chat(user(easy), offered=["weather"])
    assert llm.get_tool_calls_from_response(bare)[0].tool_name == "weather"
    plain = RoutingLLM(router=llm.router, tiers={**llm.tiers, "small": MockLLM()}, task="mood")
    answer = plain.chat(user(easy), tier="small")
    assert plain.get_tool_calls_from_response(answer, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="holds no tool call"):
        plain.get_tool_calls_from_response(answer)


def test_a_tier_without_functions_is_no_candidate(make: Make, easy: str) -> None:
    """It is passed over and named; when none is left the error says what each lacks."""
    llm, tiers = make(
        {"small": {"functions": False}, "medium": {"picks": [GOOD]}, "large": {"picks": [GOOD]}},
        uncalibrated="cascade",
        is_function_calling_model=True,
    )
    route = route_of(llm.chat_with_tools([TOOL], user_msg=easy))
    assert not tiers["small"].calls
    assert "small lacks function calling" in route["reason"]
    with pytest.raises(InputError, match="forced by tier=, but lacks function calling"):
        llm.chat_with_tools([TOOL], user_msg=easy, tier="small")
    llm, _ = make({name: {"functions": False} for name in TIERS})
    with pytest.raises(InputError, match="no tier can serve this call: small lacks function calling"):
        llm.chat_with_tools([TOOL], user_msg=easy)


def test_calls_unasked(make: Make, easy: str) -> None:
    """A cheap answer that calls tools nobody offered goes to the reference."""
    llm, _ = make({"small": {"picks": [GOOD], "unasked": True}})
    route = route_of(llm.chat(user(easy)))
    assert (route["tier"], route["certificate"] is None) == ("large", False)
    assert "answer has tool calls" in route["reason"]


def test_tools_are_told_in_openais_form(make: Make, easy: str) -> None:
    """Who watches reads the tools; without tools a chat with tools is a chat."""
    llm, tiers = make()
    told = llm._prepare_chat_with_tools([TOOL], user_msg="Hi", chat_history=user("Hello"), temperature=0)
    assert [message.content for message in told["messages"]] == ["Hello", "Hi"]
    assert told["temperature"] == 0
    request = told["tools"]
    assert isinstance(request, ToolRequest)
    assert json.loads(json.dumps(request))[0]["function"]["name"] == "weather"
    assert route_of(llm.chat_with_tools([], user_msg=easy))["tier"] == "small"
    assert "offered" not in tiers["small"].calls[0]


async def test_predict_and_call(make: Make, easy: str) -> None:
    """LlamaIndex's own loop of one step: the tool is called with the tier's arguments; `task` and `tier` work."""
    llm, tiers = make({name: {"picks": [GOOD]} for name in TIERS}, task=None)
    assert llm.predict_and_call([TOOL], user_msg=easy, task="mood").response == "Rome: sunny for 2"
    assert (await llm.apredict_and_call([TOOL], user_msg=easy, tier="medium")).response == "Rome: sunny for 2"
    assert len(tiers["medium"].calls) == 1


class Mood(BaseModel):
    """The mood of a review."""

    mood: str
    stars: int = 3


FITS = {"name": "Mood", "args": {"mood": "good", "stars": 5}}
BREAKS = {"name": "Mood", "args": {"stars": "many"}}
ASKED = PromptTemplate("{review}")


async def predict(llm: Any, how: str, **kwargs: Any) -> Any:
    """Ask for a mood by any entrance; of a stream the last."""
    found = getattr(llm, how)(Mood, ASKED, review=kwargs.pop("review"), llm_kwargs=kwargs)
    if how.startswith("stream"):
        return list(found)[-1]
    found = await found if how.startswith("a") else found
    return [one async for one in found][-1] if how.startswith("astream") else found


PREDICT = ("structured_predict", "astructured_predict", "stream_structured_predict", "astream_structured_predict")


@pytest.mark.parametrize("how", PREDICT)
async def test_structured_output(make: Make, easy: str, how: str) -> None:
    """By a forced tool call, from the reference; `llm_kwargs` name the tier."""
    llm, tiers = make({name: {"picks": [FITS]} for name in TIERS})
    assert await predict(llm, how, review=easy) == Mood(mood="good", stars=5)
    assert [bool(tier.calls) for tier in tiers.values()] == [False, False, True]
    assert tiers["large"].calls[0]["offered"] == ["large-1:Mood"]
    assert await predict(llm, how, review=easy, tier="medium") == Mood(mood="good", stars=5)
    assert tiers["medium"].calls


@pytest.mark.parametrize("how", PREDICT[:2])
async def test_output_that_does_not_fit_escalates(make: Make, easy: str, how: str) -> None:
    """Cheap answers outside the schema, or none at all, are not served."""
    llm, tiers = make(
        {"small": {"picks": [BREAKS]}, "medium": {"reply": "It is good."}, "large": {"picks": [FITS]}},
        uncalibrated="cascade",
    )
    assert await predict(llm, how, review=easy) == Mood(mood="good", stars=5)
    assert [len(tier.calls) for tier in tiers.values()] == [1, 1, 1]


@pytest.mark.parametrize("how", PREDICT[:2])
@pytest.mark.parametrize("chats", [True, False])
async def test_output_as_text_where_not_all_can_call(make: Make, easy: str, how: str, chats: bool) -> None:
    """LlamaIndex then asks in words; the text is held to the class all the same."""
    fits, breaks = json.dumps(FITS["args"]), "I would say good."
    each: dict[str, Any] = {"functions": False, "chats": chats}
    llm, tiers = make(
        {"small": {"reply": breaks, **each}, "medium": {"reply": fits, **each}, "large": {"reply": fits, **each}},
        uncalibrated="cascade",
    )
    assert await predict(llm, how, review=easy) == Mood(mood="good", stars=5)
    assert len(tiers["small"].calls) == len(tiers["medium"].calls) == 1
    assert "routenlp_structure" not in tiers["small"].calls[0]
    llm, tiers = make({name: {"reply": fits, **each} for name in TIERS})
    assert await predict(llm, how, review=easy) == Mood(mood="good", stars=5)
    assert not tiers["small"].calls


@pytest.mark.filterwarnings("ignore:The `json` method")  # LlamaIndex's own
async def test_as_structured_llm(make: Make, easy: str) -> None:
    """LlamaIndex's structured LLM around the router: chat, complete and stream give instances."""
    llm, _ = make({name: {"picks": [FITS]} for name in TIERS})
    shaped = llm.as_structured_llm(Mood)
    assert shaped.chat(user(easy)).raw == Mood(mood="good", stars=5)
    assert json.loads(said(await shaped.achat(user(easy)))) == FITS["args"]
    assert list(shaped.stream_chat(user(easy)))[-1].raw == Mood(mood="good", stars=5)
    prompt = ChatPromptTemplate(message_templates=user(easy))
    assert llm.structured_predict(Mood, prompt).mood == "good"


def test_answers_calibrated_by_schema(make: Make, easy: str) -> None:
    """Where the records had the signal, tools are covered like any query and judged with it."""
    llm, tiers = make({name: {"picks": [GOOD]} for name in TIERS})
    view = llm.router.scopes.resolve("mood")
    assert view is not None
    models = dict(llm.router.scorer.models)
    kept = models[view.models]
    answers = tuple(None if m is None else replace(m, signals=(*m.signals, "schema_valid")) for m in kept.answers)
    models[view.models] = replace(kept, answers=answers)
    llm.router = replace(llm.router, scorer=replace(llm.router.scorer, models=models))
    params = {"tools": ToolRequest([TOOL])}
    made = llm._begin(Call(user(easy), "", False, params, form_of(params)), Asked(), "cascade", None).plan
    assert (made.start.forced, made.void) == (False, "")
    assert isinstance(tiers["small"], ScriptedLLM)
