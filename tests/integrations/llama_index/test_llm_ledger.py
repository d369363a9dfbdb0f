"""`RoutingLLM` with a ledger and audits: what is kept, and that keeping it never costs an answer."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from bundles import SURE, TIERS
from kept_routes import PLAN, UNSURE, check_audited, check_left, check_whole, kept
from ledgers import look, start, url_of
from llama_index.core.tools import FunctionTool
from scripted_llm import EVERY, Events, Make, ask, route_of, said, user

from router_core import InputError, TierError
from router_core.audits import Auditor
from router_core.ledger import Ledger


@pytest.mark.parametrize("how", EVERY)
async def test_every_entrance_is_kept(make: Make, ledger: Ledger, easy: str, events: Events, how: str) -> None:
    """One row a query, with all attempts, texts, models and its conversation; feedback finds it by the answer's id."""
    llm, _ = make(UNSURE, ledger=ledger)
    route = route_of(await ask(llm, how, easy, conversation="a chat"))
    assert [event.id for event in events.decisions] == [route["id"]]
    check_whole(ledger, route, easy)


async def test_calls_of_tools_are_kept(make: Make, ledger: Ledger, easy: str) -> None:
    """A call with tools is one row as well, its answer the calls."""

    def weather(city: str) -> str:
        """Weather of a city."""
        return "sunny"

    picks = {"picks": [{"name": "weather", "args": {"city": "Rome"}}]}
    llm, _ = make(dict.fromkeys(TIERS, picks), ledger=ledger)
    tool = FunctionTool.from_defaults(weather)
    routes = [route_of(llm.chat_with_tools([tool], user_msg=easy))]
    routes.append(route_of(await llm.achat_with_tools([tool], user_msg=easy)))
    rows = kept(ledger)
    assert [row.id for row in rows] == [route["id"] for route in routes]
    assert {row.tier for row in rows} == {"large"}
    assert all("Rome" in str(row.attempts[0].answer) for row in rows)


def test_a_url_keeps_no_texts(make: Make, tmp_path: Path, easy: str) -> None:
    """A ledger named by its URL is opened without texts."""
    llm, _ = make(ledger=url_of(tmp_path))
    llm.complete(easy)
    assert llm.ledger.flush(20)
    assert look(tmp_path / "ledger.db", "SELECT text FROM routenlp_routes") == [(None,)]
    llm.ledger.close()


async def test_a_stream_that_is_left(make: Make, ledger: Ledger, easy: str) -> None:
    """What was shown is kept, uncertified; its audit, settled before, asks all tiers anew. Nothing shown, nothing."""
    llm, _ = make(ledger=ledger, audits=PLAN)
    unread = llm.stream_complete(easy)
    unread.close()
    for how in ("stream_chat", "stream_complete"):
        stream = getattr(llm, how)(user(easy) if "chat" in how else easy)
        while not said(next(stream)):
            pass
        stream.close()
        del stream
        chunks = await getattr(llm, f"a{how}")(user(easy) if "chat" in how else easy)
        while not said(await anext(chunks)):
            pass
        await chunks.aclose()
        del chunks
        await asyncio.sleep(0.01)  # LlamaIndex's wrapper leaves the generator under it to the event loop
    assert await asyncio.to_thread(llm.audits.join)
    check_left(ledger, 4)


def test_failures_are_kept_where_something_was_served(make: Make, ledger: Ledger, easy: str) -> None:
    """A failed cheap tier is an attempt of its route; a query that raises raises the same, and has no route."""
    llm, _ = make({"small": {"fails": RuntimeError("down")}}, ledger=ledger)
    llm.chat(user(easy))
    broken, _ = make({name: {"fails": RuntimeError("down")} for name in TIERS}, ledger=ledger)
    with pytest.raises(TierError):
        broken.chat(user(easy))
    torn, _ = make({"small": {"fails": RuntimeError("down"), "fails_after": 2}}, ledger=ledger)
    with pytest.raises(TierError, match="in the middle"):
        list(torn.stream_chat(user(easy)))
    first, second = kept(ledger)
    assert "RuntimeError" in str(first.attempts[0].reason)
    assert first.tier == "large"
    assert "broke before its end" in str(second.reason)


