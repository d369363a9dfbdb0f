"""P15, P22 to P25, P28: what a certificate is about, and what it is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from router_core.certificate import allowed_bad, certify_path, clopper_pearson
from router_core.errors import InputError
from router_core.fitting.lay import delta_of_each
from router_core.scopes import Scopes

from .checks import ALPHA, DELTA, holds, last_steps, limit, note
from .population import REFERENCE, Population, path_bad_counts

pytestmark = pytest.mark.statistical

DRAWS = 2000
PATH = REFERENCE.path()
RISK = np.concatenate(([0.0], REFERENCE.joint_risk(PATH)))


def last_allowed(counts: np.ndarray, n: int, delta: float = DELTA) -> np.ndarray:
    """The production walk on non-decreasing counts: the last step within `allowed_bad`."""
    return np.asarray((counts[:, 1:] <= allowed_bad(n, ALPHA, delta)).sum(axis=1))


@pytest.mark.parametrize("tasks", [3, 6])
def test_p15_all_tasks_at_once(tasks: int) -> None:
    """P15: with delta shared out no task breaks its bound in all but delta of draws; with delta each, one does."""
    n, path = 300, REFERENCE.path(200)
    risk, rng = np.concatenate(([0.0], REFERENCE.joint_risk(path))), np.random.default_rng(801)
    scopes = Scopes({f"task{i}": () for i in range(tasks)})
    shared = delta_of_each(DELTA, scopes, simultaneous=True)
    assert shared == DELTA / (2 * (tasks + 1))
    assert delta_of_each(DELTA, scopes, simultaneous=False) == DELTA
    any_shared, any_each = np.zeros(DRAWS, bool), np.zeros(DRAWS, bool)
    for _ in range(tasks):
        counts = path_bad_counts(*REFERENCE.draw(rng, DRAWS, n), path)
        any_shared |= risk[last_allowed(counts, n, shared)] > ALPHA
        any_each |= risk[last_allowed(counts, n)] > ALPHA
    assert (last_allowed(counts, n, shared) > 0).mean() > 0.5, "a rule that always escalates would pass"
    assert np.array_equal(last_allowed(counts[:50], n), last_steps(counts[:50], n))
    assert holds(f"P15 {tasks} tasks, delta shared out", int(any_shared.sum()), DRAWS, DELTA)
    assert not holds(f"P15 {tasks} tasks, delta each", int(any_each.sum()), DRAWS, DELTA)


def test_p22_a_judge_that_misses_bad_answers() -> None:
    """P22: the certificate is about the judge's B; the truth is bounded by alpha plus the judge's disagreement."""
    n, disagreement = 500, 0.05
    missed = disagreement / float(REFERENCE.joint_risk(1.0))
    rng = np.random.default_rng(802)
    u, bad = REFERENCE.draw(rng, DRAWS, n)
    judged = bad & (rng.random(bad.shape) >= missed)
    truth = RISK[last_allowed(path_bad_counts(u, judged, PATH), n)]
    note(f"P22 mean: judged {truth.mean() * (1 - missed):.4f}, true {truth.mean():.4f}")
    assert holds("P22 the judge's risk", int((truth * (1 - missed) > ALPHA).sum()), DRAWS, DELTA)
    assert holds("P22 truth, disagreement added", int((truth > ALPHA + disagreement).sum()), DRAWS, DELTA)
    assert not holds("P22 truth, nothing added", int((truth > ALPHA).sum()), DRAWS, DELTA)


def test_p22_random_flips_do_not_loosen() -> None:
    """P22: 5 % of verdicts flipped at random add bad answers where few are, so the truth stays covered."""
    n, rng = 500, np.random.default_rng(803)
    u, bad = REFERENCE.draw(rng, DRAWS, n)
    flipped = bad ^ (rng.random(bad.shape) < 0.05)
    noisy = RISK[last_allowed(path_bad_counts(u, flipped, PATH), n)]
    clean = RISK[last_allowed(path_bad_counts(u, bad, PATH), n)]
    assert holds("P22 random flips", int((noisy > ALPHA).sum()), DRAWS, DELTA)
    assert noisy.mean() < clean.mean()


def test_p23_repeats_do_not_count() -> None:
    """P23: every item five times over is n = 100, not 500; counting the repeats breaks the promise."""
    n, copies = 100, 5
    counts = path_bad_counts(*REFERENCE.draw(np.random.default_rng(804), DRAWS, n), PATH)
    grouped, repeated = RISK[last_allowed(counts, n)], RISK[last_allowed(copies * counts, copies * n)]
    assert (grouped <= repeated).all()
    assert grouped.mean() > 0.005
    assert holds("P23 one item per group", int((grouped > ALPHA).sum()), DRAWS, DELTA)
    assert not holds("P23 repeats counted", int((repeated > ALPHA).sum()), DRAWS, DELTA)


def test_p24_a_floor_that_the_reference_misses() -> None:
    """P24: under an absolute floor the top tier itself is bad: refused; a rule that overlooks it accepts."""
    n, floor, rng = 500, 0.08, np.random.default_rng(805)
    refused = overlooked = over = 0
    for _ in range(200):
        u, bad = REFERENCE.draw(rng, n)
        accept = np.concatenate((np.zeros((1, n), bool), u <= PATH[::4, None]))
        outcome = np.where(accept, bad, rng.random(n) < floor).astype(np.uint8)
        try:
            certify_path(outcome, -np.arange(len(accept), dtype=float), ALPHA, DELTA)
        except InputError as error:
            refused += "must send all queries to the reference" in str(error)
        # Broken: only cheap answers are held to the floor, and the sum is sold as the system's risk.
        step = certify_path(outcome * accept, -np.arange(len(accept), dtype=float), ALPHA, DELTA).step
        share = REFERENCE.acceptance(PATH[::4])[step - 1] if step else 0.0
        system = (REFERENCE.joint_risk(PATH[::4])[step - 1] if step else 0.0) + floor * (1 - share)
        overlooked += step > 0
        over += bool(system > ALPHA)
    assert refused == 200
    assert overlooked > 190
    assert not holds("P24 floor overlooked", over, 200, DELTA)


def test_p25_answers_drawn_again() -> None:
    """P25: fresh answers at the calibrated temperature keep the promise; answers drawn hotter break it, visibly."""
    n, hot = 500, Population(floor=0.06)
    rng = np.random.default_rng(806)
    u, bad = REFERENCE.draw(rng, DRAWS, n)
    steps = last_allowed(path_bad_counts(u, bad, PATH), n)
    hot_risk = np.concatenate(([0.0], hot.joint_risk(PATH)))
    assert holds("P25 the same decoding", int((RISK[steps] > ALPHA).sum()), DRAWS, DELTA)
    assert not holds("P25 hotter decoding", int((hot_risk[steps] > ALPHA).sum()), DRAWS, DELTA)

    thr = np.concatenate(([-np.inf], PATH))[steps][:, None]
    apart = {}
    for name, population in (("same", REFERENCE), ("hotter", Population(floor=0.16))):
        again = rng.random(u.shape) < population.bad_probability(u)
        pair = zip(((u <= thr) & bad).sum(axis=1)[:500], ((u <= thr) & again).sum(axis=1)[:500], strict=True)
        limits = [(clopper_pearson(int(a), n, 0.95), clopper_pearson(int(b), n, 0.95)) for a, b in pair]
        apart[name] = sum(x[1] < y[0] or y[1] < x[0] for x, y in limits)
    note(f"P25 intervals of two runs that do not overlap, of 500: {apart}")
    assert apart["same"] <= limit(500, 0.05)
    assert apart["hotter"] > limit(500, 0.05)


Claim = Callable[[int, int], bool]


def by_upper_limit(k: int, n: int) -> bool:
    """The claim "risk <= alpha" as a report may make it: the exact upper limit is at most alpha."""
    return clopper_pearson(k, n, 1 - 2 * DELTA)[1] <= ALPHA


def by_point(k: int, n: int) -> bool:
    """Broken: the seen share is at most alpha."""
    return k <= ALPHA * n


def test_p28_a_test_set_is_no_proof_by_its_mean() -> None:
    """P28: 21 of 500 does not show 5 %; the exact limit errs in at most delta of draws, the seen share does not."""
    low, high = clopper_pearson(21, 500, 0.95)
    assert low < 0.028 < ALPHA < 0.063 < high + 0.001
    for n in (100, 250, 500):
        counts = np.random.default_rng(807).binomial(n, ALPHA + 1e-6, DRAWS)
        wrong: dict[Claim, int] = {rule: sum(rule(int(k), n) for k in counts) for rule in (by_upper_limit, by_point)}
        assert holds(f"P28 exact limit, n={n}", wrong[by_upper_limit], DRAWS, DELTA)
        assert not holds(f"P28 seen share, n={n}", wrong[by_point], DRAWS, DELTA)
    assert by_upper_limit(allowed_bad(500, ALPHA, DELTA), 500)
    assert not by_upper_limit(allowed_bad(500, ALPHA, DELTA) + 1, 500)
