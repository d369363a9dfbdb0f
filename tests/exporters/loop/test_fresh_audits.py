"""Rounds that certify on fresh audits: the road from the command line, and what is refused as no random sample."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("sqlalchemy", "sklearn", "filelock"):
    pytest.importorskip(_name, reason="needs routenlp[fit,ledger] and filelock")

from ledgers import accepted, both, escalated, look
from ledgers import start as run_python
from loops import PORTFOLIO, TASKS, fake_distil, first_students, know, loop_options, loop_records, stream

import exporters.students
import routenlp_integrations.cli.loop as commands
from exporters.loop import FreshAudits, TaskPlan, beginning, proving, run_round, start
from exporters.loop.audited import read_fold, told_answer, told_lesson, with_fold
from exporters.loop.beginning import read_folds
from exporters.loop.files import hashes_of, read_lines
from exporters.loop.fresh import FreshFold
from exporters.loop.harvesting import Fence, harvest_failures
from exporters.loop.journal import Journal
from exporters.loop.learning import Learning
from exporters.loop.missing import asked_usd
from exporters.loop.state import State
from exporters.loop.work import Work
from exporters.students.data import Pair
from exporters.students.teacher import Lesson
from router_core import Answer
from router_core.audits import AuditDecision, AuditPlan
from router_core.bundle import Bundle
from router_core.errors import BundleError, InputError, TierError
from router_core.groups import hash_key, unit_interval
from router_core.keys import hash_keys
from router_core.ledger import Ledger
from router_core.ledger.reader import LoggedAttempt
from router_core.portfolio import Portfolio, Tier
from router_core.promotion import new_release_id, promote, publish, rollback
from router_core.release import Release
from router_core.student import make_student

PLAN = 'tier = "small"\ntiers = ["small", "large"]\nportfolio = "portfolio.json"\nfolds = 3\nleast = 6\n' + (
    "[settings]\nalpha = 0.1\n" + "".join(f'[tasks.{task}]\nkind = "classifier"\ngrade = "exact"\n' for task in TASKS)
)

STUDENTS = dict.fromkeys(TASKS, make_student(know(0)))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A started loop, and the ledger of new traffic in conversations of two, half of it audited."""
    folder = tmp_path_factory.mktemp("fresh")
    start(folder / "root", loop_records(), options=loop_options(), checkpoints=first_students(), distil=fake_distil)
    # What tests log themselves is dated from 1970 on.
    state = State(folder / "root")
    state.start.write_text(json.dumps({**json.loads(state.start.read_text()), "at": 0.0}))
    stream(
        folder / "root", url(folder), loop_records(seed=7, sizes={"train": 680}), audits=AuditPlan(0.5, 100.0),
        conversation=lambda i: f"c{i // 4} {i % 2}" if i % 8 < 4 else None,
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    shutil.copytree(begun, tmp_path / "copy")
    return tmp_path / "copy"


def url(folder: Path, name: str = "ledger.db") -> str:
    """Address of a ledger in a folder."""
    return f"sqlite:///{folder / name}"


def a_round(folder: Path, *, ledger: str = "ledger.db", fresh: FreshAudits | None = None, **more: Any) -> Any:
    """The next round, on fresh audits."""
    given = {"options": loop_options(), "distil": fake_distil, "records": loop_records(), **more}
    return run_round(folder / "root", ledger=url(folder, ledger), fresh=fresh or FreshAudits(), **given)


def left(folder: Path) -> dict[str, str]:
    """Every file of a loop by its hash, but for locks."""
    return {name: found for name, found in hashes_of(folder / "root").items() if not name.endswith("lock")}


def log(
    folder: Path,
    texts: Sequence[str],
    *,
    name: str = "own.db",
    rate: float | None = 1.0,
    reference: Callable[[int], str | None] = lambda _: "good",
    redact: Callable[[str], str] | None = None,
    store_text: bool = True,
    models: Mapping[str, str] | None = None,
    conversation: Callable[[int], str | None] = lambda _: None,
    middle: bool = False,
    bundle: str | None = None,
    said: str = "good",
) -> None:
    """Log routes that the cheap tier served, every one chosen for an audit, by turns of both tasks."""
    bundle = bundle or Bundle.load(Release.current(folder / "root").bundle).id
    with Ledger(url(folder, name), store_text=store_text, redact=redact) as ledger:
        for i, text in enumerate(texts):
            decision = None if rate is None else AuditDecision(f"{name} {i}", rate > 0, rate)
            ledger.append(
                replace(accepted(task=TASKS[i % 2]), bundle=bundle), text=text, answers={"small": Answer(said, 8, 1)},
                reference="large", audit=decision, models=models, conversation=conversation(i), at=float(i),
            )  # fmt: skip
            if decision is None or not decision.chosen:
                continue
            audit = {"large": reference(i), **({"middle": "good"} if middle else {})}
            made = [
                ledger.attempt(
                    tier, Answer(answer, 8, 1), accepted=False, cost_usd=1e-3, latency_ms=1.0, reason="audit",
                    model_name=None if models is None else models.get(tier),
                )
                for tier, answer in audit.items()
                if answer is not None
            ]  # fmt: skip
            ledger.audited(decision.id, tuple(made), position=1, quality={}, value=None, text=None)


def texts(count: int, what: str = "new") -> list[str]:
    """Queries that nothing is near to."""
    draw = np.random.default_rng(len(what))
    words = ["".join(map(chr, draw.integers(97, 123, 7))) for _ in range(12 * count)]
    return [f"love the {what} " + " ".join(words[12 * i : 12 * i + 12]) for i in range(count)]


def fold_of(folder: Path, work: Work | None = None, **more: Any) -> FreshFold:
    """A reading of a ledger as a round does it."""
    state = State(folder / "root")
    work = work or Work.of(state.root, loop_records(), loop_options())
    given = {"since": None, "until": 1e12, "learned": {}, "students": STUDENTS, "spent": hash_keys([]), "asks": {}}
    given |= {"before_usd": asked_usd(state, work.options.portfolio.names), **more}
    return FreshFold(work, Bundle.load(Release.current(state.root).bundle), **given)


def test_a_round_on_fresh_audits_from_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promoted on audits that nothing learned from, one of a conversation; they certify once, folds stay unused."""
    monkeypatch.setitem(vars(exporters.students), "distil", fake_distil)
    monkeypatch.setattr(commands, "need_loop", lambda: None)
    monkeypatch.setenv("COLUMNS", "200")
    root, state = folder / "root", State(folder / "root")
    (folder / "portfolio.json").write_text(json.dumps(PORTFOLIO.to_json()))
    (folder / "plan.toml").write_text(PLAN)
    records = loop_records()
    rows = (
        {
            "query_id": records.query_id[i], "task": records.task[i], "prompt": records.prompt[i], "model": model,
            "response": said, "quality": quality, "prompt_tokens": 8, "completion_tokens": 1, "cost_usd": usd,
            "split": records.split[i],
        }
        for i in range(len(records))
        for model, said, quality, usd in (("small", "", 0.0, 1e-5), ("large", records.response[i][1], 1.0, 1e-3))
    )  # fmt: skip
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["loop", "round", root, "--ledger", url(folder), "--plan", folder / "plan.toml", "--json", folder / "told"]
    words = [str(word) for word in (*words, "--records", folder / "records.jsonl", "--fresh", "audits")]
    certify, written = proving.certify_bundle, []

    def looked(*given: Any, **more: Any) -> Any:
        written.append(state.spent_audits.exists())
        return certify(*given, **more)

    monkeypatch.setattr(proving, "certify_bundle", looked)
    assert commands_main(words) == 0, capsys.readouterr().err
    assert written == [True], "a fold is written down as used before it is read"
    shown = " ".join(capsys.readouterr().out.split())
    assert "round 1: promoted; release r0002 serves" in shown
    assert "each drawn with probability 0.5 among 680 logged queries, one of a group: a conversation, a text" in shown
    told = json.loads((folder / "told").read_text())
    fold = told["fold"]
    assert (fold["traffic"], fold["probability"], fold["asked"]) == (680, 0.5, 0)
    assert fold["repeats"] > 20
    rows_of = read_lines(root / "rounds" / "0001" / "fold" / "fold.jsonl")
    ids, groups = {row["query_id"] for row in rows_of}, [row["group"] for row in rows_of]
    assert len(groups) == len(set(groups)) == sum(fold["found"].values())
    audited = {name for (name,) in look(folder / "ledger.db", "SELECT id FROM routenlp_routes WHERE audited")}
    assert ids < audited
    certified = Bundle.load(Release.current(root).bundle).certificates
    assert {one.use_count for one in certified.values() if one.policy in ("cascade", "route_only")} == {1}
    assert {task: certified[task, "cascade"].n for task in TASKS} == fold["found"]
    harvested = read_lines(root / "rounds" / "0001" / "harvest" / "failures.jsonl")
    taught = {pair.query_id for pairs in state.learned("r0002").values() for pair in pairs}
    assert taught <= {one["query_id"] for one in harvested}
    assert not ids & {one["query_id"] for one in harvested}
    assert not set(groups) & {one["group"] for one in harvested}
    assert told["harvest"]["left_out"]["calibration queries"] > 20
    assert "Set aside for the certificate, fresh audits" in (root / "rounds" / "0001" / "report.md").read_text()
    assert not state.spent.exists()
    assert read_folds(state, Work.of(root, records, loop_options())) == set()
    (until,) = json.loads(state.spent_audits.read_text())
    before = left(folder)
    for more, said in (
        ((), "too few new queries were audited (0 of mood, 0 of tone)"),
        (("--since", "2001-01-01"), "were learned from or certified on already"),
    ):
        capsys.readouterr()
        assert commands_main([*words, *more]) == 2
        refused = capsys.readouterr().err
        assert said in refused
        assert refused.count("\n") == 1
    assert left(folder) == before
    state.spent_audits.unlink()
    with pytest.raises(InputError, match=r"too few new queries were audited \(0 of mood, 0 of tone\)"):
        a_round(folder)
    assert float(until) == json.loads((root / "rounds" / "0001" / "journal.json").read_text())["begun"]["until"]


def test_audits_of_before_an_ordinary_round_certify_nothing(folder: Path) -> None:
    """What serves may have learned from that time, so of the same ledger only what came since counts."""
    given = {"records": loop_records(), "options": loop_options(), "distil": fake_distil}
    assert run_round(folder / "root", ledger=url(folder), **given).promoted
    before, until = left(folder), Journal(State(folder / "root").round(1)).begun["until"]
    with pytest.raises(InputError, match=r"too few new queries were audited \(0 of mood, 0 of tone\)"):
        a_round(folder)
    with pytest.raises(InputError, match="were learned from or certified on already"):
        a_round(folder, fresh=FreshAudits(since=until - 1.0))
    assert left(folder) == before


def test_audits_that_were_read_are_known_by_two_traces(folder: Path) -> None:
    """The list of them and the journal of a refused round each tell since when there are new ones."""
    state = State(folder / "root")
    assert beginning._fresh_since(state, FreshAudits()) == 0.0
    report = a_round(folder, distil=lambda *_, **__: know())
    assert report.outcome == "refused"
    until = Journal(state.round(1)).begun["until"]
    assert beginning._fresh_since(state, FreshAudits()) == until
    listed = state.spent_audits.read_text()
    state.spent_audits.unlink()
    assert beginning._fresh_since(state, FreshAudits()) == until
    state.spent_audits.write_text(listed)
    shutil.rmtree(state.round(1))
    assert beginning._fresh_since(state, FreshAudits()) == until
    state.spent_audits.unlink()
    assert beginning._fresh_since(state, FreshAudits()) == 0.0


def commands_main(words: list[str]) -> int:
    """The command line."""
    from routenlp_integrations.cli import main

    return main(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fresh", "records"], "write --fresh audits"),
        (["--since", "2026-01-01"], "give it with --fresh audits"),
    ],
)
def test_words_that_mean_nothing(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, before anything is read."""
    monkeypatch.setattr(commands, "need_loop", lambda: None)
    assert commands_main(["loop", "round", str(tmp_path / "root"), "--ledger", url(tmp_path), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


NO_SAMPLES: dict[str, tuple[dict[str, Any], str]] = {
    "no audits": ({"rate": None}, "80 of 80 logged queries could not be audited; .* was not put under audit"),
    "the budget was spent": ({"rate": 0.0}, "came when budget or backlog allowed none"),
    "no texts": ({"store_text": False}, "80 of 80 logged queries have no text.* store_text=True"),
    "redacted": ({"redact": lambda text: text.replace("love", "***")}, r"80 of 80 .*\(redaction changed them"),
    "another model": ({"models": {"large": "large-2"}}, "'large-2', which is not the model of the portfolio"),
    "no answer": ({"reference": lambda i: None if i == 3 else "good"}, "1 of 80 sampled .* no answer of 'large'"),
    "one conversation": ({"conversation": lambda _: "c"}, r"too few new queries .*\(1 of mood, 1 of tone\)"),
}


@pytest.mark.parametrize("name", NO_SAMPLES)
def test_what_is_no_random_sample_begins_no_round(name: str, folder: Path) -> None:
    """Chances that were not the same, and queries that cannot be replayed: one sentence, nothing changed or used."""
    given, said = NO_SAMPLES[name]
    log(folder, texts(80), **given)
    before = left(folder)
    with pytest.raises(InputError, match=said):
        a_round(folder, ledger="own.db")
    assert left(folder) == before


def test_a_time_without_audits_may_be_left_out(folder: Path, tmp_path: Path) -> None:
    """Audits that began late are a sample of the traffic since."""
    log(folder, texts(20), rate=None)
    log(folder, texts(60, "later"), name="own.db")
    with pytest.raises(InputError, match="20 of 80"):
        fold_of(folder).draw(url(folder, "own.db"), tmp_path)
    with pytest.raises(InputError, match="could not be audited"):
        fold_of(folder, since=19.0).draw(url(folder, "own.db"), tmp_path)
    log(folder, texts(120, "again"), name="other.db")
    told = fold_of(folder, since=20.0).draw(url(folder, "other.db"), tmp_path)
    assert told["traffic"] == sum(told["found"].values()) == 100


def test_only_new_queries_are_of_the_fold(folder: Path, tmp_path: Path) -> None:
    """What the records or the students know, near-duplicates of it, and earlier folds, whatever was answered."""
    known, mine = loop_records().prompt, texts(100)
    pair = Pair("p", mine[2] + " please", "good", TASKS[0])
    log(folder, [known[0], f"{known[1]} twice", *mine[2:]])
    fold = fold_of(folder, learned={TASKS[0]: [pair]}, spent=hash_keys([hash_key(mine[4])]))
    told = fold.draw(url(folder, "own.db"), tmp_path)
    assert told["left_out"] == {"known from the records or learned before": 3, "of an earlier fold": 1}
    kept = [row["prompt"] for row in read_lines(tmp_path / "fold.jsonl")]
    assert kept == [mine[3], *mine[5:]]


def test_texts_that_are_not_all_that_was_asked_are_noticed(folder: Path, tmp_path: Path) -> None:
    """A student that answers a logged text otherwise than when it served was asked something else then."""
    bundle = Bundle.load(Release.current(folder / "root").bundle).id
    log(folder, texts(60), bundle=bundle)
    told = fold_of(folder).draw(url(folder, "own.db"), tmp_path)
    assert (told["traffic"], told["replayed"]) == (60, 60)
    log(folder, texts(60), bundle=bundle, said="bad", name="other.db")
    with pytest.raises(InputError, match="to 60 of 60 sampled queries the students answer otherwise now"):
        fold_of(folder).draw(url(folder, "other.db"), tmp_path)
    log(folder, texts(60), said="bad", name="before.db", bundle="b" * 64)
    with pytest.raises(InputError, match="of 60 sampled queries that students answered only 0 were served by"):
        fold_of(folder).draw(url(folder, "before.db"), tmp_path)


def test_the_fold_is_fenced_off_before_anything_is_harvested(folder: Path, tmp_path: Path) -> None:
    """Failures of the fold, their near-duplicates and turns are withheld; the mutant without the fold takes them."""
    mine = texts(90)
    near = [f"{text} please" for text in mine[:10]]
    turns = texts(10, "turn")
    log(folder, mine, conversation=lambda i: f"c{i}" if i < 10 else None)
    with Ledger(url(folder, "own.db"), store_text=True) as ledger:
        for i, text in enumerate([*near, *turns, *texts(5, "free")]):
            conversation = f"c{i - 10}" if 10 <= i < 20 else None
            ledger.append(
                escalated(TASKS[i % 2]), text=text, answers=both(), reference="large", at=500.0,
                conversation=conversation,
            )  # fmt: skip
    work = Work.of(State(folder / "root").root, loop_records(), loop_options())
    fold_of(folder, work, until=400.0).draw(url(folder, "own.db"), tmp_path)
    fenced = with_fold(work, read_fold(tmp_path, PORTFOLIO))

    def harvest(one: Work) -> set[str]:
        fence = Fence(one.prepared, one.calib, hash_keys([]), 1.0, one.test, one.groups)
        found = harvest_failures(
            url(folder, "own.db"), fence, tasks=TASKS, since=None, until=None, everything=True, dearer=("large",),
            recorded=True, tolerance=0.0, limit=5_000, seed=0, left_out=Counter(),
        )  # fmt: skip
        return {found_one.prompt for found_one in found}

    assert harvest(fenced) == set(texts(5, "free"))
    assert {*mine, *near, *turns} & harvest(work)


def test_records_without_splits_keep_those_that_were_made(folder: Path, tmp_path: Path) -> None:
    """The fold is calib beside them, and no record changes its split, tune rows made by the rule included."""
    log(folder, texts(60))
    fold_of(folder).draw(url(folder, "own.db"), tmp_path)
    fold = read_fold(tmp_path, PORTFOLIO)
    records = loop_records(sizes={"train": 3600})
    work = Work.of(folder, replace(records, split=[""] * len(records)), loop_options())
    joined = with_fold(work, fold)
    before, after = work.prepared, joined.prepared
    assert len(before.tune)
    assert not joined.own_tune
    assert after.records.split[: len(records)] == before.records.split
    assert [after.records.query_id[i] for i in after.calib_all if i >= len(records)] == list(joined.fresh)
    assert not after.straddlers


def test_missing_answers_are_asked_and_paid_once(folder: Path, tmp_path: Path) -> None:
    """Failed audits are asked anew under the budget; too little, or a failing tier, refuses; what was paid stays."""
    log(folder, texts(80), reference=lambda i: None if i < 10 else "good")
    asked: list[str] = []

    def ask(prompt: str) -> Lesson:
        asked.append(prompt)
        return Lesson("bad", 0.01)

    def down(prompt: str) -> Lesson:
        raise TierError("down")

    def draw(budget: float, to: Callable[[str], Lesson]) -> dict[str, Any]:
        work = Work.of(State(folder / "root").root, loop_records(), loop_options(budget_usd=budget))
        return fold_of(folder, work, asks={"large": to}).draw(url(folder, "own.db"), tmp_path)

    with pytest.raises(InputError, match=r"6 of 80 sampled queries got no answer of 'large' \(budget\)"):
        draw(0.0401, ask)
    with pytest.raises(InputError, match=r"6 of 80 .* \(the teacher failed 3 times in a row \(down\)\)"):
        draw(1.0, down)
    told = draw(1.0, ask)
    assert len(asked) == 10
    assert (told["asked"], told["usd"]) == (10, pytest.approx(0.06))
    fold = read_fold(tmp_path, PORTFOLIO)
    assert [row[1] for row in fold.response[:12]] == ["bad"] * 10 + ["good"] * 2
    # What was paid for an answer is of the teacher's list; the fold is compared on the portfolio's.
    assert fold.cost[:, 1].tolist() == [1e-3] * 80
    assert np.isnan(fold.prompt_tokens[0, 1])


def test_every_answer_of_a_fold_has_the_portfolios_price() -> None:
    """Logged at another price or asked at another, of tokens that are known or not; without a price what it cost."""
    nothing = dict.fromkeys(field.name for field in fields(LoggedAttempt))
    logged = LoggedAttempt(
        **{**nothing, "answer": "well", "cost_usd": 7.0, "prompt_tokens": 10, "completion_tokens": 3}
    )  # type: ignore[arg-type]
    tier = Tier("large", input_usd_per_m=1e6, output_usd_per_m=2e6)
    assert told_answer(logged, tier, "four")["cost_usd"] == 16.0
    assert told_answer(replace(logged, completion_tokens=None, cost_usd=None), tier, "four")["cost_usd"] == 12.0
    assert told_lesson(Lesson("well", 7.0), tier, "four")["cost_usd"] == 3.0
    assert told_answer(logged, Tier("large"), "four")["cost_usd"] == 7.0
    assert told_lesson(Lesson("well", 7.0), Tier("large"), "four")["cost_usd"] == 7.0


def test_other_tiers_are_asked_too_unless_signals_decide(folder: Path, tmp_path: Path) -> None:
    """A tier in the middle that no audit asked; where its answers come with signals, a teacher cannot stand in."""
    portfolio = Portfolio((PORTFOLIO.tiers[0], Tier("middle", usd_per_call=1e-4), PORTFOLIO.tiers[1]))
    records = loop_records()
    wide = replace(
        records,
        models=("small", "middle", "large"),
        **{
            name: np.insert(getattr(records, name), 1, 0.5, axis=1)
            for name in ("quality", "cost", "prompt_tokens", "completion_tokens")
        },
        response=[[one[0], "good", one[1]] for one in records.response],
    )
    options = replace(loop_options(), portfolio=portfolio)
    work = Work.of(State(folder / "root").root, wide, options)
    log(folder, texts(60))
    asks = {"middle": lambda _: Lesson("bad", 1e-4)}
    told = fold_of(folder, work, asks=asks).draw(url(folder, "own.db"), tmp_path)
    assert told["asked"] == 60
    assert read_fold(tmp_path, portfolio).response[0] == ["good", "bad", "good"]
    signalled = replace(wide, signals={"mean_logprob": np.full(wide.cost.shape, -0.1)})
    loud = Work.of(State(folder / "root").root, signalled, options)
    with pytest.raises(InputError, match=r"signals \(mean_logprob\) that a teacher does not give; audit with all"):
        fold_of(folder, loud, asks=asks).draw(url(folder, "own.db"), tmp_path)
    log(folder, texts(60), name="all.db", middle=True)
    assert fold_of(folder, loud, asks=asks).draw(url(folder, "all.db"), tmp_path)["asked"] == 0


def test_a_killed_round_keeps_its_fold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is audited after it was drawn changes nothing; the round is finished as it was begun."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learning, "cluster", stop)
    log(folder, texts(100))
    with pytest.raises(KeyboardInterrupt):
        a_round(folder, ledger="own.db")
    drawn = folder / "root" / "rounds" / "0001" / "fold" / "fold.jsonl"
    before = drawn.read_bytes()
    log(folder, texts(40, "later"), name="own.db2")
    with pytest.raises(KeyboardInterrupt):
        a_round(folder, ledger="own.db2")
    assert drawn.read_bytes() == before
    with pytest.raises(InputError, match="was begun on fresh audits; finish it so"):
        run_round(
            folder / "root", ledger=url(folder), records=loop_records(), options=loop_options(), distil=fake_distil
        )
    drawn.write_bytes(before + b"\n")
    with pytest.raises(InputError, match=r"fold\.jsonl was changed"):
        a_round(folder, ledger="own.db")


_KILLED = """
import os, signal, sys
from pathlib import Path
import exporters.loop.journal as journal
from exporters.loop import FreshAudits, run_round
from loops import fake_distil, loop_options, loop_records
from exporters.students.teacher import Lesson
where, late = Path(sys.argv[1]), sys.argv[2] == "late"
sync, save = journal.sync_tree, journal.Journal._save
def die(): os.kill(os.getpid(), signal.SIGKILL)
def synced(folder):
    sync(folder)
    if not late: die()
def saved(self):
    if late and self.steps: die()
    save(self)
journal.sync_tree, journal.Journal._save = synced, saved
run_round(where / "root", ledger=f"sqlite:///{where / 'own.db'}", options=loop_options(), distil=fake_distil,
          records=loop_records(), ask=lambda _: Lesson("bad", 0.01), fresh=FreshAudits())
"""


def test_killed_while_it_draws_it_draws_the_same_and_pays_nothing_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL before and after the rename of the fold: the next call draws it again from the same bounds."""
    log(folder, texts(100), reference=lambda i: None if i < 5 else "good")
    for when in ("early", "late"):
        process = run_python(_KILLED, folder, when)
        told = process.communicate()
        assert process.returncode == -signal.SIGKILL, told
        assert not State(folder / "root").spent_audits.exists()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learning, "cluster", stop)
    with pytest.raises(KeyboardInterrupt):
        a_round(folder, ledger="own.db", ask=stop)
    fold = json.loads((folder / "root" / "rounds" / "0001" / "journal.json").read_text())["steps"]["fold"]["told"]
    assert (sum(fold["found"].values()), fold["asked"], fold["usd"]) == (100, 5, pytest.approx(0.05))
    assert Release.current(folder / "root").id == "r0001"


def test_near_duplicates_are_one_group_before_anything_is_drawn(folder: Path, tmp_path: Path) -> None:
    """A large group has no better chance than a small one; settled among the audited alone, it nearly always has."""
    long = " ".join(texts(3, "template"))
    mine = [*texts(140), *(f"{long} order {i}" for i in range(100))]
    bundle = Bundle.load(Release.current(folder / "root").bundle).id
    drawn = 0
    for name in "abcdefghijkl":
        with Ledger(url(folder, f"{name}.db"), store_text=True) as ledger:
            for i, text in enumerate(mine):
                told = f"{name}{i}"
                chosen = unit_interval("any", told) < 0.5
                ledger.append(
                    replace(escalated(TASKS[i % 2]), bundle=bundle), text=text, answers=both(), reference="large",
                    audit=AuditDecision(told, chosen, 0.5), at=float(i),
                )  # fmt: skip
        fold = fold_of(folder, students={}).draw(url(folder, f"{name}.db"), tmp_path / name)
        assert (fold["groups"], fold["largest"]) == ({"mood": 71, "tone": 71}, 50)
        kept = [row["prompt"] for row in read_lines(tmp_path / name / "fold.jsonl")]
        assert sum(fold["found"].values()) == len(kept)
        drawn += sum("order" in prompt for prompt in kept)
    assert 4 <= drawn <= 20, "of 24 groups, each with probability 0.5"


def test_the_size_of_what_is_settled_is_bounded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than memory is meant for is refused, with a way on."""
    monkeypatch.setattr("router_core.ledger.sample._MOST", 59)
    log(folder, texts(60))
    with pytest.raises(InputError, match=r"more than 59 queries were logged.* --since or --until"):
        fold_of(folder).draw(url(folder, "own.db"), tmp_path)


def test_a_conversation_over_two_tasks_stands_in_both(folder: Path, tmp_path: Path) -> None:
    """One turn of each task, and one group for what is said of both."""
    log(folder, texts(80), conversation=lambda i: f"c{i // 2}")
    told = fold_of(folder).draw(url(folder, "own.db"), tmp_path)
    assert told["found"] == {"mood": 40, "tone": 40}
    assert len(set(read_fold(tmp_path, PORTFOLIO).group)) == 40


def test_redacted_answers_neither_certify_nor_teach(folder: Path, tmp_path: Path) -> None:
    """Redaction that leaves prompts alone and changes an answer, a ledger that does not say; none is harvested."""
    log(
        folder, texts(80), reference=lambda i: "call 5551" if i < 3 else "good", redact=lambda t: t.replace("5551", "*")
    )
    with pytest.raises(InputError, match="of 3 of 80 sampled queries redaction changed an answer"):
        fold_of(folder).draw(url(folder, "own.db"), tmp_path)
    work = Work.of(State(folder / "root").root, loop_records(), loop_options())
    found = harvest_failures(
        url(folder, "own.db"), Fence(work.prepared, work.calib, hash_keys([]), 1.0), tasks=TASKS, since=None,
        until=None, everything=True, dearer=("large",), recorded=True, tolerance=0.0, limit=5_000, seed=0,
        left_out=Counter(),
    )  # fmt: skip
    assert Counter(one.answer for one in found) == {"good": 77, None: 3}
    with closing(sqlite3.connect(folder / "own.db")) as connection:
        connection.execute("UPDATE routenlp_attempts SET redacted = NULL")
        connection.commit()
    with pytest.raises(InputError, match=r"80 of 80 .* does not say whether redaction changed an answer"):
        fold_of(folder).draw(url(folder, "own.db"), tmp_path)


def test_what_was_there_before_the_start_is_not_new(begun: Path, folder: Path) -> None:
    """The first release learned from it, also after a rollback to it; a start that does not say when is refused."""
    log(folder, texts(80))
    state = State(folder / "root")
    told = json.loads(state.start.read_text())
    for at, since, said in (
        (50.0, None, r"too few new queries were audited \(15 of mood, 15 of tone\)"),
        (50.0, 49.0, "were learned from or certified on already; give no moment before 1970-01-01T00:00:50.001Z"),
        (None, None, "does not say when the loop was started"),
    ):
        state.start.write_text(json.dumps({**told, "at": at}))
        with pytest.raises(InputError, match=said):
            a_round(folder, ledger="own.db", fresh=FreshAudits(since))
    at = json.loads((begun / "root" / "rounds" / "0000" / "journal.json").read_text())["begun"]
    assert at == {name: value for name, value in told.items() if name in at}


def test_a_release_made_elsewhere_certifies_on_no_audits(folder: Path) -> None:
    """Nobody can tell what it learned; folders that are no release are told apart from damaged ones."""
    root = folder / "root"
    now = Release.current(root)
    promoted = new_release_id(root)
    publish(root, promoted, now.bundle, {name: now.folder / "checkpoints" / name for name in now.checkpoints})
    promote(root, promoted)
    before = left(folder)
    with pytest.raises(InputError, match=f"release {promoted} was made by no start or round"):
        a_round(folder)
    rollback(root)
    (root / "releases" / "notes").mkdir()
    with pytest.raises(InputError, match="notes is no release; move it out"):
        a_round(folder)
    (root / "releases" / "notes" / "bundle").mkdir()
    with pytest.raises(BundleError):
        a_round(folder)
    assert State(root).rounds() == [0]
    assert {name for name in set(before) ^ set(left(folder)) if name not in ("current", "previous")} == set()


@pytest.mark.parametrize(
    "told", ["[]", "null", '{"x":[]}', '{"1.0":"abc"}', '{"1e400":[]}', '{"1.0":["zz"]}', '{"nan":[]}', '{"1.0":[1]}']
)
def test_a_list_of_used_audits_that_was_changed(told: str, folder: Path) -> None:
    """One sentence, and no round is begun."""
    state = State(folder / "root")
    state.spent_audits.write_text(told)
    with pytest.raises(InputError, match="is damaged, and tells which audits were used"):
        a_round(folder)
    assert state.rounds() == [0]


def test_bounds_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No moments, moments to come, and other ones for a round that was begun."""
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="no moment"):
            FreshAudits(wrong)
        with pytest.raises(InputError, match="no moment"):
            FreshAudits(until=wrong)
    with pytest.raises(InputError, match="that is to come"):
        a_round(folder, fresh=FreshAudits(until="2999-01-01"))
    log(folder, texts(80), reference=lambda i: None if i == 79 else "good")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learning, "cluster", stop)
    with pytest.raises(InputError, match="wait for the audits under way and give --until"):
        a_round(folder, ledger="own.db")
    with pytest.raises(KeyboardInterrupt):
        a_round(folder, ledger="own.db", fresh=FreshAudits(5.0, until=79.0))
    for other in (FreshAudits(), FreshAudits(6.0, until=79.0), FreshAudits(5.0)):
        with pytest.raises(InputError, match="was begun on audits of another time"):
            a_round(folder, ledger="own.db", fresh=other)
    begun = json.loads((folder / "root" / "rounds" / "0001" / "journal.json").read_text())["begun"]
    assert (begun["until"], begun["fresh"]["since"]) == (79.0, 5.0)
    with pytest.raises(KeyboardInterrupt):
        a_round(folder, ledger="own.db", fresh=FreshAudits(5.0, until=79.0))


def test_an_answer_that_is_asked_for_comes_of_the_portfolios_model(folder: Path, tmp_path: Path) -> None:
    """Another model's is refused as a logged one is."""
    log(folder, texts(80), reference=lambda i: None if i < 5 else "good")
    asks = {"large": lambda _: Lesson("bad", 0.01, model_name="large-2")}
    with pytest.raises(InputError, match=r"'large-2', which is not the model of the portfolio"):
        fold_of(folder, asks=asks).draw(url(folder, "own.db"), tmp_path)
    asks = {"large": lambda _: Lesson("bad", 0.01, model_name="large-1")}
    assert fold_of(folder, asks=asks).draw(url(folder, "own.db"), tmp_path)["asked"] == 5


def test_tasks_without_a_plan_are_not_on_the_scale_of_audits(folder: Path) -> None:
    """Their records may be graded against gold."""
    state = State(folder / "root")
    told = json.loads(state.start.read_text())
    plans = {"mood": TaskPlan("classifier", grade="exact")}
    state.start.write_text(json.dumps({**told, "fixed": loop_options(plans=plans).fixed}))
    with pytest.raises(InputError, match="tasks tone have no plan"):
        a_round(folder, options=loop_options(plans=plans))
    assert state.rounds() == [0]
