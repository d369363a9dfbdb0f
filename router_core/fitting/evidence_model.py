"""Fit P(bad | evidence) and the predicted saving with scikit-learn, for plain numpy to serve.

The choice (extremely randomised trees for the risk, ridge for the log cost, the hidden vector kept) was made by the
cost expected at the certificate's allowance under cross-validation on TRAIN, see benchmarks/cost_quality/README.md.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.encoder import Prediction
from router_core.evidence import Evidence
from router_core.evidence_model import CostModel, EvidenceModel, ViewModels, prompt_features
from router_core.forest import Forest, Linear

__all__ = ["Known", "TriedSets", "fit_view_models"]

TriedSets = Mapping[int, Sequence[tuple[int, ...]]]
"""For each cheap tier, the sets of cheaper tiers that may have been tried before it."""

Known = Mapping[tuple[int, tuple[int, ...]], Sequence[Evidence | None]]
"""For each (tier, tried set) the evidence of every row, None where the answer is missing."""

_TREES = 150
_LEAF = 8
_LEAVES = 300
_MAX_FEATURES = 0.3
_RIDGE = 30.0
_KEYS = 12
_LABEL_ROWS = 20
_PRESENT = 0.99


@dataclass(frozen=True, eq=False)
class _Rows:
    """Training rows under one view."""

    before: Sequence[Sequence[float]]
    bad: NDArray[np.uint8]
    log_cost: NDArray[np.float64]


def fit_view_models(
    prompts: Sequence[str],
    labels: Sequence[str],
    predictions: Sequence[Prediction],
    known: Known,
    tried_sets: TriedSets,
    tiers: Sequence[str],
    bad: NDArray[np.uint8],
    reference_cost: NDArray[np.float64],
    *,
    seed: int,
) -> ViewModels:
    """Fit the models of one view.

    Parameters
    ----------
    prompts, labels
        n texts and task labels, as far as the view tells them.
    predictions
        n router outputs, out of fold: from an encoder that was not trained on the row.
    known
        Evidence of the rows; tiers without an entry are not judged.
    tried_sets
        Which combinations of earlier answers to train on.
    tiers
        Tier names, the reference last.
    bad
        uint8 [n, K].
    reference_cost
        float64 [n], US dollars of the reference tier.
    seed
        Seed of the trees.
    """
    names = _frequent(labels)
    scale = float(reference_cost.mean())
    floor = max(scale * 1e-3, 1e-12)
    before = [
        prompt_features(prompt, prediction, label, names)
        for prompt, prediction, label in zip(prompts, predictions, labels, strict=True)
    ]
    rows = _Rows(before, bad, np.log(np.maximum(reference_cost, floor) / max(scale, floor)))
    cost = CostModel(names, _ridge(np.asarray(before, np.float32), rows.log_cost))
    answers = tuple(_fit_tier(k, rows, known, tried_sets[k], tuple(tiers), seed + k) for k in range(len(tiers) - 1))
    return ViewModels(cost, answers)


def _frequent(labels: Sequence[str]) -> tuple[str, ...]:
    """Tasks and subtasks with rows enough to learn from; a label all rows share tells nothing."""
    counts = Counter(labels) + Counter(label.split("/")[0] for label in labels if "/" in label)
    return tuple(sorted(name for name, count in counts.items() if name and _LABEL_ROWS <= count < len(labels)))


def _fit_tier(
    tier: int,
    rows: _Rows,
    known: Known,
    tried_sets: Sequence[tuple[int, ...]],
    tiers: tuple[str, ...],
    seed: int,
) -> EvidenceModel | None:
    alone = known.get((tier, ()))
    if alone is None:
        return None
    present = [item for item in alone if item is not None]
    if len(present) < _PRESENT * len(alone):
        return None
    counts = Counter(item.key for item in present if item.key)
    least = max(5.0, 0.01 * len(present))
    keys = tuple(sorted(key for key, count in counts.most_common(_KEYS) if count >= least))
    signals = Counter(name for item in present for name, value in item.signals.items() if np.isfinite(value))
    used = tuple(sorted(name for name, count in signals.items() if count >= _PRESENT * len(present)))
    blank = EvidenceModel(tiers[:tier], keys, used, Forest.constant(0.0), Linear(np.zeros(0), 0.0))
    vectors: list[NDArray[np.float32]] = []
    index: list[int] = []
    for tried in tried_sets:
        for i, item in enumerate(known.get((tier, tried), ())):
            if item is None:
                continue
            vector = blank.features(rows.before[i], item)
            if np.isfinite(vector).all():
                vectors.append(vector)
                index.append(i)
    x, at = np.asarray(vectors, np.float32), np.asarray(index)
    weight = np.full(len(at), 1.0 / len(tried_sets))
    risk = _forest(x, rows.bad[at, tier], weight, seed)
    return EvidenceModel(tiers[:tier], keys, used, risk, _ridge(x, rows.log_cost[at]))


def _forest(x: NDArray[np.float32], y: NDArray[np.uint8], weight: NDArray[np.float64], seed: int) -> Forest:
    if y.min() == y.max():
        # One class only: the rule of succession keeps the risk off 0 and 1.
        return Forest.constant((float(y.sum()) + 0.5) / (len(y) + 1.0))
    from sklearn.ensemble import ExtraTreesRegressor

    model = ExtraTreesRegressor(
        _TREES,
        min_samples_leaf=max(_LEAF, len(x) // _LEAVES),
        max_features=_MAX_FEATURES,
        random_state=seed,
        n_jobs=1,
    )
    model.fit(x, y.astype(np.float64), sample_weight=weight)
    return _flatten([tree.tree_ for tree in model.estimators_])


def _flatten(trees: Sequence[Any]) -> Forest:
    offsets = np.concatenate([[0], np.cumsum([tree.node_count for tree in trees])])[:-1].astype(np.int32)
    feature, threshold, left, right, value = [], [], [], [], []
    for tree, offset in zip(trees, offsets, strict=True):
        leaf = tree.children_left < 0
        own = np.arange(tree.node_count, dtype=np.int32)
        feature.append(np.where(leaf, 0, tree.feature))
        threshold.append(np.where(leaf, 0.0, tree.threshold))
        left.append(np.where(leaf, own, tree.children_left) + offset)
        right.append(np.where(leaf, own, tree.children_right) + offset)
        value.append(tree.value.reshape(-1))
    return Forest(
        np.concatenate(feature).astype(np.int32),
        np.concatenate(threshold).astype(np.float64),
        np.stack([np.concatenate(left), np.concatenate(right)]).astype(np.int32),
        np.concatenate(value).astype(np.float64),
        offsets,
        max(int(tree.max_depth) for tree in trees),
    )


def _ridge(x: NDArray[np.float32], y: NDArray[np.float64]) -> Linear:
    from sklearn.linear_model import Ridge

    wide = x.astype(np.float64)
    mean, scale = wide.mean(axis=0), wide.std(axis=0)
    scale[scale < 1e-9] = 1.0
    model = Ridge(alpha=_RIDGE).fit((wide - mean) / scale, y)
    weight = np.asarray(model.coef_, np.float64) / scale
    return Linear(weight, float(model.intercept_) - float(weight @ mean))
