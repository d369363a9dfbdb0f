"""What is held out stays held out: twins of calibration queries, whole conversations, and texts of another task."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")
pytest.importorskip("sklearn", reason="needs routenlp[fit]")
pytest.importorskip("filelock", reason="needs filelock")

from loops import PORTFOLIO, fake_distil, first_students, loop_options, loop_records, stream

from exporters.fence import NO_KEYS, item_keys
from exporters.loop import harvesting, near, run_round, start
from exporters.loop.answering import Given, with_answers
from exporters.loop.harvesting import Fence, Found, harvest_failures
from exporters.loop.lessons import pick
from exporters.loop.logged_rows import LoggedRows
from exporters.loop.near import near_calib
from exporters.loop.work import Work
from exporters.students.data import Pair
from router_core import Answer
from router_core.errors import InputError
from router_core.groups import hash_key, merge_near_duplicates
from router_core.keys import hash_keys
from router_core.ledger import Ledger
from router_core.ledger.reader import LoggedRoute
from router_core.ledger.rows import conversation_group, key_of
from router_core.records import Records
from router_core.route import Attempt, Route

WHY = "near-duplicates of calibration, test or the router's queries"


def work_of(records: Records) -> Work:
    """A loop over records."""
    return Work.of("unused", records, loop_options())


def fence_of(work: Work) -> Fence:
    """As a round makes it, all queries in the student part."""
    return Fence(work.prepared, work.calib, NO_KEYS, 1.0, work.test, work.groups)


def variants(records: Records, row: int, count: int) -> list[Found]:
    """Logged texts that differ from a record in their last word only."""
    texts = [f"{records.prompt[row]} ticket{k}" for k in range(count)]
    return [Found(f"r{k}", records.task[row], text, hash_key(text), "good", 0, 0) for k, text in enumerate(texts)]


def route(number: int, task: str) -> Route:
    """A route that the first tier served."""
    attempt = Attempt("small", 1.0, 1e-5, True, "the cheapest")
    return Route(
        "small", Answer("good", 8, 1), (attempt,), 1e-5, task, task, "cascade", "none", None, "the cheapest",
        id=f"{number:032x}",
    )  # fmt: skip


def harvest(url: str, fence: Fence, left_out: Counter[str]) -> list[Found]:
    """Everything that was logged, as far as it may be taught."""
    return harvest_failures(
        url, fence, tasks=("mood", "tone"), since=None, until=None, everything=True, dearer=("large",), recorded=True,
        tolerance=0.0, limit=5_000, seed=0, left_out=left_out,
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 20])
def test_a_popular_calibration_query_is_no_template(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Varied however often it stays held out; a fence that takes its variants' words for template lets 20 pass."""
    work, left_out = work_of(loop_records()), Counter[str]()
    found = variants(work.prepared.records, work.prepared.records.split.index("calib"), count)
    assert harvesting._without_near_duplicates(found, fence_of(work), left_out) == []
    assert left_out == {WHY: count}

    def counting_all(prompts: Any, keys: Any, tasks: Any, train: np.ndarray[Any, Any]) -> list[str]:
        train[len(work.prepared.records) :] = True
        return merge_near_duplicates(prompts, keys, tasks, train)

    monkeypatch.setattr(near, "merge_near_duplicates", counting_all)
    passed = harvesting._without_near_duplicates(found, fence_of(work), left_out)
    assert len(passed) == (20 if count == 20 else 0)


