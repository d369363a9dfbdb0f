"""Calib and test of one file as one population: redraws and re-splits with the score and the path frozen on train.

Re-splits of one pool are dependent and their test halves noisy, so coverage is checked on redraws with replacement, for
which the pool is the population and the deployed policy's risk is exact. Source: METHOD.md 2.11.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.fitting.certify import in_betting_order, path_outcome
from router_core.fitting.frozen import candidate_of, policy_table, scope_table
from router_core.fitting.rivals import BASELINES
from router_core.fitting.tables import bad_answers, scope_rows
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.records import Records
from router_core.risks import Plan, Served, certify_served, violates
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
    served, cost
        Per policy, what every step serves, and float64 [G, n].
    plan
        Per policy, what its test fixed beforehand.
    risk
        Kind of risk the paths were laid for.
    reference, oracle
        float64 [n], US dollars.
    """

    ids: list[str]
    calib: int
    served: dict[str, Served]
    cost: dict[str, NDArray[np.float64]]
    plan: dict[str, Plan]
    risk: str
    reference: NDArray[np.float64]
    oracle: NDArray[np.float64]

    @property
    def bad(self) -> dict[str, NDArray[np.uint8]]:
        """Per policy, B of the answer each step serves, uint8 [G, n]."""
        return {name: served.bad for name, served in self.served.items()}


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
    does, cost, plans = {}, {}, {}
    for name in POLICIES:
        if (scope, name) not in candidate.policies:
            continue
        mine = policy_table(name, table, candidate.baselines, view.models, hidden)
        does[name], cost[name] = mine.outcomes(bundle.policies[scope, name])
        plans[name] = candidate.plans[scope, name]
    oracle = np.where(table.bad > 0, np.inf, table.cost).min(axis=1)
    return Pool(
        [settled.query_id[i] for i in rows.tolist()],
        bundle.certificates[scope, CASCADE].n,
        does,
        cost,
        plans,
        candidate.risk,
        table.cost[:, -1],
        oracle,
    )


def salted(pool: Pool, alpha: float, delta: float, salts: int = 20) -> dict[str, NDArray[np.float64]]:
    """Certified cost ratio of every policy on the held-out part, one entry per salt (METHOD.md 2.11)."""
    found: dict[str, list[float]] = {name: [] for name in (*pool.served, "oracle")}
    for salt in range(salts):
        order = np.argsort([hashlib.sha256(f"routenlp-salt-{salt}|{i}".encode()).hexdigest() for i in pool.ids])
        calib, test = order[: pool.calib], order[pool.calib :]
        dear = pool.reference[test].sum()
        for name in pool.served:
            step = certify_served(pool.risk, pool.served[name].take(calib), pool.plan[name], alpha, delta).step
            found[name].append(float(pool.cost[name][step, test].sum() / dear))
        found["oracle"].append(float(pool.oracle[test].sum() / dear))
    return {name: np.asarray(values) for name, values in found.items()}


def coverage(pool: Pool, name: str, alpha: float, delta: float, draws: int = 2_000, seed: int = 0) -> tuple[int, int]:
    """Violations among redraws of calib from the pool, and the limit they must not exceed (METHOD.md 2.11).

    The pool is the population, so the deployed policy's risk over it is exact. A claim in expectation is checked on
    its own terms: each redraw also draws one query, and what is counted are bad cheap answers to these.
    """
    from scipy.stats import binom

    served, plan = pool.served[name], pool.plan[name]
    broken, rng, n = violates(pool.risk, served, alpha), np.random.default_rng(seed), len(pool.ids)
    violations = 0
    for _ in range(draws):
        rows = rng.integers(0, n, size=pool.calib)
        step = certify_served(pool.risk, served.take(rows), plan, alpha, delta).step
        violations += bool(served.bad[step, rng.integers(0, n)] if pool.risk == "expectation" else broken[step])
    return violations, int(binom.isf(1e-4, draws, alpha if pool.risk == "expectation" else delta))


def replayed(bundle: Bundle, records: Records) -> bool:
    """Whether the certificates in the bundle come out again from its calib rows."""
    prepared, _ = prepare(records).complete(bundle.portfolio.names)
    candidate = candidate_of(bundle)
    bad = bad_answers(prepared.records, candidate.tolerance)
    for view in bundle.scopes.views:
        mine = scope_rows(prepared.records, candidate.scopes, view.scope, prepared.calib)
        rows = in_betting_order(prepared.records, mine)
        _, table = scope_table(candidate, prepared.records, rows, view.scope, bad)
        for name in (CASCADE, ROUTE_ONLY):
            shown = bundle.certificates[view.scope, name]
            path, plan = bundle.policies[view.scope, name], candidate.plans[view.scope, name]
            if table is None:
                return False
            again = path_outcome(table, path, plan, candidate.risk, candidate.alpha, candidate.delta)
            if again.step != shown.step or (shown.bad is not None and (again.step and again.bad_count) != shown.bad):
                return False
    return True
