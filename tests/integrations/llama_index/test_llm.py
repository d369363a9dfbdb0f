"""`RoutingLLM` by every entrance: who answers, what the response says, how it is put together, copied and told."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import DOUBTFUL, PORTFOLIO, SURE, TIERS
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.llms import MockLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from scripted_llm import EVERY, STREAMS, WHOLE, Make, ScriptedLLM, ask, chunks_of, route_of, said, user

from routenlp_integrations.llama_index import RoutingLLM
from router_core import Breaker, Budget, BundleError, InputError, Sticky
from router_core.encoder import Prediction
from router_core.lapse import LapseWatch
from router_core.outages import Outages
from router_core.router import Router
from router_core.scoring import Scorer

KEYS = {"tier", "attempts", "cost_usd", "task", "bundle", "certificate", "reason"}


@pytest.mark.parametrize("how", EVERY)
async def test_every_entrance_routes(make: Make, easy: str, how: str) -> None:
    """A cheap answer is served by the same method of the tier, with its own metadata and the route beside it."""
    llm, tiers = make()
    response = await ask(llm, how, easy)
    route = route_of(response)
    assert said(response) == "The answer is good."
    assert set(route) == KEYS
    assert (route["tier"], route["task"], route["bundle"]) == ("small", "mood", llm.router.bundle_id)
    assert route["certificate"]["policy"] == ("cascade" if how in WHOLE else "route_only")
    (attempt,) = route["attempts"]
    assert attempt["accepted"]
    assert route["cost_usd"] == attempt["cost_usd"] == PORTFOLIO.tiers[0].price(10, 5)
    assert response.raw["model"] == "small-1"
    assert [call["how"] for call in tiers["small"].calls] == [how]
    assert not tiers["medium"].calls
    assert not tiers["large"].calls
    json.dumps(route)


@pytest.mark.parametrize("how", WHOLE)
async def test_a_doubtful_answer_escalates(make: Make, easy: str, how: str) -> None:
    """Every attempt is judged, paid for and told; the answer is the last one's."""
    llm, _ = make({"small": {"reply": DOUBTFUL}, "medium": {"reply": DOUBTFUL}, "large": {"reply": "Surely bad."}})
    response = await ask(llm, how, easy)
    route = route_of(response)
    assert said(response) == "Surely bad."
    assert [a["tier"] for a in route["attempts"]] == list(TIERS)
    assert [a["accepted"] for a in route["attempts"]] == [False, False, True]
    assert [a["confidence"] is None for a in route["attempts"]] == [False, False, True]
    assert route["cost_usd"] == pytest.approx(sum(tier.price(10, 5) for tier in PORTFOLIO.tiers))
    assert route["certificate"] is not None


async def test_a_chat_stays_a_chat_and_a_prompt_a_prompt(make: Make, easy: str) -> None:
    """Messages reach the tier as they are, system turn and history included; a prompt with how it was formatted."""
    llm, tiers = make()
    history = [
        ChatMessage(role=MessageRole.SYSTEM, content="Be brief."),
        ChatMessage(role=MessageRole.USER, content="Hello"),
        ChatMessage(role=MessageRole.ASSISTANT, content="Hello!"),
        *user(easy),
    ]
    llm.chat(history, tier="small")
    await llm.achat(history, tier="small")
    llm.complete(easy, formatted=True)
    chat, achat, complete = tiers["small"].calls
    assert chat["asked"] == achat["asked"] == history
    assert (complete["asked"], complete["formatted"]) == (easy, True)


