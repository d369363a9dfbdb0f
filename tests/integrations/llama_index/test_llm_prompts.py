"""Prompt settings of LLMs: behind `RoutingLLM` every tier is sent what it would be sent if it stood there alone."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("llama_index.core", reason="needs routenlp[llama-index]")
pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from bundles import TIERS
from kept_routes import PLAN, kept
from llama_index.core import ChatPromptTemplate, Document, PromptTemplate, SummaryIndex
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, ImageBlock, TextBlock
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.prompts import SelectorPromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel
from scripted_llm import EVERY, Events, Make, ScriptedLLM, ask, chunks_of, route_of, user

from routenlp_integrations.llama_index.calls import Asked
from router_core.budget import Budget
from router_core.errors import InputError
from router_core.ledger import Ledger
from router_core.router import estimate_tokens

QUERY = "Review 1018 from the bridge: I love this novel. Is the mood 'good' or 'bad'?"
PREDICTS = ("predict", "apredict", "stream", "astream")
SHAPED = ("structured_predict", "astructured_predict", "stream_structured_predict", "astream_structured_predict")


class Mood(BaseModel):
    """The mood of a review."""

    mood: str = ""


def as_turn(prompt: str) -> str:
    """A model's template of one turn."""
    return f"<|user|>{prompt}<|assistant|>"


def as_chat(messages: Any) -> str:
    """A model's template of a chat."""
    return "[CHAT]" + "|".join(f"{one.role.value}:{one.content}" for one in messages)


SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "system": {"system_prompt": "SYS"},
    "wrapper": {"query_wrapper_prompt": PromptTemplate("WRAP {query_str}")},
    "turns": {"completion_to_prompt": as_turn},
    "chats": {"messages_to_prompt": as_chat},
    "parser": {"output_parser": PydanticOutputParser(Mood)},
}
SETTINGS["all"] = {
    name: value for one in ("system", "wrapper", "turns", "chats") for name, value in SETTINGS[one].items()
}


def own_words(llm: Any) -> bool:
    """Whether an LLM is of the small model, as a selector of prompts may ask."""
    return "small" in llm.metadata.model_name


TEMPLATES: dict[str, Callable[[], Any]] = {
    "text": lambda: PromptTemplate("Read: {q}"),
    "chat": lambda: ChatPromptTemplate([ChatMessage("Be brief.", role="system"), ChatMessage("Read: {q}")]),
    "selector": lambda: SelectorPromptTemplate(
        PromptTemplate("Read: {q}"),
        [
            (own_words, PromptTemplate("Small one: {q}")),
            (lambda llm: llm.metadata.is_chat_model, ChatPromptTemplate([ChatMessage("Chat: {q}")])),
        ],
    ),
}


async def predicted(llm: Any, how: str, template: Any) -> str:
    """What an LLM answers to a template."""
    found = getattr(llm, how)(template, q=QUERY)
    if how == "predict":
        return str(found)
    if how == "apredict":
        return str(await found)
    return "".join(found) if how == "stream" else "".join([text async for text in await found])


async def shaped(llm: Any, how: str, template: Any) -> Any:
    """The last instance of a class that an LLM answers with."""
    found = getattr(llm, how)(Mood, template, q=QUERY)
    if how == "structured_predict":
        return found
    if how == "astructured_predict":
        return await found
    return list(found)[-1] if how.startswith("stream") else [one async for one in await found][-1]


async def told(answer: Awaitable[Any]) -> Any:
    """What is answered, or that LlamaIndex, of this version or with these settings, has no such way."""
    try:
        return await answer
    except NotImplementedError:
        return NotImplementedError


def sent(llm: ScriptedLLM) -> list[dict[str, Any]]:
    """How and with what an LLM was called; an argument that is None says nothing."""
    return [{name: v for name, v in one.items() if name != "thread" and v is not None} for one in llm.calls]


def alone(name: str, own: dict[str, Any]) -> ScriptedLLM:
    """The LLM of a tier, without a router."""
    return ScriptedLLM(**{"model": f"{name}-1", **own})


