"""A model of a release ROOT: promotions and rollbacks reach it without a query lost or answered by two releases."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bundles import SURE
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage
from releases import answers_of, contrary_releases, moved, release_of
from scripted import EVERY, ScriptedModel, ask, route_of
from student_checks import Gated, Unpinned, in_waves, under_way
from tiny_student import tiny_checkpoint

from routenlp_integrations.langchain import RoutingChatModel, StudentChatModel
from router_core import InputError, Router
from router_core.bundle import Bundle
from router_core.lapse import Lapse, write_lapses
from router_core.promotion import promote
from router_core.release import Release
from router_core.served import ServedRoot

AT_SMALL: Any = {"configurable": {"tier": "small", "task": "mood"}}
QUERY = "Review 3: I love this lamp"


class Held(Gated, StudentChatModel):
    """A student that answers when it may."""


class Loose(Unpinned, StudentChatModel):
    """Mutant: a student that answers from whatever release is current."""


@pytest.fixture
def root(tmp_path: Path, small_bundle: Path) -> Path:
    """A ROOT with two releases whose students answer contrarily; r0001 is current."""
    return contrary_releases(tmp_path / "root", small_bundle)


def over(root: Path, student: type[StudentChatModel] = StudentChatModel, **params: Any) -> Any:
    """A routing model of the ROOT whose small tier is its student."""
    small = student(root, tier="small")
    others = {name: ScriptedModel(model_name=f"{name}-1", reply=SURE.format("good")) for name in ("medium", "large")}
    return RoutingChatModel.from_bundle(root, tiers={"small": small, **others}, **params)


def mixed(root: Path, found: list[AIMessage]) -> list[AIMessage]:
    """Answers that are not of one release."""
    told = answers_of(root)
    return [m for m in found if told[route_of(m)["bundle"]] != (m.content, m.response_metadata["model_name"])]


@pytest.mark.parametrize(("kind", "whole"), [(Held, True), (Loose, False)])
def test_queries_under_way_end_where_they_began(root: Path, kind: type[Held | Loose], whole: bool) -> None:
    """64 queries that were routed before a promotion get the old release's answers, later ones the new one's."""
    model = over(root, kind)
    found = under_way(root, model.tiers["small"], lambda: model.invoke(QUERY, AT_SMALL), 64)
    assert {route_of(message)["bundle"] for message in found} == {Router.load(Release(root, "r0001").bundle).bundle_id}
    assert (not mixed(root, found)) == whole
    after = [model.invoke(QUERY, AT_SMALL) for _ in range(3)]
    assert {message.content for message in after} == {"bad"}
    assert not mixed(root, after)
    assert model.current.lapses.lapsed == ()


async def test_promotions_and_rollbacks_among_coroutines(root: Path) -> None:
    """Of 256 queries on an event loop, 64 at a time, none is lost or mixed while releases come and go."""
    model = over(root)
    found = await in_waves(root, lambda: model.ainvoke(QUERY, AT_SMALL))
    assert len(found) == 256
    assert not mixed(root, found)
    assert {message.content for message in found} == {"good", "bad"}


def test_promotions_among_threads(root: Path) -> None:
    """The same on 64 threads, while another promotes without waiting for anybody."""
    model, stop = over(root), threading.Event()

    def flip() -> None:
        number = 0
        while not stop.wait(0.02):
            number += 1
            moved(root, ("r0002", "r0001")[number % 2])

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(lambda _: model.invoke(QUERY, AT_SMALL), range(512)))
    finally:
        stop.set()
        flipping.join()
    assert len(found) == 512
    assert not mixed(root, found)


@pytest.mark.parametrize("how", EVERY)
async def test_every_entrance_follows(root: Path, how: str) -> None:
    """Whatever way a query comes, it is the current release's."""
    model = over(root)
    before = await ask(model, how, QUERY, config=AT_SMALL)
    await asyncio.to_thread(moved, root, "r0002")
    after = await ask(model, how, QUERY, config=AT_SMALL)
    assert (before.text, after.text) == ("good", "bad")
    assert not mixed(root, [before, after]) or how in ("stream", "astream")
    assert route_of(before)["bundle"] != route_of(after)["bundle"]


