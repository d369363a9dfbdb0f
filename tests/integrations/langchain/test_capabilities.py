"""Tiers that cannot serve a call are no candidates for it, and whoever reads the route learns what they lacked."""

from __future__ import annotations

from typing import Any

import pytest
from bundles import DOUBTFUL, TIERS
from langchain_core.language_models import BaseChatModel, ModelProfile
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatResult
from scripted import WHOLE, Make, ProviderModel, ScriptedModel, ask, route_of

from routenlp_integrations.langchain import RoutingChatModel
from routenlp_integrations.langchain.capabilities import abilities_of, common_profile, lacking
from routenlp_integrations.langchain.tiers import Call, TierModel
from router_core.errors import InputError, TierError
from router_core.router import Router

IMAGE = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
LINK = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "base64": "AAAA", "mime_type": "application/pdf"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}


class Toolless(BaseChatModel):
    """A model that answers text and nothing else."""

    @property
    def _llm_type(self) -> str:
        return "toolless"

    def _generate(self, messages: list[BaseMessage], *_args: Any, **_kwargs: Any) -> ChatResult:
        return ScriptedModel()._generate(messages)


@pytest.mark.parametrize(
    ("content", "params", "stated", "told"),
    [
        ("hi", {"tools": [TOOL]}, {"tool_calling": False}, "tool calling"),
        ("hi", {"tools": [TOOL], "tool_choice": "any"}, {"tool_choice": False}, "tool choice"),
        ("hi", {"response_format": SCHEMA}, {"structured_output": False}, "structured output"),
        ([IMAGE], {}, {"image_inputs": False}, "image inputs"),
        ([LINK], {}, {"image_url_inputs": False}, "image URLs"),
        ([SOUND], {}, {"audio_inputs": False}, "audio inputs"),
        ([FILE], {}, {"pdf_inputs": False}, "pdf inputs"),
        ("x" * 4_000, {}, {"max_input_tokens": 1_200}, r"a context of 1256 tokens \(it has 1200\)"),
        ("x" * 4_000, {"max_tokens": 900}, {"max_input_tokens": 1_500}, r"a context of 1900 tokens \(it has 1500\)"),
    ],
)
def test_every_requirement_is_told(content: Any, params: dict[str, Any], stated: dict[str, Any], told: str) -> None:
    """What a call requires is compared with what is stated; what nobody states is taken to be possible."""
    call = Call([HumanMessage(content)], None, params)
    assert list(lacking(call, {"a": stated, "b": {}})) == ["a"]
    with pytest.raises(InputError, match=f"no tier can serve this call: a lacks {told}; b lacks {told}"):
        lacking(call, {"a": stated, "b": stated})
    assert lacking(Call([HumanMessage("hi")], None, {}), {"a": stated, "b": stated}) == {}


def test_images_of_tools_are_a_requirement_of_their_own() -> None:
    """A model may read a person's images and not a tool's."""
    call = Call([ToolMessage([IMAGE], tool_call_id="1")], None, {})
    assert lacking(call, {"a": {"image_tool_message": False}, "b": {"image_inputs": False}}) == {
        "a": "image tool messages"
    }


def test_a_model_without_tools_is_known_as_one() -> None:
    """Without a `bind_tools` of its own a model cannot call tools, unless the user says that it can."""
    tier = TierModel.of("a", Toolless())
    assert abilities_of(tier, {})["tool_calling"] is False
    assert abilities_of(tier, {})["structured_output"] is False
    assert abilities_of(tier, {"tool_calling": True})["tool_calling"] is True
    assert "tool_calling" not in abilities_of(TierModel.of("b", ScriptedModel()), {})