@pytest.mark.parametrize("chats", [True, False])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("how", PREDICTS)
@pytest.mark.parametrize("settings", SETTINGS)
async def test_a_prediction_is_every_tiers_own(make: Make, settings: str, how: str, template: str, chats: bool) -> None:
    """Each tier is sent what `predict` and its like send it alone, and what it answers is read as it is alone."""
    own = {**SETTINGS[settings], "chats": chats, "reply": '{"mood": "good"}'}
    llm, tiers = make(dict.fromkeys(TIERS, own))
    for name, tier in tiers.items():
        bare = alone(name, own)
        wanted = await told(predicted(bare, how, TEMPLATES[template]()))
        with llm.asking(tier=name):
            assert await told(predicted(llm, how, TEMPLATES[template]())) == wanted
        if wanted is not NotImplementedError:
            assert sent(tier) == sent(bare)
            assert len(sent(bare)) == 1


@pytest.mark.parametrize("chats", [True, False])
@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("how", SHAPED)
@pytest.mark.parametrize("settings", SETTINGS)
async def test_structured_output_is_every_tiers_own(
    make: Make, settings: str, how: str, tools: bool, chats: bool
) -> None:
    """So it is with an instance of a class, by tools and by text."""
    own = {**SETTINGS[settings], "chats": chats, "functions": tools, "reply": '{"mood": "good"}'}
    own |= {"picks": [{"name": "Mood", "args": {"mood": "good"}}]} if tools else {}
    llm, tiers = make(dict.fromkeys(TIERS, own))
    for name, tier in tiers.items():
        bare = alone(name, own)
        wanted = await told(shaped(bare, how, TEMPLATES["chat"]()))
        with llm.asking(tier=name):
            assert await told(shaped(llm, how, TEMPLATES["chat"]())) == wanted
        assert sent(tier) == sent(bare)
        assert len(sent(bare)) == (wanted is not NotImplementedError)


@pytest.mark.parametrize("chats", [True, False])
@pytest.mark.parametrize("how", EVERY)
async def test_calls_are_left_as_they_are(make: Make, how: str, chats: bool) -> None:
    """`chat` and `complete` are extended by no LLM: what the caller gives is what a tier is sent."""
    own = {**SETTINGS["all"], "chats": chats}
    llm, tiers = make(dict.fromkeys(TIERS, own))
    for name, tier in tiers.items():
        bare = alone(name, own)
        await ask(bare, how, QUERY)
        await ask(llm, how, QUERY, tier=name)
        assert sent(tier) == sent(bare)


@pytest.mark.parametrize("how", PREDICTS)
@pytest.mark.parametrize("template", TEMPLATES)
async def test_a_completion_tier_changes_nothing_for_the_others(make: Make, template: str, how: str) -> None:
    """In a portfolio of both kinds a chat model is sent messages, a completion model its prompt."""
    own = {name: {**SETTINGS["all"], "chats": name != "small"} for name in TIERS}
    llm, tiers = make(own)
    for name, tier in tiers.items():
        bare = alone(name, own[name])
        wanted = await predicted(bare, how, TEMPLATES[template]())
        with llm.asking(tier=name):
            assert await predicted(llm, how, TEMPLATES[template]()) == wanted
        assert sent(tier) == sent(bare)


@pytest.mark.parametrize("how", SHAPED)
async def test_a_text_program_asks_both_kinds_their_way(make: Make, how: str) -> None:
    """So it is with structured output by text."""
    own = {
        name: {**SETTINGS["all"], "chats": name != "small", "functions": False, "reply": '{"mood": "good"}'}
        for name in TIERS
    }
    llm, tiers = make(own)
    for name, tier in tiers.items():
        bare = alone(name, own[name])
        wanted = await told(shaped(bare, how, TEMPLATES["text"]()))
        with llm.asking(tier=name):
            assert await told(shaped(llm, how, TEMPLATES["text"]())) == wanted
        assert sent(tier) == sent(bare)


