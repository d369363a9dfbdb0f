"""P3, P4 and METHOD 2.9: selective risk, retained quality and risk in expectation, each by its own test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from router_core.certificate import certify_path, crc_allowed, crc_walk, selective_p_values
from router_core.errors import InputError
from router_core.risks import Plan, Served, certify_served, plan_path, violates

from .checks import ALPHA, DELTA, holds, note
from .population import REFERENCE

pytestmark = pytest.mark.statistical

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Rule = Callable[[Served, Served], int]


def along(thr: Floats, u: Floats, bad: Flags, reference: Floats | None = None, cheap: Floats | None = None) -> Served:
    """What a path over one uncertainty does on n items: step 0 the reference, step g accepts u <= thr[g-1]."""
    accept = np.concatenate((np.zeros((1, len(u)), bool), u <= thr[:, None]))
    right = np.ones(len(u)) if reference is None else reference
    answer = right - bad if cheap is None else cheap
    return Served((accept & bad).astype(np.uint8), accept, np.where(accept, answer, right), right)


def costs(thr: Floats, acceptance: Floats) -> Floats:
    """A reference call costs 1, a cheap one a tenth."""
    return np.concatenate(([1.0], 1.0 - 0.9 * acceptance))


def production(risk: str, cost: Floats) -> Rule:
    """Plan on tune, certify on calib, as `fit` does."""

    def rule(tune: Served, calib: Served) -> int:
        plan = plan_path(risk, tune, cost, calib.bad.shape[1], ALPHA, DELTA)
        return certify_served(risk, calib, plan, ALPHA, DELTA).step

    return rule


def plug_in(_: Served, calib: Served) -> int:
    """Broken rule: the last step whose seen selective risk is at most alpha."""
    k, accepted = calib.bad.sum(axis=1), calib.cheap.sum(axis=1)
    return int(np.flatnonzero(k <= ALPHA * accepted)[-1])


def crc_on_selective(_: Served, calib: Served) -> int:
    """Broken rule: (bad + 1) / (accepted + 1) <= alpha, conformal risk control on a ratio."""
    k, accepted = calib.bad.sum(axis=1), calib.cheap.sum(axis=1)
    return int(np.flatnonzero(np.r_[True, k[1:] + 1 <= ALPHA * (accepted[1:] + 1)])[-1])


def scan(_: Served, calib: Served) -> int:
    """Broken rule: any step with a small selective p-value, without correction."""
    p = selective_p_values(calib.bad.sum(axis=1), calib.cheap.sum(axis=1), ALPHA)
    return int(np.flatnonzero(np.r_[True, p[1:] <= DELTA])[-1])


def joint_as_selective(_: Served, calib: Served) -> int:
    """Broken label (P3): certified for joint risk, sold as selective."""
    return certify_path(calib.bad, -np.arange(len(calib.bad)), ALPHA, DELTA).step


def deployed(rule: Rule, draw: Callable[[np.random.Generator, int], Served], n: int, draws: int, seed: int) -> Flags:
    """Steps deployed on `draws` pairs of tune and calib."""
    rng = np.random.default_rng(seed)
    return np.array([rule(draw(rng, 500), draw(rng, n)) for _ in range(draws)])


def reference_path(steps: int) -> tuple[Floats, Floats, Floats]:
    """Thresholds, acceptance and true selective risk of the reference population's path."""
    thr = REFERENCE.path(steps)
    acceptance = REFERENCE.acceptance(thr)
    return thr, acceptance, REFERENCE.joint_risk(thr) / acceptance


def test_selective_certificate_holds() -> None:
    """P3: selective risk <= alpha in all but delta of draws; joint sold as selective, and a plug-in, break it."""
    thr, acceptance, selective = reference_path(50)
    broken = np.concatenate(([False], selective > ALPHA))

    def draw(rng: np.random.Generator, n: int) -> Served:
        return along(thr, *REFERENCE.draw(rng, n))

    draws, n = 1000, 1000
    steps = deployed(production("selective", costs(thr, acceptance)), draw, n, draws, 601)
    share = np.concatenate(([0.0], acceptance))[steps].mean()
    note(f"selective, n={n}: accepts {share:.3f} on average, certifies in {(steps > 0).mean():.3f} of draws")
    assert share > 0.15, "a rule that always escalates would pass"
    assert holds("selective certificate", int(broken[steps].sum()), draws, DELTA)
    for mutant in (joint_as_selective, plug_in, crc_on_selective):
        found = deployed(mutant, draw, 500, 300, 602)
        assert not holds(f"selective, {mutant.__name__}", int(broken[found].sum()), 300, DELTA)


