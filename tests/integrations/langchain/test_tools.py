"""Tools: bound in OpenAI's format, judged by schema and agreement where routed, covered where calib had them."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from bundles import TIERS
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableBinding
from scripted import STREAMS, WHOLE, ProviderModel, ask, route_of

from routenlp_integrations.langchain import RoutingChatModel
from routenlp_integrations.langchain.forms import form_of
from router_core.cascade import Answer, advance, walk
from router_core.errors import MissingExtraError
from router_core.evidence_model import EvidenceModel, Judgement
from router_core.router import Router


def weather(city: str, days: int = 1) -> str:
    """Tell the weather of a city."""
    return f"sun in {city} for {days} days"


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def call(name: str = "weather", **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "1"}])


class BySchema(EvidenceModel):
    """An evidence model that learnt from the schema alone, as it would from records with that signal."""

    def judge(self, *args: Any, priced: bool = True) -> Judgement:
        """Bad is what does not fit."""
        return Judgement(1.0 - args[-1].signals.get("schema_valid", float("nan")), 1.0)


@pytest.fixture(scope="session")
def tool_router(loaded_router: Router) -> Router:
    """The small router as if calib had held tool calls: every evidence model uses ``schema_valid``."""
    scorer = loaded_router.scorer
    views = {}
    for view, models in scorer.models.items():
        learnt = []
        for model in models.answers:
            assert model is not None
            own = {field.name: getattr(model, field.name) for field in fields(model)}
            learnt.append(BySchema(**{**own, "signals": ("schema_valid",)}))
        views[view] = replace(models, answers=tuple(learnt))
    return replace(loaded_router, scorer=replace(scorer, models=views))


def routing(router: Router, own: dict[str, dict[str, Any]] | None = None, **params: Any) -> Any:
    tiers = {name: ProviderModel(model_name=name, **(own or {}).get(name, {})) for name in TIERS}
    return RoutingChatModel(router=router, tiers=tiers, **{"task": "mood", **params}), tiers


def test_binding_is_a_binding(small_router: Router) -> None:
    """Tools become OpenAI's format at once and stay a `RunnableBinding`."""
    model, _ = routing(small_router)
    bound = model.bind_tools([weather], tool_choice="any", parallel_tool_calls=False)
    assert isinstance(bound, RunnableBinding)
    assert bound.kwargs["tools"][0]["function"]["name"] == "weather"
    assert (bound.kwargs["tool_choice"], bound.kwargs["parallel_tool_calls"]) == ("any", False)


@pytest.mark.parametrize("how", WHOLE + STREAMS)
async def test_by_default_tools_go_to_the_reference(small_router: Router, easy: str, how: str) -> None:
    """Nothing was shown of tool calls: the reference answers, a joint risk stays certified."""
    model, tiers = routing(small_router)
    message = await ask(model.bind_tools([weather]), how, easy)
    route = route_of(message)
    assert message.tool_calls[0]["name"] == "weather"
    assert message.tool_calls[0]["args"]["city"] == "good"
    assert (route["tier"], route["certificate"]["risk"]) == ("large", "joint")
    assert "tools are asked for, which calib did not have" in route["reason"]
    assert not tiers["small"].calls


@pytest.mark.parametrize("how", WHOLE + STREAMS)
async def test_uncalibrated_tools_may_be_routed(small_router: Router, easy: str, how: str) -> None:
    """On request a cheap tier's call is judged and served, with no certificate and the reason why."""
    model, _ = routing(small_router, uncalibrated="cascade")
    message = await ask(model.bind_tools([weather]), how, easy)
    route = route_of(message)
    assert message.tool_calls[0]["args"]["city"] == "good"
    assert message.usage_metadata is not None
    assert route["certificate"] is None
    assert "uncertified: tools are asked for" in route["reason"]
    assert route["attempts"][0]["tier"] == "small"
    if how in WHOLE:
        assert route["attempts"][0]["confidence"] is not None


