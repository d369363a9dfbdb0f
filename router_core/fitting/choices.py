"""Fit `router_core.choices` from a few labelled queries per choice, and calibrate it on others.

1. Labelled queries are grouped (near-duplicates together), and groups go to train or calib by a hash of their text.
2. Up to four scores per choice: likeness to the choice's description and an L2-regularised multinomial logistic
   regression, each by words and characters and, with an encoder, by its vectors. The descriptions themselves are
   training examples, so that a choice with few labels, or none, is known by what it says of itself.
3. Their non-negative weights minimise the log loss of out-of-fold scores: with few labels the descriptions weigh more,
   with many the regressions. The penalty of each regression is chosen by the same log loss.
4. Calibration reads the frozen model through the calls that serve.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router_core.choice_model import Choice, ChoiceModel, TextVectors, distinct, softmax
from router_core.choices import ChoiceJudge, Counts
from router_core.errors import InputError, MissingExtraError
from router_core.fitting.static import vocabulary_of
from router_core.groups import hash_key, merge_near_duplicates, unit_interval
from router_core.label_sets import LabelSets, TakenClaim
from router_core.sentence_encoder import TextEncoder
from router_core.text_features import text_features

__all__ = ["Labelled", "fit_choices", "fit_model"]

Float = NDArray[np.float64]
Labelled = tuple[str, int]
"""A query and the index of its right choice."""

_SALT: Final = "routenlp-choices-v1"
_FOLDS: Final = 5
_LEAST: Final = 10
_STEPS: Final = 100
_PENALTIES: Final = (100.0, 20.0, 4.0)
_MANY: Final = 2000
_MANY_PENALTIES: Final = (30.0, 10.0)
_WEIGHT_PENALTY: Final = 1e-3


def fit_choices(
    choices: Sequence[Choice],
    queries: Sequence[Labelled],
    *,
    encoder: TextEncoder | None = None,
    alpha: float = 0.1,
    delta: float = 0.1,
    per_choice: bool = False,
    calibration: Sequence[Labelled] | None = None,
    calibration_share: float = 0.4,
    seed: int = 0,
) -> ChoiceJudge:
    """Fit and calibrate.

    Parameters
    ----------
    choices
        What may be chosen.
    queries
        Labelled queries; part of them is set apart for calibration unless `calibration` is given.
    encoder
        Beside words and characters; None uses these alone.
    alpha
        Probability of a set without the right choice, and of a choice wrongly taken without asking.
    delta
        Probability that the claim about choices taken is false.
    per_choice
        Promise coverage for the queries of each choice, and not only for their mixture.
    calibration
        Labelled queries for calibration alone; training queries that are near-duplicates of these are left out.
    calibration_share
        Share of the groups set apart.
    seed
        Moves the split and the folds.

    Returns
    -------
    ChoiceJudge

    Raises
    ------
    InputError
        When choices cannot be told apart, an index or a level is out of range, or there are too few queries.
    MissingExtraError
        Without scikit-learn and scipy (``routenlp[fit]``).
    """
    distinct(choices)
    _check(choices, queries, calibration)
    _check_levels(alpha=alpha, delta=delta, calibration_share=calibration_share)
    train, calib, counts = _split(queries, calibration, calibration_share, seed)
    if len(train) < _LEAST and len(choices) > 1:
        raise InputError(
            f"{len(train)} labelled queries are left to train on, {_LEAST} are needed; label more, or give them as "
            "queries and the rest as calibration."
        )
    if not calib:
        raise InputError("No labelled query is left to calibrate on; label more queries.")
    model, path = fit_model(choices, train, encoder, seed)
    found = np.array([model.probabilities(text) for text, _ in calib])
    right = np.array([label for _, label in calib])
    sets = LabelSets.of(1.0 - found, right, alpha, per_label=per_choice)
    taken = TakenClaim.of(path, found.max(axis=1), found.argmax(axis=1) == right, alpha, delta)
    return ChoiceJudge(tuple(choices), model, sets, taken, counts)


def fit_model(
    choices: Sequence[Choice], train: Sequence[Labelled], encoder: TextEncoder | None, seed: int
) -> tuple[ChoiceModel, list[float]]:
    """Fit the model alone, and lay a path of thresholds from out-of-fold probabilities.

    Returns
    -------
    tuple
        The model, and quantiles of the largest out-of-fold probability.
    """
    texts, label = [text for text, _ in train], np.array([label for _, label in train], dtype=np.intp)
    features = [text_features(text) for text in [*texts, *(choice.text for choice in choices)]]
    blank = ChoiceModel(
        vocabulary_of(features), np.zeros((0, 0), np.float32), np.zeros((0, 0)), np.zeros(0), (0.0, 0.0), encoder
    )
    read = [blank.read(text) for text in texts]
    told = [blank.read(choice.text) for choice in choices]
    if len(choices) == 1:
        return _assembled(blank, [], np.zeros(0), 1), [0.0]
    fold = np.array([int(unit_interval(f"{_SALT}-fold-{seed}", hash_key(text)) * _FOLDS) for text in texts])
    views = [_View(_sparse(read, blank), _sparse(told, blank), label, fold)]
    if encoder is not None:
        views.append(_View(_dense(read), _dense(told), label, fold))
    columns = np.stack([column for view in views for column in (view.likeness, view.out_of_fold)], axis=-1)
    weights, _ = _stack(columns, label)
    out = softmax(columns @ weights).max(axis=1)
    path = np.quantile(out, np.linspace(0.0, 1.0, _STEPS)).tolist()
    return _assembled(blank, views, weights, len(choices)), path


class _View:
    """One reading of the texts: likeness to descriptions, and a regression with its out-of-fold scores ``[n, m]``."""

    def __init__(self, mine: Any, told: Any, label: NDArray[np.intp], fold: NDArray[np.intp]) -> None:
        self.told = told
        self.likeness = _plain(mine @ told.T)
        self.out_of_fold = np.zeros_like(self.likeness)
        best, penalties = np.inf, _PENALTIES if len(label) <= _MANY else _MANY_PENALTIES
        for penalty in penalties:
            out = np.zeros_like(self.likeness)
            for held in np.unique(fold):
                rest = fold != held
                weights, offset = _logistic(_rows(mine, rest), told, label[rest], penalty)
                out[~rest] = _plain(_rows(mine, ~rest) @ weights) + offset
            _, loss = _stack(np.stack((self.likeness, out), axis=-1), label)
            if loss < best:
                best, self.out_of_fold, self.penalty = loss, out, penalty
        self.weights, self.offset = _logistic(mine, told, label, self.penalty)


def _logistic(mine: Any, told: Any, label: NDArray[np.intp], penalty: float) -> tuple[Float, Float]:
    """Weights ``[F, m]`` and offsets ``[m]`` of a multinomial logistic regression; descriptions are examples too."""
    try:
        from scipy.sparse import issparse, vstack
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError("fit", "fit a selector") from error
    count = told.shape[0]
    matrix = vstack((mine, told)).tocsr() if issparse(mine) else np.vstack((mine, told))
    with warnings.catch_warnings():
        # A regression stopped early is a little more regular; the weights are chosen out of fold either way.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=penalty, max_iter=100, tol=1e-3).fit(matrix, np.append(label, np.arange(count)))
    if count == 2:
        # One column for two classes: half of it to each side gives the same probabilities.
        return np.hstack((-found.coef_.T, found.coef_.T)) / 2.0, np.append(-found.intercept_, found.intercept_) / 2.0
    return np.asarray(found.coef_.T), np.asarray(found.intercept_)


def _stack(columns: Float, label: NDArray[np.intp]) -> tuple[Float, float]:
    """Non-negative weights ``[k]`` of scores ``[n, m, k]`` that minimise the log loss, and that loss."""
    from scipy.optimize import minimize

    spread = columns.std(axis=(0, 1)) + 1e-12
    scaled, rows = columns / spread, np.arange(len(label))
    own = scaled[rows, label]

    def loss(weights: Float) -> tuple[float, Float]:
        chance = softmax(scaled @ weights)
        fit = -np.log(np.maximum(chance[rows, label], 1e-300)).mean()
        slope = (np.einsum("nm,nmk->k", chance, scaled) - own.sum(axis=0)) / len(label)
        return float(fit + _WEIGHT_PENALTY * weights @ weights), slope + 2.0 * _WEIGHT_PENALTY * weights

    start = np.ones(columns.shape[-1])
    found = minimize(loss, start, jac=True, bounds=[(0.0, None)] * len(start), method="L-BFGS-B")
    return np.asarray(found.x / spread), float(found.fun)


def _assembled(blank: ChoiceModel, views: Sequence[_View], weights: Float, count: int) -> ChoiceModel:
    """Sum likeness and regressions into one matrix per reading."""
    size = 0 if blank.encoder is None else len(blank.encoder.embed(""))
    words, dense, offset = np.zeros((blank.vocabulary.size, count)), np.zeros((size, count)), np.zeros(count)
    likeness = [0.0, 0.0]
    for i, view in enumerate(views):
        like, learned = weights[2 * i : 2 * i + 2].tolist()
        (words, dense)[i][:] = like * _plain(view.told.T) + learned * view.weights
        offset += learned * view.offset
        likeness[i] = like
    return ChoiceModel(
        blank.vocabulary, words.astype(np.float32), dense, offset, (likeness[0], likeness[1]), blank.encoder
    )


def _sparse(texts: Sequence[TextVectors], model: ChoiceModel) -> Any:
    from scipy.sparse import csr_matrix

    lengths = np.cumsum([0, *(len(one.rows) for one in texts)])
    values, rows = np.concatenate([one.values for one in texts]), np.concatenate([one.rows for one in texts])
    return csr_matrix((values, rows, lengths), shape=(len(texts), model.vocabulary.size))


def _dense(texts: Sequence[TextVectors]) -> Float:
    return np.array([one.dense for one in texts])


def _rows(matrix: Any, which: NDArray[np.bool_]) -> Any:
    return matrix[np.flatnonzero(which)]


def _plain(matrix: Any) -> Float:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)


def _check_levels(**levels: object) -> None:
    for name, level in levels.items():
        if isinstance(level, bool) or not isinstance(level, int | float | np.floating) or not 0.0 < level < 1.0:
            raise InputError(f"{name} = {level!r} must be a number between 0 and 1.")


def _check(choices: Sequence[Choice], queries: Sequence[Labelled], calibration: Sequence[Labelled] | None) -> None:
    for i, (text, label) in enumerate([*queries, *(calibration or ())]):
        whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
        if not isinstance(text, str) or not whole or not 0 <= label < len(choices):
            raise InputError(
                f"Labelled query {i} is {(text, label)!r}; give a text and the index of one of {len(choices)} choices."
            )


def _split(
    queries: Sequence[Labelled], calibration: Sequence[Labelled] | None, share: float, seed: int
) -> tuple[list[Labelled], list[Labelled], Counts]:
    """Train, calib with one query per group, and counts."""
    rows = [*queries, *(calibration or ())]
    texts = [text for text, _ in rows]
    given = np.arange(len(rows)) >= len(queries)
    groups = merge_near_duplicates(texts, [hash_key(text) for text in texts], [""] * len(rows), ~given)
    salt = f"{_SALT}-{seed}"
    if calibration is None:
        held = {group for group in groups if unit_interval(salt, group) < share}
    else:
        held = {group for group, mine in zip(groups, given.tolist(), strict=True) if mine}
    train, chosen, straddlers = [], dict[str, Labelled](), 0
    seen = 0
    for row, group, mine in zip(rows, groups, given.tolist(), strict=True):
        if group not in held:
            train.append(row)
        elif calibration is not None and not mine:
            straddlers += 1
        else:
            seen += 1
            # One per group, chosen by a hash of what is known beforehand and never by the outcome.
            chosen[group] = min(row, chosen.get(group, row), key=_order)
    calib = [chosen[group] for group in sorted(chosen)]
    return train, calib, Counts(len(train), len(calib), seen - len(calib), straddlers)


def _order(row: Labelled) -> bytes:
    return hashlib.sha256(f"{row[0]}\0{row[1]}".encode("utf-8", "surrogatepass")).digest()
