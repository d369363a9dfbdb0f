"""fit(): calib is read once and decides nothing but the step; bad input stops before anything is written."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bundles import PORTFOLIO, TIERS, fit_small, small_records

from router_core import InputError, Router
from router_core.bundle import Bundle
from router_core.certificate import allowed_bad
from router_core.evaluation import evaluate
from router_core.fitting import FitSettings, fit
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.records import Records
from router_core.redraws import replayed
from router_core.splits import prepare


def _with_split(records: Records, split: str, quality: float) -> Records:
    """The same records with every quality of one split overwritten."""
    values = records.quality.copy()
    values[[name == split for name in records.split]] = quality
    return dataclasses.replace(records, quality=values)


def test_certificates_replay(small_bundle: Path) -> None:
    """The calib rows give the same n, bad count and verdict again."""
    assert replayed(Bundle.load(small_bundle), small_records())


@pytest.mark.parametrize("split", ["calib", "test"])
def test_candidate_does_not_depend_on_held_out_outcomes(small_bundle: Path, split: str) -> None:
    """P6, P11: other outcomes on calib or test leave every frozen part, the order of the path included, as it was."""
    changed = fit(
        _with_split(small_records(), split, 1.0), portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1)
    )
    assert changed.candidate_id == Bundle.load(small_bundle).candidate_id


def test_candidate_depends_on_train(small_bundle: Path) -> None:
    """Mutant of the check above: outcomes that are used do change the candidate."""
    changed = fit(
        _with_split(small_records(), "train", 1.0), portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1)
    )
    assert changed.candidate_id != Bundle.load(small_bundle).candidate_id


def test_bad_calib_means_reference() -> None:
    """Cheap tiers that fail on all of calib are served there no more often than the exact test allows."""
    records = small_records()
    values = records.quality.copy()
    values[[name == "calib" for name in records.split]] = [0.0, 0.0, 1.0]
    failing = dataclasses.replace(records, quality=values)
    bundle = fit(failing, portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1))
    for scope in ("mood", "sum"):
        shown = bundle.certificates[scope, CASCADE]
        assert shown.bad is not None
        assert shown.bad <= allowed_bad(shown.n, 0.1, 0.1)
        policies = evaluate(bundle, failing, split="calib")["tasks"][scope]["policies"]
        assert policies["routenlp"]["joint_risk"] == shown.bad / shown.n
        assert policies["routenlp"]["share"]["large"] >= 1 - allowed_bad(shown.n, 0.1, 0.1) / shown.n


def test_no_certificate_is_exactly_the_reference() -> None:
    """A delta that this calib cannot reach: every query goes to the reference, at cost ratio exactly 1."""
    records = small_records()
    strict = FitSettings(alpha=0.1, delta=1e-9)
    bundle = fit(records, portfolio=PORTFOLIO, tiers=TIERS, settings=strict)
    assert not any(certificate.certified for certificate in bundle.certificates.values())
    router = Router.from_bundle(bundle)
    assert {router.decide(text, "sum").tier for text in records.prompt[:20]} == {"large"}
    start = router.start(records.prompt[0], "sum")
    assert router.claim(start) is None
    assert "no certificate" in start.reason
    assert evaluate(bundle, records)["overall"]["policies"]["routenlp"]["cost_ratio"] == 1.0


def test_small_task_escalates_and_names_its_n() -> None:
    """A task below the minimum n is no error: it escalates, and the certificate says what it needs."""
    records = small_records()
    keep = [i for i in range(len(records)) if records.split[i] != "calib" or records.task[i] == "mood"]
    few = [i for i in range(len(records)) if records.split[i] == "calib" and records.task[i] == "sum"][:10]
    bundle = fit(records.take(sorted(keep + few)), portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1))
    shown = bundle.certificates["sum", CASCADE]
    assert (shown.n, shown.certified, shown.minimum_n) == (10, False, 22)
    assert "fewer than the 22" in shown.describe()
    assert bundle.certificates["mood", CASCADE].certified


def test_each_scope_and_policy_has_a_certificate(small_bundle: Path) -> None:
    """Two tasks give three scopes; each has both policies and every rival, at its own delta."""
    bundle = Bundle.load(small_bundle)
    assert {scope for scope, _ in bundle.certificates} == {"mood", "sum", "*"}
    for scope in ("mood", "sum", "*"):
        names = {name for found, name in bundle.certificates if found == scope}
        assert names == {CASCADE, ROUTE_ONLY, "coin", "knn", "isotonic", "mf", "cluster"}
    assert all(c.delta == 0.1 and c.use_count == 1 for c in bundle.certificates.values())


def test_calib_duplicates_do_not_loosen(tmp_path: Path) -> None:
    """P23 in small: every calib row five times over is one item per group, so n and bad stay as they were."""
    records = small_records()
    calib = [i for i in range(len(records)) if records.split[i] == "calib"]
    many = records.take([*range(len(records)), *(calib * 4)])
    many = dataclasses.replace(many, query_id=[f"d{i}" for i in range(len(many))])
    once, often = (
        fit_small(tmp_path / "a"),
        fit(many, portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1)),
    )
    for key, certificate in once.certificates.items():
        assert (often.certificates[key].n, often.certificates[key].bad) == (certificate.n, certificate.bad)


def test_train_and_calib_share_no_group(small_bundle: Path) -> None:
    """P11a: the hashed keys in the bundle are disjoint."""
    keys = Bundle.load(small_bundle).keys
    assert not np.intersect1d(keys.train, keys.calib).size
    assert len(keys.calib) == len(prepare(small_records()).calib)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "between 0 and 1"),
        ({"alpha": float("nan")}, "between 0 and 1"),
        ({"delta": 1.0}, "between 0 and 1"),
        ({"tolerance": -0.1}, "tolerance"),
    ],
)
def test_settings_are_checked(settings: dict[str, float], message: str) -> None:
    """Levels outside (0, 1) are refused with a sentence."""
    with pytest.raises(InputError, match=message):
        FitSettings(**settings)


def test_unknown_tier_writes_nothing(tmp_path: Path) -> None:
    """An unknown name lists the known ones and leaves no folder behind."""
    with pytest.raises(InputError, match="large"):
        fit(small_records(), out=tmp_path / "b", tiers=("small", "huge"))
    assert list(tmp_path.iterdir()) == []


def test_records_without_answers_route_only(tmp_path: Path) -> None:
    """Without responses nothing can be judged; both policies decide before generating."""
    records = small_records()
    silent = dataclasses.replace(records, response=[[None] * len(TIERS) for _ in range(len(records))])
    bundle = fit(silent, out=tmp_path / "b", portfolio=PORTFOLIO, tiers=TIERS, settings=FitSettings(alpha=0.1))
    router = Router.from_bundle(bundle)
    assert not any(router.scorer.judges(k, view) for k in range(2) for view in bundle.scopes.views)
    assert bundle.certificates["mood", CASCADE].certified
    accepted, confidence, _ = router.accept(router.start(records.prompt[0], "mood"), 0, "anything", {}, {})
    assert accepted
    assert confidence is None


def test_two_tiers_and_subtasks(tmp_path: Path) -> None:
    """A task with subtasks gets a named and a masked scope, and says what its certificate is of."""
    records = small_records().for_models(("small", "large"))
    task = ["job"] * len(records)
    one = dataclasses.replace(records, task=task, subtask=list(records.task))
    bundle = fit(one, out=tmp_path / "b", settings=FitSettings(alpha=0.1))
    assert {view.scope for view in bundle.scopes.views} == {"job", "job/*"}
    assert "mix of 2 subtasks" in bundle.certificates["job", CASCADE].describe()
    router = Router.load(tmp_path / "b")
    assert router.decide(records.prompt[0], "job/mood").scope == "job"
    assert router.decide(records.prompt[0]).scope == "job/*"


def test_missing_signal_escalates(tmp_path: Path) -> None:
    """A signal the model learned from must be there; without it an answer is never accepted."""
    records = small_records()
    signal = {"own_confidence": np.where(records.quality > 0, 0.9, 0.2)}
    bundle = fit(
        dataclasses.replace(records, signals=signal),
        out=tmp_path / "b",
        portfolio=PORTFOLIO,
        tiers=TIERS,
        settings=FitSettings(alpha=0.1),
    )
    router = Router.from_bundle(bundle)
    for i in range(40):
        start = router.start(records.prompt[i], records.task[i])
        tier = min(start.tier, 1)
        with_it, confidence, _ = router.accept(start, tier, "The answer is good.", {}, {"own_confidence": 0.99})
        without, _, why = router.accept(start, tier, "The answer is good.", {}, {})
        assert not without
        if with_it and confidence is not None:
            assert "signal" in why
            return
    pytest.fail("no query was accepted even with the signal")
