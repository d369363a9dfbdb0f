"""Batch kernels: Mondrian p-values of many answers, and a policy path swept over logged answers.

Each kernel exists twice, compiled by numba and in plain numpy, equal bit for bit. numba compiles on first use
(serial, releasing the GIL, cached on disk, and never with fastmath, which assumes there are no infinities or
NaN while thresholds are often ``+inf``). Nothing here lies on the way of a single query.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from router_core.errors import InputError, MissingExtraError

__all__ = ["Engine", "bad_served", "mondrian_p_values", "numba_available", "sweep"]

Engine = Literal["auto", "numba", "numpy"]
Floats = NDArray[np.float64]


@cache
def numba_available() -> bool:
    """Whether numba can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def mondrian_p_values(
    values: Floats,
    offsets: NDArray[np.int64],
    bins: NDArray[np.int64],
    scores: Floats,
    *,
    engine: Engine = "auto",
) -> Floats:
    """Unsmoothed conformal p-values of many scores, each within its own bin.

    Parameters
    ----------
    values, offsets
        Calibration scores of all bins, ascending within each bin, and the [bins + 1] places where bins start
        and end (`BadPValues.pack`).
    bins
        Bin of each score: int64 [n, K], or [n] for one bin a row; -1 for a bin never seen.
    scores
        Nonconformity scores, float64 [n, K].
    engine
        ``"auto"`` takes numba when it is installed.

    Returns
    -------
    numpy.ndarray
        float64 [n, K]: ``(#{cal >= score} + 1) / (q + 1)``, equal to crepes with ``smoothing=False``; 1 for
        an unseen bin and, unlike crepes, for a NaN score (an unknown score must not look safe).

    Raises
    ------
    InputError
        When shapes disagree or a bin number is out of range.
    """
    scores = np.ascontiguousarray(scores, dtype=np.float64)
    bins = np.asarray(bins, dtype=np.int64)
    if scores.ndim != 2 or bins.shape not in (scores.shape, scores.shape[:1]):
        raise InputError(f"scores {scores.shape} and bins {bins.shape} disagree; give [n, K] and [n, K] or [n].")
    if bins.ndim == 1:
        bins = np.repeat(bins[:, None], scores.shape[1], axis=1)
    values = np.ascontiguousarray(values, dtype=np.float64)
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    if bins.size and (bins.min() < -1 or bins.max() >= len(offsets) - 1):
        raise InputError(f"Bin numbers must lie in -1..{len(offsets) - 2}; found {bins.min()}..{bins.max()}.")
    out = np.ones(scores.shape)
    if _use_numba(engine):
        _compiled_p_values()(values, offsets, np.ascontiguousarray(bins), scores, out)
    else:
        _p_values_numpy(values, offsets, bins, scores, out)
    return out


def sweep(
    start_score: Floats,
    accept_score: Floats,
    start_thr: Floats,
    accept_thr: Floats,
    cost: Floats,
    failed: NDArray[np.bool_] | None = None,
    *,
    engine: Engine = "auto",
) -> tuple[NDArray[np.int8], Floats]:
    """Replay every step of a policy path on logged answers, charging every tier that is called.

    At step g, query i starts at the first tier s with ``start_score[i, s] >= start_thr[g, s]``, else at the
    reference. From s upward each tier j is paid; a cheap tier with ``accept_score[i, s, j] >= accept_thr[g,
    j]`` is served, else the next one is asked. A tier whose two thresholds are both ``+inf`` is dropped:
    neither called nor paid. A tier whose answer failed is paid, and the query goes straight to the reference.
    The reference tier always serves. NaN scores never clear a threshold.

    Parameters
    ----------
    start_score
        float64 [n, K-1], higher is better.
    accept_score
        float64 [n, K-1, K-1]; axis 1 is the start tier, axis 2 the tier that answered; read where
        ``j >= s``.
    start_thr, accept_thr
        float64 [G, K-1].
    cost
        float64 [n, K], US dollars of calling each tier.
    failed
        bool [n, K-1], answers that serving takes for a failure; none when None.
    engine
        ``"auto"`` takes numba when it is installed.

    Returns
    -------
    served : numpy.ndarray
        int8 [G, n], index of the tier that serves.
    total : numpy.ndarray
        float64 [G, n], US dollars of all calls, added in cascade order.

    Raises
    ------
    InputError
        When shapes disagree, a threshold is NaN, or a score is ``+inf`` (it would clear the threshold of a
        step that promises the reference).
    """
    start_score, accept_score, start_thr, accept_thr, cost = (
        np.ascontiguousarray(array, dtype=np.float64)
        for array in (start_score, accept_score, start_thr, accept_thr, cost)
    )
    _check_sweep(start_score, accept_score, start_thr, accept_thr, cost)
    broken = np.zeros(start_score.shape, np.uint8) if failed is None else np.ascontiguousarray(failed, np.uint8)
    if broken.shape != start_score.shape:
        raise InputError(f"failed has shape {broken.shape}; {start_score.shape} fits the scores.")
    shape = (len(start_thr), len(cost))
    served = np.empty(shape, dtype=np.int8)
    total = np.empty(shape)
    run = _compiled_sweep() if _use_numba(engine) else _sweep_numpy
    run(start_score, accept_score, start_thr, accept_thr, cost, broken, served, total)
    return served, total


