"""Structured output: every tier in its own mode, one parser for all, answers that do not fit escalate."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from bundles import TIERS
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from pydantic import BaseModel, ValidationError
from scripted import Make, ProviderModel, ScriptedModel, route_of
from typing_extensions import TypedDict

from routenlp_integrations.langchain import RoutingChatModel
from routenlp_integrations.langchain.structured import Structure, StructureParser
from routenlp_integrations.langchain.tiers import TierModel
from router_core.errors import InputError
from router_core.router import Router


class Mood(BaseModel):
    """The mood of a review."""

    mood: str
    stars: int = 3


class MoodDict(TypedDict):
    """The mood of a review."""

    mood: str


SCHEMA = {**Mood.model_json_schema(), "title": "Mood"}


def providers(**own: dict[str, Any]) -> dict[str, ProviderModel]:
    return {name: ProviderModel(model_name=f"{name}-1", **own.get(name, {})) for name in TIERS}


def routing(router: Router, tiers: dict[str, Any], **params: Any) -> RoutingChatModel:
    return RoutingChatModel(router=router, tiers=tiers, **{"task": "mood", "uncalibrated": "cascade", **params})


@pytest.mark.parametrize("native", ["json_schema", "json_mode", "function_calling", "tools"])
@pytest.mark.parametrize("method", [None, "json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", [Mood, MoodDict, SCHEMA])
def test_any_mode_is_read(small_router: Router, easy: str, native: str, method: Any, schema: Any) -> None:
    """Whatever mode the tier has and the user names, the result is what LangChain promises for the schema."""
    model = routing(small_router, providers(large={"native": native}), uncalibrated="reference")
    ask = easy + " Give the key 'mood'." if method == "json_mode" or native == "json_mode" else easy
    found = model.with_structured_output(schema, method=method).invoke(ask)
    if schema is Mood:
        assert isinstance(found, Mood)
    else:
        assert isinstance(found, dict)
        assert found["mood"]


def test_every_tier_is_asked_in_its_own_mode() -> None:
    """No method named: each tier's default; a named one reaches those who have it; strict is dropped where unknown."""

    class Picky(ProviderModel):
        def with_structured_output(self, schema: Any, *, include_raw: bool = False, **kwargs: Any) -> Any:
            if "strict" in kwargs:
                msg = "no strict"
                raise ValueError(msg)
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)

    def asked(kind: type[ProviderModel], structure: Structure, **own: Any) -> dict[str, Any]:
        return dict(structure.bound_to(TierModel.of("a", kind(**own))).bound)

    assert asked(ProviderModel, Structure(Mood))["response_format"]["type"] == "json_schema"
    assert asked(ProviderModel, Structure(Mood), native="json_mode")["response_format"] == {"type": "json_object"}
    assert asked(ProviderModel, Structure(Mood), native="tools")["tool_choice"] == "any"
    assert "tools" in asked(ProviderModel, Structure(Mood, "function_calling"))
    strict = asked(ProviderModel, Structure(Mood, "json_schema", strict=True))
    assert strict["response_format"]["json_schema"]["strict"] is True
    picky = asked(Picky, Structure(Mood, "json_schema", strict=True))
    assert picky["response_format"]["json_schema"]["strict"] is None


def test_a_tier_without_any_mode_is_forced_to_call_a_tool() -> None:
    """A model whose `with_structured_output` is of no use is asked by tool calling."""

    class Other(ProviderModel):
        def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    bound = Structure(Mood).bound_to(TierModel.of("a", Other())).bound
    assert (bound["tool_choice"], bound["tools"][0]["function"]["name"]) == ("Mood", "Mood")
    with pytest.raises(NotImplementedError, match="tier a has no JSON mode"):
        Structure(None, "json_mode").bound_to(TierModel.of("a", Other()))


def test_an_answer_that_does_not_fit_escalates(small_router: Router, easy: str) -> None:
    """The reason is kept with the attempt, the answer of the next tier is returned, and nothing covers it."""
    model = routing(small_router, providers(small={"breaks": True}))
    found = model.with_structured_output(Mood, include_raw=True).invoke(easy)
    route = route_of(found["raw"])
    assert isinstance(found["parsed"], Mood)
    assert found["parsing_error"] is None
    assert route["attempts"][0]["tier"] == "small"
    assert route["attempts"][0]["accepted"] is False
    assert "the answer does not fit Mood" in route["attempts"][0]["reason"]
    assert route["tier"] != "small"
    assert route["certificate"] is None
    assert "calib did not have" in route["reason"]


def test_what_the_reference_breaks_is_the_users_to_see(small_router: Router, easy: str) -> None:
    """Nobody is left to ask: the error is raised, or returned with the raw message."""
    broken = {name: {"breaks": True} for name in TIERS}
    model = routing(small_router, providers(**broken))
    with pytest.raises(OutputParserException, match="does not fit Mood"):
        model.with_structured_output(Mood).invoke(easy)
    found = model.with_structured_output(Mood, include_raw=True).invoke(easy)
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OutputParserException)
    assert isinstance(found["parsing_error"].__cause__, ValidationError)
    assert route_of(found["raw"])["tier"] == "large"


