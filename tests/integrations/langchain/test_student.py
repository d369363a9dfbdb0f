"""`StudentChatModel`: LangChain's own suites, the metadata, what it refuses, and its place as a tier."""

from __future__ import annotations

import copy
import importlib
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from scripted import STREAMS, WHOLE, ask, route_of
from student_checks import (
    answering_threads,
    check_folders,
    check_unsignalled,
    contrary_names,
    mood_queries,
    promoted_under_load,
)
from tiny_student import promote, student_records, tiny_checkpoint, tiny_student, write_release

from routenlp_integrations.langchain import RoutingChatModel, StudentChatModel
from routenlp_integrations.langchain.recorded import recorded_tiers
from router_core import InputError
from router_core.records import Records
from router_core.student import make_student

load_module = importlib.import_module("langchain_core.load.load")  # the package has a function of that name
QUERY = "Review 3: I love this lamp"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A ROOT with one release of the tier small."""
    return write_release(tmp_path / "root", "r1", small=tiny_checkpoint())


@pytest.fixture
def model(root: Path) -> StudentChatModel:
    """The student of that release."""
    return StudentChatModel(root, tier="small")


class _Flags:
    """What a student can do; every skip of the suites follows from one of these.

    It answers with what it was trained to say: no tools, no tool choice, no structured output or JSON mode, no images,
    PDFs or audio, in no provider's own format; one checkpoint is one model, so no call names another; no key in the
    environment, and no recorded HTTP, since it makes no requests.
    """

    has_tool_calling = False
    has_tool_choice = False
    has_structured_output = False
    supports_json_mode = False
    supports_model_override = False
    returns_usage_metadata = True

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # A relative path, so that the serialised form is the same on every machine.
        tiny_checkpoint().save(tmp_path / "student")
        monkeypatch.chdir(tmp_path)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """The class under test."""
        return StudentChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """A checkpoint's folder."""
        return {"root": "student", "tier": "small"}


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
class TestStudentUnit(_Flags, ChatModelUnitTests):
    """LangChain's unit suite."""

    @pytest.fixture(autouse=True)
    def _allow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The suite revives with allowed_objects="all", a list of partners' classes kept inside LangChain. Users give
        # [StudentChatModel] (see below); here the list gets our class, and the round trip is the suite's own.
        listed = load_module._get_default_allowed_class_paths
        own = {tuple(StudentChatModel.lc_id())}
        monkeypatch.setattr(load_module, "_get_default_allowed_class_paths", lambda which: {*listed(which), *own})


class TestStudentIntegration(_Flags, ChatModelIntegrationTests):
    """LangChain's integration suite, offline."""


# What an answer holds


@pytest.mark.parametrize("how", [*WHOLE, *STREAMS])
async def test_every_entrance_gives_the_same(model: StudentChatModel, how: str) -> None:
    """Text, tokens, name, signals and reason to finish are the student's, whichever way it is asked."""
    found = tiny_student().answer(QUERY)
    message = await ask(model, how, [("system", "Be brief."), ("human", "no"), ("ai", "yes"), ("human", QUERY)])
    assert message.content == found.text == "good"
    assert message.usage_metadata == {"input_tokens": found.prompt_tokens, "output_tokens": 1, "total_tokens": 13}
    assert message.response_metadata == {
        "model_name": f"routenlp-student/small@{tiny_checkpoint().fingerprint[:12]}",
        "model_provider": "routenlp",
        "finish_reason": "stop",
        "signals": {"own_confidence": found.signals["own_confidence"], "template_matched": 1.0},
    }


def test_a_stream_has_a_last_chunk(model: StudentChatModel) -> None:
    """Exactly one chunk is the last, and it holds the metadata."""
    chunks = list(model.stream(QUERY))
    assert [chunk.chunk_position for chunk in chunks].count("last") == 1
    assert chunks[-1].response_metadata["signals"]["template_matched"] == 1.0


