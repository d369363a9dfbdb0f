"""calibrate(): a new certificate for the same router, and every kind of claim end to end."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bundles import PORTFOLIO, TIERS, small_records

from router_core import InputError, Router
from router_core.bundle import Bundle
from router_core.claim import RISKS
from router_core.evaluation import evaluate
from router_core.fitting import FitSettings, calibrate, fit
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.records import Records
from router_core.redraws import replayed


def _fresh(seed: int = 7) -> Records:
    """Other queries of the same population, without a split."""
    records = small_records(seed)
    return dataclasses.replace(
        records,
        split=[""] * len(records),
        query_id=[f"new{i}" for i in range(len(records))],
        prompt=[f"{text} (again)" for text in records.prompt],
        source="fresh",
    )


def _with_subtasks(records: Records) -> Records:
    return dataclasses.replace(records, task=["job"] * len(records), subtask=list(records.task))


@pytest.mark.parametrize("risk", RISKS)
def test_calibrate_as_fit_would(small_bundle: Path, risk: str) -> None:
    """On the same calib rows, calibrate gives what fit gives for that risk: paths are laid from the same scores."""
    records = small_records()
    again = calibrate(small_bundle, records, risk=risk)
    settings = FitSettings(alpha=0.1, risk=risk)
    fitted = fit(records, portfolio=PORTFOLIO, tiers=TIERS, settings=settings)
    assert again.candidate_id == fitted.candidate_id
    for key, shown in fitted.certificates.items():
        assert again.certificates[key] == dataclasses.replace(shown, use_count=2)
        assert shown.risk == risk
    assert replayed(again, records)
    assert again.certificates["mood", CASCADE].certified


def test_what_each_risk_states(small_bundle: Path) -> None:
    """Bad is null for retention, which gives its lower bound; delta is null in expectation; sentences differ."""
    told = {}
    for risk in RISKS:
        shown = calibrate(small_bundle, small_records(), risk=risk).certificates["mood", CASCADE]
        assert (shown.bad is None) == (risk == "retention")
        assert shown.lower_bound == (0.9 if risk == "retention" else None)
        assert (shown.delta is None) == (risk == "expectation")
        told[risk] = shown.describe()
    assert "of all queries receive" in told["joint"]
    assert "of the queries that receive a cheap answer" in told["selective"]
    assert "0.9 times the reference tier's" in told["retention"]
    assert "in expectation over the draw" in told["expectation"]
    assert "with probability" not in told["expectation"]


def test_fresh_rows_without_a_split(small_bundle: Path, tmp_path: Path) -> None:
    """Without a split column every row certifies; keys are carried forward and counted."""
    fresh = _fresh()
    first = calibrate(small_bundle, fresh, out=tmp_path / "b", alpha=0.2)
    assert first.certificates["mood", CASCADE].n + first.certificates["sum", CASCADE].n == len(fresh)
    assert first.certificates["mood", CASCADE].use_count == 1
    assert first.certificates["mood", CASCADE].alpha == 0.2
    assert set(Bundle.load(small_bundle).keys.calib) <= set(first.keys.calib)
    assert first.report["calibrated"]["source"] == "fresh"
    second = calibrate(first, fresh)
    assert second.certificates["mood", CASCADE].use_count == 2
    # An earlier bundle in the output folder has seen these rows too.
    third = calibrate(small_bundle, fresh, out=tmp_path / "b")
    assert third.certificates["mood", CASCADE].use_count == 2
    assert "use no. 2" in third.certificates["mood", CASCADE].describe()
    assert Router.load(tmp_path / "b").decide(fresh.prompt[0], "mood").scope == "mood"


def test_rows_the_bundle_learned_from_are_refused(small_bundle: Path) -> None:
    """Train queries cannot certify, under any id; the number is told."""
    records = small_records()
    learned = dataclasses.replace(
        records, split=["calib"] * len(records), query_id=[f"x{i}" for i in range(len(records))]
    )
    with pytest.raises(InputError, match=r"180 of 400 calibration queries share a key"):
        calibrate(small_bundle, learned)


def test_other_tasks_are_left_out(small_bundle: Path) -> None:
    """Rows of unknown tasks are counted and left out; only such rows is an error."""
    fresh = _fresh()
    mixed = dataclasses.replace(fresh, task=["chess" if i % 5 == 0 else t for i, t in enumerate(fresh.task)])
    assert calibrate(small_bundle, mixed).report["calibrated"]["other_tasks"] == 80
    with pytest.raises(InputError, match="no row is of a task this bundle knows"):
        calibrate(small_bundle, dataclasses.replace(fresh, task=["chess"] * len(fresh)))


def test_certify_by_leaf_and_all() -> None:
    """Leaves have their own certificates and no task's; one certificate over all fills overall."""
    records = _with_subtasks(small_records())
    bundle = fit(records, portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1, certify_by="leaf"))
    assert {scope for scope, _ in bundle.certificates} == {"job/mood", "job/sum", "job/*"}
    assert "mix" not in bundle.certificates["job/mood", CASCADE].describe()
    report = evaluate(bundle, records)
    assert set(report["tasks"]) == {"job", "job/mood", "job/sum", "job/*"}
    assert report["tasks"]["job"]["certificate"] is None
    assert report["tasks"]["job/mood"]["certificate"]["n"] == 80
    assert report["overall"]["certificate"] is None
    assert report["tasks"]["job"]["n"] == report["overall"]["n"] == 60
    router = Router.from_bundle(bundle)
    assert router.decide(records.prompt[0], "job/mood").scope == "job/mood"
    assert replayed(bundle, records)

    task = calibrate(bundle, records, certify_by="task")
    again = calibrate(task, records, certify_by="leaf")
    assert again.candidate_id == bundle.candidate_id
    assert set(evaluate(task, records)["tasks"]) == {"job", "job/*"}
    assert set(evaluate(again, records)["tasks"]) == set(report["tasks"])

    every = calibrate(bundle, records, certify_by="all")
    assert {scope for scope, _ in every.certificates} == {"all", "job/*"}
    report = evaluate(every, records)
    assert report["tasks"]["job"]["certificate"] is None
    assert report["overall"]["certificate"]["n"] == 160
    assert "mix of 2 subtasks" in every.certificates["all", CASCADE].describe()


