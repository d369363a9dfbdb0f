"""`create_agent` with a `RoutingChatModel`: tools are called, results come back, routes are told, nothing leaks."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from bundles import TIERS
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel
from scripted import ProviderModel, route_of

from routenlp_integrations.langchain import RoutingChatModel
from router_core.router import Router

agents = pytest.importorskip("langchain.agents", reason="routenlp[agents] is not installed")


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sun in {city}"


class Mood(BaseModel):
    """The mood of a review."""

    mood: str


class Finishing(ProviderModel):
    """Ends an agent's run with structured output once a tool has answered."""

    order: ClassVar[tuple[str, ...]] = ("weather", "Mood")

    def _message(self, messages: list[Any], kwargs: dict[str, Any]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage) and kwargs.get("tools"):
            return super()._message(messages, {**kwargs, "tool_choice": "Mood"})
        return super()._message(messages, {**kwargs, "tool_choice": None})


@pytest.mark.parametrize("uncalibrated", ["reference", "cascade"])
@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_an_agent_calls_a_tool_and_answers(small_router: Router, easy: str, uncalibrated: Any, how: str) -> None:
    """The question, the call, the tool's result and the answer; every model message tells its route."""
    tiers = {name: ProviderModel(model_name=name) for name in TIERS}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood", uncalibrated=uncalibrated)
    agent = agents.create_agent(model, [weather], system_prompt="Be brief.")
    query: Any = {"messages": [HumanMessage(easy)]}
    result = agent.invoke(query) if how == "invoke" else await agent.ainvoke(query)
    human, call, tool, answer = result["messages"]
    assert (human.text, call.tool_calls[0]["name"]) == (easy, "weather")
    assert (tool.text, answer.text) == ("sun in good", "The answer is good.")
    for message in (call, answer):
        route = route_of(message)
        assert "calib did not have" in route["reason"]
        assert (route["tier"] == "large") == (uncalibrated == "reference")
    # The tool's output is not what is routed: both turns start where the question does.
    assert len({route_of(message)["attempts"][0]["tier"] for message in (call, answer)}) == 1


async def test_an_agents_stream_shows_its_answer_alone(small_router: Router, easy: str) -> None:
    """LangGraph's message stream has the served tier's chunks, usage once for each model call, no attempt."""
    tiers = {name: ProviderModel(model_name=name) for name in TIERS}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood")
    agent = agents.create_agent(model, [weather])
    query: Any = {"messages": [HumanMessage(easy)]}
    parts = [chunk for chunk, _ in agent.stream(query, stream_mode="messages") if isinstance(chunk, AIMessage)]
    assert "".join(str(part.text) for part in parts) == "The answer is good."
    assert sum("routenlp" in part.response_metadata for part in parts) == 2
    assert sum(bool(part.usage_metadata) for part in parts) == 2
    later = [c async for c, _ in agent.astream(query, stream_mode="messages") if isinstance(c, AIMessage)]
    assert [part.text for part in later] == [part.text for part in parts]


@pytest.mark.parametrize("native", [True, False])
def test_an_agents_structured_answer(small_router: Router, easy: str, native: bool) -> None:
    """`response_format` works by the provider's mode where the profile has it, by a tool where it has not."""
    kind: type[ProviderModel] = ProviderModel if native else Finishing
    tiers = {name: kind(model_name=name) for name in TIERS}
    stated = {name: {"structured_output": native, "tool_calling": True} for name in TIERS}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood", capabilities=stated)
    assert model.profile == {"structured_output": native, "tool_calling": True}
    agent = agents.create_agent(model, [] if native else [weather], response_format=Mood)
    result = agent.invoke({"messages": [HumanMessage(easy)]})
    assert result["structured_response"].mood


def test_configuration_reaches_the_model_in_an_agent(small_router: Router, easy: str) -> None:
    """A tier forced by the run's configuration is forced in every model call of the agent."""
    tiers = {name: ProviderModel(model_name=name) for name in TIERS}
    model = RoutingChatModel(router=small_router, tiers=tiers)
    agent = agents.create_agent(model, [weather])
    result = agent.invoke({"messages": [HumanMessage(easy)]}, {"configurable": {"task": "mood", "tier": "medium"}})
    assert [route_of(m)["tier"] for m in result["messages"] if isinstance(m, AIMessage)] == ["medium", "medium"]