def test_batch_is_invoke(model: StudentChatModel) -> None:
    """A batch gives the answers of `invoke`, signals to the last bit."""
    queries = [f"Review {i}: I {'love' if i % 3 else 'hate'} this" for i in range(20)]
    alone = [model.invoke(query).response_metadata for query in queries]
    assert [message.response_metadata for message in model.batch(list(queries))] == alone


async def test_the_event_loop_is_not_blocked(model: StudentChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked asynchronously, the student works on another thread."""
    seen = answering_threads(model._source.get().student(), monkeypatch)
    for how in ("ainvoke", "astream"):
        await ask(model, how, QUERY)
    assert seen
    assert threading.get_ident() not in seen


def test_standard_parameters_are_accepted(model: StudentChatModel, root: Path) -> None:
    """LangChain's standard parameters and a stop sequence change nothing."""
    other = StudentChatModel(root, temperature=1.0, max_tokens=1, timeout=1.0, stop=["o"], max_retries=2)
    assert other.invoke(QUERY, stop=["g"]).content == model.invoke(QUERY).content
    assert other.fingerprint == model.fingerprint == tiny_checkpoint().fingerprint


# What it refuses


def test_tools_and_schemas_are_refused(model: StudentChatModel) -> None:
    """A student cannot do either, and says so whichever way it is asked."""

    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    with pytest.raises(NotImplementedError):
        model.bind_tools([add])
    for method in ("json_schema", "function_calling", "json_mode"):
        with pytest.raises(NotImplementedError, match="not by a schema"):
            model.with_structured_output({"title": "x"}, method=method)
    for name in ("tools", "response_format"):
        with pytest.raises(NotImplementedError, match=f"a student takes no {name}"):
            model.invoke(QUERY, **{name: [{"type": "json_object"}]})
    assert model.profile is not None
    assert not model.profile["tool_calling"]
    assert not model.profile["structured_output"]
    assert "max_input_tokens" not in model.profile


def test_images_are_refused(model: StudentChatModel) -> None:
    """A query that holds an image is not answered from its text alone; one before the last turn does not matter."""
    blocks: list[Any] = [{"type": "text", "text": QUERY}, {"type": "image", "url": "https://example.org/a.png"}]
    with pytest.raises(InputError, match="reads text only, and the query holds 'image'"):
        model.invoke([HumanMessage(blocks)])
    found = model.invoke([HumanMessage(blocks), AIMessage("a lamp"), HumanMessage([{"type": "text", "text": QUERY}])])
    assert found.content == "good"


def test_a_wrong_folder_is_a_bundle_error(tmp_path: Path, root: Path, small_bundle: Path) -> None:
    """No validation error of pydantic's hides what is wrong."""
    check_folders(StudentChatModel, tmp_path / "nowhere", root, small_bundle)


# Copies


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_copies_answer_the_same(model: StudentChatModel) -> None:
    """Pickle, deepcopy and LangChain's serialisation keep fingerprint and answers."""
    text = dumps(model)
    revived = loads(text, valid_namespaces=["routenlp_integrations"], allowed_objects=[StudentChatModel])
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model.model_copy(), revived):  # noqa: S301
        assert other.fingerprint == model.fingerprint
        assert other.invoke(QUERY).response_metadata == model.invoke(QUERY).response_metadata


# A release that changes


def settle(model: StudentChatModel) -> bool:
    """Look at the ROOT now, and wait until what is current is served."""
    assert model._source.root is not None
    return model._source.root.settle()


def test_a_promotion_between_two_queries(root: Path) -> None:
    """A model of a ROOT answers with the release that is current; name, cache key and fingerprint follow."""
    model, still = StudentChatModel(root, tier="small"), StudentChatModel(root, tier="small", watch=False)
    before = model.invoke(QUERY)
    second = tiny_checkpoint(labels=("bad", "good"))
    write_release(root, "r2", small=second)
    assert settle(model)
    after = model.invoke(QUERY)
    assert (before.content, after.content) == ("good", "bad")
    assert after.response_metadata["model_name"] == make_student(second).name == model._get_ls_params()["ls_model_name"]
    assert model._identifying_params["fingerprint"] == second.fingerprint != still.fingerprint
    assert still.invoke(QUERY).response_metadata == before.response_metadata