def test_the_gate_refuses_what_the_fence_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fence of the harvest gone, near-duplicates of calibration queries are taught and found by the gate."""
    records, url = loop_records(), f"sqlite:///{tmp_path / 'ledger.db'}"
    start(tmp_path / "root", records, options=loop_options(), checkpoints=first_students(), distil=fake_distil)
    unknown = [i for i, text in enumerate(records.prompt) if records.split[i] == "calib" and text.startswith("save")]
    some = records.take([i for i in unknown[:3] for _ in range(20)])
    logged = replace(some, prompt=[f"{text} ticket{k}" for k, text in enumerate(some.prompt)])
    stream(tmp_path / "root", url, records)
    stream(tmp_path / "root", url, logged, splits=("calib",))
    monkeypatch.setattr(harvesting, "_without_near_duplicates", lambda found, *_: found)
    report = run_round(tmp_path / "root", ledger=url, records=records, options=loop_options(), distil=fake_distil)
    assert report.outcome == "refused"
    assert "near-duplicates of calibration queries were learned from" in " ".join(report.reasons["leak"])


def test_first_pairs_are_no_near_duplicates_either(tmp_path: Path) -> None:
    """A pair that varies a calibration query stops the start; one of a record, or of nothing alike, does not."""
    records = loop_records()
    work = work_of(records)
    text = f"{records.prompt[records.split.index('calib')]} please"
    fine = [Pair("a", records.prompt[0], "good", "mood"), Pair("b", "an altogether different text of its own", "good")]
    assert near_calib(work.prepared, {"mood": [*fine, Pair("c", text, "good")]}) == ["c"]
    with pytest.raises(InputError, match="near-duplicates of calibration"):
        start(
            tmp_path, records, options=loop_options(), checkpoints=first_students(),
            pairs={"mood": [Pair("c", text, "good")]}, distil=fake_distil,
        )  # fmt: skip
    assert not (tmp_path / "current").exists()


def log_turns(url: str, work: Work, rows: Sequence[int]) -> None:
    """Log one more turn of the conversation of each row, in words of its own."""
    draw, given = random.Random(7), work.given  # noqa: S311 - words, not secrets
    with Ledger(url, store_text=True) as ledger:
        for number, i in enumerate(rows):
            text = " ".join("".join(draw.choices("abcdefgh", k=7)) for _ in range(8))
            one = route(number, given.task[i])
            ledger.append(one, text=text, answers={"small": Answer("good", 8, 1)}, conversation=given.group[i])
        ledger.flush()


def test_turns_of_held_out_conversations_are_never_taught(tmp_path: Path) -> None:
    """The ledger knows a conversation by its hash; without those names every turn is taught."""
    records = loop_records()
    work = work_of(replace(records, group=[f"conv-{i // 4}" for i in range(len(records))]))
    for split, why in (("calib", "calibration queries"), ("test", "test queries")):
        url, left_out = f"sqlite:///{tmp_path / split}.db", Counter[str]()
        rows = [i for i, one in enumerate(work.given.split) if one == split]
        log_turns(url, work, rows)
        assert harvest(url, fence_of(work), left_out) == []
        assert left_out == {why: len(rows)}
        blind = Fence(work.prepared, NO_KEYS, NO_KEYS, 1.0)
        assert len(harvest(url, blind, left_out)) == len(rows)


def test_a_taught_conversation_goes_on_being_taught(tmp_path: Path) -> None:
    """Only the turn that was taught is left out, not what its conversation asked since; by its group all would be."""
    records = loop_records()
    work = work_of(replace(records, group=[f"conv-{i // 4}" for i in range(len(records))]))
    rows = [i for i, one in enumerate(work.given.split) if one == "train"][:12]
    url, left_out = f"sqlite:///{tmp_path / 'ledger.db'}", Counter[str]()
    log_turns(url, work, rows)
    found = harvest(url, fence_of(work), Counter())
    assert len(found) == len(rows)
    first = next(one for one in found if sum(other.group == one.group for other in found) > 1)
    taught = hash_keys(item_keys(first.query_id, first.group, first.prompt))
    later = harvest(url, replace(fence_of(work), taught=taught), left_out)
    assert len(later) == len(rows) - 1
    assert first.prompt not in {one.prompt for one in later}
    assert left_out == {"taught before": 1}


def test_turns_of_the_routers_conversations_are_of_its_part(tmp_path: Path) -> None:
    """A new turn is cut with the records of its conversation, not by the hash of the hash."""
    records = loop_records()
    work = work_of(replace(records, group=[f"conv-{i // 4}" for i in range(len(records))]))
    rows = work.prepared.train.tolist()
    log_turns(f"sqlite:///{tmp_path / 'turns.db'}", work, rows)
    fence = replace(fence_of(work), student_share=0.5)
    found = harvest(f"sqlite:///{tmp_path / 'turns.db'}", fence, Counter())
    assert {one.group for one in found} <= set(work.prepared.records.group)
    assert found


def test_straddling_conversations_are_held_out() -> None:
    """A row that was taken out for its conversation's calibration rows is known by both names of it."""
    records = loop_records()
    group = [""] * len(records)
    learned, held = records.split.index("train"), records.split.index("calib")
    group[learned] = group[held] = "conv-1"
    work = work_of(replace(records, group=group))
    fence = fence_of(work)
    assert records.query_id[learned] not in work.prepared.records.query_id

    def one(query: str, group: str) -> Found:
        return Found(query, "mood", "another text", group, None, 0, 0)

    assert fence.why_not(one("new", conversation_group("conv-1"))) == "calibration queries"
    assert fence.why_not(one(records.query_id[learned], "")) == "calibration queries"


