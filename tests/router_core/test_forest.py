"""Served forests and linear models equal scikit-learn's."""

import numpy as np
from numpy.typing import NDArray

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


def _walk(forest: Forest, x: NDArray[np.float32]) -> float:
    """The definition: every tree from its root to a leaf, then the mean."""
    leaves = []
    for root in forest.roots:
        node = int(root)
        while forest.children[0, node] != node:
            node = int(forest.children[int(float(x[forest.feature[node]]) > forest.threshold[node]), node])
        leaves.append(forest.value[node])
    return float(np.mean(leaves))


def test_forest_is_bit_for_bit_the_mean_of_its_leaves() -> None:
    """What was certified is what is served: not one bit may differ from walking the trees one by one."""
    from sklearn.ensemble import ExtraTreesRegressor

    rng = np.random.default_rng(3)
    for features, trees, leaf in ((3, 1, 30), (7, 150, 1), (40, 150, 8)):
        x = rng.normal(size=(200, features)).astype(np.float32).round(1)
        y = x[:, 0] + rng.normal(size=200)
        model = ExtraTreesRegressor(trees, min_samples_leaf=leaf, random_state=0).fit(x, y)
        forest = _flatten([tree.tree_ for tree in model.estimators_])
        # Values at a threshold go left, and more features than any node tests are left alone.
        asked = np.concatenate((x, rng.choice(forest.threshold, size=(50, features)).astype(np.float32)))
        wide = np.concatenate((asked, asked[:, :1]), axis=1)
        assert [forest.predict(row) for row in wide] == [_walk(forest, row) for row in wide]


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