def test_the_profile_is_what_all_tiers_can_do(make: Make) -> None:
    """False where one cannot, true where all can, unsaid where somebody is silent; the least of the numbers."""
    stated: list[dict[str, Any]] = [
        {"tool_calling": True, "image_inputs": True, "max_input_tokens": 100, "pdf_inputs": True, "name": "a"},
        {"tool_calling": True, "image_inputs": False, "max_input_tokens": 50},
    ]
    expected = {"tool_calling": True, "image_inputs": False, "max_input_tokens": 50}
    assert common_profile(stated) == expected
    profiles = {"small": stated[0], "medium": stated[1], "large": stated[1]}
    model, _ = make({name: {"profile": ModelProfile(**p)} for name, p in profiles.items()})  # type: ignore[typeddict-item]
    assert model.profile == expected
    declared, _ = make(capabilities={"small": {"max_input_tokens": 7}})
    assert declared.profile == {"max_input_tokens": 7}
    assert make()[0].profile is None


def test_declarations_are_checked(make: Make) -> None:
    """An unknown tier and an unknown capability are refused by name."""
    with pytest.raises(ValueError, match="capabilities names 'smal'; the tiers are small, medium, large"):
        make(capabilities={"smal": {}})
    with pytest.raises(ValueError, match="tier 'small' state 'tools'"):
        make(capabilities={"small": {"tools": False}})


@pytest.mark.parametrize("how", [*WHOLE, "stream", "astream"])
@pytest.mark.parametrize(("on_failure", "tier"), [("reference", "large"), ("next", "medium")])
async def test_a_start_tier_that_cannot_serve_is_passed_by(
    make: Make, easy: str, how: str, on_failure: str, tier: str
) -> None:
    """The query goes to the reference, which keeps a joint certificate, or one up without; nobody asks the tier."""
    model, tiers = make(capabilities={"small": {"max_input_tokens": 10}}, on_failure=on_failure)
    route = route_of(await ask(model, how, easy))
    assert route["tier"] == tier
    assert "small lacks a context of" in route["reason"]
    assert [attempt["tier"] for attempt in route["attempts"]] == [tier]
    assert (route["certificate"] is None) == (on_failure == "next")
    assert not tiers["small"].calls


async def test_an_escalation_passes_by_a_tier_that_cannot_serve(make: Make, easy: str) -> None:
    """A rejected answer does not go to a tier that would refuse the query."""
    doubt = {name: {"reply": DOUBTFUL} for name in ("small", "medium")}
    model, tiers = make(doubt, capabilities={"medium": {"max_input_tokens": 10}})
    for how in ("invoke", "ainvoke"):
        route = route_of(await ask(model, how, easy))
        assert (route["tier"], route["certificate"]["risk"]) == ("large", "joint")
        assert not tiers["medium"].calls
        assert [attempt["tier"] for attempt in route["attempts"]] == ["small", "large"]


def test_tools_go_to_a_tier_that_has_them(small_router: Router, easy: str) -> None:
    """Without tools at the reference tier the dearest tier that has them answers, uncertified."""
    tiers: dict[str, Any] = {"small": ProviderModel(), "medium": ProviderModel(), "large": Toolless()}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood")
    route = route_of(model.bind_tools([TOOL]).invoke(easy))
    assert (route["tier"], route["certificate"]) == ("medium", None)
    assert "large lacks tool calling; sent to medium" in route["reason"]
    assert route_of(model.invoke(easy))["tier"] == "small"
    tiers["medium"].fails = ConnectionError("down")
    with pytest.raises(TierError, match="last tier that can take this query failed"):
        model.bind_tools([TOOL]).invoke(easy)


def test_nobody_left_and_a_forced_tier_are_errors(small_router: Router, easy: str) -> None:
    """When no tier can serve a call, and when the forced one cannot, the error says what is lacking."""
    tiers = {name: Toolless() for name in TIERS}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood")
    told = "; ".join(f"{name} lacks tool calling" for name in TIERS)
    with pytest.raises(InputError, match=told):
        model.bind_tools([TOOL]).invoke(easy)
    with pytest.raises(InputError, match=told):
        list(model.bind_tools([TOOL]).stream(easy))
    some = RoutingChatModel(router=small_router, tiers={**tiers, "large": ProviderModel()}, task="mood")
    with pytest.raises(InputError, match=r"tier 'small' is forced by .* lacks tool calling"):
        some.bind_tools([TOOL]).invoke(easy, {"configurable": {"tier": "small"}})
