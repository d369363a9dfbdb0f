"""Training of the static encoder: two ridge regressions, label means, a stack on out-of-fold scores.

1. Vocabulary, inverse document frequencies and topics (truncated SVD) from the texts alone.
2. Two base scores of every output (pass per cheap tier, difficulty, quality per tier): a ridge regression on the
   sparse vector, and one on random cosine features (Rahimi and Recht, 2007) of topics and statistics. The
   second sees every query once per level of masking, with a code for what is named, so that it serves masked
   queries too.
3. Smoothed means per task and subtask.
4. Per level of masking (label unknown, task known, subtask known) a ridge logistic regression of the output on
   base scores and label mean, all out-of-fold: it calibrates.

The expected gap is the mean of two estimates, from fitted qualities and from the pass probability: on MMLU that
ranks better (cross-validated) than either and than a regression of the gap itself.

Defaults were chosen by cross-validation on the train rows of seven record files, never on calib or test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router_core.encoder import Examples
from router_core.errors import InputError
from router_core.fitting.ridge import smooth_ridge, sparse_ridge, stack
from router_core.static_encoder import StaticArrays, StaticEncoder
from router_core.text_features import BUCKETS, STATISTICS, TextFeatures, text_features
from router_core.text_space import TextSpace, Vocabulary

__all__ = ["StaticTrainer", "label_levels", "vocabulary_of"]

Float = NDArray[np.float64]

_TOPICS: Final = 24
_COSINES: Final = 256
_FOLDS: Final = 5
_MAX_FEATURES: Final = 60_000
_TEMPLATE: Final = 0.05
_PAIR_TEXTS: Final = 2000


@dataclass(frozen=True)
class StaticTrainer:
    """Fits a ``StaticEncoder`` with scikit-learn and scipy; an ``EncoderTrainer``.

    Attributes
    ----------
    lexical_penalty, smooth_penalty
        Ridge penalties of the two base scores, for rows of length 1.
    prior_strength
        Pseudo-observations of the task mean (for a subtask) and the overall mean (for a task).
    bandwidth
        Standard deviation of the random frequencies; larger means less smooth.
    statistics_scale, label_scale
        Scale of the standardised statistics, and of the label, beside topics of unit length.
    stack_strength
        Pseudo-observations that pull the weights of the stack to zero.
    """

    lexical_penalty: float = 3.0
    smooth_penalty: float = 10.0
    prior_strength: float = 20.0
    bandwidth: float = 0.4
    statistics_scale: float = 0.5
    label_scale: float = 0.4
    stack_strength: float = 10.0

    @property
    def name(self) -> str:
        """``"static"``."""
        return "static"

    def train(self, examples: Examples, *, seed: int) -> StaticEncoder:
        """Fit on all examples.

        Parameters
        ----------
        examples
            At least 10 queries, no missing quality.
        seed
            Fixes folds, random frequencies and the SVD; the same examples and seed give the same bytes.

        Raises
        ------
        InputError
            If there are fewer than 10 examples or a quality is missing.
        """
        if len(examples) < 2 * _FOLDS:
            raise InputError(f"The static encoder needs at least {2 * _FOLDS} train queries, not {len(examples)}.")
        if not np.isfinite(examples.quality).all():
            raise InputError("The static encoder was given a query without quality; drop such queries first.")
        rng = np.random.default_rng(seed)
        passes = examples.passes()[:, :-1].astype(np.float64)
        target: Float = np.column_stack((passes, examples.difficulty(), examples.quality))
        space, sparse, dense = _read_texts(examples.text, seed)
        labels, levels = label_levels(examples)
        fold = _folds(examples.text, rng)
        frequencies, codes = self._frequencies(space, len(labels) + 1, rng)

        lexical_out = np.zeros_like(target)
        for held in range(_FOLDS):
            mine = fold != held
            weights = sparse_ridge(sparse[mine], target[mine] - target[mine].mean(axis=0), self.lexical_penalty)
            lexical_out[~mine] = sparse[~mine] @ weights
        lexical = sparse_ridge(sparse, target - target.mean(axis=0), self.lexical_penalty)

        cosines = [np.cos(dense @ frequencies + codes[rows]) for rows in levels]
        smooth, smooth_out = smooth_ridge(cosines, target, fold, self.smooth_penalty * len(levels) * _COSINES / 2.0)

        row_count = len(labels) + 1
        arrays = {name: np.zeros((row_count, target.shape[1])) for name in ("lexical", "smooth", "offset")}
        for rows, smooth_scores in zip(levels, smooth_out, strict=True):
            prior, prior_out = self._priors(examples, rows, target, fold, labels)
            members = np.unique(rows)
            for j in range(target.shape[1]):
                columns = np.column_stack((lexical_out[:, j], smooth_scores[:, j], prior_out[:, j]))
                weights, intercept = stack(columns, target[:, j], self.stack_strength)
                arrays["lexical"][members, j] = weights[0]
                arrays["smooth"][members, j] = weights[1]
                arrays["offset"][members, j] = weights[2] * prior[members, j] + intercept
        stored = StaticArrays(
            buckets=space.vocabulary.buckets,
            weights=space.vocabulary.weights,
            topics=space.topics,
            center=space.center,
            scale=space.scale,
            lexical=lexical.astype(np.float32),
            frequencies=frequencies,
            codes=codes,
            smooth=smooth,
            lexical_scale=arrays["lexical"],
            smooth_scale=arrays["smooth"],
            offset=arrays["offset"],
            gap_if_bad=_mean_gap(examples, ~examples.passes()),
            gap_if_good=_mean_gap(examples, examples.passes()),
        )
        return StaticEncoder(examples.tiers, labels, stored)

    def _frequencies(
        self, space: TextSpace, rows: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Random frequencies ``[d + s, D]`` and label codes ``[rows, D]``; the phase is part of the code."""
        topics = space.topics.shape[1]
        frequencies = self.bandwidth * _orthogonal(topics + len(STATISTICS), _COSINES, rng)
        frequencies[topics:] *= self.statistics_scale
        phase = rng.uniform(0.0, 2.0 * np.pi, _COSINES)
        codes = rng.standard_normal((rows, _COSINES)) * (self.bandwidth * self.label_scale)
        codes[0] = 0.0
        return frequencies.astype(np.float32), (codes + phase).astype(np.float32)

    def _priors(
        self,
        examples: Examples,
        rows: NDArray[np.intp],
        target: Float,
        fold: NDArray[np.intp],
        labels: list[tuple[str, str]],
    ) -> tuple[Float, Float]:
        """Return smoothed means per label ``[L, m]`` and, out-of-fold, per query ``[n, m]``."""
        tasks = {task: i for i, task in enumerate(dict.fromkeys(examples.task))}
        task_of = np.array([tasks[task] for task in examples.task])
        parent = np.array([0, *(tasks[label[0]] for label in labels)])

        def means(mine: NDArray[np.bool_]) -> Float:
            overall = target[mine].mean(axis=0)
            by_task = _shrunk(task_of[mine], target[mine], np.tile(overall, (len(tasks), 1)), self.prior_strength)
            out = _shrunk(rows[mine], target[mine], by_task[parent], self.prior_strength)
            if not rows.any():
                out[:] = overall
            return np.asarray(out - overall)

        out_of_fold = np.zeros_like(target)
        for held in range(_FOLDS):
            out_of_fold[fold == held] = means(fold != held)[rows[fold == held]]
        return means(np.ones(len(rows), dtype=np.bool_)), out_of_fold


