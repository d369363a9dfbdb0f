"""`RoutingDecisionModel` drives LangChain's own `ModelRouterMiddleware`: a tier chosen locally, with no key."""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import AgentModel, look_up, tools_of
from bundles import TIERS

pytest.importorskip(
    "langchain_core.decisions",
    reason="needs langchain-core 1.8; make test-decisions runs this in an environment of its own",
)

from langchain.agents import create_agent
from langchain.agents.middleware import ModelChoice, ModelRouterMiddleware
from langchain_core.decisions import Box, Choice, Noul, Score
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from routenlp_integrations.langchain import RoutingDecisionModel
from routenlp_integrations.langchain.messages import turns
from router_core.errors import InputError
from router_core.route_text import route_text
from router_core.router import Router

pytestmark = pytest.mark.filterwarnings("ignore:.*ModelRouterMiddleware.*beta")

Agent = Callable[..., tuple[Any, dict[str, AgentModel]]]
ALIASES = {"light": "small", "middle": "medium", "heavy": "large"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.fixture
def decide(small_router: Router) -> RoutingDecisionModel:
    """The decision model of the small bundle for the task "mood"."""
    return RoutingDecisionModel(router=small_router, task="mood")


def choice(labels: tuple[str, ...] = TIERS) -> Choice:
    """The question that the middleware asks."""
    return Choice(instructions="cheapest that suffices", criteria=dict.fromkeys(labels, "whatever"))


def agent_of(classifier: RoutingDecisionModel, labels: dict[str, str] | None = None) -> tuple[Any, dict[str, Any]]:
    """An agent whose model LangChain's middleware chooses by the decision model."""
    models = {name: AgentModel(model_name=f"{name}-1") for name in TIERS}
    choices = {
        label: ModelChoice(model=models[tier], criteria=label)
        for label, tier in (labels or dict(zip(TIERS, TIERS, strict=True))).items()
    }
    router = ModelRouterMiddleware(choices=choices, instructions="cheapest that suffices", classifier=classifier)
    return create_agent(models["large"], [look_up], middleware=[router]), models


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream"])
@pytest.mark.parametrize("tier", TIERS)
async def test_model_router_middleware(
    decide: RoutingDecisionModel, queries: dict[str, str], how: str, tier: str
) -> None:
    """Easy queries run on the cheap tier and hard ones on the reference, tools and all, by every entrance."""
    agent, models = agent_of(decide)
    given = {"messages": [HumanMessage(queries[tier])]}
    if how == "invoke":
        state = agent.invoke(given)
    elif how == "ainvoke":
        state = await agent.ainvoke(given)
    else:
        *_, state = agent.stream(given, stream_mode="values")
    assert {name: len(model.calls) for name, model in models.items()} == {name: 2 * (name == tier) for name in TIERS}
    assert tools_of(models[tier].calls[0]) == ["look_up"]
    assert state["messages"][-1].text.strip() == "The answer is good."
    assert state["model_route"].choice == tier


def test_answer_says_what_the_router_says(
    decide: RoutingDecisionModel, queries: dict[str, str], small_router: Router
) -> None:
    """Choice, confidence and shares come from the decision; the choice is the policy's and no argmax."""
    for tier, query in queries.items():
        response = decide.invoke({"state": query, "questions": {"model": choice()}})
        decision = small_router.decide(query, "mood")
        answer = response.choices["model"]
        assert answer.choice == decision.tier == tier
        assert answer.confidence == decision.pass_probability[tier]
        assert math.isclose(sum(answer.probabilities.values()), 1.0)
        ratio = answer.probabilities["small"] / answer.probabilities["large"]
        assert math.isclose(ratio, decision.pass_probability["small"] / decision.pass_probability["large"])
        assert response.model == f"routenlp-{small_router.bundle_id[:12]}"
        assert response.usage is None
    cheap = decide.invoke({"state": queries["small"], "questions": {"model": choice()}}).choices["model"]
    assert max(cheap.probabilities, key=cheap.probabilities.__getitem__) == "large"


def test_labels_may_have_other_names(small_router: Router, queries: dict[str, str]) -> None:
    """`labels` maps the question's labels to tiers, in any order."""
    model = RoutingDecisionModel(router=small_router, task="mood", labels=ALIASES)
    agent, models = agent_of(model, dict(reversed(ALIASES.items())))
    assert agent.invoke({"messages": queries["small"]})["model_route"].choice == "light"
    assert len(models["small"].calls) == 2


def test_noul_asks_whether_a_tier_would_do(
    small_router: Router, decide: RoutingDecisionModel, queries: dict[str, str]
) -> None:
    """A yes-or-no question under a tier's label gets that tier's pass probability; both kinds mix."""
    model = RoutingDecisionModel(router=small_router, task="mood", labels=ALIASES)
    would = Noul(instructions="Would the cheap tier do?")
    passes = small_router.decide(queries["small"], "mood").pass_probability
    assert (
        decide.invoke({"state": queries["small"], "questions": {"small": would}}).nouls["small"].noul
        == (passes["small"])
    )
    both = {"light": would, "model": choice(tuple(ALIASES))}
    response = model.invoke({"state": queries["small"], "questions": both})
    assert response.nouls["light"].noul == passes["small"]
    assert response.choices["model"].choice == "light"


@pytest.mark.parametrize(
    ("name", "question", "told"),
    [
        ("model", choice(("small", "huge")), "chooses among small, huge; .* chooses among small, medium, large"),
        ("model", choice((*TIERS, "other")), "chooses among small, medium, large, other"),
        ("urgent", Noul(instructions="Is it urgent?"), "'urgent' is about no tier; .*: small, medium, large"),
        ("model", Score(instructions="How hard?", criteria=["easy", "hard"]), "is of type 'score'"),
        ("model", Box(instructions="Where?"), "is of type 'box'"),
    ],
)
def test_questions_a_router_cannot_answer(decide: RoutingDecisionModel, name: str, question: Any, told: str) -> None:
    """Each is refused in a sentence that names both sides."""
    with pytest.raises(InputError, match=told):
        decide.invoke({"state": "hello", "questions": {name: question}})


def test_label_mismatch_in_the_middleware(decide: RoutingDecisionModel) -> None:
    """The middleware's choices must be the tiers; the agent fails before any model is called."""
    agent, models = agent_of(decide, {"small": "small", "huge": "large"})
    with pytest.raises(InputError, match=r"small, huge; .* small, medium, large"):
        agent.invoke({"messages": "hello"})
    assert not any(model.calls for model in models.values())


def test_no_human_message(decide: RoutingDecisionModel) -> None:
    """LangChain's own error stands where there is nothing to route."""
    agent, _ = agent_of(decide)
    with pytest.raises(ValueError, match="HumanMessage"):
        agent.invoke({"messages": [AIMessage("hello")]})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        HumanMessage,
        lambda text: [SystemMessage("Be brief."), HumanMessage(text)],
        lambda text: {"messages": [HumanMessage(text)]},
        lambda text: [{"role": "user", "content": text}],
        lambda text: {"role": "user", "content": text},
    ],
)
def test_states(decide: RoutingDecisionModel, queries: dict[str, str], wrap: Callable[[str], Any]) -> None:
    """Text, a message and messages are routed alike."""
    for tier, query in queries.items():
        response = decide.invoke({"state": wrap(query), "questions": {"model": choice()}})
        assert response.choices["model"].choice == tier


