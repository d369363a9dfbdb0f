"""What surrounds a chat model: caches, serialisation, copies, output versions, several answers, threads and loops."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bundles import DOUBTFUL, TIERS, small_records
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr
from scripted import Make, ProviderModel, ScriptedModel, ask, route_of

from routenlp_integrations.langchain import RoutingChatModel
from routenlp_integrations.langchain.structured import Structure
from router_core import Budget, BudgetError, InputError
from router_core.errors import TierError
from router_core.router import Router

# Caches


@pytest.mark.parametrize(
    "params",
    [
        {"task": "sum"},
        {"stream_policy": "buffer"},
        {"on_failure": "next"},
        {"on_reference_failure": "best"},
        {"uncalibrated": "cascade"},
        {"capabilities": {"small": {"max_input_tokens": 9}}},
        {"temperature": 0.7},
        {"timeout": {"small": 2.0}},
        {"max_tokens": 7},
    ],
)
def test_a_cached_answer_belongs_to_its_parameters(make: Make, easy: str, params: dict[str, Any]) -> None:
    """Whatever decides the route is part of the key of the cache."""
    cache = InMemoryCache()
    one, tiers = make(cache=cache)
    other, _ = make(cache=cache, **params)
    assert one._get_llm_string() != other._get_llm_string()
    one.invoke(easy)
    one.invoke(easy)
    assert len(tiers["small"].calls) == 1


def test_a_cached_answer_belongs_to_its_bundle_and_its_tiers(small_router: Router, easy: str) -> None:
    """Another bundle, another model behind a tier, and other arguments bound to one are other answers."""
    from dataclasses import replace

    def key(router: Router, **own: Any) -> str:
        tiers = {**{name: ScriptedModel() for name in TIERS}, **own}
        return RoutingChatModel(router=router, tiers=tiers, task="mood")._get_llm_string()

    class Named(ScriptedModel):
        @property
        def _identifying_params(self) -> dict[str, Any]:
            return {"model": self.model_name, "key": "sk-secret"}

    keys = [
        key(small_router),
        key(replace(small_router, bundle_id="f" * 64)),
        key(small_router, small=ScriptedModel().bind(seed=1)),
        key(small_router, small=Named()),
        key(small_router, small=Named(model_name="other")),
    ]
    assert len(set(keys)) == len(keys)
    assert key(small_router) == keys[0]
    assert "sk-" not in "".join(keys)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_tiers_own_cache_is_honoured(small_router: Router, easy: str, how: str) -> None:
    """A tier with a cache answers from it, at no cost, as it does alone; its limiter is not passed again."""
    cache = InMemoryCache()
    small = ScriptedModel(cache=cache, model_name="small-1")
    tiers = {"small": small, "medium": ScriptedModel(), "large": ScriptedModel()}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood")
    first = await ask(model, how, easy)
    again = await ask(model, how, easy)
    assert (len(small.calls), again.text) == (1, first.text)
    assert [route_of(m)["cost_usd"] > 0 for m in (first, again)] == [True, False]
    assert "routenlp" not in str(cache._cache)
    small.invoke(easy)
    assert len(small.calls) == 1
    wrong = {**tiers, "large": ScriptedModel(cache=True)}
    other = RoutingChatModel(router=small_router, tiers=wrong, task="mood")
    with pytest.raises(TierError) as caught:
        await ask(other, how, easy, config={"configurable": {"tier": "large"}})
    assert "cache=True, but no global cache" in str(caught.value.__cause__)


def test_the_global_cache_keeps_one_answer(make: Make, easy: str) -> None:
    """The global cache serves the router's run; the tier's own run does not exist."""
    cache = InMemoryCache()
    set_llm_cache(cache)
    try:
        model, tiers = make()
        model.invoke(easy)
        model.invoke(easy)
        assert (len(tiers["small"].calls), len(cache._cache)) == (1, 1)
    finally:
        set_llm_cache(None)


# Serialisation and copies


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_serialisation_round_trip_without_secrets(
    small_bundle: Path, easy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dumps holds no key and no header, loads makes a model that routes alike, keys come from the environment."""
    tiers: dict[str, Any] = {
        "small": ProviderModel(model_name="small-1"),
        "medium": ProviderModel(model_name="medium-1").bind(seed=3, extra_headers={"Authorization": "Bearer sk-bound"}),
        "large": ProviderModel(model_name="large-1"),
    }
    model = RoutingChatModel.from_bundle(small_bundle, tiers, task="mood", temperature=0.5, stop=["END"])
    text = dumps(model)
    assert "sk-" not in text
    monkeypatch.setenv("SCRIPTED_API_KEY", "sk-from-outside")
    from langchain_core.runnables import RunnableBinding

    again = loads(
        text,
        allowed_objects=[RoutingChatModel, ProviderModel, RunnableBinding],
        valid_namespaces=["routenlp_integrations", "scripted"],
        secrets_from_env=True,
    )
    assert route_of(again.invoke(easy)) == route_of(model.invoke(easy))
    assert (again.temperature, again.stop, again.task) == (0.5, ["END"], "mood")
    assert again.tiers["small"].api_key.get_secret_value() == "sk-from-outside"
    assert again.tiers["medium"].kwargs == {"seed": 3}
    assert again._identifying_params["bundle"] == model._identifying_params["bundle"]


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_what_cannot_be_serialised_says_why(small_router: Router, small_bundle: Path) -> None:
    """A router in memory and a tier that is no serialisable model leave a sentence, and nothing to load."""

    class Plain(ScriptedModel):
        @classmethod
        def is_lc_serializable(cls) -> bool:
            return False

    tiers: dict[str, Any] = {name: ScriptedModel() for name in TIERS}
    for model, told in (
        (RoutingChatModel(router=small_router, tiers=tiers), "its router was not loaded from a folder"),
        (RoutingChatModel.from_bundle(small_bundle, {**tiers, "medium": Plain()}), "tier medium cannot be serialised"),
        (
            RoutingChatModel.from_bundle(small_bundle, {**tiers, "medium": Plain().bind(seed=1)}),
            "tier medium cannot be serialised",
        ),
    ):
        text = dumps(model)
        assert told in text
        assert "sk-" not in text
        with pytest.raises(NotImplementedError, match=told):
            loads(text, allowed_objects=[RoutingChatModel], valid_namespaces=["routenlp_integrations"])


