"""Coverage on real records, done validly (METHOD.md 2.11): redraws of calib from a finite population.

Score and path are frozen on train; calib + test, one item per group, are the population, so the deployed policy's risk
over it is exact and a violation is a fact, not an estimate.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from router_core.fitting import fit
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.records import read_records
from router_core.redraws import Pool, coverage, pool_of, replayed

pytestmark = pytest.mark.statistical

FILES = {
    "finance_fomc": ("gpt-3.5-turbo", "gpt-4"),
    "finance_sentiment": ("llama-2-13b-chat", "gpt-3.5-turbo", "gpt-4"),
}
DELTA = 0.1


@pytest.fixture(scope="module", params=FILES)
def pool(request: pytest.FixtureRequest, shared: Path) -> Pool:
    """One fitted file, its certificates replayed, as a population."""
    records = read_records(shared / "routing" / f"{request.param}.parquet")
    bundle = fit(records, tiers=FILES[request.param])
    assert replayed(bundle, records)
    return pool_of(bundle, records, bundle.scopes.views[0].scope)


@pytest.mark.parametrize("alpha", [0.05, 0.1])
@pytest.mark.parametrize("policy", [CASCADE, ROUTE_ONLY])
def test_joint_certificate_holds(pool: Pool, policy: str, alpha: float) -> None:
    """P(joint risk of the deployed policy > alpha) <= delta over redraws of calib."""
    violations, limit = coverage(pool, policy, alpha, DELTA)
    assert violations <= limit


def test_plug_in_mutant_fails(pool: Pool) -> None:
    """The same check catches a rule that deploys the last step whose seen risk is at most alpha."""
    alpha = 0.05
    bad, rng = pool.bad[CASCADE], np.random.default_rng(0)
    risk, draws = bad.mean(axis=1), 2_000
    violations = 0
    for _ in range(draws):
        seen = bad[:, rng.integers(0, bad.shape[1], size=pool.calib)].mean(axis=1)
        violations += bool(risk[np.flatnonzero(seen <= alpha)[-1]] > alpha)
    assert violations > int(binom.isf(1e-4, draws, DELTA))