def test_p4_confidently_wrong_pocket() -> None:
    """P4: with a confidently wrong pocket no step is safe; the certificate says so, ratio rules do not."""
    thr = np.arange(1, 51) / 50

    def rate(u: Floats) -> Floats:
        return np.where(u < 0.06, 0.30, np.where(u < 0.5, 0.02, 0.5))

    def draw(rng: np.random.Generator, n: int) -> Served:
        u = rng.random(n)
        return along(thr, u, rng.random(n) < rate(u))

    mass = 0.30 * np.minimum(thr, 0.06) + 0.02 * np.clip(thr - 0.06, 0, 0.44) + 0.5 * np.maximum(thr - 0.5, 0)
    broken = np.concatenate(([False], mass / thr > ALPHA))
    assert broken[1:].all()
    for rule, draws in ((production("selective", costs(thr, thr)), 1000), (plug_in, 300), (crc_on_selective, 300)):
        steps = deployed(rule, draw, 500, draws, 603)
        fine = holds(f"P4 {rule.__name__}", int(broken[steps].sum()), draws, DELTA)
        assert fine == (rule.__name__ == "rule")


def test_p4_flat_selective_risk() -> None:
    """P4, P5: every step a little above alpha; the frozen order holds, choosing among steps on calib does not."""
    thr, n, draws = np.arange(1, 51) / 50, 500, 1000

    def draw(rng: np.random.Generator, size: int) -> Served:
        return along(thr, rng.random(size), rng.random(size) < 0.0505)

    certified = deployed(production("selective", costs(thr, thr)), draw, n, draws, 604)
    assert holds("P4 flat, split fixed sequence", int((certified > 0).sum()), draws, DELTA)
    assert not holds("P4 flat, scan", int((deployed(scan, draw, n, draws, 604) > 0).sum()), draws, DELTA)


def test_p3_labels() -> None:
    """P3: at 60 % acceptance a joint-certified step is not selective-certified, and the two are never equal."""
    thr, acceptance, _ = reference_path(50)
    calib = along(thr, *REFERENCE.draw(np.random.default_rng(605), 500))
    joint = certify_path(calib.bad, costs(thr, acceptance), ALPHA, DELTA)
    plan = plan_path("selective", calib, costs(thr, acceptance), 500, ALPHA, DELTA)
    selective = certify_served("selective", calib, plan, ALPHA, DELTA)
    assert calib.cheap[joint.step].mean() > 0.4
    assert joint.bad_count / calib.cheap[joint.step].sum() > ALPHA
    assert joint.step not in selective.certified_steps
    assert not violates("joint", calib, ALPHA)[joint.step]
    assert violates("selective", calib, ALPHA)[joint.step]


def z_test(tune: Served, calib: Served) -> int:
    """Broken rule: a one-sided z-test of the mean of z, along the path."""
    del tune
    z = calib.quality - (1 - ALPHA) * calib.reference
    error = np.maximum(z.std(axis=1, ddof=1), 1e-12) / np.sqrt(z.shape[1])
    passed = z.mean(axis=1)[1:] / error[1:] >= norm.isf(DELTA)
    return int(len(passed) if passed.all() else passed.argmin())


def test_retention_holds_and_a_z_test_does_not() -> None:
    """2.9: the reference is always right, so quality is retained exactly where joint risk is at most alpha."""
    thr, acceptance, _ = reference_path(50)
    broken = np.concatenate(([False], REFERENCE.joint_risk(thr) > ALPHA))

    def draw(rng: np.random.Generator, n: int) -> Served:
        return along(thr, *REFERENCE.draw(rng, n))

    rule = production("retention", costs(thr, acceptance))
    for n, draws in ((50, 1000), (500, 1000)):
        steps = deployed(rule, draw, n, draws, 606)
        note(f"retention n={n}: accepts {np.concatenate(([0.0], acceptance))[steps].mean():.3f}")
        assert holds(f"retention n={n}", int(broken[steps].sum()), draws, DELTA)
    assert np.concatenate(([0.0], acceptance))[steps].mean() > 0.3, "a rule that always escalates would pass"
    mutant = deployed(z_test, draw, 50, 1000, 606)
    assert not holds("retention by a z-test, n=50", int(broken[mutant].sum()), 1000, DELTA)


