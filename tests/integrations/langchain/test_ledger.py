"""`RoutingChatModel` with a ledger and audits: what is kept, and that keeping it never costs an answer."""

from __future__ import annotations

import asyncio
import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from bundles import SURE, TIERS
from kept_routes import PLAN, UNSURE, check_audited, check_left, check_whole, kept
from langchain_core.load import dumps
from ledgers import look, start, url_of
from scripted import EVERY, Make, ScriptedModel, ask, route_of

from routenlp_integrations.cli import main
from routenlp_integrations.langchain import RoutingChatModel
from router_core import Breaker, Budget, InputError, TierError
from router_core.audits import Auditor
from router_core.ledger import Ledger
from router_core.ledger.reader import LedgerReader
from router_core.ledger.store import Store, StoreError
from router_core.personal_data import redact


@pytest.mark.parametrize("how", EVERY)
async def test_every_entrance_is_kept(make: Make, ledger: Ledger, easy: str, how: str) -> None:
    """One row a query, with all attempts, texts, models and its thread; feedback finds it by the id in the answer."""
    model, _ = make(UNSURE, ledger=ledger)
    config: Any = {"configurable": {"thread_id": "a thread"}}
    route = route_of(await ask(model, how, easy, config=config))
    check_whole(ledger, route, easy)


def test_hidden_vectors_are_kept_with_texts(make: Make, tmp_path: Path, easy: str) -> None:
    """What escalations are clustered by; without texts neither is kept, nor are answers."""
    for store_text in (True, False):
        with Ledger(url_of(tmp_path, f"{store_text}.db"), store_text=store_text) as ledger:
            make(UNSURE, ledger=ledger)[0].invoke(easy)
            ledger.flush(20)
            (row,) = LedgerReader(ledger._address).routes(hidden=True)
        assert [row.hidden is not None, row.text is not None, row.attempts[0].answer is not None] == [store_text] * 3
        assert row.key is not None


def test_a_url_keeps_no_texts(make: Make, tmp_path: Path, easy: str) -> None:
    """A ledger named by its URL is opened without texts."""
    model, _ = make(ledger=url_of(tmp_path))
    model.invoke(easy)
    assert model.ledger.flush(20)
    assert look(tmp_path / "ledger.db", "SELECT text FROM routenlp_routes") == [(None,)]
    model.ledger.close()


def test_redaction_comes_first(make: Make, tmp_path: Path, easy: str) -> None:
    """Personal data reaches neither the file nor the audits' feedback, from prompt or answer; the caller keeps his."""
    address = "jane.doe@example.com"
    said = {name: {"reply": f"{SURE.format('good')} Write to {address}"} for name in TIERS}
    with Ledger(url_of(tmp_path), store_text=True, redact=redact) as ledger:
        model, _ = make(said, ledger=ledger, audits=PLAN)
        assert address in model.invoke(f"{easy} My address is {address}.").text
        assert model.audits.join()
        assert ledger.flush(20)
    for file in tmp_path.iterdir():
        assert address.encode() not in file.read_bytes()
    ((text,),) = look(tmp_path / "ledger.db", "SELECT text FROM routenlp_routes")
    assert text.startswith(easy)


def test_retries_and_budgets_are_kept(make: Make, ledger: Ledger, easy: str) -> None:
    """How often a tier was called again, and what the budget had paid."""
    error = TimeoutError("late")
    model, _ = make({"small": {"fails": error, "fails_first": 1}}, ledger=ledger, max_retries=2, budget=Budget(1.0))
    route = route_of(model.invoke(easy))
    (row,) = kept(ledger)
    assert row.attempts[0].retries == 1
    assert row.budget == route["budget"]


async def test_a_stream_that_is_left(make: Make, ledger: Ledger, easy: str) -> None:
    """What was shown is kept, uncertified; its audit, settled before, asks all tiers anew. Nothing shown, nothing."""
    model, _ = make(ledger=ledger, audits=PLAN)
    for _ in range(2):
        stream = model.stream(easy)
        while not next(stream).text:
            pass
        stream.close()  # type: ignore[attr-defined]
        chunks = model.astream(easy)
        while not (await anext(chunks)).text:
            pass
        await chunks.aclose()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(model.audits.join)
    check_left(ledger, 4)


