"""Records from a ledger: what may certify and what may not, grades, exports and imports, flat memory."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from bundles import PORTFOLIO, small_records
from ledgers import accepted, both, escalated, fill, look, url_of

from router_core import Answer, Attempt, InputError, Route
from router_core.audits import AuditDecision
from router_core.bundle import Bundle
from router_core.certificate import clopper_pearson
from router_core.fitting.calibrate_bundle import calibrate
from router_core.ledger import Ledger
from router_core.ledger import harvest as module
from router_core.ledger.files import route_rows, write_rows
from router_core.ledger.harvest import harvest
from router_core.ledger.importing import import_into
from router_core.ledger.reader import LedgerReader
from router_core.ledger.records import record_rows, records_from_ledger
from router_core.ledger.rows import AttemptEntry
from router_core.records import Records, read_records


def _audit(ledger: Ledger, text: str, cheap: str, reference: str, probability: float = 1.0, **more: Any) -> str:
    """An accepted query and its audit, as `Auditor` leaves them."""
    decision = AuditDecision(more.pop("id", None) or _new(), True, probability)
    ledger.append(accepted(cheap), text=text, reference="large", audit=decision, **more)
    quality = float(cheap == reference)
    attempt = AttemptEntry(
        "large", None, None, False, 1e-3, 12, 3, 200.0, "audit", True, ledger.kept(reference), {}, redacted=False
    )
    ledger.audited(
        decision.id, (attempt,), position=1, quality={"small": quality, "large": 1.0}, value=quality, text=reference
    )
    return decision.id


def _spared(probability: float = 1.0) -> AuditDecision:
    """The decision about a query that chance did not choose."""
    return AuditDecision(_new(), False, probability)


def _new() -> str:
    """A new id."""
    from router_core.ledger import new_id

    return new_id()


def _records(ledger: Ledger, tmp_path: Path, **more: Any) -> Records:
    assert ledger.flush(20)
    return records_from_ledger(url_of(tmp_path), **more)


def test_audits_and_escalations_become_records(tmp_path: Path, ledger: Ledger) -> None:
    """Both kinds bring the cheap and the reference answer; what was only accepted brings nothing."""
    one = _audit(ledger, "a lamp", "good", "bad", 0.5, conversation="c")
    two = ledger.append(
        escalated("mood/long"), text="a sofa", answers=both("bad", "bad"), reference="large", audit=_spared(0.5)
    )
    ledger.append(accepted(), text="a clock", reference="large", audit=_spared(0.5))
    records = _records(ledger, tmp_path, split="calib")
    assert records.query_id == [one, two]
    assert records.models == ("small", "large")
    assert records.split == ["calib", "train"]
    assert (records.prompt, records.task, records.subtask) == (["a lamp", "a sofa"], ["mood"] * 2, ["", "long"])
    assert records.quality.tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert records.cost.tolist() == [[1e-5, 1e-3], [1e-5, 1e-3]]
    assert records.response == [["good", "bad"], ["bad", "bad"]]
    assert records.signals["mean_logprob"][:, 0].tolist() == [-0.1, -0.7]
    assert records.group[0].startswith("conversation ")
    assert "train 1, calib 1; a uniform sample of 3 logged queries, 1 of them audited" in records.source


def test_gold_grades_all_tiers(tmp_path: Path, ledger: Ledger) -> None:
    """With gold the reference can be wrong too; a query without gold is left out unless chance chose it."""
    spared = _spared(0.5), _spared(0.5)
    named = ledger.append(escalated(), text="a sofa", answers=both("good", "bad"), reference="large", audit=spared[0])
    ledger.feedback(named, "label", text="bad")
    ledger.feedback(named, "correction", text="Good.")
    ledger.append(escalated(), text="a lamp", answers=both(), reference="large", audit=spared[1])
    _audit(ledger, "a kettle", "good", "good", 0.5)
    records = _records(ledger, tmp_path, gold=True, metric="exact", split="audit")
    assert records.quality[0].tolist() == [1.0, 0.0]
    assert np.isnan(records.quality[1]).all()
    assert records.split == ["train", "audit"]


def test_metrics_may_differ_by_task(tmp_path: Path, ledger: Ledger) -> None:
    """A function or a name by task; a task without one is refused, and so is a grade outside [0, 1]."""
    ledger.append(escalated(), text="a sofa", answers=both("one two", "one three"), reference="large")
    assert _records(ledger, tmp_path, metric={"mood": "f1"}).quality[0].tolist() == [0.5, 1.0]
    assert _records(ledger, tmp_path, metric=lambda a, b: 0.25).quality[0].tolist() == [0.25, 1.0]
    with pytest.raises(InputError, match="task 'mood' has no grade"):
        _records(ledger, tmp_path, metric={"sum": "f1"})
    with pytest.raises(InputError, match="grade"):
        _records(ledger, tmp_path, metric=lambda a, b: 2.0)
    with pytest.raises(InputError, match="unknown metric"):
        _records(ledger, tmp_path, metric="bleu")


def test_tiers_given_decide_columns_and_reference(tmp_path: Path, ledger: Ledger) -> None:
    """Only the named tiers are looked at; one nobody asked is missing, and `complete` will say so."""
    _audit(ledger, "a lamp", "good", "bad")
    records = _records(ledger, tmp_path, tiers=["small", "medium", "large"], split="calib")
    assert records.models == ("small", "medium", "large")
    assert np.isnan(records.quality).tolist() == [[False, True, False]]
    assert records.response[0][1] is None


def test_an_audit_without_a_reference_answer_is_not_hidden(tmp_path: Path, ledger: Ledger) -> None:
    """A failed audit stays in calib with its grades missing, so that dropping it is counted and limited."""
    decision = AuditDecision(_new(), True, 1.0)
    ledger.append(accepted(), text="a lamp", reference="large", audit=decision)
    ledger.audited(decision.id, (), position=1, quality={}, value=None, text="audit failed")
    _audit(ledger, "a sofa", "good", "bad")
    records = _records(ledger, tmp_path, split="calib")
    assert records.split == ["calib", "calib"]
    assert np.isnan(records.quality[0]).all()


def test_denser_audits_are_thinned(tmp_path: Path, ledger: Ledger) -> None:
    """Of audits made at twice the rate about half stay a fair sample, the same ones every time; the others train."""
    for i in range(300):
        _audit(ledger, f"first {i}", "good", "good", 0.1, id=f"a{i}")
        _audit(ledger, f"second {i}", "good", "good", 0.2, id=f"b{i}")
        for k in range(9):
            ledger.append(accepted(), text=f"first {i}, {k}", audit=_spared(0.1))
        for k in range(4):
            ledger.append(accepted(), text=f"second {i}, {k}", audit=_spared(0.2))
    records = _records(ledger, tmp_path, split="calib")
    counts = Counter(zip((name[0] for name in records.query_id), records.split, strict=True))
    assert counts["a", "calib"] == 300
    assert 110 < counts["b", "calib"] < 190
    assert counts["b", "train"] == 300 - counts["b", "calib"]
    assert records.split == _records(ledger, tmp_path, split="calib").split


def test_the_hash_rule_splits_audits(tmp_path: Path, ledger: Ledger) -> None:
    """Without a wish audits fall into train, calib and test by their key, escalations into train alone."""
    for i in range(300):
        _audit(ledger, f"audited {i}", "good", "good", 0.5)
        ledger.append(escalated(), text=f"escalated {i}", answers=both(), reference="large", audit=_spared(0.5))
    assert ledger.flush(20)
    records = read_records(url_of(tmp_path))
    counts = Counter(zip((text.split()[0] for text in records.prompt), records.split, strict=True))
    assert counts["escalated", "train"] == 300
    assert 40 < counts["audited", "calib"] < 80
    assert 40 < counts["audited", "test"] < 80


def _traffic(ledger: Ledger, n: int = 2_000, rate: float = 0.2) -> float:
    """Traffic whose cheap answers are bad more often where confidence is low; the true share of bad cheap answers."""
    draw = np.random.default_rng(7)
    for i in range(n):
        doubt = draw.random()
        bad = draw.random() < 0.6 * doubt
        cheap, chosen = "bad" if bad else "good", draw.random() < rate
        if doubt < 0.5:
            if chosen:
                _audit(ledger, f"query {i}", cheap, "good", rate)
            else:
                ledger.append(accepted(cheap), text=f"query {i}", reference="large", audit=_spared(rate))
            continue
        decision = AuditDecision(_new(), bool(chosen), rate)
        ledger.append(escalated(), text=f"query {i}", answers=both(cheap, "good"), reference="large", audit=decision)
    return 0.3


def _covers(records: Records, truth: float) -> bool:
    rows = [i for i, split in enumerate(records.split) if split == "calib"]
    bad = int((records.quality[rows, 0] < records.quality[rows, -1]).sum())
    low, high = clopper_pearson(bad, len(rows), 0.9999)
    return low <= truth <= high


def test_escalations_never_certify(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audits show the share of bad cheap answers in the traffic; the mutant that certifies on escalations does not."""
    truth = _traffic(ledger)
    records = _records(ledger, tmp_path, split="calib")
    assert _covers(records, truth)
    audited = {name for (name,) in look(tmp_path / "ledger.db", "SELECT id FROM routenlp_routes WHERE audited")}
    assert {name for name, split in zip(records.query_id, records.split, strict=True) if split == "calib"} == audited
    monkeypatch.setattr(module, "_split", lambda route, wanted, group, by_chance: wanted)
    assert not _covers(_records(ledger, tmp_path, split="calib"), truth)