def test_appending_that_breaks_costs_no_answer(
    make: Make, ledger: Ledger, easy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a ledger or an auditor raises, the answer is the same, without an id."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(Ledger, "append", broken)
    monkeypatch.setattr(Auditor, "decide", broken)
    llm, _ = make(ledger=ledger, audits=PLAN)
    answer = llm.complete(easy)
    assert answer.text == SURE.format("good")
    assert "id" not in route_of(answer)


@pytest.mark.parametrize("how", ["chat", "acomplete", "astream_chat"])
async def test_audits_ask_the_llms_own_tiers(make: Make, ledger: Ledger, easy: str, how: str) -> None:
    """In the background, outside the query's event, with the same call; grades, price and probability are kept."""
    llm, tiers = make({"large": {"reply": SURE.format("bad")}}, ledger=ledger, audits=PLAN)
    route = route_of(await ask(llm, how, easy))
    assert await asyncio.to_thread(llm.audits.join)
    check_audited(ledger, route)
    assert tiers["large"].calls[0]["asked"] == tiers["small"].calls[0]["asked"]


def test_an_audit_that_fails(make: Make, ledger: Ledger, easy: str) -> None:
    """It is noted as such, and the answer has long been given."""
    llm, _ = make({"large": {"fails": RuntimeError("down")}}, ledger=ledger, audits=PLAN)
    assert llm.complete(easy).text
    assert llm.audits.join()
    (row,) = kept(ledger)
    assert "RuntimeError" in str(row.attempts[-1].reason)


@pytest.mark.parametrize("how", ["chat", "complete"])
async def test_an_auditor_of_the_applications(make: Make, ledger: Ledger, easy: str, how: str) -> None:
    """Its callables take messages or the prompt; its ledger is the LLM's when none is named."""
    asked: list[Any] = []
    tiers = {"large": lambda given: asked.append(given) or SURE.format("good")}
    auditor = Auditor(ledger, tiers, price=lambda *_: 0.0, plan=PLAN)
    llm, _ = make(audits=auditor)
    await ask(llm, how, easy)
    assert await asyncio.to_thread(auditor.join)
    assert asked == ([user(easy)] if how == "chat" else [easy])
    assert [told.value for told in kept(ledger)[0].feedback] == [1.0]


def test_what_is_no_ledger(make: Make) -> None:
    """A plan alone has nowhere to write to, and what is wrong is said without the password of a URL."""
    with pytest.raises(InputError, match="audits need a ledger"):
        make(audits=PLAN)
    for wrong in ({}, {"capabilities": {"nobody": {}}}, {"max_retries": "many"}):
        with pytest.raises(ValueError, match=r"is no ledger URL|nobody|max_retries") as caught:
            make(ledger="mysql://user:sesame@host/db", **wrong)
        assert "sesame" not in str(caught.value)


def test_copies_share_and_pickles_reopen(make: Make, ledger: Ledger, easy: str) -> None:
    """A copy goes on with the same ledger and budget of audits; a pickle opens the ledger by its URL; JSON has none."""
    llm, _ = make(ledger=ledger, audits=PLAN)
    for copied in (copy.deepcopy(llm), llm.model_copy(), llm.model_copy(update={"task": "mood"})):
        assert copied.ledger is ledger
        assert copied.audits is llm.audits
    before = llm.audits
    llm.uncalibrated = "cascade"
    assert llm.audits is before
    thawed = pickle.loads(pickle.dumps(llm))  # noqa: S301
    assert thawed.ledger is not ledger
    assert thawed.ledger.store_text
    id_ = route_of(thawed.complete(easy))["id"]
    assert thawed.audits.join()
    assert thawed.ledger.close()
    assert [row.id for row in kept(ledger)] == [id_]
    assert "sqlite" not in llm.to_json()
    assert "sqlite" not in repr(llm)


async def test_no_route_is_lost_among_many(make: Make, ledger: Ledger, easy: str) -> None:
    """64 at once: 64 rows, each with its own text."""
    llm, _ = make({name: {"delay": 0.002} for name in TIERS}, ledger=ledger)
    found = await asyncio.gather(*(ask(llm, "achat", f"{easy} {i}", tier=TIERS[i % 3]) for i in range(64)))
    rows = {row.id: row for row in kept(ledger)}
    assert len(rows) == 64
    for i, response in enumerate(found):
        row = rows[route_of(response)["id"]]
        assert (row.text, row.tier) == (f"{easy} {i}", TIERS[i % 3])


def test_nothing_is_imported_unless_asked(small_bundle: Path) -> None:
    """An LLM without a ledger answers without importing one, nor SQLAlchemy beyond what LlamaIndex itself imports."""
    code = (
        "import sys\n"
        "from scripted_llm import ScriptedLLM\n"
        "from routenlp_integrations.llama_index import RoutingLLM\n"
        "before = set(sys.modules)\n"
        "tiers = {n: ScriptedLLM(model=n + '-1') for n in ('small', 'medium', 'large')}\n"
        "RoutingLLM.from_bundle(sys.argv[1], tiers=tiers).complete('hello')\n"
        "assert not {'router_core.ledger', 'router_core.audits'} & set(sys.modules)\n"
        "assert 'sqlalchemy' not in set(sys.modules) - before\n"
    )
    program = start(code, small_bundle)
    assert program.communicate() == ("", "")
    assert program.returncode == 0