@pytest.mark.parametrize("small_chats", [True, False])
def test_an_image_of_a_template_is_covered_by_nothing(make: Make, small_chats: bool, events: Events) -> None:
    """A template with an image is no query of calib, also where a completion tier makes a text of it."""
    llm, _ = make({"small": {"chats": small_chats}})
    blocks = [TextBlock(text="{q}"), ImageBlock(url="http://localhost/lamp.png")]
    llm.predict(ChatPromptTemplate([ChatMessage(role="user", blocks=blocks)]), q=QUERY)
    (decision,) = events.decisions
    assert decision.tier == "large"
    assert "'image' content, which calib did not have" in decision.reason


@pytest.mark.parametrize("how", ["complete", "acomplete", "stream_complete", "astream_complete"])
async def test_a_chat_models_answer_to_a_completion_is_one(make: Make, how: str, events: Events) -> None:
    """What a chat model of a mixed portfolio says to a template is told as the completion that was asked for."""
    own = {name: {"system_prompt": "SYS", "chats": name != "small", "logprobs": [-0.5]} for name in TIERS}
    llm, tiers = make(own)
    prompt = llm._get_prompt(PromptTemplate("{q}"), q=QUERY)
    chunks = await chunks_of(llm, how, prompt, formatted=True, tier="large")
    assert all(isinstance(chunk, CompletionResponse) for chunk in chunks)
    last = chunks[-1]
    assert (last.text, last.raw["model"], len(last.logprobs)) == ("The answer is good.", "large-1", 1)
    assert "".join(chunk.delta or "" for chunk in chunks[:-1]) in ("", last.text)
    assert route_of(last)["tier"] == "large"
    assert [one["how"] for one in tiers["large"].calls] == [how.replace("complete", "chat")]
    assert len(events.decisions) == 1


@pytest.mark.parametrize("chats", [True, False])
@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
def test_a_query_engine_asks_a_tier_as_alone(make: Make, mode: str, chats: bool) -> None:
    """The calls of a query engine, too, are extended by the tier's own settings, once."""
    own = {**SETTINGS["all"], "chats": chats}
    llm, tiers = make(dict.fromkeys(TIERS, own))
    index = SummaryIndex.from_documents([Document(text="The lamp is good."), Document(text="It shines.")])
    bare = alone("large", own)
    index.as_query_engine(llm=bare, response_mode=mode).query(QUERY)
    with llm.asking(tier="large"):
        index.as_query_engine(llm=llm, response_mode=mode).query(QUERY)
    assert sent(tiers["large"]) == sent(bare)
    assert "SYS" in str(bare.calls[0]["asked"])


@pytest.mark.parametrize("chats", [True, False])
def test_what_is_routed_is_the_query(make: Make, chats: bool, ledger: Ledger) -> None:
    """Settings of tiers and of the LLM itself move no query to another tier, and are no part of what is kept."""
    routes = []
    for tiers, given in (({}, {}), (SETTINGS["all"], {}), ({}, SETTINGS["all"])):
        llm, _ = make({name: {"chats": chats, **tiers} for name in TIERS}, ledger=ledger, **given)
        prompt = PromptTemplate("{q}")
        source = llm._get_messages(prompt, q=QUERY) if chats else llm._get_prompt(prompt, q=QUERY)
        response = llm.chat(source) if chats else llm.complete(source, formatted=True)
        routes.append(route_of(response))
        asked = llm._call(source if chats else None, "" if chats else source, True, {})
        assert asked.said == [("human", QUERY)]
        assert type(asked.prompt) is str
    assert all(one["certificate"] == routes[0]["certificate"] for one in routes)
    assert all(one["tier"] == routes[0]["tier"] for one in routes)
    assert routes[0]["certificate"] is not None
    assert [row.text for row in kept(ledger)] == [QUERY] * 3


