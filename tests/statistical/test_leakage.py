"""P11 and METHOD 2.2 step 4: calib must not reach anything that was fitted, not even the conformal scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtri

from router_core.certificate import crc_allowed
from router_core.conformal import BadPValues, acceptance_threshold, thresholds
from router_core.errors import InputError
from router_core.fitting.conformal import fit_bad_p_values
from router_core.keys import check_disjoint, hash_keys

from .checks import ALPHA, DELTA, holds, last_steps, note
from .population import REFERENCE, path_bad_counts

pytestmark = pytest.mark.statistical

Rows = Sequence[tuple[str, str]]


def refuses(train: Rows, calib: Rows, *, groups: bool = True) -> bool:
    """Whether the check refuses (id, group) rows; without `groups` it is the broken, id-only check."""
    hashed = [
        hash_keys([f"id|{i}" for i, _ in rows] + [f"group|{g}" for _, g in rows if groups]) for rows in (train, calib)
    ]
    try:
        check_disjoint(train=hashed[0], calib=hashed[1])
    except InputError:
        return True
    return False


def test_p11a_hash_disjointness() -> None:
    """P11a: a shared id or near-duplicate group is refused; a check of ids alone misses the group."""
    train = [("q1", "g1"), ("q2", "g2"), ("q3", "g2")]
    assert not refuses(train, [("q4", "g4")])
    assert refuses(train, [("q4", "g4"), ("q2", "g5")])
    paraphrase = [("q5", "g2")]
    assert refuses(train, paraphrase)
    assert not refuses(train, paraphrase, groups=False), "the mutant must miss what the check finds"


@settings(deadline=None)
@given(
    st.sets(st.text(max_size=8), max_size=12),
    st.sets(st.text(max_size=8), max_size=12),
)
def test_p11a_refuses_exactly_the_intersections(train: set[str], calib: set[str]) -> None:
    """P11a: splits are refused when and only when they share a key, whatever characters the keys hold."""
    if train & calib:
        with pytest.raises(InputError):
            check_disjoint(train=hash_keys(train), calib=hash_keys(calib))
    else:
        check_disjoint(train=hash_keys(train), calib=hash_keys(calib))


def noise_counts(rng: np.random.Generator, draws: int, n: int, *, reuse: bool) -> NDArray[np.int64]:
    """Bad counts [draws, 101] of a path over a least-squares score of 40 features that know nothing of "bad".

    Step g accepts the g % of queries with the lowest predicted badness, by the known distribution of the
    score. The true joint risk of step g is therefore ``base * g / 100``, whatever the weights. With `reuse`
    the weights are fitted on the calib rows themselves.
    """
    base, counts = REFERENCE.joint_risk(1.0), []
    for _ in range(0, draws, 250):
        x, y = rng.standard_normal((250, n, 40)), rng.random((250, n)) < base
        fit_x, fit_y = (x, y) if reuse else (rng.standard_normal(x.shape), rng.random(y.shape) < base)
        centred = fit_y - fit_y.mean(axis=1, keepdims=True)
        moment = fit_x.transpose(0, 2, 1) @ centred[..., None]
        weights = np.linalg.solve(fit_x.transpose(0, 2, 1) @ fit_x, moment)
        score = (x @ weights)[..., 0] / np.linalg.norm(weights, axis=1)
        counts.append(path_bad_counts(score, y, ndtri(np.arange(1, 101) / 100)))
    return np.concatenate(counts)


def test_p11b_noise_score_reused() -> None:
    """P11b: a 40-feature noise score fitted on calib breaks the certificate; fitted elsewhere it holds."""
    draws, n = 2000, 200
    risk = REFERENCE.joint_risk(1.0) * np.arange(101) / 100
    fresh = noise_counts(np.random.default_rng(301), draws, n, reuse=False)
    reused = noise_counts(np.random.default_rng(302), draws, n, reuse=True)
    for name, counts in (("fresh", fresh), ("re-used", reused)):
        crc = risk[(counts[:, 1:] <= crc_allowed(n, ALPHA)).sum(axis=1)]
        note(f"P11b {name}: CRC mean joint risk {crc.mean():.4f}")
    assert holds("P11b fresh", int((risk[last_steps(fresh, n)] > ALPHA).sum()), draws, DELTA)
    assert not holds("P11b re-used", int((risk[last_steps(reused, n)] > ALPHA).sum()), draws, DELTA)


TASKS, PER_TASK = 20, 25
LEVELS = np.linspace(0.0, 1.0, 101)[1:]

Fit = Callable[[int, NDArray[np.float64], NDArray[np.bool_]], NDArray[np.float64]]


def scale_thresholds(u: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Thresholds on u, [levels, tasks], of the conformal scale fitted on rows [tasks, items].

    The nonconformity to "bad" is ``-u``; a level accepts where p <= level, that is ``-u >= acceptance
    threshold``.
    """
    columns = [thresholds(np.sort(-u[t][bad[t]]), LEVELS) for t in range(len(u))]
    return -np.array([[acceptance_threshold(thr) for thr in column] for column in columns]).T


