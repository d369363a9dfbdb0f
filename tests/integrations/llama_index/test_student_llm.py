"""`StudentLLM`: the same answers by every entrance, what it refuses, releases that change, its place as a tier."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bundles import TIERS
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import LLM
from scripted_llm import EVERY, ScriptedLLM, ask, chunks_of, route_of, said, user
from student_checks import (
    answering_threads,
    check_folders,
    check_unsignalled,
    contrary_names,
    mood_queries,
    promoted_under_load,
)
from tiny_student import promote, student_records, tiny_checkpoint, tiny_student, write_release

from routenlp_integrations.llama_index import RoutingLLM, StudentLLM
from router_core import Answer, Cascade, InputError
from router_core.records import Records
from router_core.router import Router
from router_core.served import ServedRoot
from router_core.student import make_student

QUERY = "Review 3: I love this lamp"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A ROOT with one release of the tier small."""
    return write_release(tmp_path / "root", "r1", small=tiny_checkpoint())


@pytest.fixture
def llm(root: Path) -> StudentLLM:
    """The student of that release."""
    return StudentLLM(root, tier="small")


@pytest.mark.parametrize("how", EVERY)
async def test_every_entrance_gives_the_same(llm: StudentLLM, how: str) -> None:
    """Text, tokens, name and signals are the student's, whichever way it is asked; a stream is one chunk."""
    found = tiny_student().answer(QUERY)
    (response,) = await chunks_of(llm, how, QUERY)
    assert said(response) == found.text == "good"
    assert response.additional_kwargs == {
        "model_name": f"routenlp-student/small@{tiny_checkpoint().fingerprint[:12]}",
        "signals": {"own_confidence": found.signals["own_confidence"], "template_matched": 1.0},
    }
    assert response.raw["usage"] == {"prompt_tokens": found.prompt_tokens, "completion_tokens": 1, "total_tokens": 13}
    if "stream" in how:
        assert response.delta == "good"


def test_the_last_human_turn_is_asked(llm: StudentLLM) -> None:
    """As prompts stand in the records: without system turns and what was said before."""
    history = [ChatMessage(role=MessageRole.SYSTEM, content="Be brief."), *user("no"), *user(QUERY)]
    assert llm.chat(history).raw == llm.complete(QUERY).raw


def test_what_it_is(llm: StudentLLM) -> None:
    """A chat model without functions, of a window that limits nobody; tokens are counted by its own tokenizer."""
    assert isinstance(llm, LLM)
    assert llm.class_name() == "StudentLLM"
    told = llm.metadata
    assert (told.is_chat_model, told.is_function_calling_model) == (True, False)
    assert told.model_name == make_student(tiny_checkpoint()).name
    assert told.context_window >= 100_000
    assert llm.fingerprint == tiny_checkpoint().fingerprint
    counter = TokenCountingHandler(tokenizer=str.split)
    llm.callback_manager = CallbackManager([counter])
    llm.chat(user(QUERY))
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (12, 1)