def test_failures_are_kept_where_something_was_served(make: Make, ledger: Ledger, easy: str) -> None:
    """A failed cheap tier is an attempt of its route; a query that raises raises the same, and has no route."""
    model, _ = make({"small": {"fails": RuntimeError("down")}}, ledger=ledger)
    model.invoke(easy)
    broken, _ = make({name: {"fails": RuntimeError("down")} for name in TIERS}, ledger=ledger, breaker=Breaker())
    with pytest.raises(TierError):
        broken.invoke(easy)
    torn, _ = make({"small": {"fails": RuntimeError("down"), "fails_after": 2}}, ledger=ledger)
    with pytest.raises(TierError, match="in the middle"):
        list(torn.stream(easy))
    first, second = kept(ledger)
    assert "RuntimeError" in str(first.attempts[0].reason)
    assert first.tier == "large"
    assert "broke before its end" in str(second.reason)


def test_a_database_that_goes_and_comes_back(make: Make, tmp_path: Path, easy: str) -> None:
    """Queries are answered all the while; what waited is stored when it is back."""
    file = tmp_path / "ledger.db"
    with Ledger(url_of(tmp_path)) as ledger:
        model, _ = make(ledger=ledger)
        model.invoke(easy)
        assert ledger.flush(20)
        aside = file.rename(tmp_path / "aside.db")
        ids = [route_of(model.invoke(easy))["id"] for _ in range(3)]
        assert not ledger.flush(0.2)
        aside.rename(file)
        assert ledger.flush(30)
    assert {id_ for (id_,) in look(file, "SELECT id FROM routenlp_routes")} >= set(ids)
    assert ledger.dropped == 0


def test_a_full_disk_costs_no_answer(make: Make, tmp_path: Path, easy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a queue that fills because nothing can be stored, answers come, and drops are counted."""

    def full(*_: Any) -> int:
        raise StoreError("database or disk is full")

    ledger = Ledger(url_of(tmp_path), queue=2)
    monkeypatch.setattr(Store, "write", full)
    model, _ = make(ledger=ledger, audits=PLAN)
    with warnings.catch_warnings(record=True):
        answers = [model.invoke(easy) for _ in range(10)]
        assert model.audits.join()
        assert not ledger.close(0.5)
    assert len({route_of(answer)["id"] for answer in answers}) == 10
    assert ledger.dropped
    assert ledger._writer.trouble == "database or disk is full"


def test_appending_that_breaks_costs_no_answer(make: Make, ledger: Ledger, easy: str) -> None:
    """Whatever a ledger or an auditor raises, the answer is the same, without an id."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "append", broken)
        patch.setattr(Auditor, "decide", broken)
        model, _ = make(ledger=ledger, audits=PLAN)
        answer = model.invoke(easy)
    assert answer.text == SURE.format("good")
    assert "id" not in route_of(answer)


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "astream"])
async def test_audits_ask_the_models_own_tiers(make: Make, ledger: Ledger, easy: str, how: str) -> None:
    """In the background, outside every run, with the same messages; grades, price and probability are kept."""
    model, tiers = make({"large": {"reply": SURE.format("bad")}}, ledger=ledger, audits=PLAN)
    route = route_of(await ask(model, how, easy))
    assert await asyncio.to_thread(model.audits.join)
    check_audited(ledger, route)
    assert tiers["large"].calls[0]["messages"] == tiers["small"].calls[0]["messages"]


