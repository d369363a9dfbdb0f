"""Cascades that follow a ROOT and keep a ledger."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import SURE, TIERS
from releases import small_release
from routers import SURE as CONFIDENT
from routers import plain_router
from tiny_student import promote as promote_unchecked

from router_core import Answer, Cascade, InputError, Router, TierError
from router_core.bundle import Bundle
from router_core.portfolio import Portfolio
from router_core.promotion import promote, publish
from router_core.release import Release
from router_core.served import ServedRoot
from router_core.sources import StudentSource

QUERY = "Review 3: I love this lamp"


@pytest.fixture
def root(tmp_path: Path, small_bundle: Path) -> Path:
    """A ROOT with two releases; r0001 is current."""
    root = tmp_path / "root"
    small_release(root, small_bundle)
    small_release(root, small_bundle, labels=("bad", "good"))
    promote(root, "r0001")
    return root


def test_a_cascade_follows(root: Path) -> None:
    """Each query takes one router, and its students are that release's whatever is promoted meanwhile."""
    students = StudentSource(root, "small", watch=True)
    said: list[str] = []

    def medium(_: Any) -> str:
        promote(root, "r0002")
        assert ServedRoot.of(root).settle()
        return SURE.format("good")

    cascade = Cascade(Router.watch(root), {"small": students, "medium": medium, "large": lambda _: "good"})
    first = cascade.router
    route = cascade.run(QUERY, "mood")
    assert route.bundle == first.bundle_id
    small = students.get(first.portfolio.tiers[0].model)
    said.append(small.answer(QUERY).text)
    promote(root, "r0002")
    assert ServedRoot.of(root).settle()
    assert cascade.router is not first
    said.append(students.get(cascade.router.portfolio.tiers[0].model).answer(QUERY).text)
    assert said == ["good", "bad"]
    assert asyncio.run(cascade.arun(QUERY, "mood")).bundle == cascade.router.bundle_id
    assert cascade.router.lapses.lapsed == first.lapses.lapsed == ()


def test_other_tiers_are_not_followed(root: Path) -> None:
    """A release whose tiers have other names cannot be served by running models: the one before stays."""
    source = Router.watch(root)
    held = source.get()
    loaded = Bundle.load(Release(root, "r0002").bundle)
    turned = replace(loaded, portfolio=Portfolio(tuple(reversed(loaded.portfolio.tiers))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bundle, "load", classmethod(lambda *_: turned))
        promote_unchecked(root, "r0002")
        with pytest.warns(UserWarning, match="r0001 stays: release r0002 has the tiers large, medium, small"):
            assert ServedRoot.of(root).settle()
    assert source.get() is held


def test_a_release_is_not_tried_at_every_query(root: Path) -> None:
    """One that failed is tried again when it is due, and served once it was mended."""
    source, served = Router.watch(root), ServedRoot.of(root)
    part = Release(root, "r0002").bundle / "policies.npz"
    good = part.read_bytes()
    part.unlink()
    promote_unchecked(root, "r0002")
    with pytest.warns(UserWarning, match="policies.npz is missing"):
        assert served.settle()
    part.write_bytes(good)
    first = source.get()
    assert served._thread is None
    served._due = 0.0
    source.get()
    assert served._thread is None or served.settle()
    for _ in range(500):
        if source.get() is not first:
            break
        served.settle()
    assert source.get().bundle_id == Bundle.load(Release(root, "r0002").bundle).id


sqlalchemy = pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")


def test_a_cascade_keeps_its_routes(tmp_path: Path) -> None:
    """Routes carry their id; feedback finds them; audits ask the cascade's own tiers; what raises is not kept."""
    from ledgers import url_of

    from router_core.audits import AuditPlan
    from router_core.ledger import Ledger
    from router_core.ledger.reader import LedgerReader

    tiers: dict[str, Any] = {name: (lambda _: CONFIDENT) for name in TIERS}
    tiers["large"] = lambda payload: Answer(f"0.9 {payload['x']}", 10, 5)
    plan = AuditPlan(rate=1.0, budget_usd=1.0)
    with Ledger(url_of(tmp_path), store_text=True) as ledger:
        cascade = Cascade(plain_router(), tiers, ledger=ledger, audits=plan)
        route = cascade.run("0 query", "t", {"x": "good"}, conversation="c")
        later = asyncio.run(cascade.arun("2 query", "t", {"x": "y"}))
        assert route.id is not None
        ledger.feedback(route.id, "rating", 1.0)
        assert cascade.log is not None
        assert cascade.log.auditor is not None
        assert cascade.log.auditor.join()
        broken = Cascade(plain_router(), {**tiers, "large": lambda _: 1 / 0}, ledger=ledger)
        with pytest.raises(TierError):
            broken.run("2 query", "t")
        assert ledger.flush(10)
    first, second = LedgerReader(url_of(tmp_path)).routes()
    assert (first.id, second.id) == (route.id, later.id)
    assert [(a.tier, a.audit) for a in first.attempts] == [("small", False), ("medium", True), ("large", True)]
    assert first.attempts[2].answer == "0.9 good"
    assert {told.kind for told in first.feedback} == {"rating", "audit"}
    assert first.text == "0 query"
    assert first.reference == "large"
    assert first.conversation is not None


def test_what_is_no_ledger(tmp_path: Path) -> None:
    """A plan without a ledger, and things that are neither, are refused before the first query."""
    from ledgers import url_of

    from router_core.audits import AuditPlan

    tiers: dict[str, Any] = {name: (lambda _: CONFIDENT) for name in TIERS}
    plan: Any = AuditPlan(rate=0.5, budget_usd=1.0)
    for given, said in (
        ({"audits": plan}, "audits need a ledger"),
        ({"ledger": 3}, "ledger is a int"),
        ({"ledger": url_of(tmp_path), "audits": 3}, "audits is a int"),
        ({"ledger": "nothing"}, "is no ledger URL"),
    ):
        with pytest.raises(InputError, match=said):
            Cascade(plain_router(), tiers, **given)


def test_publish_takes_an_unused_name(root: Path, small_bundle: Path) -> None:
    """Publishing while a ROOT is watched changes nothing for those who serve."""
    source = Router.watch(root)
    publish(root, "r0009", small_bundle, {})
    assert ServedRoot.of(root).settle()
    assert source.get() is source.get()