@pytest.mark.parametrize("how", WHOLE)
@pytest.mark.parametrize(
    ("own", "told"), [({"breaks": True}, "does not fit its schema: 'type' at"), ({"tool_calls": []}, "")]
)
async def test_calls_that_do_not_fit_escalate(
    small_router: Router, easy: str, how: str, own: dict[str, Any], told: str
) -> None:
    """A call with wrong arguments is never served by a cheap tier; the schema's complaint is the attempt's reason."""
    model, _ = routing(small_router, {"small": own}, uncalibrated="cascade")
    route = route_of(await ask(model.bind_tools([weather]), how, easy))
    assert told in route["attempts"][0]["reason"]
    if told:
        assert route["attempts"][0]["accepted"] is False
        assert route["tier"] != "small"


@pytest.mark.parametrize("how", WHOLE + STREAMS)
async def test_tools_that_calib_had_are_covered(tool_router: Router, easy: str, how: str) -> None:
    """Where the evidence models use ``schema_valid``, tool calls are queries like any other, certificate included."""
    model, _ = routing(tool_router)
    route = route_of(await ask(model.bind_tools([weather]), how, easy))
    assert (route["tier"], route["certificate"]["risk"]) == ("small", "joint")
    broken, _ = routing(tool_router, {"small": {"breaks": True}, "medium": {"breaks": True}})
    route = route_of(await ask(broken.bind_tools([weather]), how, easy))
    if how in WHOLE:
        assert route["tier"] == "large"
        assert "does not fit its schema" in route["attempts"][0]["reason"]
        assert route["certificate"]["risk"] == "joint"
    else:
        assert (route["tier"], route["certificate"]) == ("small", None)
        assert "after it was shown" in route["reason"]


def test_plain_text_escalates_where_calib_had_schemas(tool_router: Router, easy: str) -> None:
    """The signal is missing from an answer nobody asked a form of: it is escalated."""
    route = route_of(routing(tool_router)[0].invoke(easy))
    assert route["tier"] == "large"
    assert "a signal the evidence model needs is missing" in route["attempts"][0]["reason"]


def test_other_departures_stay_departures(tool_router: Router, easy: str) -> None:
    """Tools that calib had do not cover images, nor a conversation that holds tool calls."""
    model, _ = routing(tool_router)
    image = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    history = [HumanMessage(easy), call(city="x"), ToolMessage("sun", tool_call_id="1")]
    for messages in ([HumanMessage([{"type": "text", "text": easy}, image])], history):
        assert route_of(model.bind_tools([weather]).invoke(messages))["tier"] == "large"


@pytest.mark.parametrize("how", STREAMS)
async def test_tool_calls_stream_in_pieces(small_router: Router, easy: str, how: str) -> None:
    """Chunks of a call are passed on as they come, the route on exactly one of them."""
    model, _ = routing(small_router)
    bound = model.bind_tools([weather])
    chunks = list(bound.stream(easy)) if how == "stream" else [chunk async for chunk in bound.astream(easy)]
    assert sum(bool(chunk.tool_call_chunks) for chunk in chunks) == 2
    assert sum("routenlp" in chunk.response_metadata for chunk in chunks) == 1


