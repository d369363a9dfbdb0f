"""Vectors into groups, and the words that set a group apart: the arithmetic of the failure clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_groups", "keywords", "principal_components"]

Floats = NDArray[np.float64]

_LONGEST_TEXT = 2000
_WORD = r"(?u)\b[^\W\d_]{2,}\b"


def principal_components(hidden: Floats, most: int, seed: int) -> Floats:
    """Places ``[n, k]`` on at most so many principal components; one of zeros where all vectors are the same."""
    from sklearn.decomposition import PCA

    if not np.ptp(hidden, axis=0).any():
        return np.zeros((len(hidden), 1))
    size = min(most, *hidden.shape)
    return np.asarray(PCA(size, svd_solver="full", random_state=seed).fit_transform(hidden), dtype=np.float64)


def best_groups(z: Floats, most: int, sampled: int, seed: int) -> tuple[NDArray[np.intp], float | None]:
    """Group of every place, and the silhouette; one group and None where no grouping has a positive one.

    Parameters
    ----------
    z
        Places, ``[n, k]``.
    most
        Groups, at most.
    sampled
        Places on which the silhouette is computed, at most.
    seed
        Fixes the sample and the starts of k-means.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    distinct = len(np.unique(z, axis=0))
    most = min(most, distinct - 1)
    sample = np.random.default_rng(seed).permutation(len(z))[:sampled]
    best, k = 0.0, 1
    for count in range(2, most + 1):
        label = KMeans(count, n_init=4, random_state=seed).fit_predict(z[sample])
        if len(np.unique(label)) < 2:
            continue
        score = float(silhouette_score(z[sample], label))
        if score > best:
            best, k = score, count
    if k == 1:
        return np.zeros(len(z), dtype=np.intp), None
    label = KMeans(k, n_init=4, random_state=seed).fit_predict(z)
    return np.asarray(np.unique(label, return_inverse=True)[1], dtype=np.intp), round(best, 4)


def keywords(texts: Sequence[str], label: NDArray[np.intp], most: int) -> list[tuple[str, ...]]:
    """Per group the words whose mean TF-IDF weight stands out most against the other groups."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    count = int(label.max()) + 1
    try:
        made = TfidfVectorizer(stop_words="english", token_pattern=_WORD, max_features=20_000)
        weight = made.fit_transform([text[:_LONGEST_TEXT] for text in texts])
    except ValueError:  # no text, or nothing but stop words
        return [() for _ in range(count)]
    names = made.get_feature_names_out()
    found = []
    for j in range(count):
        inside = np.asarray(weight[label == j].mean(axis=0)).ravel()
        outside = np.asarray(weight[label != j].mean(axis=0)).ravel() if count > 1 else np.zeros_like(inside)
        contrast = inside - outside
        order = np.argsort(-contrast, kind="stable")[:most]
        found.append(tuple(str(names[i]) for i in order.tolist() if contrast[i] > 0))
    return found
