"""What is replayed, certified and served is one and the same policy, also where records are incomplete."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bundles import PORTFOLIO, TIERS, small_records

from router_core import Answer, Cascade, InputError, Router
from router_core.evaluation import evaluate
from router_core.fitting import FitSettings, fit
from router_core.fitting.candidates import Goal, ScoreTable, choose_path
from router_core.fitting.certify import path_outcome
from router_core.fitting.frozen import candidate_of, scope_table
from router_core.fitting.tables import bad_answers
from router_core.kernels import sweep
from router_core.policy import CASCADE
from router_core.records import Records
from router_core.risks import certify_served
from router_core.splits import prepare

SETTINGS = FitSettings(alpha=0.1)


def _without(records: Records, split: str, tier: int, share: float, blank: str | None = None) -> Records:
    """The records with a share of one tier's responses in one split taken away, or made blank."""
    draw = np.random.default_rng(0)
    response = [list(answers) for answers in records.response]
    for i, answers in enumerate(response):
        if records.split[i] == split and draw.random() < share:
            answers[tier] = blank
    return dataclasses.replace(records, response=response)


def _mismatches(records: Records, router: Router, split: str) -> int:
    """Rows on which recorded answers through the cascade are served, or cost, otherwise than in `evaluate`."""
    bundle_rows = prepare(records)
    rows = {"test": bundle_rows.test, "calib": bundle_rows.calib_all}[split]
    settled, wrong = bundle_rows.records, 0
    for i in rows.tolist():
        if any(text is None for text in settled.response[i]):
            continue
        answers = {
            name: Answer(str(settled.response[i][k]), cost_usd=float(settled.cost[i, k]))
            for k, name in enumerate(settled.models)
        }
        tiers = {name: (lambda _, name=name, answers=answers: answers[name]) for name in settled.models}
        route = Cascade(router, tiers).run(settled.prompt[i], settled.task[i])
        served, cost = _replayed(router, settled, i)
        wrong += (route.tier, route.cost_usd) != (served, cost)
    return wrong


def _replayed(router: Router, records: Records, row: int) -> tuple[str, float]:
    table, policy = TABLES[id(router)][records.task[row]], router.policies[records.task[row], CASCADE]
    at = table[0].tolist().index(row)
    served, cost = table[1].take(np.asarray([at])).replay(policy)
    return router.portfolio.names[served[policy.step, 0]], float(cost[policy.step, 0])


TABLES: dict[int, dict[str, tuple[np.ndarray, ScoreTable]]] = {}


def _fitted(records: Records, **changes: object) -> Router:
    bundle = fit(records, portfolio=PORTFOLIO, tiers=TIERS, settings=SETTINGS, **changes)  # type: ignore[arg-type]
    router = Router.from_bundle(bundle)
    prepared = prepare(records)
    bad = bad_answers(prepared.records, 0.0)
    rows = np.sort(np.concatenate([prepared.test, prepared.calib_all]))
    found = {}
    for task in bundle.scopes.subtasks:
        mine, table = scope_table(candidate_of(bundle), prepared.records, rows, task, bad)
        assert table is not None
        found[task] = (mine, table)
    TABLES[id(router)] = found
    return router


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_unjudged_middle_tier_is_served_as_replayed(share: float) -> None:
    """A tier that cannot be judged (half its train responses missing) serves exactly as the replay says."""
    records = _without(small_records(), "train", 1, share)
    router = _fitted(records)
    assert _mismatches(records, router, "test") == 0


def test_blank_answers_are_served_as_replayed() -> None:
    """A blank answer is paid and sends the query straight to the reference, in the replay as at serving."""
    records = _without(small_records(), "test", 0, 0.5, blank=" \n")
    router = _fitted(records)
    assert _mismatches(records, router, "test") == 0


def test_every_step_of_every_path(small_bundle: Path) -> None:
    """Whatever step is in force, not only the certified one: replay equals the cascade."""
    records = small_records()
    router = _fitted(records)
    policy = router.policies["mood", CASCADE]
    for step in (1, 5, 40, 100, len(policy.start) - 1):
        moved = {**router.policies, ("mood", CASCADE): policy.at(step), ("sum", CASCADE): policy.at(0)}
        other = dataclasses.replace(router, policies=moved)
        TABLES[id(other)] = TABLES[id(router)]
        assert _mismatches(records, other, "test") == 0


