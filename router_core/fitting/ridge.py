"""The ridge regressions of the static encoder: sparse, smooth out-of-fold, and the small stack on top."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["linear_stack", "smooth_ridge", "sparse_ridge", "stack"]

Float = NDArray[np.float64]


def sparse_ridge(matrix: Any, target: Float, penalty: float, iterations: int = 40) -> Float:
    """Minimise ``|X w - y|^2 + penalty |w|^2`` for all columns of ``y`` at once, by conjugate gradients."""
    weights = np.zeros((matrix.shape[1], target.shape[1]))
    transposed = matrix.T.tocsr()
    residual = transposed @ target
    direction = residual.copy()
    square = (residual * residual).sum(axis=0)
    stop = 1e-8 * square
    for _ in range(iterations):
        if (square <= stop).all():
            break
        image = transposed @ (matrix @ direction) + penalty * direction
        curvature = (direction * image).sum(axis=0)
        step = np.divide(square, curvature, out=np.zeros_like(square), where=curvature > 0.0)
        weights += step * direction
        residual -= step * image
        fresh = (residual * residual).sum(axis=0)
        direction = residual + np.divide(fresh, square, out=np.zeros_like(square), where=square > 0.0) * direction
        square = fresh
    return weights


def smooth_ridge(
    cosines: list[Float], target: Float, fold: NDArray[np.intp], penalty: float
) -> tuple[Float, list[Float]]:
    """Ridge weights ``[D, m]`` on all masked copies, and the out-of-fold scores of every copy."""
    centered = target - target.mean(axis=0)
    size, folds = cosines[0].shape[1], int(fold.max()) + 1
    gram, moment = np.zeros((folds, size, size)), np.zeros((folds, size, target.shape[1]))
    for held in range(folds):
        mine = fold == held
        for copy in cosines:
            gram[held] += copy[mine].T @ copy[mine]
            moment[held] += copy[mine].T @ centered[mine]
    ridge = penalty * np.eye(size)
    all_gram, all_moment = gram.sum(axis=0), moment.sum(axis=0)
    out = [np.zeros_like(target) for _ in cosines]
    for held in range(folds):
        mine = fold == held
        weights = np.linalg.solve(all_gram - gram[held] + ridge, all_moment - moment[held])
        for copy, scores in zip(cosines, out, strict=True):
            scores[mine] = copy[mine] @ weights
    return np.linalg.solve(all_gram + ridge, all_moment), out


def stack(columns: Float, target: Float, strength: float) -> tuple[Float, float]:
    """Fit ridge logistic weights of a few score columns, none negative, and an intercept.

    The penalty is that of ``strength`` pseudo-observations per standardised column. A column without spread
    gets 0, as does one whose weight would be negative: an out-of-fold score pointing the wrong way is noise.
    """
    center, spread = columns.mean(axis=0), columns.std(axis=0)
    used = spread > 1e-12
    weights = np.zeros(columns.shape[1])
    while True:
        design = np.column_stack(((columns[:, used] - center[used]) / spread[used], np.ones(len(target))))
        fitted = _logistic(design, target, np.diag([*np.full(int(used.sum()), strength), 1e-6]))
        negative = fitted[:-1] < 0.0
        if not negative.any():
            weights[used] = fitted[:-1] / spread[used]
            return weights, float(fitted[-1] - weights @ center)
        used[np.flatnonzero(used)[int(np.argmin(fitted[:-1]))]] = False


def linear_stack(columns: Float, target: Float, strength: float) -> tuple[Float, float]:
    """Fit ridge weights of a few score columns, none negative, and an intercept; otherwise as `stack`."""
    center, spread = columns.mean(axis=0), columns.std(axis=0)
    used = spread > 1e-12
    weights = np.zeros(columns.shape[1])
    while used.any():
        design = (columns[:, used] - center[used]) / spread[used]
        gram = design.T @ design + strength * np.eye(int(used.sum()))
        fitted = np.linalg.solve(gram, design.T @ (target - target.mean()))
        if (fitted >= 0.0).all():
            weights[used] = fitted / spread[used]
            break
        used[np.flatnonzero(used)[int(np.argmin(fitted))]] = False
    return weights, float(target.mean() - weights @ center)


def _logistic(design: Float, target: Float, penalty: Float) -> Float:
    """Ridge logistic regression of a target in [0, 1], by Newton's method.

    Half a success and half a failure are added, so that a tier that always passes keeps a finite logit.
    """
    softened = (target * len(target) + 0.5) / (len(target) + 1.0)
    weights = np.zeros(design.shape[1])
    weights[-1] = np.log(softened.mean() / (1.0 - softened.mean()))
    for _ in range(50):
        chance = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30.0, 30.0)))
        gradient = design.T @ (chance - softened) + penalty @ weights
        hessian = (design * (chance * (1.0 - chance) + 1e-9)[:, None]).T @ design + penalty
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-10:
            break
    return weights