@pytest.mark.parametrize("state", [[], {"ticket": 3}, [3], {"messages": []}, {"messages": None}])
def test_states_that_hold_nothing_to_route(decide: RoutingDecisionModel, state: Any) -> None:
    """Anything else is refused in a sentence."""
    with pytest.raises(InputError, match="state holds nothing to route"):
        decide.invoke({"state": state, "questions": {"model": choice()}})


def test_departures_go_to_the_reference(decide: RoutingDecisionModel, queries: dict[str, str]) -> None:
    """An image, which calib did not have, is the reference tier's."""
    state = HumanMessage([{"type": "text", "text": queries["small"]}, IMAGE])
    answer = decide.invoke({"state": state, "questions": {"model": choice()}}).choices["model"]
    assert (answer.choice, answer.confidence) == ("large", 1.0)


def test_configurable(small_router: Router, queries: dict[str, str]) -> None:
    """The agent's configuration names the task and forces a tier."""
    agent, _ = agent_of(RoutingDecisionModel(router=small_router))
    given = {"messages": queries["small"]}
    named = agent.invoke(given, config={"configurable": {"task": "mood"}})
    forced = agent.invoke(given, config={"configurable": {"tier": "medium"}})
    assert (named["model_route"].choice, forced["model_route"].choice) == ("small", "medium")
    with pytest.raises(InputError, match="the portfolio has small, medium, large"):
        agent.invoke(given, config={"configurable": {"tier": "huge"}})


async def test_deciding_does_not_block_the_event_loop(
    decide: RoutingDecisionModel, queries: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder runs in another thread than the loop, and the task is still the run's."""
    threads = set()
    real = Router.decide

    def noted(self: Router, *args: Any, **kwargs: Any) -> Any:
        threads.add(threading.get_ident())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Router, "decide", noted)
    response = await decide.ainvoke({"state": queries["small"], "questions": {"model": choice()}})
    assert response.choices["model"].choice == "small"
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    "labels", [{"a": "small", "b": "large"}, {**ALIASES, "huge": "large"}, {**ALIASES, "heavy": "huge"}]
)
def test_wrong_labels(small_router: Router, labels: dict[str, str]) -> None:
    """Labels that do not name every tier once are refused when the model is made."""
    with pytest.raises(ValueError, match="small, medium, large"):
        RoutingDecisionModel(router=small_router, labels=labels)


def test_from_a_folder_and_pickled(small_bundle: Path, queries: dict[str, str]) -> None:
    """A bundle's folder makes one, which travels to another process and shows no router in its `repr`."""
    made = pickle.loads(pickle.dumps(RoutingDecisionModel.from_bundle(small_bundle, task="mood")))  # noqa: S301
    assert made.invoke({"state": queries["small"], "questions": {"m": choice()}}).choices["m"].choice == "small"
    assert "router=" not in repr(made)


def test_conversations_route_like_the_chat_model(
    decide: RoutingDecisionModel, queries: dict[str, str], small_router: Router
) -> None:
    """What of a conversation is routed is `route_text`'s to say."""
    for query in queries.values():
        state = [HumanMessage(queries["large"]), AIMessage("Bad."), HumanMessage(query)]
        answer = decide.invoke({"state": state, "questions": {"model": choice()}}).choices["model"]
        assert answer.choice == small_router.decide(route_text(turns(state)), "mood").tier