def _log_small(
    ledger: Ledger, records: Records, rows: list[int], *, audited: bool, bundle: str = "b", **models: str
) -> None:
    """Log rows of `bundles.small_records` as whole audits, or as escalations."""
    for i in rows:
        task, answers = records.task[i], {}
        for k, name in enumerate(records.models):
            tokens = int(records.prompt_tokens[i, k]), int(records.completion_tokens[i, k])
            answers[name] = Answer(records.response[i][k] or "", *tokens)
        attempts = tuple(
            Attempt(name, None, float(records.cost[i, k]), k == 2, "x") for k, name in enumerate(records.models)
        )
        route = Route("large", answers["large"], attempts, 0.0, task, task, "cascade", bundle, None, "x")
        decision = AuditDecision(_new(), audited, 0.5)
        ledger.append(route, text=records.prompt[i], answers=answers, reference="large", audit=decision, models=models)
        quality = {name: float(records.quality[i, k]) for k, name in enumerate(records.models)}
        if audited:
            ledger.audited(decision.id, (), position=3, quality=quality, value=1.0, text="x")


def test_calibrate_reads_audits_from_a_ledger(small_bundle: Path, tmp_path: Path, ledger: Ledger) -> None:
    """A bundle is certified again on audits alone, without what it was trained on; escalations count for nothing."""
    fresh, trained = small_records(seed=5), small_records(seed=0)
    _log_small(ledger, fresh, list(range(150)), audited=True)
    _log_small(ledger, trained, [0, 1, 2], audited=True)
    _log_small(ledger, fresh, list(range(150, 400)), audited=False)
    assert ledger.flush(20)
    made = calibrate(Bundle.load(small_bundle), [url_of(tmp_path)])
    told = made.report["calibrated"]
    assert told["n"] + told["repeats"] == 150
    assert "train 250, calib 150" in told["source"]
    assert "3 seen in training left out" in told["source"]
    assert made.portfolio.names == PORTFOLIO.names