def _orthogonal(size: int, count: int, rng: np.random.Generator) -> Float:
    """Draw ``count`` normal vectors ``[size, count]``, orthogonal in blocks (Yu et al., 2016): less variance."""
    blocks = []
    for _ in range(-(-count // size)):
        basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
        blocks.append(basis * np.linalg.norm(rng.standard_normal((size, size)), axis=0))
    return np.concatenate(blocks, axis=1)[:, :count]


def _mean_gap(examples: Examples, chosen: NDArray[np.bool_]) -> Float:
    """Average the gap of every tier ``[K]`` over its chosen answers; 0 where none is chosen."""
    gap = examples.quality[:, -1:] - examples.quality
    return np.asarray((gap * chosen).sum(axis=0) / np.maximum(1, chosen.sum(axis=0)))


def _shrunk(rows: NDArray[np.intp], target: Float, toward: Float, strength: float) -> Float:
    """Return group means ``[groups, m]``, each with ``strength`` pseudo-observations of ``toward``."""
    count = np.bincount(rows, minlength=len(toward)).astype(np.float64)[:, None]
    total = np.zeros_like(toward)
    np.add.at(total, rows, target)
    return np.asarray((total + strength * toward) / (count + strength))


def label_levels(examples: Examples) -> tuple[list[tuple[str, str]], list[NDArray[np.intp]]]:
    """Labels in sorted order, and per level of masking the label row of every query.

    Level 0 masks everything, the next names the task, the last names the subtask where there is one.
    A level that tells nothing apart is left out.
    """
    pairs = set(zip(examples.task, examples.subtask, strict=True))
    several_tasks, several_pairs = len(set(examples.task)) > 1, len(pairs) > 1
    named = {(task, "") for task, _ in pairs} if several_tasks else set()
    labels = sorted(named | pairs if several_pairs else named)
    row = {label: i for i, label in enumerate(labels, start=1)}
    levels = [np.zeros(len(examples), dtype=np.intp)]
    if several_tasks:
        levels.append(np.array([row[task, ""] for task in examples.task], dtype=np.intp))
    if several_pairs and any(examples.subtask):
        levels.append(np.array([row[pair] for pair in zip(examples.task, examples.subtask, strict=True)]))
    return labels, levels


def _folds(texts: list[str], rng: np.random.Generator) -> NDArray[np.intp]:
    """Fold of every query; equal texts share one, unless there are too few different texts."""
    first: dict[str, int] = {}
    group = np.array([first.setdefault(text, len(first)) for text in texts])
    if len(first) < 2 * _FOLDS:
        return np.asarray(rng.permutation(len(texts)) % _FOLDS, dtype=np.intp)
    return np.asarray((rng.permutation(len(first)) % _FOLDS)[group], dtype=np.intp)


def vocabulary_of(features: list[TextFeatures]) -> Vocabulary:
    """Keep features found in two or more texts but not in nearly all (the template).

    The weights of word pairs shrink below ``_PAIR_TEXTS`` texts: with few of them pairs are mostly noise (by
    cross-validation, mean AUC on six small files .582 at full weight, .598 at .3 to .5; MMLU needs pairs).
    """
    count = np.zeros(2 * BUCKETS, dtype=np.int64)
    single = np.zeros(2 * BUCKETS, dtype=np.bool_)
    single[BUCKETS:] = True
    for one in features:
        count[np.unique(one.words)] += 1
        count[np.unique(one.characters)] += 1
        single[one.words[: len(one.word_hash)]] = True
    weight = np.log(len(features) / np.maximum(count, 1))
    kept = np.flatnonzero((count >= 2) & (weight > _TEMPLATE))
    if len(kept) > _MAX_FEATURES:
        kept = np.sort(kept[np.argsort(-count[kept], kind="stable")[:_MAX_FEATURES]])
    weight *= np.where(single, 1.0, min(1.0, max(0.2, len(features) / _PAIR_TEXTS)))
    return Vocabulary(kept.astype(np.int32), weight[kept].astype(np.float32))


def _read_texts(texts: list[str], seed: int) -> tuple[TextSpace, Any, Float]:
    """Build the text space, the sparse matrix ``[n, F]`` and the dense matrix ``[n, d + s]``."""
    from scipy.sparse import csr_matrix

    features = [text_features(text) for text in texts]
    vocabulary = vocabulary_of(features)
    vectors = [vocabulary.vector(one) for one in features]
    lengths = np.array([0, *(len(rows) for rows, _, _ in vectors)])
    sparse = csr_matrix(
        (
            np.concatenate([values for _, values, _ in vectors]),
            np.concatenate([rows for rows, _, _ in vectors]),
            np.cumsum(lengths),
        ),
        shape=(len(texts), vocabulary.size),
    )
    topics = _topics(sparse[:, : vocabulary.words], seed)
    statistics = np.array([one.statistics for one in features])
    scale = statistics.std(axis=0)
    scale[scale < 1e-9] = 1.0
    space = TextSpace(vocabulary, topics, statistics.mean(axis=0), scale)
    dense = np.array([space.dense(one, *vector) for one, vector in zip(features, vectors, strict=True)])
    return space, sparse, dense


def _topics(matrix: Any, seed: int) -> NDArray[np.float16]:
    """Right singular vectors ``[W, d]`` of the word matrix; unused dimensions are zero."""
    from sklearn.decomposition import TruncatedSVD

    out = np.zeros((matrix.shape[1], _TOPICS))
    size = min(_TOPICS, min(matrix.shape) - 1)
    if size > 0:
        out[:, :size] = TruncatedSVD(size, n_iter=3, random_state=seed).fit(matrix).components_.T
    return out.astype(np.float16)
