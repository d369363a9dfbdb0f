"""evaluate(): the contract's structure, and figures that can be checked by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import TIERS, small_records

from router_core import InputError
from router_core.bundle import Bundle
from router_core.evaluation import evaluate
from router_core.fitting.rivals import BASELINES, RIVALS, Baselines
from router_core.kernels import sweep
from router_core.outcomes import Outcome, apgr_and_cpt, describe_outcome
from router_core.plots import plot_evaluation

POLICIES = {
    "routenlp", "route_only", "random_same_cost", "coin_certified", "knn_certified", "isotonic_certified",
    "mf_certified", "cluster_certified", "oracle", *(f"always:{tier}" for tier in TIERS),
}  # fmt: skip
FIGURES = {
    "quality", "cost", "quality_ratio", "cost_ratio", "quality_ratio_ci", "cost_ratio_ci", "share", "joint_risk",
    "joint_risk_ci", "selective_risk", "selective_risk_ci", "win_or_tie",
}  # fmt: skip


def test_contract(small_bundle: Path) -> None:
    """Keys, policies and frontiers are those that other programs rely on, and it is JSON."""
    report = evaluate(small_bundle, small_records())
    json.dumps(report, allow_nan=False)
    assert {"bundle", "split", "n", "tasks", "overall", "router"} <= set(report)
    assert set(report["tasks"]) == {"mood", "sum", "*"}
    assert report["n"] == report["overall"]["n"] == 60
    assert report["tasks"]["*"]["n"] == 60
    for scope in (*report["tasks"].values(), report["overall"]):
        assert set(scope["policies"]) == POLICIES
        assert all(set(figures) == FIGURES for figures in scope["policies"].values())
        assert set(scope["frontier"]) == {"routenlp", "knn", "isotonic", "mf", "cluster"}
        for path in scope["frontier"].values():
            assert path[0] == {"lambda": 0.0, "cost_ratio": 1.0, "quality_ratio": 1.0, "joint_risk": 0.0}
            assert path[-1]["lambda"] == 1.0
    assert report["absent"] == {}
    assert report["overall"]["certificate"] is None
    assert set(report["tasks"]["mood"]["certificate"]) == {
        "risk", "alpha", "delta", "n", "bad", "certified", "lower_bound",
    }  # fmt: skip


def test_reference_and_oracle(small_bundle: Path) -> None:
    """The reference has ratio 1 and no risk; the oracle never serves a bad answer and costs less."""
    policies = evaluate(small_bundle, small_records())["overall"]["policies"]
    reference, oracle = policies["always:large"], policies["oracle"]
    assert (reference["cost_ratio"], reference["quality_ratio"], reference["joint_risk"]) == (1.0, 1.0, 0.0)
    assert reference["selective_risk"] is None
    assert oracle["joint_risk"] == 0.0
    assert oracle["cost_ratio"] < 1.0
    assert oracle["share"]["small"] > 0.0


def test_rivals_are_evaluated_as_certified(small_bundle: Path) -> None:
    """On the calib rows every rival serves exactly the bad answers that its certificate counted."""
    bundle = Bundle.load(small_bundle)
    report = evaluate(bundle, small_records(), split="calib")
    for scope in ("mood", "sum", "*"):
        for name in BASELINES:
            shown = bundle.certificates[scope, name]
            assert report["tasks"][scope]["policies"][f"{name}_certified"]["joint_risk"] == (shown.bad or 0) / shown.n


def _without(bundle: Bundle, rival: str) -> Bundle:
    """The bundle as an earlier version, that knew no such rival, would have made it."""
    known = Baselines.from_parts(bundle.baselines)
    kept = Baselines({name: model for name, model in known.models.items() if name != rival})
    return replace(
        bundle,
        baselines={**bundle.baselines, **kept.parts()},
        policies={key: path for key, path in bundle.policies.items() if key[1] != rival},
        certificates={key: shown for key, shown in bundle.certificates.items() if key[1] != rival},
    )


def test_a_bundle_without_a_rival_says_so(small_bundle: Path, tmp_path: Path) -> None:
    """An older bundle is evaluated and drawn; what it lacks is null, with a reason, and the rest is as it was."""
    bundle = Bundle.load(small_bundle)
    report, full = evaluate(_without(bundle, "mf"), small_records()), evaluate(bundle, small_records())
    json.dumps(report, allow_nan=False)
    assert set(report["absent"]) == {"mf_certified"}
    assert "fit it again" in report["absent"]["mf_certified"]
    for scope, told in (*report["tasks"].items(), ("overall", report["overall"])):
        whole = full["overall"] if scope == "overall" else full["tasks"][scope]
        assert told["policies"] == {**whole["policies"], "mf_certified": None}
        assert told["frontier"] == {**whole["frontier"], "mf": None}
    plot_evaluation(report, tmp_path / "p.png")
    bare = replace(bundle, baselines={})
    assert set(evaluate(bare, small_records())["absent"]) == {f"{name}_certified" for name in RIVALS}


def test_random_mix_costs_no_more_and_has_a_tier_whatever_ours_costs(small_bundle: Path) -> None:
    """Below the cheapest tier the mix is that tier, wherever it stands; above the dearest it is the best one."""
    bundle = Bundle.load(small_bundle)
    last = {key: path.at(len(path.start) - 1) for key, path in bundle.policies.items()}
    for means, expected in (
        ([[0.9, 5.0], [0.5, 2.0], [0.8, 4.0]], {"small": 0.0, "medium": 1.0, "large": 0.0}),
        ([[0.9, 0.0], [0.5, 0.0], [0.8, 4.0]], {"small": 1.0, "medium": 0.0, "large": 0.0}),
    ):
        names = ("overall", *(view.scope for view in bundle.scopes.views))
        settings = {**bundle.settings, "train_means": dict.fromkeys(names, means)}
        report = evaluate(replace(bundle, policies=last, settings=settings), small_records())
        for told in (report["overall"], *report["tasks"].values()):
            assert told["policies"]["routenlp"]["cost_ratio"] < 0.5
            assert told["policies"]["random_same_cost"]["share"] == expected


def test_selective_is_bad_over_accepted() -> None:
    """P3: joint risk is over all queries, selective risk over the accepted; they are never mixed up."""
    bad = np.array([[1, 0]] * 3 + [[0, 0]] * 7, np.uint8)
    quality = np.where(bad > 0, 0.0, 1.0)
    served = np.array([0, 0, 1, 0, 0, 1, 1, 1, 1, 1], np.int8)
    told = describe_outcome(Outcome(served, np.ones(10)), quality, np.ones((10, 2)), bad, ("a", "b"))
    assert told["joint_risk"] == 2 / 10
    assert told["selective_risk"] == 2 / 4
    assert told["selective_risk"] == pytest.approx(told["joint_risk"] / told["share"]["a"])
    assert told["win_or_tie"] == 2 / 4


def test_apgr_by_hand() -> None:
    """A perfect score recovers the gap first, a random order half of it, the reverse last."""
    weak, strong = np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4)
    best, needed = apgr_and_cpt(np.array([1.0, 1.0, 0.0, 0.0]), weak, strong)
    worst, _ = apgr_and_cpt(np.array([0.0, 0.0, 1.0, 1.0]), weak, strong)
    assert best == pytest.approx(0.75)
    assert worst == pytest.approx(0.25)
    assert needed == {"50": 0.25, "80": 0.5, "95": 0.5}
    assert apgr_and_cpt(np.zeros(4), strong, strong)[0] is None


def test_unknown_split_and_foreign_tasks(small_bundle: Path) -> None:
    """A split that does not exist and records of other tasks are input errors."""
    with pytest.raises(InputError, match="unknown split"):
        evaluate(small_bundle, small_records(), split="holdout")


def test_cost_counts_every_attempt() -> None:
    """P26: with the paper's nominal prices Always-T2 costs .0125 of Always-T4, and a cascade pays for all it tried."""
    prices = np.array([0.01, 0.10, 0.80, 8.00])
    cost = np.tile(prices, (5, 1))
    thresholds = np.array([[np.inf] * 3, [0.5] * 3])
    start = np.ones((5, 3))
    accept = np.zeros((5, 3, 3))
    accept[3:, 0, 1] = 1.0
    served, total = sweep(start, accept, thresholds, thresholds, cost)
    quality, bad = np.ones((5, 4)), np.zeros((5, 4), np.uint8)
    always = describe_outcome(Outcome(np.ones(5, np.int8), cost[:, 1]), quality, cost, bad, ("T1", "T2", "T3", "T4"))
    assert always["cost_ratio"] == pytest.approx(0.0125)
    assert served[1].tolist() == [3, 3, 3, 1, 1]
    np.testing.assert_allclose(total[1], [prices.sum()] * 3 + [prices[:2].sum()] * 2)
    last_only = np.take_along_axis(cost, served[1][:, None].astype(int), 1)[:, 0]
    assert not np.allclose(last_only, total[1]), "billing the last tier only must be caught"