def test_answers_missing_in_calib_count_as_bad() -> None:
    """Serving has the answers that calib lacks, so a row without one must not count as a safe escalation."""
    whole, gaps = small_records(), _without(small_records(), "calib", 0, 1.0)
    one = fit(whole, portfolio=PORTFOLIO, tiers=TIERS, settings=SETTINGS)
    two = fit(gaps, portfolio=PORTFOLIO, tiers=TIERS, settings=SETTINGS)
    policy, shown = two.policies["mood", CASCADE], two.certificates["mood", CASCADE]
    assert one.certificates["mood", CASCADE].certified
    assert 0 in policy.called
    assert not shown.certified
    assert "lack an answer" in shown.describe()
    # The mutant, missing means escalate, certifies the most aggressive step of the same path on the same rows.
    candidate, prepared = candidate_of(two), prepare(gaps)
    bad = bad_answers(prepared.records, 0.0)
    _, table = scope_table(candidate, prepared.records, prepared.calib, "mood", bad)
    assert table is not None
    plan = candidate.plans["mood", CASCADE]
    assert path_outcome(table, policy, plan, "joint", 0.1, 0.1).step == 0
    assert certify_served("joint", table.outcomes(policy)[0], plan, 0.1, 0.1).step > 0


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_failed_answers_go_to_the_reference(engine: str) -> None:
    """The sweep pays for a failed answer and the reference, and for nothing between."""
    thresholds = np.array([[np.inf, np.inf], [0.5, 0.5]])
    start, accept = np.ones((3, 2)), np.full((3, 2, 2), 0.9)
    cost = np.tile([1.0, 10.0, 100.0], (3, 1))
    failed = np.array([[False, False], [True, False], [False, True]])
    accept[2, 0, 0] = 0.1
    served, total = sweep(start, accept, thresholds, thresholds, cost, failed, engine=engine)  # type: ignore[arg-type]
    assert served[1].tolist() == [0, 2, 2]
    assert total[1].tolist() == [1.0, 101.0, 111.0]


def test_paths_have_no_holes(small_bundle: Path) -> None:
    """At every step all tiers of a path's set are called, or none: the answers tried before a tier never vary."""
    records = small_records()
    prepared = prepare(records)
    candidate = candidate_of(fit(records, portfolio=PORTFOLIO, tiers=TIERS, settings=SETTINGS))
    bad = bad_answers(prepared.records, 0.0)
    _, table = scope_table(candidate, prepared.records, prepared.train, "mood", bad)
    assert table is not None
    for seed in range(3):
        policy = choose_path(table, CASCADE, "mood", 80, Goal("joint", 0.1, 0.1, seed)).policy
        open_ = ~(np.isposinf(policy.start) & np.isposinf(policy.accept))[:, list(policy.called)]
        assert (open_.all(axis=1) | ~open_.any(axis=1)).all()


def test_several_tasks_with_a_tune_split() -> None:
    """From 2,000 train queries on there is a tune split; each scope's path is laid on its own rows of it."""
    records = small_records()
    train = [i for i in range(len(records)) if records.split[i] == "train"]
    many = records.take([*range(len(records)), *(train * 12)])
    many = dataclasses.replace(
        many,
        query_id=[f"q{i}" for i in range(len(many))],
        prompt=[f"{text} Case {i} of {i * 7}." for i, text in enumerate(many.prompt)],
        response=[[None] * len(TIERS) for _ in range(len(many))],
    )
    bundle = fit(many, portfolio=PORTFOLIO, tiers=TIERS, settings=SETTINGS)
    assert "tune 0" not in bundle.report["splits"]
    assert {scope for scope, _ in bundle.policies} == {"mood", "sum", "*"}
    assert evaluate(bundle, many)["overall"]["policies"]["routenlp"]["cost_ratio"] <= 1.0


def test_cheapest_tier_without_responses() -> None:
    """A tier without any logged response before one with responses is no reason to fail."""
    records = _without(_without(_without(small_records(), "train", 0, 1.0), "calib", 0, 1.0), "test", 0, 1.0)
    bundle = fit(records, portfolio=PORTFOLIO, tiers=TIERS, settings=SETTINGS)
    assert not bundle.scorer.judges(0, bundle.scopes.views[0])
    assert bundle.scorer.judges(1, bundle.scopes.views[0])


def test_prices_are_learned_from_train_only() -> None:
    """Costs of calib and test change nothing that is frozen."""
    records = dataclasses.replace(small_records(), prompt_tokens=np.full((400, 3), np.nan))
    cost = records.cost.copy()
    cost[[split != "train" for split in records.split]] *= 7
    changed = dataclasses.replace(records, cost=cost)
    one, two = (fit(r, tiers=TIERS, settings=SETTINGS) for r in (records, changed))
    assert one.portfolio == two.portfolio
    assert one.candidate_id == two.candidate_id


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_is_checked(seed: int) -> None:
    """A seed no generator takes is refused with a sentence."""
    with pytest.raises(InputError, match="seed"):
        FitSettings(seed=seed)


@pytest.mark.parametrize("one_group", [False, True])
def test_too_little_to_learn_from(one_group: bool) -> None:
    """Too few train queries, or all of one group, are refused by what train has, not by what a fold of it has."""
    records = small_records()
    train = [i for i in range(len(records)) if records.split[i] == "train"]
    rest = [i for i in range(len(records)) if records.split[i] != "train"]
    few = records.take([*(train if one_group else train[:12]), *rest])
    group = [("g" if split == "train" else f"{i}") if one_group else "" for i, split in enumerate(few.split)]
    with pytest.raises(InputError, match=r"train has \d+ queries in \d+ groups"):
        fit(dataclasses.replace(few, group=group), portfolio=PORTFOLIO, tiers=TIERS, settings=SETTINGS)