def test_promotions_under_load(root: Path) -> None:
    """Of many queries during promotions none is lost, and each has text and name of one release."""
    model = StudentChatModel(root, tier="small", watch=True)
    wanted, found = contrary_names(), promoted_under_load(root, lambda: settle(model), lambda: model.invoke(QUERY))
    assert all(message.content == wanted[message.response_metadata["model_name"]] for message in found)
    assert {message.content for message in found} == {"good", "bad"}


def test_a_student_per_task(root: Path) -> None:
    """The configuration names the task, `task` is its default, and without a student for it the call says so."""
    held = root / "releases" / "r3" / "checkpoints"
    tiny_checkpoint().save(held / "small@mood")
    tiny_checkpoint("multilabel").save(held / "small@topic")
    promote(root, "r3")
    model = StudentChatModel(root, tier="small", task="mood")
    topic: Any = {"configurable": {"task": "topic/short"}}
    assert (model.invoke(QUERY).content, model.invoke(QUERY, topic).content) == ("good", '["love"]')
    assert "".join(chunk.text for chunk in model.stream(QUERY, topic)) == '["love"]'
    assert model.with_config(topic).batch([QUERY])[0].content == '["love"]'
    names = {model.invoke(QUERY, config).response_metadata["model_name"] for config in (None, topic)}
    assert names == {f"routenlp-student/small@{model.fingerprint[:12]}"}
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):  # noqa: S301
        assert other.invoke(QUERY, topic).content == '["love"]'
    with pytest.raises(InputError, match="name one of: mood, topic"):
        model.invoke(QUERY, {"configurable": {"task": "sum"}})


# A tier of the router


class _Silent(StudentChatModel):
    """Mutant: a student that does not tell its confidence."""

    def _answer(self, messages: list[BaseMessage], params: Any) -> dict[str, Any]:
        found = super()._answer(messages, params)
        del found["response_metadata"]["signals"]
        return found


@pytest.fixture(scope="module")
def records() -> Records:
    """The small population, its small tier answered by the student."""
    return student_records(tiny_student())


@pytest.fixture
def bundle(student_bundle: Path) -> Path:
    """A bundle fitted on it."""
    return student_bundle


@pytest.fixture
def queries(records: Records) -> list[str]:
    """Test queries of the task "mood"."""
    return mood_queries(records)


def test_own_confidence_is_evidence(root: Path, bundle: Path, records: Records, queries: list[str]) -> None:
    """As a tier the student is routed as its recorded answers are, to the last bit of every confidence."""
    recorded = recorded_tiers(records)
    replayed = RoutingChatModel.from_bundle(bundle, recorded, task="mood")
    live = RoutingChatModel.from_bundle(
        bundle, {**recorded, "small": StudentChatModel(root, tier="small")}, task="mood"
    )
    served = []
    for query in queries:
        one, two = route_of(live.invoke(query)), route_of(replayed.invoke(query))
        costless = [{k: v for k, v in attempt.items() if k != "cost_usd"} for attempt in one["attempts"]]
        assert costless == [{k: v for k, v in attempt.items() if k != "cost_usd"} for attempt in two["attempts"]]
        served.append(one["tier"])
    assert served.count("small") > 2
    assert live.invoke(queries[served.index("small")]).response_metadata["model_name"].startswith("routenlp-student/")


def test_mutant_without_signals_escalates(root: Path, bundle: Path, records: Records, queries: list[str]) -> None:
    """Without its confidence no answer of the student is served: the evidence model needs it."""
    tiers = {**recorded_tiers(records), "small": _Silent(root, tier="small")}
    routes = [route_of(RoutingChatModel.from_bundle(bundle, tiers, task="mood").invoke(query)) for query in queries]
    check_unsignalled([attempt for route in routes for attempt in route["attempts"]])