def test_a_bundle_that_changed_is_refused(small_bundle: Path) -> None:
    """A serialised model names its bundle by id; a folder that now holds another one is an error."""
    tiers = {name: ScriptedModel() for name in TIERS}
    with pytest.raises(ValueError, match="another one than was serialised"):
        RoutingChatModel(bundle=str(small_bundle), bundle_id="0" * 64, tiers=tiers)
    with pytest.raises(ValueError, match="no bundle was given"):
        RoutingChatModel(tiers=tiers)


def test_no_key_is_shown_anywhere(make: Make, easy: str) -> None:
    """repr, str, identifying parameters, serialised forms, routes and errors hold no secret of a tier."""
    model, _ = make({"large": {"fails": ConnectionError("sk-secret")}})
    shown = [repr(model), str(model), json.dumps(model._identifying_params), dumps(model), str(model._serialized)]
    shown.append(str(route_of(model.invoke(easy))))
    with pytest.raises(Exception, match="reference tier failed") as caught:
        model.invoke(easy, {"configurable": {"tier": "large"}})
    assert "sk-" not in "".join([*shown, str(caught.value)])


def test_a_pickle_carries_its_bundle(small_bundle: Path, easy: str, tmp_path: Path) -> None:
    """A pickled model works where the folder is not; a deep copy shares the router and has tiers of its own."""
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(small_bundle, folder)
    tiers = {name: ScriptedModel(model_name=f"{name}-1") for name in TIERS}
    model = RoutingChatModel.from_bundle(folder, tiers, task="mood")
    frozen = pickle.dumps(model)
    route = route_of(model.invoke(easy))
    shutil.rmtree(folder)
    twin = pickle.loads(frozen)  # noqa: S301 - our own
    assert route_of(twin.invoke(easy)) == route
    assert twin.bundle == model.bundle
    deep = copy.deepcopy(model)
    assert deep.router is model.router
    assert deep.tiers["small"] is model.tiers["small"]
    assert deep.tiers is not model.tiers
    assert route_of(deep.invoke(easy)) == route


class Open(ScriptedModel):
    """Holds a client that cannot be pickled, as providers' models do."""

    _client: Any = PrivateAttr(default_factory=threading.RLock)