def test_all_tasks_in_one_certificate(small_bundle: Path) -> None:
    """Two tasks in one certificate still route by label, and say that it holds for the mix only."""
    every = calibrate(small_bundle, small_records(), certify_by="all")
    assert {scope for scope, _ in every.certificates} == {"all", "*"}
    shown = every.certificates["all", CASCADE]
    assert shown.n == 160
    assert "mix of 2 tasks, not for each" in shown.describe()
    report = evaluate(every, small_records())
    assert report["overall"]["certificate"] == {
        "risk": "joint", "alpha": 0.1, "delta": 0.1, "n": 160, "bad": shown.bad, "certified": True, "lower_bound": None,
    }  # fmt: skip
    assert set(report["tasks"]) == {"mood", "sum", "*"}


def test_simultaneous_divides_delta(small_bundle: Path) -> None:
    """Three scopes by two policies share delta; the overall claim is at the whole delta."""
    records = small_records()
    joint = calibrate(small_bundle, records, simultaneous=True)
    assert {shown.delta for shown in joint.certificates.values()} == {0.1 / 6}
    overall = evaluate(joint, records)["overall"]["certificate"]
    parts = [joint.certificates[scope, CASCADE] for scope in ("mood", "sum")]
    assert overall["delta"] == 0.1
    assert overall["n"] == sum(part.n for part in parts)
    assert overall["bad"] == sum(part.bad or 0 for part in parts)
    assert replayed(joint, records)
    separate = calibrate(joint, records, simultaneous=False)
    assert separate.certificates["mood", ROUTE_ONLY].delta == 0.1


def test_frozen_paths_without_scores(small_bundle: Path) -> None:
    """A bundle that keeps no scores on tune keeps its paths: joint and expectation work, other plans are refused."""
    bundle = Bundle.load(small_bundle)
    bare = dataclasses.replace(
        bundle, baselines={name: part for name, part in bundle.baselines.items() if not name.startswith("tuned")}
    )
    again = calibrate(bare, _fresh(), risk="expectation")
    for key, path in bare.policies.items():
        np.testing.assert_array_equal(again.policies[key].accept, path.accept)
    assert again.certificates["mood", CASCADE].risk == "expectation"
    assert again.report["calibrated"]["paths"] == "kept"
    for wrong in ({"risk": "selective"}, {"risk": "retention"}, {"certify_by": "all"}):
        with pytest.raises(InputError, match="keeps no scores on tune"):
            calibrate(bare, _fresh(), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"risk": "average"}, "unknown; use joint"),
        ({"certify_by": "query"}, "task, leaf or all"),
        ({"risk": "expectation", "simultaneous": True}, "no delta to divide"),
    ],
)
def test_claims_that_do_not_exist(settings: dict[str, object], message: str) -> None:
    """Unknown kinds and cuts, and a divided delta where there is none, are refused."""
    with pytest.raises(InputError, match=message):
        FitSettings(**settings)  # type: ignore[arg-type]


def test_the_use_count_sees_through_a_group_column(small_bundle: Path) -> None:
    """Calibration items count as used whether they came with a group or without, in either order."""
    fresh = _fresh()
    named = dataclasses.replace(fresh, group=[f"thread {i}" for i in range(len(fresh))])
    for first, second in ((named, fresh), (fresh, named)):
        made = calibrate(small_bundle, first)
        assert made.certificates["mood", CASCADE].use_count == 1
        assert calibrate(made, second).certificates["mood", CASCADE].use_count == 2
    other = dataclasses.replace(_fresh(8), prompt=[f"{text} (another)" for text in _fresh(8).prompt])
    assert calibrate(made, other).certificates["mood", CASCADE].use_count == 1


def test_a_conversation_learned_from_under_another_name_is_refused() -> None:
    """Of two conversations that near-duplicates made one group, the bundle remembers both names."""
    records = small_records()
    n, same = len(records), "which of these two ferries leaves the harbour first on a sunday"
    # Two train queries, of two conversations, are one question but for a mark.
    prompt = [same, f"{same}!", *records.prompt[2:]]
    group = ["thread a", "thread b", *(f"thread {i}" for i in range(2, n))]
    bundle = fit(
        dataclasses.replace(records, prompt=prompt, group=group),
        portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1),
    )  # fmt: skip
    fresh = _fresh()
    for name in ("thread a", "thread b"):
        with pytest.raises(InputError, match="30 of 400 calibration queries share a key"):
            calibrate(bundle, dataclasses.replace(fresh, group=[name] * 30 + [""] * (n - 30)))


def test_a_mix_is_that_of_the_calibration_items(small_bundle: Path) -> None:
    """The note counts the tasks of calib, which the claim is about, and not those of train."""
    fresh = _fresh()
    one = fresh.take([i for i, task in enumerate(fresh.task) if task == "mood"])
    told = {name: calibrate(small_bundle, records).certificates["*", CASCADE] for name, records in
            (("both", fresh), ("one", one))}  # fmt: skip
    assert "calibration mix of 2 tasks, not for each" in told["both"].describe()
    assert "holds for task 'mood', the only one among the calibration items" in told["one"].describe()
