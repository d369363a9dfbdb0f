"""P16 to P20: what audits show of traffic, when an alarm is raised, and what a shift does to a threshold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import beta, norm

from router_core.adaptive import AdaptiveLevel
from router_core.alarms import (
    ARL,
    Alarm,
    Detector,
    Recertification,
    bets_above,
    bets_below,
    excess,
    log_detector,
    log_wealth,
)
from router_core.audit_risk import effective_n, estimate_risk, horvitz_thompson
from router_core.certificate import clopper_pearson, crc_minimum_n
from router_core.errors import InputError
from router_core.shift import permitted_loss, weighted_crc

from .checks import ALPHA, holds, limit, note
from .population import REFERENCE

pytestmark = pytest.mark.statistical

Floats = NDArray[np.float64]
FLOOR = 0.02
DELTA = 0.05


def chosen_by_score(u: Floats) -> Floats:
    """Propensity of an audit: doubtful answers are audited more often, none less than the floor."""
    return np.asarray(FLOOR + 0.4 * np.square(u))


@cache
def threshold_at(risk: float) -> float:
    """The threshold below which a share `risk` of the accepted reference answers is bad."""

    def gap(thr: float) -> float:
        return float(REFERENCE.joint_risk(thr) / REFERENCE.acceptance(thr)) - risk

    return float(brentq(gap, 0.1, 0.9))


def accepted(rng: np.random.Generator, n: int, thr: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Uncertainty and bad flags of n accepted answers."""
    u, bad = REFERENCE.draw(rng, 4 * n)
    inside = np.flatnonzero(u <= thr)[:n]
    return u[inside], bad[inside]