def test_retention_credits_answers_better_than_the_reference() -> None:
    """2.9: an erring reference, answered better by the cheap tier at times; truth by integration."""
    thr, acceptance, _ = reference_path(40)
    right = 0.9
    kept = acceptance - REFERENCE.joint_risk(thr) + right * (1.0 - acceptance)
    broken = np.concatenate(([False], kept < (1 - ALPHA) * right))
    assert 0 < broken.sum() < len(broken)

    def draw(rng: np.random.Generator, n: int) -> Served:
        u, wrong = REFERENCE.draw(rng, n)
        reference = (rng.random(n) < right).astype(np.float64)
        return along(thr, u, wrong & (reference > 0), reference, 1.0 - wrong)

    steps = deployed(production("retention", costs(thr, acceptance)), draw, 1000, 1000, 607)
    accepted = np.concatenate(([0.0], acceptance))[steps].mean()
    note(f"retention with an erring reference: accepts {accepted:.3f}")
    assert accepted > 0.5
    assert holds("retention, erring reference", int(broken[steps].sum()), 1000, DELTA)


def windows(u: Floats, bad: Flags) -> Served:
    """A path whose loss rises and falls: step g accepts a window of u that moves with g."""
    start = np.arange(25) / 25
    accept = np.concatenate((np.zeros((1, len(u)), bool), (u - start[:, None]) % 1.0 < 0.2))
    return Served((accept & bad).astype(np.uint8), accept, np.ones(accept.shape), np.ones(len(u)))


def test_expectation_on_a_loss_that_is_not_monotone() -> None:
    """CRC on the running maximum keeps the mean risk; on the raw losses of a cascade it does not."""
    draws, n, rate = 20_000, 60, 0.30
    rng = np.random.default_rng(608)
    plan = Plan(-np.arange(26.0))
    hits = mutant = 0
    for _ in range(draws):
        calib = windows(rng.random(n), rng.random(n) < rate)
        step = certify_served("expectation", calib, plan, ALPHA, DELTA).step
        test = windows(rng.random(1), rng.random(1) < rate).bad[:, 0]
        hits += int(test[step])
        mutant += int(test[np.flatnonzero(calib.bad.sum(axis=1) <= crc_allowed(n, ALPHA))[-1]])
    assert hits > 0
    assert holds("expectation, running maximum", hits, draws, ALPHA)
    assert not holds("expectation, raw losses", mutant, draws, ALPHA)


def test_expectation_is_not_a_deployment_claim() -> None:
    """P7: the same mode, read as a claim about the policy at hand, fails; read as an average it holds."""
    thr = REFERENCE.path(50)
    risk = np.concatenate(([0.0], REFERENCE.joint_risk(thr)))
    rng, draws = np.random.default_rng(609), 2000
    plan = Plan(-np.arange(51.0))
    drawn = (along(thr, *REFERENCE.draw(rng, 300)) for _ in range(draws))
    steps = [certify_served("expectation", calib, plan, ALPHA, DELTA).step for calib in drawn]
    note(f"expectation: mean risk {risk[steps].mean():.4f}")
    assert 0.04 < risk[steps].mean() <= ALPHA
    assert not holds("expectation as a deployment claim", int((risk[steps] > ALPHA).sum()), draws, DELTA)


def test_crc_refuses_losses_that_fall() -> None:
    """P4: conformal risk control is refused where it bounds nothing."""
    with pytest.raises(InputError, match="never fall along the path"):
        crc_walk([[0, 0], [1, 0], [0, 1]], ALPHA)
    assert crc_walk(np.zeros((4, 19)), ALPHA) == 3
    assert crc_walk(np.zeros((4, 18)), ALPHA) == 0


def test_selective_against_mapie() -> None:
    """MAPIE's split fixed sequence on the precision certifies the same steps from the same order."""
    methods = pytest.importorskip("mapie.risk_control.methods")
    control = pytest.importorskip("mapie.risk_control")
    thr, acceptance, _ = reference_path(40)
    rng, found = np.random.default_rng(610), 0
    for _ in range(30):
        # Coarse bad rates keep k / A exact enough for MAPIE's ceil(A * rate).
        tune, calib = (along(thr, *REFERENCE.draw(rng, n)) for n in (800, 1500))
        plan = plan_path("selective", tune, costs(thr, acceptance), 1500, ALPHA, DELTA)
        ours = certify_served("selective", calib, plan, ALPHA, DELTA).certified_steps
        assert plan.order is not None
        at = list(plan.order)
        if not at:
            continue
        k, accepted = calib.bad[at].sum(axis=1), calib.cheap[at].sum(axis=1)
        rates = np.nextafter(k / accepted, 0.0)
        theirs = methods.compute_hoeffding_bentkus_p_value(rates, accepted, ALPHA, binary=True)[:, 0]
        np.testing.assert_allclose(theirs, selective_p_values(k, accepted, ALPHA), rtol=1e-8)
        valid = control.control_fwer(theirs, DELTA, "split_fixed_sequence")
        assert tuple(at[i] for i in sorted(valid)) == ours
        found += len(ours)
    assert found > 0, "the comparison must see certified steps"