@pytest.mark.parametrize("chats", [True, False])
@pytest.mark.parametrize("settings", ["system", "wrapper", "turns", "chats", "parser", "all"])
def test_settings_of_its_own_stand_in_the_place_of_the_tiers(make: Make, settings: str, chats: bool) -> None:
    """A setting given to `RoutingLLM` is every tier's, as if each had been given it: once, and not after another."""
    other = {"system_prompt": "ANOTHER", "query_wrapper_prompt": PromptTemplate("OTHER {query_str}")}
    other = {name: value for name, value in other.items() if name in SETTINGS[settings]}
    llm, tiers = make(
        {name: {"chats": chats, "reply": '{"mood": ""}', **other} for name in TIERS}, **SETTINGS[settings]
    )
    bare = alone("large", {"chats": chats, "reply": '{"mood": ""}', **SETTINGS[settings]})
    template = TEMPLATES["chat"]()
    bare.predict(template, q=QUERY)
    for made in (llm, copy.deepcopy(llm), llm.model_copy()):
        with made.asking(tier="large"):
            made.predict(template, q=QUERY)
    assert sent(tiers["large"]) == 3 * sent(bare)


def test_an_audit_asks_by_the_same_settings(make: Make, ledger: Ledger) -> None:
    """The tiers that an audit asks in the background are sent what they would be sent for the query itself."""
    llm, tiers = make(dict.fromkeys(TIERS, SETTINGS["system"]), ledger=ledger, audits=PLAN)
    llm.predict(PromptTemplate("{q}"), q=QUERY)
    assert llm.audits.join()
    for tier in tiers.values():
        (call,) = tier.calls
        assert [one.content for one in call["asked"]] == ["SYS", QUERY]


@pytest.mark.parametrize("chats", [True, False])
def test_a_tier_that_routes_itself_extends_once(make: Make, chats: bool) -> None:
    """A `RoutingLLM` as a tier hands the template on: its own tiers make their prompts of it."""
    own = {**SETTINGS["all"], "chats": chats}
    inner, tiers = make(dict.fromkeys(TIERS, own))
    outer = make()[0].model_copy(update={"tiers": dict.fromkeys(TIERS, inner)})
    bare = alone("large", own)
    bare.predict(TEMPLATES["chat"](), q=QUERY)
    with outer.asking(tier="large"):
        outer.predict(TEMPLATES["chat"](), q=QUERY)
    assert sent(tiers["large"]) == sent(bare)


def test_a_setting_can_be_changed_later(make: Make) -> None:
    """What is set afterwards, or in a copy, holds from then on; None gives the tiers back theirs."""
    llm, tiers = make({name: {"system_prompt": "SYS"} for name in TIERS})
    asked = []
    for given in ("OWN", None):
        llm.system_prompt = given
        llm.predict(PromptTemplate("{q}"), q=QUERY)
        llm.model_copy(update={"system_prompt": f"COPY {given}"}).predict(PromptTemplate("{q}"), q=QUERY)
    asked = [call["asked"][0].content for tier in tiers.values() for call in tier.calls]
    assert asked == ["OWN", "COPY OWN", "SYS", "COPY None"]
    again = pickle.loads(pickle.dumps(make(system_prompt="OWN")[0]))  # noqa: S301 - our own
    assert again.system_prompt == "OWN"
    again.predict(PromptTemplate("{q}"), q=QUERY)
    (call,) = [call for tier in again.tiers.values() for call in tier.calls]
    assert call["asked"][0].content == "OWN"


def test_what_acts_on_answers_is_one_for_all(make: Make) -> None:
    """An output parser or a program mode is taken over where all tiers have it, else `RoutingLLM` needs its own."""
    first, second = PydanticOutputParser(Mood), PydanticOutputParser(Mood)
    differing = {name: {"output_parser": first if name == "small" else second} for name in TIERS}
    with pytest.raises(InputError, match="the tiers differ in output_parser, which is for all answers; give Rout"):
        make(differing)
    llm, _ = make(differing, output_parser=first)
    assert llm.output_parser is first
    llm, _ = make({name: {"pydantic_program_mode": PydanticProgramMode.LLM} for name in TIERS})
    assert llm.pydantic_program_mode == PydanticProgramMode.LLM
    with pytest.raises(InputError, match="the tiers differ in pydantic_program_mode"):
        make({"small": {"pydantic_program_mode": PydanticProgramMode.LLM}})