@pytest.mark.parametrize("draws", [400, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("joint", [False, True])
def test_p16_audits_chosen_by_score(joint: bool, draws: int) -> None:
    """P16: weighted audits are unbiased and their interval covers the truth; counted plainly they miss it."""
    n, rng = 6000, np.random.default_rng(1600)
    thr = threshold_at(0.05)
    truth = float(REFERENCE.joint_risk(thr)) / (1.0 if joint else float(REFERENCE.acceptance(thr)))
    means, misses, plain_misses, plain = [], 0, 0, []
    for _ in range(draws):
        if joint:
            u, bad = REFERENCE.draw(rng, n)
            cheap = u <= thr
            # What the reference tier served is known without an audit, and all of it is listed.
            p = np.where(cheap, chosen_by_score(u), 1.0)
            bad = bad & cheap
        else:
            u, bad = accepted(rng, n, thr)
            p = chosen_by_score(u)
        listed = rng.random(len(u)) < p
        loss, kept = bad[listed], p[listed]
        found = estimate_risk(loss, kept)
        assert (found.method, found.interval) == ("hajek", "betting")
        means.append(horvitz_thompson(loss, kept, len(u)))
        misses += not found.low <= truth <= found.high
        low, high = clopper_pearson(int(loss.sum()), len(loss), 0.95)
        plain_misses += not low <= truth <= high
        plain.append(loss.mean())
    error = float(np.std(means)) / np.sqrt(draws)
    note(f"P16 truth {truth:.4f}: weighted {np.mean(means):.4f} (+- {error:.4f}), plain {np.mean(plain):.4f}")
    assert abs(np.mean(means) - truth) <= norm.isf(5e-5) * error
    assert abs(np.mean(plain) - truth) > norm.isf(5e-5) * error
    assert holds("P16 weighted interval", misses, draws, 0.05)
    assert not holds("P16 plain interval", plain_misses, draws, 0.05)


def test_p16_equal_propensities_are_counted_exactly() -> None:
    """P16: audits at one rate give the share and its exact interval; a fifth of them does not change the truth."""
    rng = np.random.default_rng(1601)
    u, bad = accepted(rng, 20_000, threshold_at(0.05))
    listed = rng.random(len(u)) < FLOOR
    found = estimate_risk(bad[listed], np.full(listed.sum(), FLOOR))
    assert (found.method, found.interval) == ("proportion", "clopper_pearson")
    assert (found.low, found.high) == clopper_pearson(found.bad, found.n, 0.95)
    assert found.low <= 0.05 <= found.high
    assert found.effective_n == found.n
    assert effective_n([1.0, 1.0, 0.0, 0.0]) == 2.0


def crossings(z: Floats, bar: float) -> int:
    """Streams [R, n] whose alarm is ever raised."""
    return int((log_wealth(z, bets_above(ALPHA))[0].max(axis=1) >= np.log(bar)).sum())


def z_test(bad: NDArray[np.bool_]) -> int:
    """Broken monitor: a one-sided z-test at the same level, every 100 audits."""
    n = np.arange(100, bad.shape[1] + 1, 100)
    k = bad.cumsum(axis=1)[:, n - 1]
    return int(((k - n * ALPHA) / np.sqrt(n * ALPHA * (1 - ALPHA)) > norm.isf(DELTA)).any(axis=1).sum())


def test_p17_ten_thousand_looks() -> None:
    """P17: a stream at exactly alpha raises the alarm, ever, in at most delta of streams; a repeated z-test in more."""
    streams, looks, rng = 1000, 10_000, np.random.default_rng(1700)
    alarms = tests = 0
    for _ in range(streams // 50):
        bad = rng.random((50, looks)) < ALPHA
        alarms += crossings(excess(bad, np.ones(1), ALPHA, 1.0), 1 / DELTA)
        tests += z_test(bad)
    assert alarms > 0, "an alarm that never sounds would pass"
    assert holds("P17 alarm", alarms, streams, DELTA)
    assert not holds("P17 z-test every 100", tests, streams, DELTA)


@pytest.mark.parametrize(("streams", "looks"), [(300, 3000), pytest.param(1000, 10_000, marks=pytest.mark.slow)])
def test_p17_audits_chosen_by_score(streams: int, looks: int) -> None:
    """P17: with propensities that follow the score the weighted alarm keeps its delta; unweighted it sounds falsely."""
    rng = np.random.default_rng(1701)
    grid = np.linspace(0.0, threshold_at(ALPHA), 20_000)
    tilted = np.cumsum(beta.pdf(grid, 1.2, 2.0) * chosen_by_score(grid))
    weighted = plain = 0
    for _ in range(streams // 50):
        u = np.interp(rng.random((50, looks)), tilted / tilted[-1], grid)  # what audits list, drawn directly
        bad = rng.random(u.shape) < REFERENCE.bad_probability(u)
        weighted += crossings(excess(bad, chosen_by_score(u), ALPHA, FLOOR), 1 / DELTA)
        plain += crossings(excess(bad, np.ones(1), ALPHA, 1.0), 1 / DELTA)
    assert holds("P17 weighted alarm", weighted, streams, DELTA)
    assert not holds("P17 unweighted alarm", plain, streams, DELTA)


def test_p17_a_propensity_below_the_floor_is_refused() -> None:
    """P17: a weight above 1 could make a factor negative; it is refused, not clipped."""
    with pytest.raises(InputError, match="below the floor"):
        Alarm(ALPHA, FLOOR, delta=DELTA).update([0.0], [FLOOR / 2])
    worst = excess([0.0, 1.0], [FLOOR, FLOOR], ALPHA, FLOOR)
    assert (1 + bets_above(ALPHA)[:, None] * worst > 0).all()
    assert (1 - bets_below(ALPHA)[:, None] * worst > 0).all()


def test_p17_power() -> None:
    """P17: true risks above alpha are found, the sooner the larger; so is a re-certified one below it, never at it."""
    rng, streams = np.random.default_rng(1702), 200
    delays = []
    for risk in (0.07, 0.08, 0.10, 0.15):
        bad = rng.random((streams, 5000)) < risk
        over = log_wealth(excess(bad, np.ones(1), ALPHA, 1.0), bets_above(ALPHA))[0] >= np.log(1 / DELTA)
        delays.append(float(np.median(np.where(over.any(axis=1), over.argmax(axis=1) + 1, np.inf))))
    note(f"P17 median delay at risk .07, .08, .10, .15: {delays}")
    assert delays == sorted(delays, reverse=True)
    assert delays[0] < 1500
    assert delays[-1] < 80
    shown = {}
    for risk in (0.02, ALPHA):
        bad = rng.random((streams, 5000)) < risk
        wealth = log_wealth(-excess(bad, np.ones(1), ALPHA, 1.0), bets_below(ALPHA))[0]
        shown[risk] = int((wealth.max(axis=1) >= np.log(1 / DELTA)).sum())
    assert shown[0.02] > 0.95 * streams
    assert holds("P17 re-certified at alpha", shown[ALPHA], streams, DELTA)


def delay(path: Floats, bar: float, change: int) -> tuple[float, int]:
    """Median audits from the change to the first crossing, and the streams that crossed before it."""
    over = path >= np.log(bar)
    first = np.where(over.any(axis=1), over.argmax(axis=1), 10**9)
    return float(np.median(first[first >= change]) - change + 1), int((first < change).sum())


def test_p18_awake_after_a_good_stretch() -> None:
    """P18: .03 for 2,000 audits, then .08: the detector sees it within 1,000, the plain product after thousands."""
    streams, change, rng = 200, 2000, np.random.default_rng(1800)
    risk = np.r_[np.full(change, 0.03), np.full(6000, 0.08)]
    z = excess(rng.random((streams, len(risk))) < risk, np.ones(1), ALPHA, 1.0)
    awake, early = delay(log_detector(z, bets_above(ALPHA))[0], ARL, change)
    asleep, _ = delay(log_wealth(z, bets_above(ALPHA))[0], 1 / DELTA, change)
    note(f"P18 median delay: detector {awake:g} ({early} of {streams} before the change), plain product {asleep:g}")
    assert early <= limit(streams, change / ARL)
    assert awake < 1000
    assert not asleep < 1000


def test_p18_run_length() -> None:
    """P18: at exactly alpha the detector's mean run length is at least c; one that adds its bets up is not."""
    bar, streams, looks, rng = 500.0, 300, 6000, np.random.default_rng(1801)
    z = excess(rng.random((streams, looks)) < ALPHA, np.ones(1), ALPHA, 1.0)

    def run_length(path: Floats) -> tuple[float, float]:
        over = path >= np.log(bar)
        # Cut at the last look, which can only make the mean smaller.
        first = np.where(over.any(axis=1), over.argmax(axis=1) + 1, looks)
        return float(first.mean()), float(first.std() / np.sqrt(streams))

    path = log_detector(z, bets_above(ALPHA))[0]
    mean, error = run_length(path)
    added, less = run_length(path + np.log(len(bets_above(ALPHA))))
    note(f"P18 mean run length at alpha, c = {bar:g}: {mean:.0f} (+- {error:.0f}); bets added up {added:.0f}")
    assert mean + norm.isf(1e-4) * error >= bar
    assert added + norm.isf(1e-4) * less < bar


def test_the_states_are_the_paths() -> None:
    """Counting in pieces, with the state written out between them, gives what one pass gives."""
    rng = np.random.default_rng(1802)
    p = rng.choice([FLOOR, 0.1, 1.0], 900)
    loss = rng.random(900) < 0.08
    for begun in (
        Alarm(ALPHA, FLOOR, delta=DELTA),
        Detector(ALPHA, FLOOR, arl=500.0),
        Recertification(ALPHA, FLOOR, delta=DELTA),
    ):
        whole, pieces = begun.update(loss, p), begun
        for at in range(0, 900, 70):
            pieces = type(begun).from_json(pieces.update(loss[at : at + 70], p[at : at + 70]).to_json())
        assert (pieces.n, pieces.raised_at) == (whole.n, whole.raised_at)
        assert pieces.now == pytest.approx(whole.now)
        assert pieces.peak == pytest.approx(whole.peak) == pytest.approx(begun.path(loss, p).max())


CERTIFIED = 80
Adversary = Callable[[int, int, np.random.Generator], bool]


def greedy(_: int, step: int, __: np.random.Generator) -> bool:
    """Every cheap answer is bad."""
    return step > 0


def patient(t: int, step: int, _: np.random.Generator) -> bool:
    """All goes well for long, then nothing does."""
    return step > 0 and t % 4000 >= 3000


def at_the_edge(_: int, step: int, rng: np.random.Generator) -> bool:
    """Errs when it hurts most: while the certified step is served."""
    return step == CERTIFIED or (step > 0 and rng.random() < 0.2)


class Unclipped(NamedTuple):
    """Broken: the level may rise past the certificate's."""

    level: float

    def after(self, error: bool) -> Unclipped:
        """The plain update."""
        return Unclipped(self.level + 0.005 * (ALPHA - error))

    def step(self, certified: int) -> int:
        """A step in proportion to the level."""
        return max(int(np.ceil(certified * self.level / ALPHA)), 0)


@pytest.mark.parametrize("adversary", [greedy, patient, at_the_edge])
def test_p19_never_looser_than_the_certificate(adversary: Adversary) -> None:
    """P19: under any errors the step stays within the certified one and the mean error below its one-sided bound."""
    queries, controller, rng = 12_000, AdaptiveLevel.begin(ALPHA), np.random.default_rng(1900)
    loosest = 0
    for t in range(queries):
        step = controller.step(CERTIFIED)
        loosest = max(loosest, step)
        controller = controller.after(adversary(t, step, rng))
        assert controller.errors / controller.seen - ALPHA <= controller.bound + 1e-12
    assert loosest == CERTIFIED
    note(
        f"P19 {adversary.__name__}: mean error {controller.errors / queries:.4f}, bound {ALPHA + controller.bound:.4f}"
    )


def test_p19_unclipped_goes_past_it() -> None:
    """P19: without the clip a good stretch makes the step looser than certified."""
    mutant, loosest = Unclipped(ALPHA), 0
    for t in range(12_000):
        step = mutant.step(CERTIFIED)
        loosest = max(loosest, step)
        mutant = mutant.after(patient(t, step, np.random.default_rng(0)))
    assert loosest > CERTIFIED


N, PATH = 500, REFERENCE.path(60)
RARE = 0.1
COMMON = 0.6
"""Share of a harder kind of query in calib and in traffic; the score does not see the kind."""


def two_kinds(rng: np.random.Generator, share: float, *shape: int) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Uncertainty, bad flag and density ratio (traffic to calib) of queries of an easy and a hard kind."""
    u = rng.beta(1.2, 2.0, size=shape)
    hard = rng.random(shape) < share
    bad = rng.random(shape) < 0.015 + 0.8 * expit(10 * (u - np.where(hard, 0.4, 0.6)))
    return u, bad, np.where(hard, COMMON / RARE, (1 - COMMON) / (1 - RARE))


def weighted_losses(u: Floats, bad: NDArray[np.bool_], w: Floats) -> Floats:
    """Weighted loss of every step of the path, [R, G]."""
    first = np.searchsorted(PATH, u, side="left")
    inside = bad & (first < len(PATH))
    flat = (np.arange(len(u))[:, None] * len(PATH) + first)[inside]
    return np.bincount(flat, w[inside], len(u) * len(PATH)).reshape(len(u), -1).cumsum(axis=1)


def test_p20_known_covariate_shift() -> None:
    """P20: weighted conformal risk control holds under a harmful shift of known weights, unweighted it does not."""
    draws, rng = 20_000, np.random.default_rng(2000)
    lost = {"weighted": 0, "unweighted": 0}
    served = 0
    for part in range(draws // 2000):
        u, bad, w = two_kinds(rng, RARE, 2000, N)
        new_u, new_bad, new_w = two_kinds(rng, COMMON, 2000)
        reach = np.searchsorted(PATH, new_u, side="left")
        for name, weight, new in (("weighted", w, new_w), ("unweighted", np.ones_like(w), np.ones(2000))):
            table = weighted_losses(u, bad, weight)
            steps = (table <= permitted_loss(weight.sum(axis=1), new, ALPHA)[:, None]).sum(axis=1)
            lost[name] += int((new_bad & (reach < steps)).sum())
            if name == "weighted":
                served += int((reach < steps).sum())
            if not part:
                check_production(u, bad, weight, new, steps)
    note(f"P20 served {served / draws:.3f}, effective n about {effective_n(two_kinds(rng, RARE, N)[2]):.0f} of {N}")
    assert served > 0.2 * draws, "a rule that always escalates would pass"
    assert holds("P20 weighted", lost["weighted"], draws, ALPHA)
    assert not holds("P20 unweighted", lost["unweighted"], draws, ALPHA)


def check_production(u: Floats, bad: NDArray[np.bool_], w: Floats, new: Floats, steps: NDArray[np.int64]) -> None:
    """The vectorised rule above is the production rule, on the first draws."""
    for i in range(25):
        losses = np.concatenate((np.zeros((1, N), bool), (u[i] <= PATH[:, None]) & bad[i]))
        assert weighted_crc(losses, w[i], new[i], ALPHA).steps[0] == steps[i]


def test_p20_effective_n_is_logged_and_has_a_minimum(caplog: pytest.LogCaptureFixture) -> None:
    """P20: what weights are worth is logged; too little of it, falling losses and clipped weights are refused."""
    losses = np.zeros((2, 100), int)
    with caplog.at_level(logging.INFO):
        found = weighted_crc(losses, np.ones(100), [1.0, 50.0], ALPHA)
    assert "effective n 100.0" in caplog.text
    assert (found.steps.tolist(), found.effective_n) == ([1, 0], 100.0)
    lopsided = np.r_[np.full(3, 1000.0), np.full(97, 0.1)]
    assert effective_n(lopsided) < crc_minimum_n(ALPHA)
    with pytest.raises(InputError, match=r"worth 3\.0 unweighted"):
        weighted_crc(losses, lopsided, [1.0], ALPHA)
    with pytest.raises(InputError, match="never fall"):
        weighted_crc(np.r_[[np.ones(100, int)], losses], np.ones(100), [1.0], ALPHA)
    with pytest.raises(InputError, match="positive and finite"):
        weighted_crc(losses, np.r_[0.0, np.ones(99)], [1.0], ALPHA)


def test_a_ticket_is_not_an_alarm() -> None:
    """Exchangeable scores seldom open a ticket; easier traffic opens one, which is why it ends no certificate."""
    from router_core.fitting.exchangeability import exchangeability_ticket

    rng, opened = np.random.default_rng(2100), 0
    for seed in range(40):
        opened += exchangeability_ticket(rng.random(300), bar=20.0, seed=seed).opened_at is not None
    assert holds("ticket on exchangeable scores", opened, 40, 0.05)
    easier = exchangeability_ticket(rng.beta(1, 4, 400), before=rng.random(400), bar=20.0)
    assert easier.opened_at is not None
    assert easier.peak >= 20.0
    assert exchangeability_ticket([]).value == 1.0
    with pytest.raises(InputError, match="NaN"):
        exchangeability_ticket([np.nan])
