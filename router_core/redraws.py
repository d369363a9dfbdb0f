"""Calib and test of one file as one population: redraws and re-splits with the score and the path frozen on train.

Re-splits of one pool are dependent and their test halves noisy, so coverage is checked on redraws with replacement, for
which the pool is the population and the deployed policy's risk is exact. Source: METHOD.md 2.11.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_core.bundle import Bundle
from router_core.certificate import certify_path
from router_core.errors import InputError
from router_core.evaluation import candidate_of
from router_core.fitting.certify import BASELINES, baseline_table, path_outcome, scope_table
from router_core.fitting.tables import bad_answers
from router_core.kernels import bad_served
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.records import Records
from router_core.splits import prepare

__all__ = ["POLICIES", "Pool", "coverage", "pool_of", "replayed", "salted"]

POLICIES = (CASCADE, ROUTE_ONLY, *BASELINES)


@dataclass(frozen=True, eq=False)
class Pool:
    """One item per group of calib + test, and what every path does on it.

    Attributes
    ----------
    ids
        Query ids.
    calib
        How many items the file's own calib has.
    bad, cost
        Per policy, uint8 and float64 [G, n].
    step_cost
        Per policy, float64 [G], on tune.
    reference, oracle
        float64 [n], US dollars.
    """

    ids: list[str]
    calib: int
    bad: dict[str, NDArray[np.uint8]]
    cost: dict[str, NDArray[np.float64]]
    step_cost: dict[str, NDArray[np.float64]]
    reference: NDArray[np.float64]
    oracle: NDArray[np.float64]


def pool_of(bundle: Bundle, records: Records, scope: str) -> Pool:
    """Score calib + test of one scope with a fitted bundle.

    Raises
    ------
    InputError
        When the records have no rows of the scope.
    """
    prepared, _ = prepare(records).complete(bundle.portfolio.names)
    settled, candidate = prepared.records, candidate_of(bundle)
    bad = bad_answers(settled, candidate.tolerance)
    both = np.concatenate([prepared.calib_all, prepared.test])
    _, first = np.unique(prepared.group_id[both], return_index=True)
    rows, table = scope_table(candidate, settled, np.sort(both[first]), scope, bad)
    if table is None:
        msg = f"{settled.source}: no calib or test rows of scope {scope!r}; give records of its task"
        raise InputError(msg)
    view = next(view for view in bundle.scopes.views if view.scope == scope)
    hidden = np.stack([bundle.scorer.encoder.embed(settled.prompt[i]) for i in rows.tolist()])
    wrong, cost, steps = {}, {}, {}
    for name in POLICIES:
        mine = baseline_table(name, table, candidate.baselines, view.models, hidden) if name in BASELINES else table
        served, cost[name] = mine.replay(bundle.policies[scope, name])
        wrong[name], steps[name] = bad_served(served, table.bad), candidate.step_cost[scope, name]
    oracle = np.where(table.bad > 0, np.inf, table.cost).min(axis=1)
    return Pool(
        [settled.query_id[i] for i in rows.tolist()],
        bundle.certificates[scope, CASCADE].n,
        wrong,
        cost,
        steps,
        table.cost[:, -1],
        oracle,
    )


def salted(pool: Pool, alpha: float, delta: float, salts: int = 20) -> dict[str, NDArray[np.float64]]:
    """Certified cost ratio of every policy on the held-out part, one entry per salt (METHOD.md 2.11)."""
    found: dict[str, list[float]] = {name: [] for name in (*POLICIES, "oracle")}
    for salt in range(salts):
        order = np.argsort([hashlib.sha256(f"routenlp-salt-{salt}|{i}".encode()).hexdigest() for i in pool.ids])
        calib, test = order[: pool.calib], order[pool.calib :]
        dear = pool.reference[test].sum()
        for name in POLICIES:
            step = certify_path(pool.bad[name][:, calib], pool.step_cost[name], alpha, delta).step
            found[name].append(float(pool.cost[name][step, test].sum() / dear))
        found["oracle"].append(float(pool.oracle[test].sum() / dear))
    return {name: np.asarray(values) for name, values in found.items()}


def coverage(pool: Pool, name: str, alpha: float, delta: float, draws: int = 2_000, seed: int = 0) -> tuple[int, int]:
    """Violations among redraws of calib from the pool, and the limit they must not exceed (METHOD.md 2.11).

    The pool is the population, so the deployed policy's risk over it is exact.
    """
    from scipy.stats import binom

    bad, steps = pool.bad[name], pool.step_cost[name]
    risk, rng, n = bad.mean(axis=1), np.random.default_rng(seed), len(pool.ids)
    violations = 0
    for _ in range(draws):
        rows = rng.integers(0, n, size=pool.calib)
        violations += bool(risk[certify_path(bad[:, rows], steps, alpha, delta).step] > alpha)
    return violations, int(binom.isf(1e-4, draws, delta))


def replayed(bundle: Bundle, records: Records) -> bool:
    """Whether the certificates in the bundle come out again from its calib rows."""
    prepared, _ = prepare(records).complete(bundle.portfolio.names)
    candidate = candidate_of(bundle)
    bad = bad_answers(prepared.records, candidate.tolerance)
    for view in bundle.scopes.views:
        _, table = scope_table(candidate, prepared.records, prepared.calib, view.scope, bad)
        for name in (CASCADE, ROUTE_ONLY):
            shown = bundle.certificates[view.scope, name]
            path, steps = bundle.policies[view.scope, name], candidate.step_cost[view.scope, name]
            if table is None:
                return False
            again = path_outcome(table, path, steps, shown.alpha, shown.delta)
            if (again.step, again.bad_count if again.step else 0) != (shown.step, shown.bad):
                return False
    return True