def scale_violations(draws: int, *, on_calib: bool) -> tuple[int, float, float]:
    """Violations, mean true risk and mean risk seen on calib, of a path over the conformal scale.

    The scope is ``*``: one certificate for a mixture of 20 equally frequent tasks, n = 500, so 25 calib items
    and about 6 bad ones a task. The scale is Mondrian by task, so each level sets 20 thresholds at once.
    """
    n = TASKS * PER_TASK
    rng = np.random.default_rng(303)
    violations, risks, seen = 0, [], []
    for _ in range(draws):
        u, bad = REFERENCE.draw(rng, TASKS, PER_TASK)
        fit_u, fit_bad = (u, bad) if on_calib else REFERENCE.draw(rng, TASKS, PER_TASK)
        thr = scale_thresholds(fit_u, fit_bad)
        counts = np.concatenate(([0], ((u <= thr[..., None]) & bad).sum(axis=(1, 2))))
        step = int(last_steps(counts[None], n)[0])
        risk = float(REFERENCE.joint_risk(thr[step - 1]).mean()) if step else 0.0
        violations += risk > ALPHA
        risks.append(risk)
        seen.append(counts[step] / n)
    return violations, float(np.mean(risks)), float(np.mean(seen))


def test_conformal_scale_must_not_be_fitted_on_calib() -> None:
    """A path over crepes p-values holds when crepes saw other rows, and fails when it was fitted on calib.

    Why this set-up: with one bin the scale is a monotone function of one score, the path is the same set of
    thresholds whoever fitted it, and nothing shows. With Mondrian bins the path through the thresholds of all
    bins is shaped by the rows the scale was fitted on. Fitted on calib, every level puts each bin's threshold
    just under that bin's own j-th most confident *bad calib item*: the count k seen by the test is then fixed
    by the bin sizes and is no longer Binomial, while the true miss rate of each bin is j / (bad + 1) with j -
    1 items seen. These single items add up over the bins that accept anything: the risk is up to (k + bins) /
    n while the test sees k / n.
    """
    draws = 500
    fresh, fresh_risk, fresh_seen = scale_violations(draws, on_calib=False)
    reused, reused_risk, reused_seen = scale_violations(draws, on_calib=True)
    note(f"scale on other rows: true {fresh_risk:.4f}, seen {fresh_seen:.4f}")
    note(f"scale on calib: true {reused_risk:.4f}, seen {reused_seen:.4f}")
    assert fresh_risk > 0.01, "a rule that always escalates would pass"
    assert holds("crepes scale fitted on other rows", fresh, draws, DELTA)
    assert not holds("crepes scale fitted on calib", reused, draws, DELTA)


def test_scale_thresholds_are_those_of_crepes() -> None:
    """The thresholds used above decide as the BadPValues that crepes fits on the same rows."""
    u, bad = REFERENCE.draw(np.random.default_rng(304), 4, 200)
    task = np.repeat([f"t{t}" for t in range(4)], 200)
    fitted: BadPValues = fit_bad_p_values(task.tolist(), ["cheap"] * 800, -u.ravel(), bad.ravel())
    probe = REFERENCE.draw(np.random.default_rng(305), 300)[0]
    by_threshold = probe <= scale_thresholds(u, bad)[..., None]
    by_p = np.array([[[fitted.p(f"t{t}", "cheap", -a) <= e for a in probe] for t in range(4)] for e in LEVELS])
    assert np.array_equal(by_threshold, by_p)
    assert 0.05 < by_p.mean() < 0.95


def test_miss_rate_of_the_scale() -> None:
    """Accepting at p <= eps lets through at most eps of bad answers on average; without its +1, more."""
    draws, size = 20_000, 30
    rng = np.random.default_rng(306)
    grid = np.linspace(0.0, 1.0, 20_001)
    bad_cdf = REFERENCE.joint_risk(grid) / REFERENCE.joint_risk(1.0)
    known, fresh = (np.interp(rng.random(shape), bad_cdf, grid) for shape in ((draws, size), (draws,)))
    known.sort(axis=1)
    as_confident = (known <= fresh[:, None]).sum(axis=1)
    assert holds("miss rate", int(((as_confident + 1) / (size + 1) <= ALPHA).sum()), draws, ALPHA)
    assert not holds("miss rate without +1", int((as_confident / size <= ALPHA).sum()), draws, ALPHA)
