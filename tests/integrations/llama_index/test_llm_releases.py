"""An LLM of a release ROOT: promotions and rollbacks reach it without a query lost or answered by two releases."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from bundles import SURE
from releases import answers_of, contrary_releases, moved, release_of
from scripted_llm import EVERY, ScriptedLLM, ask, route_of, said, user
from student_checks import Gated, Unpinned, in_waves, under_way
from tiny_student import tiny_checkpoint

from routenlp_integrations.llama_index import RoutingLLM, StudentLLM
from router_core import Router
from router_core.promotion import promote
from router_core.release import Release

AT_SMALL: Any = {"tier": "small", "task": "mood"}
QUERY = "Review 3: I love this lamp"


class Held(Gated, StudentLLM):
    """A student that answers when it may."""


class Loose(Unpinned, StudentLLM):
    """Mutant: a student that answers from whatever release is current."""


@pytest.fixture
def root(tmp_path: Path, small_bundle: Path) -> Path:
    """A ROOT with two releases whose students answer contrarily; r0001 is current."""
    return contrary_releases(tmp_path / "root", small_bundle)


def over(root: Path, student: type[StudentLLM] = StudentLLM, **params: Any) -> RoutingLLM:
    """A routing LLM of the ROOT whose small tier is its student."""
    small = student(root, tier="small")
    others = {name: ScriptedLLM(model=f"{name}-1", reply=SURE.format("good")) for name in ("medium", "large")}
    return RoutingLLM.from_bundle(root, tiers={"small": small, **others}, **params)


def mixed(root: Path, found: list[Any]) -> list[Any]:
    """Answers that are not of one release."""
    told = answers_of(root)
    return [r for r in found if told[route_of(r)["bundle"]] != (said(r), r.additional_kwargs["model_name"])]


@pytest.mark.parametrize(("kind", "whole"), [(Held, True), (Loose, False)])
def test_queries_under_way_end_where_they_began(root: Path, kind: type[Held | Loose], whole: bool) -> None:
    """32 queries that were routed before a promotion get the old release's answers, later ones the new one's."""
    llm = over(root, kind)
    found = under_way(root, llm.tiers["small"], lambda: llm.complete(QUERY, **AT_SMALL), 32)
    assert {route_of(r)["bundle"] for r in found} == {Router.load(Release(root, "r0001").bundle).bundle_id}
    assert (not mixed(root, found)) == whole
    after = [llm.complete(QUERY, **AT_SMALL) for _ in range(3)]
    assert {said(r) for r in after} == {"bad"}
    assert not mixed(root, after)
    assert llm.current.lapses.lapsed == ()


async def test_promotions_and_rollbacks_among_coroutines(root: Path) -> None:
    """Of 256 chats on an event loop, 64 at a time, none is lost or mixed while releases come and go."""
    llm = over(root)
    found = await in_waves(root, lambda: llm.achat(user(QUERY), **AT_SMALL))
    assert len(found) == 256
    assert not mixed(root, found)
    assert {said(r) for r in found} == {"good", "bad"}


@pytest.mark.parametrize("how", EVERY)
async def test_every_entrance_follows(root: Path, how: str) -> None:
    """Whatever way a query comes, it is the current release's, as is the model's name."""
    llm = over(root)
    name = llm.metadata.model_name
    before = await ask(llm, how, QUERY, **AT_SMALL)
    await asyncio.to_thread(moved, root, "r0002")
    after = await ask(llm, how, QUERY, **AT_SMALL)
    assert (said(before), said(after)) == ("good", "bad")
    assert not mixed(root, [before, after])
    assert route_of(before)["bundle"] != route_of(after)["bundle"]
    assert llm.metadata.model_name == f"routenlp-{llm.current.bundle_id[:12]}" != name


def test_one_that_stays(root: Path) -> None:
    """`watch=False` stays with the release that was current; a loaded router too."""
    still = over(root, watch=False)
    given = RoutingLLM(router=Router.load(root), tiers=still.tiers)
    promote(root, "r0002")
    for llm in (still, given):
        assert llm.releases is None
        assert llm.current is llm.router


def test_copies_follow_too(root: Path) -> None:
    """Deepcopy, pickle, a changed copy and LlamaIndex's dictionary all go on with the next release."""
    llm = over(root)
    made: list[Any] = [copy.deepcopy(llm), pickle.loads(pickle.dumps(llm)), llm.model_copy(update={"task": "mood"})]  # noqa: S301
    told = llm.to_dict()
    moved(root, "r0002")
    made.append(RoutingLLM.from_dict(told, tiers=llm.tiers))
    for other in made:
        answer = other.complete(QUERY, **AT_SMALL)
        assert answer.text == "bad"
        assert route_of(answer)["bundle"] == llm.current.bundle_id


async def test_a_tier_of_students_per_task(tmp_path: Path, small_bundle: Path) -> None:
    """The routed query's task reaches the tier's student, however it is named; without one the reference answers."""
    root = tmp_path / "sets"
    held = {"small@mood": tiny_checkpoint(), "small@topic": tiny_checkpoint("multilabel")}
    promote(root, release_of(root, small_bundle, held).id)
    llm = over(root)
    for how in EVERY:
        assert said(await ask(llm, how, QUERY, **AT_SMALL)) == "good"
    with RoutingLLM.asking(**AT_SMALL):
        assert said(llm.complete(QUERY)) == "good"
    assert over(root, task="mood").complete(QUERY, tier="small").text == "good"
    assert llm.current.lapses.lapsed == ()
    routes = [
        route_of(llm.complete(f"Quickly add 3 and {n} for ticket 9 of the harbour.", task="sum")) for n in range(4)
    ]
    assert {route["tier"] for route in routes} == {"large"}