@pytest.mark.parametrize("native", ["json_schema", "tools"])
async def test_structured_output_streams(small_router: Router, easy: str, native: str) -> None:
    """Dictionaries grow as they come; instances of a class come whole; a stream ends with the complete value."""
    model = routing(small_router, providers(large={"native": native}), uncalibrated="reference")
    parts = list(model.with_structured_output(SCHEMA).stream(easy))
    later = [part async for part in model.with_structured_output(SCHEMA).astream(easy)]
    assert parts == later
    assert len(parts) > 1
    assert set(parts[-1]) == {"mood", "stars"}
    assert [type(part) for part in model.with_structured_output(Mood).stream(easy)] == [Mood]
    whole = model.model_copy(update={"disable_streaming": True})
    assert [type(part) for part in whole.with_structured_output(Mood).stream(easy)] == [Mood]


def test_a_stream_that_does_not_fit_raises(small_router: Router, easy: str) -> None:
    """The end of a stream is parsed like a whole answer."""
    model = routing(small_router, providers(large={"breaks": True}), uncalibrated="reference")
    with pytest.raises(OutputParserException):
        list(model.with_structured_output(Mood).stream(easy))


async def test_configuration_and_tracing_survive(small_router: Router, easy: str) -> None:
    """A forced tier and the schema for tracers pass through the chain."""
    seen: list[dict[str, Any]] = []

    class Tracer(ScriptedModel):
        def _note(self, messages: Any, stop: Any, kwargs: Any, how: str) -> None:
            seen.append(kwargs)

    tiers: dict[str, Any] = {**providers(), "medium": Tracer(reply='{"mood": "good"}')}
    chain = routing(small_router, tiers).with_structured_output(Mood, include_raw=True)
    found = await chain.ainvoke(easy, {"configurable": {"tier": "medium"}})
    assert found["parsed"] == Mood(mood="good")
    assert route_of(found["raw"])["tier"] == "medium"
    assert not any(name.startswith(("routenlp", "ls_")) for name in seen[0])


def test_wrong_requests_are_refused(make: Make) -> None:
    """A method nobody knows, a missing schema, and arguments that would be lost are errors."""
    model, _ = make()
    for options, told in (
        ({"method": "xml"}, "method = 'xml' is unknown"),
        ({"method": "json_mode", "strict": True}, "strict cannot be had"),
        ({"tools": []}, "takes no 'tools'"),
    ):
        with pytest.raises(InputError, match=told):
            model.with_structured_output(Mood, **options)
    with pytest.raises(InputError, match="needs a schema"):
        model.with_structured_output(None)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (AIMessage("not json"), "the answer is no JSON"),
        (AIMessage("", additional_kwargs={"refusal": "no"}), "refused"),
        (AIMessage("", tool_calls=[{"name": "other", "args": {}, "id": "1"}]), "no readable call of Mood"),
        (
            AIMessage(
                "",
                invalid_tool_calls=[
                    {"name": "Mood", "args": "{", "id": "1", "error": "e", "type": "invalid_tool_call"}
                ],
            ),
            "no readable call of Mood",
        ),
    ],
)
def test_what_cannot_be_read_is_told(message: AIMessage, told: str) -> None:
    """Each way of not answering has its sentence."""
    with pytest.raises(OutputParserException, match=told):
        Structure(Mood).read(message)


def test_a_value_the_provider_parsed_is_kept() -> None:
    """An instance in `additional_kwargs` is the answer; text in fences and JSON that was cut off are read."""
    structure = Structure(Mood)
    mood = Mood(mood="good")
    assert structure.read(AIMessage("x", additional_kwargs={"parsed": mood})) is mood
    assert structure.read(AIMessage('```json\n{"mood": "good"}\n```')) == {"mood": "good"}
    assert structure.read(AIMessage('{"mood": "go')) == {"mood": "go"}
    with pytest.raises(OutputParserException):
        structure.read(AIMessage('{"mood": "go'), lenient=False)
    assert StructureParser(structure=structure).parse('{"mood": "good"}') == mood


def test_a_structure_has_stable_text_and_pickles() -> None:
    """Its text is part of a cache's key: no address, the schema, the method."""
    structure = Structure(MoodDict, "json_schema", strict=True)
    twin = pickle.loads(pickle.dumps(structure))  # noqa: S301 - our own
    assert repr(twin) == repr(structure) == repr(Structure(MoodDict, "json_schema", strict=True))
    assert repr(Structure(MoodDict)) != repr(structure)
    assert json.dumps(structure.json_schema, sort_keys=True) in repr(structure)