def test_the_routed_text_is_that_of_the_records(make: Make, easy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system turn is not routed; what was said before is, as in every face of the router."""
    seen: list[str] = []
    llm, _ = make()
    start = Router.start
    monkeypatch.setattr(Router, "start", lambda self, text, *rest: seen.append(text) or start(self, text, *rest))
    llm.chat([ChatMessage(role=MessageRole.SYSTEM, content="Be brief."), *user(easy)])
    llm.complete(easy)
    llm.chat([*user("Hi"), ChatMessage(role=MessageRole.ASSISTANT, content="Yes?"), *user(easy)])
    assert seen == [easy, easy, f"human: Hi\nai: Yes?\n\n{easy}"]


@pytest.mark.parametrize("how", EVERY)
async def test_task_and_tier_of_one_call(make: Make, easy: str, how: str) -> None:
    """`task` and `tier` go no further than the router; a forced tier before the reference has no certificate."""
    llm, tiers = make(task=None)
    route = route_of(await ask(llm, how, easy, task="mood", stop=["x"]))
    assert (route["task"], route["tier"]) == ("mood", "small")
    forced = route_of(await ask(llm, how, easy, tier="medium"))
    assert (forced["tier"], forced["certificate"]) == ("medium", None)
    assert "tier forced" in forced["reason"]
    kept = route_of(await ask(llm, how, easy, task="mood", tier="large"))
    assert kept["certificate"] is not None
    assert "task" not in tiers["small"].calls[0]
    assert "tier" not in tiers["medium"].calls[0]
    assert tiers["small"].calls[0]["stop"] == ["x"]


def test_a_block_names_what_calls_cannot(make: Make, easy: str) -> None:
    """`asking` holds inside its block, an inner block and the call itself win, a stream keeps what it began with."""
    llm, _ = make(task=None)
    with RoutingLLM.asking(task="mood"):
        assert route_of(llm.chat(user(easy)))["task"] == "mood"
        assert route_of(llm.chat(user(easy), task="sum"))["task"] == "sum"
        with RoutingLLM.asking(tier="large"):
            assert route_of(llm.complete(easy)) | {"reason": ""} == route_of(llm.complete(easy)) | {"reason": ""}
            assert route_of(llm.complete(easy))["tier"] == "large"
            assert route_of(llm.complete(easy))["task"] == "mood"
        stream = llm.stream_chat(user(easy))
    assert route_of(list(stream)[-1])["task"] == "mood"
    assert route_of(llm.chat(user(easy)))["task"] is None


def test_names_must_be_text(make: Make, easy: str) -> None:
    """A task or tier that is no text, and a tier that is not there, are told before anything is called."""
    llm, tiers = make()
    with pytest.raises(InputError, match="task must be text, not 3"):
        llm.chat(user(easy), task=3)
    with pytest.raises(InputError, match="tier must be text"), RoutingLLM.asking(tier=object()):  # type: ignore[arg-type]
        pytest.fail("the block was entered")
    with pytest.raises(InputError, match="huge"):
        llm.chat(user(easy), tier="huge")
    with pytest.raises(InputError, match="huge"):
        llm.stream_chat(user(easy), tier="huge")
    assert not any(tier.calls for tier in tiers.values())


def test_signals_are_evidence(make: Make, easy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probabilities and signals of a response reach the evidence model."""
    seen: list[dict[str, float]] = []
    accept = Router.accept

    def noting(self: Router, *given: Any) -> Any:
        seen.append(dict(given[-1]))
        return accept(self, *given)

    monkeypatch.setattr(Router, "accept", noting)
    llm, _ = make({"small": {"logprobs": [-0.5, -1.5]}})
    llm.chat(user(easy))
    llm.complete(easy)
    assert seen == [{"mean_logprob": -1.0}] * 2


def test_usage_is_counted_or_estimated(make: Make, easy: str) -> None:
    """Costs are those of the tokens the provider counted; without them, of four bytes a token."""
    llm, _ = make({"small": {"usage": {"input_tokens": 100, "output_tokens": 7}}})
    assert route_of(llm.chat(user(easy)))["cost_usd"] == PORTFOLIO.tiers[0].price(100, 7)
    llm, _ = make({"small": {"usage": None}})
    guessed = PORTFOLIO.tiers[0].price((len(easy) + 3) // 4, (len("The answer is good.") + 3) // 4)
    assert route_of(llm.chat(user(easy)))["cost_usd"] == pytest.approx(guessed)


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY"])
def test_a_filtered_answer_goes_to_the_reference(make: Make, easy: str, reason: str) -> None:
    """What a provider withheld is nobody's answer; the reference's own is served whatever it is."""
    llm, _ = make({"small": {"finish_reason": reason}})
    route = route_of(llm.chat(user(easy)))
    assert (route["tier"], route["attempts"][0]["accepted"]) == ("large", False)
    assert "filtered" in route["reason"]


def test_another_model_than_was_certified(make: Make, easy: str) -> None:
    """It is noticed by its name, covered by nothing, and the scope lapses."""
    llm, tiers = make()
    tiers["small"].model = "other-9"
    route = route_of(llm.chat(user(easy)))
    assert (route["tier"], route["certificate"]) == ("large", None)
    assert "another model" in route["reason"]
    assert route_of(llm.chat(user(easy)))["attempts"][0]["tier"] == "large"


async def _begun(llm: RoutingLLM, how: str, asked: Any) -> Any:
    found = getattr(llm, how)(asked)
    return await found if inspect.isawaitable(found) else found


@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_a_conversation_without_messages(make: Make, how: str) -> None:
    """It is the caller's mistake, told before any tier is asked."""
    llm, tiers = make()
    with pytest.raises(InputError, match="the conversation has no messages"):
        await _begun(llm, how, [])
    assert not any(tier.calls for tier in tiers.values())


def test_settings_of_a_call_that_change_the_answers(make: Make, easy: str) -> None:
    """Another temperature or model is routed and told, and a cheap answer to it carries no certificate."""
    llm, tiers = make()
    route = route_of(llm.chat(user(easy), temperature=1.7))
    assert (route["tier"], route["certificate"]) == ("small", None)
    assert "the call sets temperature" in route["reason"]
    assert tiers["small"].calls[0]["temperature"] == 1.7
    for name in ("stop", "num_ctx", "seed", "model_id", "whatever_comes_next"):
        route = route_of(llm.chat(user(easy), **{name: 3}))
        assert (route["tier"], route["certificate"]) == ("small", None)
        assert f"the call sets {name}" in route["reason"]
    assert route_of(llm.chat(user(easy), user="u1", metadata={}, temperature=None))["certificate"] is not None
    assert "temperature" not in tiers["small"].calls[-1]


@pytest.mark.parametrize("wrong", [{"timeout": "x"}, {"budget": 5}, {"sticky": "x"}, {"breaker": True}, {"task": 5}])
def test_wrong_parameters_are_told_in_one_line(make: Make, wrong: dict[str, Any]) -> None:
    """Every parameter that cannot be used is an InputError of one sentence."""
    with pytest.raises(InputError, match=f"RoutingLLM: {next(iter(wrong))} should be") as raised:
        make(**wrong)
    assert "\n" not in str(raised.value)


def test_an_unknown_parameter_is_refused(make: Make) -> None:
    """However the LLM is made: a budget that is misspelt would limit nothing."""
    with pytest.raises(InputError, match="no parameter 'bugdet'"):
        make(bugdet=Budget(0.5, per="call", on_exceeded="stop"))


def test_nobody_asked_anything(make: Make) -> None:
    """Records hold no empty prompts: such a call is the reference tier's, uncertified unless the risk is joint."""
    llm, _ = make()
    said = [ChatMessage("You are X", role="system")], [ChatMessage("hi", role="assistant")], user(" ")
    for response in (llm.complete(""), llm.complete(" \n"), *map(llm.chat, said)):
        route = route_of(response)
        assert (route["tier"], route["certificate"]["risk"]) == ("large", "joint")
        assert "nobody asked anything" in route["reason"]


def test_images_go_to_the_reference(make: Make) -> None:
    """Content that calib did not have is asked of the reference tier, unless it cannot see."""
    llm, tiers = make()
    blocks = [TextBlock(text="What is this?"), ImageBlock(url="https://example.org/a.png")]
    route = route_of(llm.chat([ChatMessage(role=MessageRole.USER, blocks=blocks)]))
    assert route["tier"] == "large"
    assert "content, which calib did not have" in route["reason"]
    blind = {name: {"image_inputs": False} for name in TIERS}
    llm, tiers = make(capabilities=blind)
    with pytest.raises(InputError, match="small lacks image inputs; medium lacks image inputs; large lacks image"):
        llm.chat([ChatMessage(role=MessageRole.USER, blocks=blocks)])
    assert not any(tier.calls for tier in tiers.values())


def test_a_tier_without_room_is_no_candidate(make: Make, easy: str) -> None:
    """A prompt beyond a tier's window goes to one that takes it; one beyond all is refused with what each lacks."""
    llm, tiers = make({"small": {"window": 300}})
    route = route_of(llm.chat(user(f"{easy} {'word ' * 100}")))
    assert not tiers["small"].calls
    assert "small lacks a context of" in route["reason"] or route["tier"] != "small"
    with pytest.raises(InputError, match="no tier can serve this call"):
        llm.complete("word " * 5_000)
    with pytest.raises(InputError, match="forced by tier=, but lacks a context"):
        llm.complete(f"{easy} {'word ' * 100}", tier="small")


def test_a_window_that_is_not_stated(make: Make) -> None:
    """LlamaIndex's default window says nothing of a tier: a long prompt reaches it as it would without the router."""
    llm, _ = make()
    llm.tiers = {name: MockLLM() for name in TIERS}
    assert route_of(llm.complete("word " * 5_000))["attempts"]
    assert llm.metadata.context_window == MockLLM().metadata.context_window
    llm.capabilities = {name: {"context_window": 100} for name in TIERS}
    with pytest.raises(InputError, match="no tier can serve this call"):
        llm.complete("word " * 5_000)


# What it is


def test_the_metadata_is_what_every_tier_can(make: Make) -> None:
    """The smallest window; chat and functions where all have them; room for every tier's longest answer."""
    llm, _ = make()
    assert isinstance(llm, FunctionCallingLLM)
    told = llm.metadata
    assert (told.is_chat_model, told.is_function_calling_model) == (True, True)
    assert told.model_name == f"routenlp-{llm.router.bundle_id[:12]}"
    llm, _ = make({"small": {"window": 2_000, "longest": 100}, "large": {"window": 9_000, "longest": 8_000}})
    assert (llm.metadata.context_window, llm.metadata.num_output) == (2_000, 1_000)
    llm, _ = make({"small": {"longest": -1}, "medium": {"longest": -1}, "large": {"longest": -1}})
    assert llm.metadata.num_output == -1
    llm, _ = make({"medium": {"chats": False, "functions": False}})
    assert (llm.metadata.is_chat_model, llm.metadata.is_function_calling_model) == (False, False)
    llm, _ = make({"medium": {"functions": False}}, is_function_calling_model=True)
    assert llm.metadata.is_function_calling_model
    assert {"RoutingLLM", "FunctionCallingLLM", "LLM"} <= {kind.__name__ for kind in type(llm).__mro__}
    assert RoutingLLM.class_name() == "RoutingLLM"


def test_from_bundle(small_bundle: Path, tmp_path: Path, easy: str) -> None:
    """A bundle's folder and tiers make an LLM; what does not fit is told in one sentence."""
    tiers = {name: ScriptedLLM(model=f"{name}-1") for name in TIERS}
    llm = RoutingLLM.from_bundle(small_bundle, tiers, task="mood")
    assert route_of(llm.complete(easy))["tier"] == "small"
    with pytest.raises(InputError, match=r"tiers must be named small, medium, large .* given were small"):
        RoutingLLM.from_bundle(small_bundle, {"small": tiers["small"]})
    with pytest.raises(InputError, match="tier 'large' is a str; give a LlamaIndex LLM"):
        RoutingLLM.from_bundle(small_bundle, {**tiers, "large": "gpt"})
    with pytest.raises(InputError, match="no parameter 'tempo'"):
        RoutingLLM.from_bundle(small_bundle, tiers, tempo=1)
    for wrong in (
        {"stream_policy": "never"}, {"uncalibrated": "x"}, {"on_failure": "x"}, {"on_reference_failure": "x"},
        {"timeout": {"huge": 1.0}}, {"timeout": -1.0}, {"max_retries": -1}, {"capabilities": {"huge": {}}},
        {"capabilities": {"small": {"smell": True}}},
    ):  # fmt: skip
        with pytest.raises(InputError):
            RoutingLLM.from_bundle(small_bundle, tiers, **wrong)
    plain = {name: MockLLM() for name in TIERS}
    with pytest.raises(InputError, match="no tier is a function-calling model"):
        RoutingLLM.from_bundle(small_bundle, plain, is_function_calling_model=True)
    with pytest.raises(BundleError):
        RoutingLLM.from_bundle(tmp_path, tiers)


def test_the_bundle_of_the_environment(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``ROUTENLP_BUNDLE`` names the bundle where nothing else does."""
    tiers = {name: ScriptedLLM() for name in TIERS}
    monkeypatch.delenv("ROUTENLP_BUNDLE", raising=False)
    with pytest.raises(InputError, match="ROUTENLP_BUNDLE"):
        RoutingLLM(tiers=tiers)
    monkeypatch.setenv("ROUTENLP_BUNDLE", str(small_bundle))
    assert RoutingLLM(tiers=tiers).bundle == str(small_bundle.resolve())


def test_a_parameter_that_changes(make: Make, easy: str) -> None:
    """It acts at once, and one that does not fit leaves everything as it was."""
    llm, _ = make()
    llm.stream_policy = "buffer"
    assert route_of(list(llm.stream_chat(user(easy)))[-1])["certificate"]["policy"] == "cascade"
    with pytest.raises(InputError, match="stream_policy"):
        llm.stream_policy = "never"  # type: ignore[assignment]
    assert llm.stream_policy == "buffer"
    llm.tiers = {**llm.tiers, "small": ScriptedLLM(model="small-1", reply="I say it is good.")}
    assert said(llm.chat(user(easy), tier="small")) == "I say it is good."
    other = llm.model_copy(update={"stream_policy": "route"})
    assert (other.stream_policy, llm.stream_policy) == ("route", "buffer")


def test_no_secret_is_told(make: Make, small_bundle: Path) -> None:
    """Neither its text, its dictionary, its JSON nor its payload holds a key of a tier."""
    llm, _ = make(budget=Budget(1.0), breaker=Breaker(), sticky="conversation")
    told = [repr(llm), str(llm), llm.to_json(), json.dumps(llm.to_dict()), json.dumps(llm.dict(), default=repr)]
    told += [json.dumps(llm.to_payload(), default=repr)] if hasattr(llm, "to_payload") else []
    assert not any("sk-secret" in text for text in told)
    assert "small" in repr(llm)
    assert llm.to_dict()["class_name"] == "RoutingLLM"


def test_it_is_made_again_from_its_dictionary(small_bundle: Path, easy: str) -> None:
    """Parameters, limits and bundle come back, the tiers are given anew, and another bundle is refused."""
    tiers = {name: ScriptedLLM(model=f"{name}-1") for name in TIERS}
    budget = Budget(2.0, per="run", on_exceeded="stop")
    limits: dict[str, Any] = {"budget": budget, "sticky": Sticky(2), "timeout": {"small": 1.0}}
    llm = RoutingLLM.from_bundle(small_bundle, tiers, task="mood", **limits)
    told = json.loads(llm.to_json())
    again = RoutingLLM.from_dict(told, tiers=tiers)
    assert again.to_dict() == llm.to_dict()
    assert again.budget is not None
    assert again.budget.settings == budget.settings
    assert route_of(again.chat(user(easy)))["tier"] == "small"
    with pytest.raises(BundleError, match="another one than was serialised"):
        RoutingLLM.from_dict({**told, "bundle_id": "0" * 64}, tiers=tiers)


def test_copies(make: Make, easy: str) -> None:
    """A deep copy shares router and tiers; a pickle carries both, tiers as LlamaIndex pickles them."""
    llm, tiers = make(sticky="conversation", max_retries=1)
    same = copy.deepcopy(llm)
    assert same.router is llm.router
    assert same.tiers["small"] is tiers["small"]
    again = pickle.loads(pickle.dumps(llm))  # noqa: S301 - our own pickle
    assert (again.task, again.max_retries) == ("mood", 1)
    assert route_of(again.chat(user(easy)))["bundle"] == llm.router.bundle_id
    assert route_of(same.complete(easy))["tier"] == "small"


# Many at once


def _mixed(llm: RoutingLLM, tiers: dict[str, ScriptedLLM], easy: str) -> list[tuple[str, dict[str, Any]]]:
    """Queries with the arguments that force them to different tiers, each with a text of its own."""
    return [(f"{easy} Ticket {i}.", {"tier": TIERS[i % 3], "task": "mood"}) for i in range(64)]


def _echo(make: Make, **params: Any) -> tuple[RoutingLLM, dict[str, ScriptedLLM]]:
    def reply(name: str) -> Any:
        return lambda asked: f"{name}: {asked.rpartition('Ticket ')[2]}"

    return make({name: {"reply": reply(name), "delay": 0.01} for name in TIERS}, **params)


@pytest.mark.parametrize("how", ["achat", "acomplete", "astream_chat", "astream_complete"])
async def test_64_at_once(make: Make, easy: str, how: str) -> None:
    """No route is lost or mixed with another, and the tiers answer at the same time."""
    llm, tiers = _echo(make)
    asked = _mixed(llm, tiers, easy)
    found = await asyncio.gather(*(ask(llm, how, text, **told) for text, told in asked))
    assert [route_of(r)["tier"] for r in found] == [told["tier"] for _, told in asked]
    assert [said(r) for r in found] == [f"{told['tier']}: {i}." for i, (_, told) in enumerate(asked)]
    assert sum(len(tier.calls) for tier in tiers.values()) == 64


def test_threads_and_event_loops(make: Make, easy: str) -> None:
    """One LLM serves several threads, each with an event loop of its own."""
    llm, tiers = _echo(make, sticky="conversation", budget=Budget(10.0), breaker=Breaker())
    asked = _mixed(llm, tiers, easy)

    def work(k: int) -> list[str]:
        async def several() -> list[str]:
            mine = asked[k::4]
            return [said(r) for r in await asyncio.gather(*(llm.achat(user(t), **told) for t, told in mine))]

        alone = said(llm.chat(user(asked[k][0]), **asked[k][1]))
        return [*asyncio.run(several()), alone]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    for k, answers in enumerate(found):
        expected = [f"{told['tier']}: {i}." for i, (_, told) in enumerate(asked)][k::4]
        assert answers == [*expected, expected[0]]


class _Slow:
    """A transformer's encoder: it takes its time, and notes on which thread."""

    kind = "onnx"

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.threads: set[int] = set()

    def predict(self, text: str, task: str | None = None, subtask: str | None = None) -> Prediction:
        """As the encoder inside, elsewhere noted."""
        self.threads.add(threading.get_ident())
        found: Prediction = self._inner.predict(text, task, subtask)
        return found


@pytest.mark.parametrize("how", ["achat", "acomplete", "astream_chat", "astream_complete"])
async def test_a_slow_encoder_never_blocks_the_loop(make: Make, small_router: Router, easy: str, how: str) -> None:
    """Encoding and judging run on another thread than the event loop's."""
    slow: Any = _Slow(small_router.scorer.encoder)
    scorer: Scorer = replace(small_router.scorer, encoder=slow)
    llm, tiers = make()
    llm.router = replace(small_router, scorer=scorer, lapses=LapseWatch(), outages=Outages())
    assert not llm.router.quick
    route = route_of(await ask(llm, how, easy))
    assert route["tier"] == "small"
    assert slow.threads
    assert threading.get_ident() not in slow.threads
    assert tiers["small"].calls[0]["thread"] == threading.get_ident()


@pytest.mark.parametrize("how", ["achat", "acomplete", "astream_chat", "astream_complete"])
async def test_a_tier_that_only_answers_synchronously(make: Make, easy: str, how: str) -> None:
    """`CustomLLM` answers on the event loop when asked asynchronously; behind the router it does not block it."""
    threads: list[int] = []

    class Mock(MockLLM):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            threads.append(threading.get_ident())
            return super().complete(prompt, formatted, **kwargs)

        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            threads.append(threading.get_ident())
            return super().stream_complete(prompt, formatted, **kwargs)

    llm, _ = make()
    llm.tiers = {name: Mock() for name in TIERS}
    response = await ask(llm, how, easy)
    assert route_of(response)["attempts"]
    assert easy in said(response)
    assert threads
    assert threading.get_ident() not in threads


async def test_streams_are_generators(make: Make, easy: str) -> None:
    """What LlamaIndex tells streams by."""
    llm, _ = make()
    assert isinstance(llm.stream_chat(user(easy)), Generator)
    assert isinstance(await llm.astream_complete(easy), AsyncGenerator)
    assert [len(await chunks_of(llm, how, easy)) > 2 for how in STREAMS] == [True] * 4


def test_the_sure_reply_is_the_default() -> None:
    """The scripted answer is the one that the population calls sure."""
    assert ScriptedLLM().reply == SURE.format("good")