def test_a_query_looks_at_the_disk_once_a_second_at_most(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a second nothing is read for all of many queries, and loading is not done by one."""
    model = over(root)
    model.invoke(QUERY, AT_SMALL)
    watch, looks = ServedRoot.of(root)._watch, 0
    real = watch._look

    def look() -> bytes | None:
        nonlocal looks
        looks += 1
        return real()

    monkeypatch.setattr(watch, "_look", look)
    watch._due = float("inf")
    for _ in range(20):
        model.invoke(QUERY, AT_SMALL)
    assert looks == 0
    watch._due = 0.0
    watch._every_s = 3600.0
    loads_: list[str] = []
    load = Router.load
    monkeypatch.setattr(Router, "load", lambda *a, **k: loads_.append(threading.current_thread().name) or load(*a, **k))
    promote(root, "r0002")
    for _ in range(20):
        model.invoke(QUERY, AT_SMALL)
    assert looks == 1
    assert ServedRoot.of(root).settle()
    assert set(loads_) == {"routenlp-release"}


def _truncated(release: Release) -> None:
    (release.checkpoint("small") / "model.onnx").write_bytes(b"")


def _no_bundle(release: Release) -> None:
    (release.bundle / "policies.npz").unlink()


@pytest.mark.parametrize("damage", [_truncated, _no_bundle])
def test_a_release_that_does_not_load(root: Path, damage: Callable[[Release], None]) -> None:
    """It is warned about once, and router and student of the one before go on serving, together."""
    model = over(root)
    damage(Release(root, "r0002"))
    (root / "current").write_text("r0002\n")
    with pytest.warns(UserWarning, match=r"release r0001 stays: ") as caught:
        assert ServedRoot.of(root).settle()
    assert len(caught) == 1
    assert ServedRoot.of(root).settle()
    found = model.invoke(QUERY, AT_SMALL)
    assert found.content == "good"
    assert not mixed_with_one(root, found)


def mixed_with_one(root: Path, message: AIMessage) -> bool:
    """Whether an answer is not wholly of r0001."""
    bundle = Bundle.load(Release(root, "r0001").bundle)
    name = f"routenlp-student/small@{str(bundle.portfolio.tiers[0].model)[:12]}"
    return (route_of(message)["bundle"], message.response_metadata["model_name"]) != (bundle.id, name)


def test_a_lapse_of_the_new_bundle_is_seen(root: Path) -> None:
    """Lapses are watched beside the bundle that serves now."""
    model = over(root, task="mood")
    moved(root, "r0002")
    new = Bundle.load(Release(root, "r0002").bundle)
    write_lapses(Release(root, "r0002").bundle, new.id, [Lapse("mood", "alarm", "too many bad answers", 0.0)])
    model.current.lapses._due = 0.0
    answer = model.invoke(QUERY)
    assert route_of(answer)["tier"] == "large"
    assert route_of(answer)["certificate"] is None
    assert "too many bad answers" in route_of(answer)["reason"]
    moved(root, "r0001")
    assert "too many bad answers" not in route_of(model.invoke(QUERY))["reason"]


def test_a_student_of_another_release_sends_to_the_reference(root: Path) -> None:
    """A student that does not follow is not the certified one after a promotion, and its scopes lapse."""
    model = over(root)
    model.tiers = {**model.tiers, "small": StudentChatModel(root, tier="small", watch=False)}
    moved(root, "r0002")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.current.scorer), "after", lambda *_: pytest.fail("it was judged"))
        routes = [route_of(model.invoke(f"{QUERY} {n}", {"configurable": {"task": "mood"}})) for n in range(3)]
    assert {route["tier"] for route in routes} <= {"medium", "large"}
    assert model.current.lapses.lapsed


def test_one_that_stays(root: Path) -> None:
    """`watch=False` stays with the release that was current; a loaded router too."""
    still = over(root, watch=False)
    given = RoutingChatModel(router=Router.load(root), tiers=still.tiers)
    promote(root, "r0002")
    for model in (still, given):
        assert model.releases is None
        assert model.current is model.router


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_copies_follow_too(root: Path) -> None:
    """Deepcopy, pickle, a configured copy and LangChain's serialisation all go on with the next release."""
    model = over(root)
    models: list[Any] = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.model_copy()]  # noqa: S301
    moved(root, "r0002")
    text = dumps(model)
    allowed: Any = [RoutingChatModel, StudentChatModel, ScriptedModel]
    models.append(
        loads(
            text,
            valid_namespaces=["routenlp_integrations", "scripted"],
            allowed_objects=allowed,
            secrets_map={"SCRIPTED_API_KEY": "x"},
        )
    )
    for other in models:
        answer = other.invoke(QUERY, AT_SMALL)
        assert answer.content == "bad"
        assert route_of(answer)["bundle"] == model.current.bundle_id


def test_a_tier_of_students_per_task(tmp_path: Path, small_bundle: Path) -> None:
    """The routed query's task reaches the tier's student, named or not; without one the reference answers."""
    root = tmp_path / "sets"
    held = {"small@mood": tiny_checkpoint(), "small@topic": tiny_checkpoint("multilabel")}
    promote(root, release_of(root, small_bundle, held).id)
    model = over(root)
    told: Any = {"configurable": {"task": "mood", "tier": "small"}}
    answer = model.invoke(QUERY, told)
    assert answer.content == "good"
    assert model.current.lapses.lapsed == ()
    assert "".join(chunk.text for chunk in model.stream(QUERY, told)) == "good"
    reasons = [
        route_of(model.invoke(f"Quickly add 3 and {n} for ticket 9 of the harbour.", {"configurable": {"task": "sum"}}))
        for n in range(4)
    ]
    assert {route["tier"] for route in reasons} == {"large"}


def test_what_cannot_be_watched(small_bundle: Path, root: Path) -> None:
    """A bundle's own folder is not a ROOT, for sources and models alike."""
    with pytest.raises(InputError, match="nothing to watch"):
        Router.watch(small_bundle)
    source = Router.watch(root)
    assert source.get() is Router.watch(root).get() is copy.deepcopy(source).get()
    assert pickle.loads(pickle.dumps(source)).get().bundle_id == source.get().bundle_id  # noqa: S301


def test_an_agents_middleware_follows(root: Path) -> None:
    """Each model call of an agent is the current release's, router and student alike."""
    agents = pytest.importorskip("langchain.agents")
    from routenlp_integrations.langchain import RoutingMiddleware

    tiers = {"small": StudentChatModel(root, tier="small")}
    tiers |= {name: ScriptedModel(model_name=f"{name}-1") for name in ("medium", "large")}
    middleware = RoutingMiddleware(root, tiers)
    agent = agents.create_agent(tiers["large"], middleware=[middleware])
    found = []
    for name in ("r0001", "r0002"):
        moved(root, name)
        found.append(agent.invoke({"messages": [("human", QUERY)]}, AT_SMALL)["messages"][-1])
    assert [message.content for message in found] == ["good", "bad"]
    assert not mixed(root, found)
    assert middleware.router.lapses.lapsed == ()