def test_nothing_to_learn_from_is_said(tmp_path: Path, ledger: Ledger) -> None:
    """No audits and no escalations, no texts, one tier, an unknown split, two ledgers: one sentence each."""
    ledger.append(accepted(), text="x", reference="large")
    with pytest.raises(InputError, match=r"nothing to learn from.*store_text=True"):
        _records(ledger, tmp_path)
    with pytest.raises(InputError, match="unknown split"):
        _records(ledger, tmp_path, split="calibration")
    with pytest.raises(InputError, match="read alone"):
        read_records([url_of(tmp_path), "more.jsonl"])
    with Ledger(url_of(tmp_path, "bare.db")) as bare:
        bare.append(escalated(), text="x", answers=both(), reference="large")
    with pytest.raises(InputError, match="1 without their text left out"):
        records_from_ledger(url_of(tmp_path, "bare.db"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_exported_records_are_records(tmp_path: Path, ledger: Ledger, suffix: str) -> None:
    """A file of exported records reads as the ledger itself does."""
    for i in range(30):
        _audit(ledger, f'lamp {i}, "so"; \n nice', "good", "good" if i % 3 else "bad", 0.5, conversation=f"c{i // 2}")
        ledger.append(escalated("mood/x"), text=f"sofa {i}", answers=both(), reference="large", audit=_spared(0.5))
    direct = _records(ledger, tmp_path, split="calib")
    reader, file = LedgerReader(url_of(tmp_path)), tmp_path / f"records{suffix}"
    rows: Callable[[], Any] = lambda: (row for one in harvest(reader, split="calib") for row in record_rows(one))  # noqa: E731
    assert write_rows(file, rows) == 120
    again = read_records(file)
    for name in ("query_id", "prompt", "task", "subtask", "group", "split", "models", "response"):
        assert getattr(again, name) == getattr(direct, name), name
    for name in ("quality", "cost", "prompt_tokens"):
        np.testing.assert_array_equal(getattr(again, name), getattr(direct, name))
    np.testing.assert_array_equal(again.signals["mean_logprob"], direct.signals["mean_logprob"])


def test_routes_go_out_and_in_unchanged(tmp_path: Path, ledger: Ledger) -> None:
    """Exported routes imported elsewhere are the same routes; a second import, and a merge of the file, add nothing."""
    _audit(ledger, "a lamp", "good", "bad")
    name = ledger.append(escalated(), text="a sofa", answers=both(), reference="large", hidden=np.ones(3))
    ledger.feedback(name, "rating", 3.0)
    ledger.feedback("elsewhere", "label", 1.0)
    assert ledger.flush(10)
    file, target = tmp_path / "routes.jsonl", url_of(tmp_path, "copy.db")
    reader = LedgerReader(url_of(tmp_path))
    assert write_rows(file, lambda: route_rows(reader), nested=True) == 3
    assert import_into(str(file), target) == {"read": 3, "new": 2 + 4 + 3}
    assert list(LedgerReader(target).routes(hidden=True)) == list(reader.routes(hidden=True))
    assert import_into(str(file), target)["new"] == 0
    assert import_into(str(tmp_path / "ledger.db"), target)["new"] == 0
    assert import_into(url_of(tmp_path), url_of(tmp_path, "third.db"))["new"] == 9


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_routes_fit_into_tables(tmp_path: Path, ledger: Ledger, suffix: str) -> None:
    """In a table attempts, feedback and certificate are JSON."""
    ledger.append(accepted(), text="a lamp")
    assert ledger.flush(10)
    file, reader = tmp_path / f"routes{suffix}", LedgerReader(url_of(tmp_path))
    assert write_rows(file, lambda: route_rows(reader), nested=True) == 1
    if suffix == ".csv":
        with file.open(newline="") as opened:
            (row,) = csv.DictReader(opened)
    else:
        from pyarrow import parquet

        (row,) = parquet.read_table(file).to_pylist()
    assert json.loads(row["attempts"])[0]["tier"] == "small"
    assert json.loads(row["certificate"])["n"] == 100


def test_outcomes_are_imported_once(tmp_path: Path, ledger: Ledger) -> None:
    """Lines of feedback by route id; the same line again is the same feedback."""
    name = ledger.append(accepted(), text="a lamp")
    assert ledger.flush(10)
    file = tmp_path / "outcomes.jsonl"
    file.write_text(
        json.dumps({"id": name, "kind": "label", "value": 1.0}) + "\n\n"
        + json.dumps({"id": name, "kind": "correction", "text": "bad", "at": 5.0, "by": "someone"}) + "\n"
    )  # fmt: skip
    assert import_into(str(file), url_of(tmp_path)) == {"read": 2, "new": 2}
    assert import_into(str(file), url_of(tmp_path)) == {"read": 2, "new": 0}
    (route,) = LedgerReader(url_of(tmp_path)).routes()
    assert {(told.kind, told.value, told.text) for told in route.feedback} == {
        ("label", 1.0, None),
        ("correction", None, "bad"),
    }


GOOD = {"id": "a", "kind": "label", "value": 1.0}
WRONG = [
    pytest.param("{", "line 2 is not valid JSON", id="no JSON"),
    pytest.param("[1]", "line 2 is not a JSON object", id="no object"),
    pytest.param("{}", "neither a route", id="neither"),
    pytest.param(json.dumps({**GOOD, "kind": "praise"}), "line 2: feedback of kind 'praise'", id="kind"),
    pytest.param(json.dumps({**GOOD, "value": "1"}), "'value' must be a finite number", id="value"),
    pytest.param(json.dumps({"kind": "label"}), "'route' is missing", id="no id"),
    pytest.param(json.dumps({"id": "a", "attempts": []}), "'at' is missing", id="no time"),
    pytest.param(json.dumps({"id": "a", "attempts": [], "at": 1e400}), "'at' must be a finite", id="infinite"),
]


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_a_wrong_line_imports_nothing(tmp_path: Path, line: str, said: str) -> None:
    """The whole file is checked first; the message names the line."""
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(InputError, match=said):
        import_into(str(file), url_of(tmp_path, "new.db"))
    assert not (tmp_path / "new.db").exists()


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def _harvest_peaks(tmp_path: Path, routes: int, *jobs: str, rate: float | None = None) -> dict[str, int]:
    """Peak memory, in bytes, of everything that reads a whole ledger, of which a hundred routes may be learned from."""
    name = f"{routes}.db"
    Ledger(url_of(tmp_path, name)).close()
    fill(tmp_path / name, routes, every=routes // 50, rate=rate)
    reader = LedgerReader(url_of(tmp_path, name))
    work = {
        "routes": lambda: sum(1 for _ in reader.routes()),
        "harvest": lambda: sum(1 for _ in harvest(reader)),
        "records": lambda: records_from_ledger(url_of(tmp_path, name)),
        "export": lambda: write_rows(tmp_path / "out.jsonl", lambda: route_rows(reader), nested=True),
    }
    return {job: _peak(work[job]) for job in jobs or work}


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Ten times as many routes take no more memory to read, harvest and export, but for what waits to be collected."""
    _harvest_peaks(tmp_path, 1_000)
    few, many = _harvest_peaks(tmp_path, 2_000), _harvest_peaks(tmp_path, 20_000)
    for name, peak in many.items():
        assert peak < 2 * few[name] + 1_000_000, (name, few, many)


@pytest.mark.slow
def test_memory_stays_flat_at_a_million(tmp_path: Path) -> None:
    """A ledger of one million routes is harvested in the memory that one of two thousand takes.

    Its rate is one that its audits contradict: sums tell so, and spare the test to draw a sample of a million.
    """
    jobs = "harvest", "records"
    _harvest_peaks(tmp_path, 1_000)
    few, many = _harvest_peaks(tmp_path, 2_000, *jobs), _harvest_peaks(tmp_path, 1_000_000, *jobs, rate=0.01)
    for name, peak in many.items():
        assert peak < 2 * few[name] + 1_000_000, (name, few, many)
