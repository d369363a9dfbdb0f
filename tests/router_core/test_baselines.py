"""The rivals: kNN and isotonic maps behave as their names say, and come back from storage."""

import numpy as np
import pytest

from router_core.baselines import Baselines, Isotonic, Neighbours, unit
from router_core.fitting.baselines import fit_isotonic, fit_neighbours, neighbour_risk


def _two_clouds(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Queries near two directions; the cheap tier fails near the second."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, n)
    hidden = np.eye(4)[side] + rng.normal(0, 0.1, (n, 4))
    return hidden, np.stack([side, np.zeros(n, int)], axis=1).astype(np.uint8)


def test_neighbours_find_the_cloud() -> None:
    """Risk is low near the queries on which the tier passed, high near those on which it failed."""
    hidden, bad = _two_clouds()
    model = fit_neighbours(hidden, bad, np.arange(len(hidden)), seed=0)
    assert model.risk(np.eye(4)[0])[0] < 0.05
    assert model.risk(np.eye(4)[1])[0] > 0.95


def test_own_group_does_not_vote() -> None:
    """Leave-group-out: a row whose group is everything alike cannot vote for itself."""
    hidden = np.repeat(np.eye(2), 20, axis=0)
    bad = np.stack([np.repeat([0, 1], 20), np.zeros(40, int)], axis=1).astype(np.uint8)
    model = Neighbours(np.stack([unit(v) for v in hidden]), (1 - bad[:, :-1]).astype(np.uint8), 10)
    group = np.repeat([0, 1], 20)
    inside = neighbour_risk(model, hidden[:1], None, None)
    outside = neighbour_risk(model, hidden[:1], group[:1], group)
    assert inside[0, 0] < 0.05
    assert outside[0, 0] > 0.95


def test_isotonic_is_monotone_and_calibrated() -> None:
    """The map never falls with the risk, and its mean is the share of bad answers."""
    rng = np.random.default_rng(1)
    risk = rng.random((500, 1))
    bad = np.stack([rng.random(500) < risk[:, 0] ** 2, np.zeros(500)], axis=1).astype(np.uint8)
    model = fit_isotonic(risk, bad)
    mapped = model.risk(np.sort(risk, axis=0))[:, 0]
    assert (np.diff(mapped) >= 0).all()
    assert model.risk(risk).mean() == pytest.approx(bad[:, 0].mean(), abs=5e-3)


def test_round_trip() -> None:
    """Stored rivals score exactly as the fitted ones."""
    hidden, bad = _two_clouds()
    near = fit_neighbours(hidden, bad, np.arange(len(hidden)), seed=0)
    knots = (np.array([0.0, 1.0]), np.array([0.1, 0.9]))
    both = Baselines(near, {"named": Isotonic((knots[0],), (knots[1],))})
    again = Baselines.from_parts(both.parts())
    assert again.parts() == both.parts()
    for vector in hidden[:20]:
        np.testing.assert_array_equal(again.neighbours.risk(vector), near.risk(vector))