def two_tasks() -> tuple[Records, dict[tuple[str, str], str]]:
    """Records that ask each text for both tasks, with opposite answers, and the right answers."""
    records = loop_records()
    prompt, said = list(records.prompt), [list(row) for row in records.response]
    for i in range(0, len(records), 2):
        prompt[i + 1] = prompt[i]
        said[i + 1][1] = {"good": "bad", "bad": "good"}[str(said[i][1])]
    right = {(task, text): str(row[1]) for task, text, row in zip(records.task, prompt, said, strict=True)}
    return replace(records, prompt=prompt, response=said), right


def test_one_text_in_two_tasks_is_taught_with_the_answers_of_each(tmp_path: Path) -> None:
    """Both tasks' routes of a text, which hold no answer of the reference, find their own row; all are picked."""
    records, right = two_tasks()
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    rows = [i for i, split in enumerate(records.split) if split == "train"]
    with Ledger(url, store_text=True) as ledger:
        for i in rows:
            ledger.append(route(i, records.task[i]), text=records.prompt[i], answers={"small": Answer("good", 8, 1)})
        ledger.flush()
    found = harvest(url, fence_of(work_of(records)), Counter())
    assert len(found) == len({one.query_id for one in found}) == len(rows)
    assert all(one.answer == right[one.task, one.prompt] for one in found)
    picked = pick(found, None, loop_options(least=1))
    assert {task: len(ids) for task, ids in picked.items()} == {"mood": len(rows) // 2, "tone": len(rows) // 2}


def test_an_id_counts_only_with_its_text() -> None:
    """A route that bears a record's id by chance is not taken for it, and gets an id of its own."""
    records = loop_records()
    rows = LoggedRows(records)

    def logged(query: str, key: str | None) -> LoggedRoute:
        nothing = dict.fromkeys(field.name for field in fields(LoggedRoute))
        return LoggedRoute(**{**nothing, "id": query, "key": key})  # type: ignore[arg-type]

    assert rows.of(logged("q0", key_of("words that no record holds")), "mood") is None
    assert rows.of(logged("q0", key_of(records.prompt[0])), "tone") is None
    assert rows.of(logged("q0", key_of(records.prompt[2])), "mood") == 2
    assert rows.of(logged("q4", None), "mood") == 4
    assert (rows.own_id("q0"), rows.own_id("new")) == ("route q0", "new")


def test_all_tiers_of_a_task_are_on_one_scale() -> None:
    """A reference that was recorded at .4 against gold is right by definition, and so a disagreement is bad."""
    records = loop_records()
    recorded = np.where(np.arange(len(records)) % 2, 0.4, 0.9)
    quality = np.column_stack([np.full(len(records), 0.8), recorded])
    response = [["good", *row[1:]] for row in records.response]
    records = replace(records, quality=quality, response=response)
    tier, said = PORTFOLIO.tiers[0], [Given("q0", "neither", 8, 1, {})]
    made = with_answers(records, tier, said, {"mood": "exact", "tone": "exact"})
    assert made.quality[0].tolist() == [0.0, 1.0]
    assert (made.quality[:, 1] == 1.0).all()
    agrees = [float(row[1] == "good") for row in response]
    assert made.quality[1:, 0].tolist() == agrees[1:]
    alone = with_answers(records, tier, said, {"mood": "exact"})
    tone = [i for i, task in enumerate(records.task) if task == "tone"]
    assert np.array_equal(alone.quality[tone], quality[tone])


def test_a_quality_without_its_answer_is_refused() -> None:
    """What was recorded on another scale and cannot be graded anew stops the loop; an answer that is missing may."""
    records = loop_records()
    grades, tier = {"mood": "exact", "tone": "exact"}, PORTFOLIO.tiers[0]
    assert np.isnan(with_answers(records, tier, [], grades).quality[:, 0]).all()
    with pytest.raises(InputError, match="'small'; students are graded against the reference"):
        with_answers(replace(records, quality=np.full((len(records), 2), 0.5)), tier, [], grades)
    with pytest.raises(InputError, match="no recorded answer of 'large'"):
        with_answers(
            replace(records, response=[[None, None]] * len(records)), tier, [Given("q0", "good", 8, 1, {})], grades
        )