@pytest.mark.parametrize("how", ["achat", "acomplete", "astream_chat", "astream_complete"])
async def test_the_event_loop_is_not_blocked(llm: StudentLLM, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Asked asynchronously, the student works on another thread."""
    seen = answering_threads(llm._source.get().student(), monkeypatch)
    await ask(llm, how, QUERY)
    assert seen
    assert threading.get_ident() not in seen


def test_tools_and_images_are_refused(llm: StudentLLM) -> None:
    """It says what it cannot do; an image before the last turn does not matter."""
    for name in ("tools", "response_format"):
        with pytest.raises(NotImplementedError, match=f"a student takes no {name}"):
            llm.chat(user(QUERY), **{name: [{"type": "json_object"}]})
    seen = ChatMessage(
        role=MessageRole.USER, blocks=[TextBlock(text=QUERY), ImageBlock(url="https://example.org/a.png")]
    )
    with pytest.raises(InputError, match="reads text only, and the query holds"):
        llm.chat([seen])
    assert said(llm.chat([seen, *user(QUERY)])) == "good"


def test_a_wrong_folder_is_a_bundle_error(tmp_path: Path, root: Path, small_bundle: Path) -> None:
    """No validation error of pydantic's hides what is wrong."""
    check_folders(StudentLLM, tmp_path / "nowhere", root, small_bundle)


def test_copies_answer_the_same(llm: StudentLLM) -> None:
    """Pickle, deepcopy and LlamaIndex's dictionary keep fingerprint and answers."""
    revived = StudentLLM.from_dict(json.loads(llm.to_json()))
    for other in (pickle.loads(pickle.dumps(llm)), copy.deepcopy(llm), llm.model_copy(), revived):  # noqa: S301
        assert other.fingerprint == llm.fingerprint
        assert other.chat(user(QUERY)) == llm.chat(user(QUERY))


def test_promotions_under_load(root: Path) -> None:
    """Of many queries during promotions none is lost, and each has text and name of one release."""
    llm = StudentLLM(root, tier="small")
    wanted, found = contrary_names(), promoted_under_load(root, ServedRoot.of(root).settle, lambda: llm.complete(QUERY))
    assert all(one.text == wanted[one.additional_kwargs["model_name"]] for one in found)
    assert {one.text for one in found} == {"good", "bad"}


def _of_tasks(root: Path) -> Path:
    """A ROOT whose tier small has a student for each of two tasks."""
    folder = root / "releases" / "r1" / "checkpoints"
    tiny_checkpoint().save(folder / "small@mood")
    tiny_checkpoint(labels=("bad", "good")).save(folder / "small@taste")
    promote(root, "r1")
    return root


@pytest.mark.parametrize("how", EVERY)
async def test_the_task_chooses_the_student(tmp_path: Path, how: str) -> None:
    """With one student per task: by the call, the block around it, or the LLM's own; without one it says so."""
    root = _of_tasks(tmp_path / "sets")
    llm = StudentLLM(root, tier="small")
    assert said(await ask(llm, how, QUERY, task="mood/short")) == "good"
    with RoutingLLM.asking(task="taste"):
        assert said(await ask(llm, how, QUERY)) == "bad"
        assert said(await ask(llm, how, QUERY, task="mood")) == "good"
    assert said(await ask(StudentLLM(root, tier="small", task="taste"), how, QUERY)) == "bad"
    with pytest.raises(InputError, match="the task must be named; name one of: mood, taste"):
        await ask(llm, how, QUERY)


def test_a_stream_keeps_the_task_of_its_block(tmp_path: Path) -> None:
    """Read after the block it was begun in, as engines do."""
    llm = StudentLLM(_of_tasks(tmp_path / "sets"), tier="small")
    with RoutingLLM.asking(task="taste"):
        chunks = llm.stream_complete(QUERY)
    assert [chunk.text for chunk in chunks] == ["bad"]


# A tier of the router


class _Silent(StudentLLM):
    """Mutant: a student that does not tell its confidence."""

    def _answer(self, prompt: str, params: Mapping[str, Any]) -> dict[str, Any]:
        found = super()._answer(prompt, params)
        del found["additional_kwargs"]["signals"]
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


def _recorded(records: Records) -> dict[str, Any]:
    """The other tiers, answering as they did."""
    told = records.response or []
    answers = {name: dict(zip(records.prompt, (row[m] for row in told), strict=True)) for m, name in enumerate(TIERS)}
    return {n: ScriptedLLM(model=f"{n}-1", reply=lambda q, n=n: answers[n][q] or "") for n in TIERS[1:]}  # type: ignore[misc]


@pytest.mark.parametrize("how", ["chat", "complete"])
def test_own_confidence_is_evidence(root: Path, bundle: Path, records: Records, queries: list[str], how: str) -> None:
    """As a tier the student is routed as the core routes its answers, to the last bit of every confidence."""
    student, others = tiny_student(), _recorded(records)
    live = RoutingLLM.from_bundle(bundle, {**others, "small": StudentLLM(root, tier="small")}, task="mood")

    def small(query: str) -> Answer:
        found = student.answer(query)
        return Answer(found.text, found.prompt_tokens, found.completion_tokens, signals=found.signals)

    tiers: dict[str, Any] = {n: lambda q, n=n: Answer(others[n].reply(q), 10, 5) for n in TIERS[1:]}  # type: ignore[misc]
    core = Cascade(Router.load(bundle), {"small": small, **tiers})
    served = []
    for query in queries:
        one = route_of(getattr(live, how)(user(query) if how == "chat" else query))
        two = core.run(query, "mood")
        assert one["attempts"] == [
            {name: getattr(attempt, name) for name in ("tier", "confidence", "cost_usd", "accepted", "reason")}
            for attempt in two.attempts
        ]
        served.append(one["tier"])
    assert served.count("small") > 2


def test_mutant_without_signals_escalates(root: Path, bundle: Path, records: Records, queries: list[str]) -> None:
    """Without its confidence no answer of the student is served: the evidence model needs it."""
    tiers = {**_recorded(records), "small": _Silent(root, tier="small")}
    llm = RoutingLLM.from_bundle(bundle, tiers, task="mood")
    check_unsignalled([attempt for query in queries for attempt in route_of(llm.complete(query))["attempts"]])


def test_a_student_leaves_the_routers_metadata_alone(root: Path, bundle: Path, records: Records) -> None:
    """The window is that of the other tiers, and tools go to those that can, if the user says so."""
    tiers = {**_recorded(records), "small": StudentLLM(root, tier="small")}
    llm = RoutingLLM.from_bundle(bundle, tiers, is_function_calling_model=True)
    assert (llm.metadata.context_window, llm.metadata.num_output) == (4096, 256)
    assert llm.metadata.is_function_calling_model