def test_an_auditor_of_the_applications(make: Make, ledger: Ledger, easy: str) -> None:
    """Its callables take the messages; its ledger is the model's when none is named, and another one is refused."""
    asked: list[Any] = []
    tiers = {"large": lambda messages: asked.append(messages) or SURE.format("good")}
    auditor = Auditor(ledger, tiers, price=lambda *_: 0.0, plan=PLAN)
    model, _ = make(audits=auditor)
    model.invoke(easy)
    assert auditor.join()
    assert asked[0][0].content == easy
    assert [told.value for told in kept(ledger)[0].feedback] == [1.0]
    with pytest.raises(InputError, match="another ledger"):
        make(audits=auditor, ledger=Ledger(ledger._given["url"]))


def test_what_is_no_ledger(make: Make) -> None:
    """A plan alone has nowhere to write to, and what is wrong is said without the password of a URL."""
    with pytest.raises(InputError, match="audits need a ledger"):
        make(audits=PLAN)
    for wrong in ({}, {"capabilities": {"nobody": {}}}):
        with pytest.raises(ValueError, match=r"is no ledger URL|nobody") as caught:
            make(ledger="mysql://user:sesame@host/db", **wrong)
        assert "sesame" not in str(caught.value)


def test_copies_share_and_pickles_reopen(make: Make, ledger: Ledger, easy: str) -> None:
    """A copy goes on with the same ledger and budget of audits; a pickle opens the ledger by its URL; JSON has none."""
    model, _ = make(ledger=ledger, audits=PLAN)
    for copied in (copy.deepcopy(model), model.model_copy(), model.with_config({"tags": ["x"]}).bound):
        assert copied.ledger is ledger
        assert copied.audits is model.audits
    before = model.audits
    model.max_tokens = None
    assert model.audits is before
    thawed = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert thawed.ledger is not ledger
    assert thawed.ledger.store_text
    id_ = route_of(thawed.invoke(easy))["id"]
    assert thawed.audits.join()
    assert thawed.ledger.close()
    assert [row.id for row in kept(ledger)] == [id_]
    assert "sqlite" not in dumps(model)


def test_nothing_is_imported_unless_asked(small_bundle: Path) -> None:
    """A model without a ledger answers without SQLAlchemy."""
    code = (
        "import sys\n"
        "from scripted import ScriptedModel\n"
        "from routenlp_integrations.langchain import RoutingChatModel\n"
        "tiers = {n: ScriptedModel(model_name=n + '-1') for n in ('small', 'medium', 'large')}\n"
        "RoutingChatModel.from_bundle(sys.argv[1], tiers=tiers).invoke('hello')\n"
        "assert not {'sqlalchemy', 'router_core.ledger', 'router_core.audits'} & set(sys.modules)\n"
    )
    program = start(code, small_bundle)
    assert program.communicate() == ("", "")
    assert program.returncode == 0


def test_watch_alarm_lapse_escalate(
    small_bundle: Path, tmp_path: Path, queries: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Cheap answers that went bad are found by the audits of the ledger; the running model then escalates them."""
    import shutil

    bundle, url = Path(shutil.copytree(small_bundle, tmp_path / "bundle")), url_of(tmp_path)
    tiers = {
        name: ScriptedModel(model_name=f"{name}-1", reply=SURE.format("good" if name == "large" else "bad"))
        for name in TIERS
    }
    model = RoutingChatModel.from_bundle(bundle, tiers=tiers, task="mood", ledger=url, audits=PLAN)
    routes = [route_of(model.invoke(f"{queries['small']} ({n})")) for n in range(40)]
    assert all(route["certificate"] for route in routes)
    assert {route["tier"] for route in routes} & {"small", "medium"}
    assert model.audits.join()
    assert model.ledger.flush(20)
    assert main(["watch", str(bundle), url, "--once"]) == 3
    assert "Lapsed" in capsys.readouterr().out
    model.current.lapses._due = 0.0
    after = route_of(model.invoke(queries["small"]))
    assert (after["tier"], after["certificate"]) == ("large", None)
    assert "lapsed" in after["reason"]
    assert model.ledger.flush(20)
    last = list(LedgerReader(url).routes())[-1]
    assert (last.id, last.certified) == (after["id"], False)
    model.ledger.close()