@pytest.mark.parametrize(
    ("message", "options", "text", "valid", "why"),
    [
        (call(city="Bonn"), {}, '[{"args": {"city": "Bonn"}, "name": "weather"}]', True, ""),
        (call(days=1, city="Köln"), {}, '[{"args": {"city": "Köln", "days": 1}, "name": "weather"}]', True, ""),
        (call(days=1), {}, '[{"args": {"days": 1}, "name": "weather"}]', False, "'required'"),
        (call(city="x", days="y"), {}, None, False, "'type' at days"),
        (call("storm"), {}, None, False, "a tool was called that was not offered"),
        (AIMessage("It is sunny."), {}, "It is sunny.", True, ""),
        (AIMessage("It is sunny."), {"tool_choice": "any"}, "It is sunny.", False, "no tool was called"),
        (AIMessage("It is sunny."), {"tool_choice": "auto"}, "It is sunny.", True, ""),
    ],
)
def test_the_verdict(message: AIMessage, options: dict[str, Any], text: str | None, valid: bool, why: str) -> None:
    """Calls are canonical JSON, compared with their schema; the reason holds no word of the answer."""
    form = form_of({"tools": [WEATHER], **options})
    assert form is not None
    verdict = form.judge(message)
    assert verdict.valid is valid
    assert why in verdict.why
    assert text in (None, verdict.text)


def test_broken_arguments_and_broken_schemas() -> None:
    """Arguments that are no JSON do not fit; of a tool whose own schema is broken nothing can be said."""
    form = form_of({"tools": [WEATHER]})
    assert form is not None
    bad = {"name": "weather", "args": "{", "id": "1", "error": "e", "type": "invalid_tool_call"}
    assert form.judge(AIMessage("", invalid_tool_calls=[bad])).why == "arguments of weather are no JSON"
    for schema in ({"type": "nonsense"}, {"$ref": "https://example.org/elsewhere"}):
        broken = {"type": "function", "function": {"name": "weather", "parameters": schema}}
        other = form_of({"tools": [broken]})
        assert other is not None
        assert other.judge(call(city="x")).valid is None
    assert form_of({"tools": [WEATHER, {"type": "web_search"}]}).judge(call("web_search")).valid is True  # type: ignore[union-attr]
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "required": ["a"]}}}
    text_form = form_of({"response_format": wanted})
    assert text_form is not None
    assert [text_form.judge(AIMessage(t)).valid for t in ('{"a": 1}', "{}", "no")] == [True, False, False]
    assert form_of({"temperature": 1}) is None


def test_without_a_validator_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validator comes with the extra; without it the error says so."""
    import sys

    monkeypatch.setitem(sys.modules, "jsonschema.validators", None)
    fresh = {"type": "function", "function": {"name": "weather", "parameters": {"title": "never seen before"}}}
    with pytest.raises(MissingExtraError, match=r"routenlp\[langchain\]"):
        form_of({"tools": [fresh]}).judge(call())  # type: ignore[union-attr]


def test_calls_that_agree_are_evidence(small_router: Router, easy: str) -> None:
    """The second tier's call is compared with the first one's: the same call scores higher than another."""
    start = small_router.start(easy, "mood")
    tried = {"small": json.dumps([{"args": {"city": "Bonn"}, "name": "weather"}])}
    same, other = (
        small_router.scorer.after(start.before, 1, json.dumps([{"args": {"city": city}, "name": "weather"}]), tried, {})  # type: ignore[arg-type]
        for city in ("Bonn", "Oslo")
    )
    assert same.risk <= other.risk


@pytest.mark.parametrize(("tier", "certified"), [("medium", False), ("large", True)])
def test_what_an_invalid_answer_does_to_the_certificate(
    small_router: Router, easy: str, tier: str, certified: bool
) -> None:
    """Escalated where the policy would have served, it is covered only when the reference is next."""
    start = small_router.start(easy, "mood")
    assert start.policy is not None
    if tier == "large":
        accept = start.policy.accept.copy()
        starts = start.policy.start.copy()
        accept[:, 1] = starts[:, 1] = float("inf")
        start = replace(start, policy=replace(start.policy, accept=accept, start=starts))
    steps = walk(small_router, start)
    assert advance(steps) == "small"
    assert advance(steps, Answer("The answer is good.", invalid="it does not fit")) == tier
    route = advance(steps, Answer("The answer is good."))
    assert not isinstance(route, str)
    assert route.attempts[0].reason == "it does not fit; escalated"
    assert (route.certificate is not None) == certified