@pytest.mark.parametrize("chats", [True, False])
@pytest.mark.parametrize("streams", [True, False])
def test_tokens_are_those_of_the_extended_prompt(make: Make, chats: bool, streams: bool) -> None:
    """Where a provider counts nothing, the estimate is of what the tier was sent, settings of either place included."""
    told = "Answer as a critic would. " * 20
    for tiers, given in (({"system_prompt": told}, {}), ({}, {"system_prompt": told})):
        llm, made = make({name: {"usage": None, "chats": chats, **tiers} for name in TIERS}, **given)
        prompt = PromptTemplate("{q}")
        source = llm._get_messages(prompt, q=QUERY) if chats else llm._get_prompt(prompt, q=QUERY)
        how = ("stream_" if streams else "") + ("chat" if chats else "complete")
        found = getattr(llm, how)(source, tier="large")
        route = route_of(list(found)[-1] if streams else found)
        asked = made["large"].calls[0]["asked"]
        tokens = sum(map(estimate_tokens, [one.content for one in asked] if chats else [asked]))
        assert tokens > estimate_tokens(told)
        answered = estimate_tokens("The answer is good.")
        assert route["cost_usd"] == pytest.approx((10.0 * tokens + 40.0 * answered) / 1e6)


@pytest.mark.parametrize("chats", [True, False])
def test_room_and_money_are_asked_for_the_extended_prompt(make: Make, chats: bool) -> None:
    """A tier whose settings leave no room in its window is no candidate, and a budget sees them."""
    own = {"chats": chats, "system_prompt": "x" * 4000, "query_wrapper_prompt": PromptTemplate("{query_str}")}
    llm, tiers = make({name: {**own, "window": 600 if name == "small" else 9000} for name in TIERS})
    llm.predict(PromptTemplate("{q}"), q=QUERY)
    assert not tiers["small"].calls
    assert sum(len(tier.calls) for tier in tiers.values()) >= 1
    llm, _ = make(dict.fromkeys(TIERS, own), budget=Budget(1.0))
    source = llm._get_messages(PromptTemplate("{q}"), q=QUERY)
    plan = llm._begin(llm._call(source, "", False, {}), Asked(), "cascade", None).plan
    assert plan.prompt_tokens >= 1000 + estimate_tokens(QUERY)


def test_what_a_template_retrieves_is_retrieved_once(make: Make) -> None:
    """Functions of a template run once per query, however many tiers are asked."""
    found: list[str] = []

    def examples(**given: Any) -> str:
        found.append(given["q"])
        return f"Example {len(found)}: {given['q']}"

    llm, tiers = make({name: {"chats": name != "small", "reply": "It is difficult to tell."} for name in TIERS})
    answer = llm.predict(PromptTemplate("{shown} {q}", function_mappings={"shown": examples}), q=QUERY)
    assert answer == "It is difficult to tell."
    assert found == [QUERY]
    texts = {
        str(one if isinstance(one := call["asked"], str) else one[0].content)
        for t in tiers.values()
        for call in t.calls
    }
    assert texts == {f"Example 1: {QUERY} {QUERY}"}


def test_another_tiers_template_is_not_changed_meanwhile(make: Make) -> None:
    """A template that a program gives its parser while a tier answers is sent to the next tier as it was."""
    template = PromptTemplate("{q}")

    def reply(asked: str) -> str:
        template.output_parser = PydanticOutputParser(Mood)
        return ""

    llm, tiers = make({"small": {"reply": reply}})
    llm.predict(template, q=QUERY)
    asked = [call["asked"][0].content for tier in tiers.values() for call in tier.calls]
    assert len(asked) == 2
    assert set(asked) == {QUERY}


def test_swapped_tiers_are_refused(make: Make) -> None:
    """An LLM whose metadata names another tier's model is not that tier, also where its answers name none."""
    with pytest.raises(InputError, match=re.escape("the LLM of tier 'small' is 'large-1', the model of tier 'large'")):
        make({"small": {"model": "large-1", "names_itself": False}})
    with pytest.raises(InputError, match="the model of tier 'medium'; were they swapped"):
        make({"large": {"model": "medium"}})
    llm, _ = make({"small": {"model": "small-1-2026", "names_itself": False}, "large": {"model": "large"}})
    assert route_of(llm.chat(user(QUERY)))["tier"]