def test_tiers_with_open_clients_are_copied_and_pickled(
    small_bundle: Path, easy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pickle such a tier is its JSON, its key a name; made anew it takes the key of the environment."""
    tiers: dict[str, Any] = {name: Open(model_name=name).bind(seed=1) for name in TIERS}
    with pytest.raises(TypeError):
        pickle.dumps(tiers["small"])
    model = RoutingChatModel.from_bundle(small_bundle, tiers, task="mood")
    route = route_of(model.invoke(easy))
    frozen = pickle.dumps(model)
    assert b"sk-secret" not in frozen
    monkeypatch.setenv("SCRIPTED_API_KEY", "sk-from-outside")
    twin = pickle.loads(frozen)  # noqa: S301 - our own
    assert route_of(twin.invoke(easy)) == route
    assert twin.tiers["small"].bound.api_key.get_secret_value() == "sk-from-outside"
    assert twin.tiers["small"].kwargs == {"seed": 1}
    assert route_of(copy.deepcopy(model).invoke(easy)) == route


def test_a_real_providers_model_is_a_tier(small_bundle: Path) -> None:
    """`ChatOpenAI` is asked in its modes, states its profile, is serialised, copied and pickled; nothing is sent."""
    openai = pytest.importorskip("langchain_openai")
    names = {"small": "gpt-4o-mini", "medium": "gpt-4o", "large": "gpt-5"}
    tiers = {name: openai.ChatOpenAI(model=model, api_key="sk-secret") for name, model in names.items()}
    model = RoutingChatModel.from_bundle(small_bundle, tiers, task="mood")
    assert model.profile is not None
    assert (model.profile["tool_calling"], model.profile["max_input_tokens"]) == (True, 128_000)
    assert "sk-" not in dumps(model)
    assert copy.deepcopy(model).tiers["small"] is tiers["small"]
    formats = []
    for method in ("json_schema", "function_calling", "json_mode"):
        structure = Structure({"title": "Mood", "type": "object", "properties": {"a": {"type": "string"}}}, method)  # type: ignore[arg-type]
        formats.append(structure.bound_to(model._parts.models["small"]).bound)
    assert [bound.get("response_format", {}).get("type") for bound in formats] == ["json_schema", None, "json_object"]
    assert formats[1]["tool_choice"]["function"]["name"] == "Mood"


# Answers


def test_output_version_v1(make: Make, easy: str) -> None:
    """The router's own output version acts, and that of tiers who all agree on one."""
    model, _ = make(output_version="v1")
    assert model.invoke(easy).content == [{"type": "text", "text": "The answer is good."}]
    agreed, _ = make({name: {"output_version": "v1"} for name in TIERS})
    assert agreed.invoke(easy).content == [{"type": "text", "text": "The answer is good."}]
    mixed, _ = make({"small": {"output_version": "v1"}})
    assert mixed.invoke(easy).content == "The answer is good."


def test_several_answers_are_kept(small_router: Router, easy: str) -> None:
    """Asked for several, a tier's first answer is judged and served, the others come along."""

    class Several(ScriptedModel):
        def _result(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> ChatResult:
            answers = [
                self._message(messages, kwargs),
                *(AIMessage(f"other {i}") for i in range(1, kwargs.get("n", 1))),
            ]
            return ChatResult(generations=[ChatGeneration(message=answer) for answer in answers])

    tiers = {name: Several(model_name=name) for name in TIERS}
    model = RoutingChatModel(router=small_router, tiers=tiers, task="mood")
    from langchain_core.messages import HumanMessage

    result = model.generate([[HumanMessage(easy)]], n=3)
    first, *rest = result.generations[0]
    assert [g.text for g in rest] == ["other 1", "other 2"]
    assert first.message.response_metadata["routenlp"]["tier"] == "small"  # type: ignore[union-attr]


def test_disable_streaming_for_tools(make: Make, easy: str) -> None:
    """The value "tool_calling" turns streams with tools, and only those, into whole answers."""

    def look_up(word: str) -> str:
        """Look a word up."""
        return word

    model, _ = make(disable_streaming="tool_calling")
    assert len(list(model.bind_tools([look_up]).stream(easy))) == 1
    assert len(list(model.stream(easy))) > 1


# Many at once


def test_threads_and_event_loops_do_not_mix(make: Make) -> None:
    """64 asynchronous calls over 8 event loops, and 64 synchronous ones over 8 threads: each keeps its own route."""
    records = small_records()

    def reply(messages: list[Any]) -> str:
        return DOUBTFUL if len(messages[-1].text) % 3 == 0 else f"The answer is {messages[-1].text[:20]}."

    model, _ = make({name: {"delay": 0.001, "reply": reply} for name in TIERS})
    asked = [(records.prompt[i], records.task[i] if i % 3 else None) for i in range(64)]
    configs: list[Any] = [{"configurable": {"task": task}} for _, task in asked]
    alone = [model.invoke(text, config) for (text, _), config in zip(asked, configs, strict=True)]

    def loop(part: int) -> list[AIMessage]:
        async def together() -> list[AIMessage]:
            mine = range(part * 8, part * 8 + 8)
            return list(await asyncio.gather(*(model.ainvoke(asked[i][0], configs[i]) for i in mine)))

        with asyncio.Runner() as runner:
            return runner.run(together())

    with ThreadPoolExecutor(8) as pool:
        looped = [message for part in pool.map(loop, range(8)) for message in part]
        threaded = list(pool.map(lambda i: model.invoke(asked[i][0], configs[i]), range(64)))
    for messages in (looped, threaded):
        assert [route_of(m) for m in messages] == [route_of(m) for m in alone]
        assert [m.text for m in messages] == [m.text for m in alone]
    assert len({route_of(m)["tier"] for m in alone}) > 1
    assert threading.active_count() < 64


def test_importing_it_stays_light() -> None:
    """The face brings no agent framework, no statistics and no validator along."""
    import subprocess
    import sys

    heavy = ("langchain", "langgraph", "jsonschema", "sklearn", "scipy", "numba", "torch", "pandas", "openai")
    code = (
        "import sys, langchain_core.language_models; import routenlp_integrations.langchain as face; "
        f"face.RoutingChatModel; found = [m for m in {heavy!r} if m in sys.modules]; assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert issubclass(RoutingChatModel, BaseChatModel)


def test_a_kept_answer_does_not_outlive_its_certificate(make: Make, easy: str) -> None:
    """After a lapse the global cache holds nothing for the call: it goes to the reference, certified by nothing."""
    set_llm_cache(InMemoryCache())
    try:
        model, tiers = make()
        assert route_of(model.invoke(easy))["certificate"] is not None
        model.invoke(easy)
        assert len(tiers["small"].calls) == 1
        model.router.lapses.lapse(None, "alarm")
        route = route_of(model.invoke(easy))
        assert (route["tier"], route["certificate"]) == ("large", None)
    finally:
        set_llm_cache(None)


def test_parameters_set_later_count(make: Make, easy: str) -> None:
    """A budget or a policy set on a model or on its copy acts; a wrong one is refused and changes nothing."""
    model, _ = make()
    copied = model.model_copy(update={"budget": Budget(0.0)})
    for changed in (copied, model):
        changed.budget = Budget(0.0)
        with pytest.raises(BudgetError):
            changed.invoke(easy)
    model.budget = None
    assert route_of(model.invoke(easy))["tier"] == "small"
    with pytest.raises(InputError, match="stream_policy = 'bogus' is unknown"):
        model.stream_policy = "bogus"  # type: ignore[assignment]
    assert model.stream_policy == "auto"


def test_tokens_are_counted_by_the_reference(make: Make) -> None:
    """Token counts, which trimming asks for, are the reference tier's."""

    class Counting(ScriptedModel):
        def get_token_ids(self, text: str) -> list[int]:
            return list(range(len(text.split())))

        def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Any = None) -> int:
            return sum(self.get_num_tokens(str(message.text)) for message in messages)

    made, tiers = make()
    model = RoutingChatModel(router=made.router, tiers={**tiers, "large": Counting()})
    assert (model.get_num_tokens("a b c"), model.get_token_ids("a b")) == (3, [0, 1])
    assert model.get_num_tokens_from_messages([HumanMessage("a b c d")]) == 4


def test_an_empty_answer_of_the_reference_is_an_answer(make: Make, easy: str) -> None:
    """As behind the bare model: an agent may end on nothing."""
    model, _ = make({"small": {"fails": ConnectionError("down")}, "large": {"reply": ""}})
    answer = model.invoke(easy)
    assert (answer.text, route_of(answer)["tier"]) == ("", "large")
