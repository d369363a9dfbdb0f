"""P13, P21: what was certified is served: ties whole, one dtype, nothing random, unknown escalates."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from router_core.certificate import crc_allowed
from router_core.conformal import BadPValues
from router_core.kernels import sweep

from .checks import ALPHA, DELTA, holds, last_steps, note
from .population import REFERENCE, path_bad_counts

pytestmark = pytest.mark.statistical

Floats = NDArray[np.float64]

# Upper ends of five equal bands of u: a score with five values, whose joint risk steps from .030 to .103.
BANDS = np.arange(1, 6) / 5


def by_item_index(u: Floats, bad: NDArray[np.bool_], allowed: int) -> Floats:
    """Broken rule: cut at the last sorted item within the allowance, then accept all ties at its score."""
    order = np.lexsort((np.arange(u.shape[1])[None].repeat(len(u), 0), u), axis=1)
    counts = np.take_along_axis(bad, order, axis=1).cumsum(axis=1)
    last = (counts <= allowed).sum(axis=1) - 1
    cut = np.take_along_axis(np.take_along_axis(u, order, axis=1), np.maximum(last, 0)[:, None], axis=1)[:, 0]
    return np.asarray(np.where(last < 0, -np.inf, cut))


def test_p13_five_level_score() -> None:
    """P13: counting whole ties keeps both claims on a five-level score; cutting at an item does not."""
    draws, n = 2000, 500
    raw, bad = REFERENCE.draw(np.random.default_rng(501), draws, n)
    u = BANDS[np.searchsorted(BANDS, raw)]
    risk = np.concatenate(([0.0], REFERENCE.joint_risk(BANDS)))
    counts = path_bad_counts(u, bad, BANDS)

    certified = risk[last_steps(counts, n)]
    crc = risk[(counts[:, 1:] <= crc_allowed(n, ALPHA)).sum(axis=1)]
    index_crc = REFERENCE.joint_risk(by_item_index(u, bad, crc_allowed(n, ALPHA)))
    index_exact = REFERENCE.joint_risk(by_item_index(u, bad, 18))
    note(f"P13 mean joint risk: CRC {crc.mean():.4f}, CRC by item index {index_crc.mean():.4f}")
    assert abs(crc.mean() - 0.030) < 0.002
    assert abs(index_crc.mean() - 0.100) < 0.005
    assert certified.mean() > 0.01, "a rule that always escalates would pass"
    assert holds("P13 whole ties", int((certified > ALPHA).sum()), draws, DELTA)
    assert not holds("P13 ties cut at an item", int((index_exact > ALPHA).sum()), draws, DELTA)


def accept_sets_agree(stored: Callable[[Floats], list[float]]) -> bool:
    """Whether serving, one plain comparison a query, repeats the accept set of the sweep at every step.

    `stored` turns the path's thresholds into what a bundle gives back. Half of the scores come from a float32
    model, half are float64, and each is itself a threshold, so every step is decided at a tie.
    """
    rng = np.random.default_rng(502)
    score = np.concatenate((rng.random(60).astype(np.float32).astype(np.float64), rng.random(60)))
    path = np.concatenate(([np.inf], np.sort(score)[::-1]))
    n = len(score)
    start = np.concatenate(([np.inf], np.full(n, -np.inf)))[:, None]
    cost = np.ones((n, 2))
    served = {
        engine: sweep(np.zeros((n, 1)), score[:, None, None], start, path[:, None], cost, engine=engine)[0]
        for engine in ("numba", "numpy")
    }
    assert np.array_equal(served["numba"], served["numpy"])
    at_serving = np.array([[0 if a >= thr else 1 for a in score.tolist()] for thr in stored(path)])
    return bool(np.array_equal(at_serving, served["numba"]))


def test_p13_replay_bit_for_bit() -> None:
    """P13: thresholds that went through JSON replay calib exactly; thresholds rounded to float32 do not."""
    assert accept_sets_agree(lambda path: list(json.loads(json.dumps(path.tolist()))))
    assert not accept_sets_agree(lambda path: path.astype(np.float32).astype(np.float64).tolist())


PFunction = Callable[[str, float], float]


def decides_once(p: PFunction) -> bool:
    """Whether the same query is decided the same way 200 times, and a task never seen always escalates."""
    for score in np.linspace(0.0, 1.0, 21):
        if len({p("known", float(score)) <= 0.2 for _ in range(200)}) > 1:
            return False
    return not any(p("never seen", 0.99) <= 0.2 for _ in range(200))


def test_p21_deterministic_and_unseen_escalates() -> None:
    """P21: unsmoothed p-values decide once and never accept an unseen task; smoothed ones fail."""
    from crepes import ConformalClassifier

    cal = np.round(np.random.default_rng(503).random(40), 1)
    ours = BadPValues({("known", "cheap"): cal})
    crepes = ConformalClassifier().fit(cal, bins=np.zeros(len(cal), dtype=int))

    def with_crepes(*, smoothing: bool) -> PFunction:
        def p(task: str, score: float) -> float:
            bins = np.array([0 if task == "known" else 1])
            return float(crepes.predict_p(np.array([[score]]), bins=bins, smoothing=smoothing)[0, 0])

        return p

    np.random.seed(504)  # noqa: NPY002  crepes draws from numpy's global generator
    assert decides_once(lambda task, score: ours.p(task, "cheap", score))
    assert decides_once(with_crepes(smoothing=False))
    assert not decides_once(with_crepes(smoothing=True))
    assert ours.p("never seen", "cheap", 0.99) == ours.p("known", "new tier", 0.99) == 1.0


def test_p21_smoothing_alone_breaks_each_half() -> None:
    """P21: smoothed p-values fail on a known task and, on their own, on an unseen one."""
    from crepes import ConformalClassifier

    cal = np.round(np.random.default_rng(505).random(40), 1)
    crepes = ConformalClassifier().fit(cal, bins=np.zeros(len(cal), dtype=int))
    np.random.seed(506)  # noqa: NPY002  crepes draws from numpy's global generator
    twice = [crepes.predict_p(np.full((50, 1), 0.8), bins=np.zeros(50, dtype=int)) <= 0.2 for _ in range(2)]
    unseen = crepes.predict_p(np.full((1000, 1), 0.99), bins=np.ones(1000, dtype=int))[:, 0]
    assert not np.array_equal(*twice)
    assert 0.15 < (unseen <= 0.2).mean() < 0.25