def bad_served(served: NDArray[np.int8], bad: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Whether each served answer is bad.

    Parameters
    ----------
    served
        int8 [G, n], from `sweep`.
    bad
        uint8 [n, K], B of every tier's answer; 0 for the reference tier.

    Returns
    -------
    numpy.ndarray
        uint8 [G, n], the input of `router_core.certificate.certify_path`.
    """
    return np.asarray(bad, dtype=np.uint8)[np.arange(served.shape[1]), served]


def _use_numba(engine: Engine) -> bool:
    """Resolve the engine; asking for numba by name without having it is an error."""
    if engine == "numba" and not numba_available():
        raise MissingExtraError("fit", "run the numba kernels")
    return engine != "numpy" and numba_available()


def _check_sweep(
    start_score: Floats, accept_score: Floats, start_thr: Floats, accept_thr: Floats, cost: Floats
) -> None:
    """Refuse arrays of other shapes than `sweep` documents, NaN thresholds and +inf scores."""
    if cost.ndim != 2 or not 1 <= cost.shape[1] <= 127:
        raise InputError(f"cost has shape {cost.shape}; give [n, K] with 1 to 127 tiers.")
    n, cheap = cost.shape[0], cost.shape[1] - 1
    for name, array, expected in (
        ("start_score", start_score, (n, cheap)),
        ("accept_score", accept_score, (n, cheap, cheap)),
        ("start_thr", start_thr, (start_thr.shape[0], cheap)),
        ("accept_thr", accept_thr, (start_thr.shape[0], cheap)),
    ):
        if array.shape != expected:
            raise InputError(f"{name} has shape {array.shape}; {expected} fits the costs {cost.shape}.")
    if np.isnan(start_thr).any() or np.isnan(accept_thr).any():
        raise InputError("A threshold of the policy path is NaN; use +inf for a tier that is never taken.")
    rows, columns = np.triu_indices(cheap)
    if np.isposinf(start_score).any() or np.isposinf(accept_score[:, rows, columns]).any():
        raise InputError("A score of the policy path is +inf; scores must be finite, or NaN when unknown.")


def _p_values_numpy(
    values: Floats, offsets: NDArray[np.int64], bins: NDArray[np.int64], scores: Floats, out: Floats
) -> None:
    """One searchsorted per bin; `out` comes in filled with ones."""
    for b in np.unique(bins[bins >= 0]):
        cal = values[offsets[b] : offsets[b + 1]]
        here = (bins == b) & ~np.isnan(scores)
        out[here] = (len(cal) - np.searchsorted(cal, scores[here], side="left") + 1) / (len(cal) + 1)


def _p_values_loop(
    values: Floats, offsets: NDArray[np.int64], bins: NDArray[np.int64], scores: Floats, out: Floats
) -> None:
    """One bisection per score; compiled by numba, `out` comes in filled with ones."""
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            b = bins[i, j]
            a = scores[i, j]
            if b < 0 or np.isnan(a):
                continue
            end = offsets[b + 1]
            low = offsets[b]
            high = end
            while low < high:
                middle = (low + high) // 2
                if values[middle] < a:
                    low = middle + 1
                else:
                    high = middle
            out[i, j] = (end - low + 1) / (end - offsets[b] + 1)


def _sweep_numpy(
    start_score: Floats,
    accept_score: Floats,
    start_thr: Floats,
    accept_thr: Floats,
    cost: Floats,
    failed: NDArray[np.uint8],
    served: NDArray[np.int8],
    total: Floats,
) -> None:
    """One pass per step and tier over the queries that reach it."""
    n, tiers = cost.shape
    reference = tiers - 1
    for g in range(len(start_thr)):
        clears = np.column_stack((start_score >= start_thr[g], np.ones(n, dtype=bool)))
        start = clears.argmax(axis=1)
        waiting = np.ones(n, dtype=bool)
        total[g] = 0.0
        served[g] = reference
        for j in range(reference):
            if start_thr[g, j] == np.inf and accept_thr[g, j] == np.inf:
                continue
            here = np.flatnonzero(waiting & (start <= j))
            total[g, here] += cost[here, j]
            lost = failed[here, j] > 0
            start[here[lost]] = reference
            here = here[~lost]
            taken = here[accept_score[here, start[here], j] >= accept_thr[g, j]]
            served[g, taken] = j
            waiting[taken] = False
        total[g, waiting] += cost[waiting, reference]


def _sweep_loop(
    start_score: Floats,
    accept_score: Floats,
    start_thr: Floats,
    accept_thr: Floats,
    cost: Floats,
    failed: NDArray[np.uint8],
    served: NDArray[np.int8],
    total: Floats,
) -> None:
    """One cascade per step and query; compiled by numba."""
    n, tiers = cost.shape
    reference = tiers - 1
    for g in range(start_thr.shape[0]):
        for i in range(n):
            start = 0
            while start < reference and not start_score[i, start] >= start_thr[g, start]:
                start += 1
            paid = 0.0
            answer = reference
            for j in range(start, reference):
                if start_thr[g, j] == np.inf and accept_thr[g, j] == np.inf:
                    continue
                paid += cost[i, j]
                if failed[i, j]:
                    break
                if accept_score[i, start, j] >= accept_thr[g, j]:
                    answer = j
                    break
            if answer == reference:
                paid += cost[i, reference]
            served[g, i] = answer
            total[g, i] = paid


def _jit(loop: Callable[..., None], signature: Any) -> Callable[..., None]:
    """Compile for one signature now, from the disk cache where one can be written."""
    import numba

    options: dict[str, Any] = {"nogil": True, "fastmath": False, "parallel": False, "error_model": "numpy"}
    try:
        return numba.njit(signature, cache=True, **options)(loop)  # type: ignore[no-any-return]
    except RuntimeError:
        # numba finds no place it may write its cache to, as in a read-only container.
        return numba.njit(signature, **options)(loop)  # type: ignore[no-any-return]


@cache
def _compiled_p_values() -> Callable[..., None]:
    """Compile the p-value kernel once."""
    from numba import types

    floats1, ints1 = (types.Array(t, 1, "C", readonly=True) for t in (types.float64, types.int64))
    floats2, ints2 = (types.Array(t, 2, "C", readonly=True) for t in (types.float64, types.int64))
    out = types.Array(types.float64, 2, "C")
    return _jit(_p_values_loop, types.void(floats1, ints1, ints2, floats2, out))


@cache
def _compiled_sweep() -> Callable[..., None]:
    """Compile the path sweep once."""
    from numba import types

    floats2, floats3 = (types.Array(types.float64, d, "C", readonly=True) for d in (2, 3))
    failed = types.Array(types.uint8, 2, "C", readonly=True)
    served, total = (types.Array(t, 2, "C") for t in (types.int8, types.float64))
    return _jit(_sweep_loop, types.void(floats2, floats3, floats2, floats2, floats2, failed, served, total))
