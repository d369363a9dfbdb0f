"""Served forests and linear models equal scikit-learn's."""

import numpy as np

from router_core.arrays import dump_arrays, load_arrays
from router_core.fitting.evidence_model import _flatten, _ridge
from router_core.forest import Forest, Linear


def test_forest_equals_scikit_learn() -> None:
    """The flattened trees predict what the fitted ones do, before and after storage."""
    from sklearn.ensemble import ExtraTreesRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=300) > 0).astype(float)
    model = ExtraTreesRegressor(20, min_samples_leaf=5, random_state=0).fit(x, y)
    forest = _flatten([tree.tree_ for tree in model.estimators_])
    again = Forest.from_arrays("f", load_arrays("f", dump_arrays(forest.arrays("f"))))
    np.testing.assert_allclose([forest.predict(row) for row in x], model.predict(x), rtol=0, atol=1e-12)
    assert [again.predict(row) for row in x] == [forest.predict(row) for row in x]


def test_linear_equals_scikit_learn() -> None:
    """Scaling is folded into the weights; constant columns are harmless."""
    rng = np.random.default_rng(1)
    x = rng.normal(3, 2, size=(200, 4)).astype(np.float32)
    x[:, 3] = 7.0
    y = x[:, 0].astype(float) * 2 - 1
    linear = _ridge(x, y)
    again = Linear.from_arrays("l", load_arrays("l", dump_arrays(linear.arrays("l"))))
    assert abs(linear.predict(x[0]) - y[0]) < 0.5
    assert again.predict(x[0]) == linear.predict(x[0])


def test_constant() -> None:
    """A constant forest ignores its input."""
    assert Forest.constant(0.25).predict(np.zeros(3, np.float32)) == 0.25
