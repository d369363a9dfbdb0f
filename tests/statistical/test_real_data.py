"""Coverage on real records, done validly (METHOD.md 2.11): redraws of calib from a finite population.

Score and path are frozen on train; calib + test, one item per group, are the population, so the deployed policy's risk
over it is exact and a violation is a fact, not an estimate.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom

from router_core.bundle import Bundle
from router_core.fitting import calibrate, fit
from router_core.fitting.rivals import BASELINES, RIVALS
from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.records import Records, read_records
from router_core.redraws import Pool, coverage, pool_of, replayed
from router_core.risks import violates

from .checks import note

pytestmark = pytest.mark.statistical

FILES = {
    "finance_fomc": ("gpt-3.5-turbo", "gpt-4"),
    "finance_sentiment": ("llama-2-13b-chat", "gpt-3.5-turbo", "gpt-4"),
}
DELTA = 0.1


OTHERS = ("selective", "retention", "expectation")


class Fitted(NamedTuple):
    """One file fitted for joint risk, and what it was fitted on."""

    bundle: Bundle
    records: Records


@pytest.fixture(scope="module", params=FILES)
def fitted(request: pytest.FixtureRequest, shared: Path) -> Fitted:
    """One fitted file, its certificates replayed."""
    records = read_records(shared / "routing" / f"{request.param}.parquet")
    bundle = fit(records, tiers=FILES[request.param])
    assert replayed(bundle, records)
    return Fitted(bundle, records)


@pytest.fixture(scope="module")
def pool(fitted: Fitted) -> Pool:
    """Calib and test of the file as a population."""
    return pool_of(*fitted, fitted.bundle.scopes.views[0].scope)


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, fitted: Fitted) -> Pool:
    """The same population under the paths of another risk, laid from the bundle's scores on tune."""
    again = calibrate(*fitted, risk=request.param)
    assert replayed(again, fitted.records)
    return pool_of(again, fitted.records, again.scopes.views[0].scope)


@pytest.mark.parametrize("policy", [CASCADE, ROUTE_ONLY])
def test_other_certificates_hold(other: Pool, policy: str) -> None:
    """Selective risk and retained quality break their bound in at most delta of redraws; CRC keeps the mean."""
    violations, limit = coverage(other, policy, 0.05, DELTA)
    note(f"{other.risk}, {policy}: {violations}/2000, limit {limit}")
    assert violations <= limit


def test_other_risks_have_mutants(fitted: Fitted, pool: Pool) -> None:
    """The same check catches the step whose seen risk, ratio or loss is just within alpha."""
    alpha, draws, rng = 0.05, 2_000, np.random.default_rng(1)
    served, limit = pool.served[CASCADE], int(binom.isf(1e-4, 2_000, DELTA))
    broken = {risk: violates(risk, served, alpha) for risk in ("selective", "retention")}
    over = dict.fromkeys(broken, 0)
    for _ in range(draws):
        seen = served.take(rng.integers(0, served.bad.shape[1], size=pool.calib))
        for risk, wrong in broken.items():
            over[risk] += bool(wrong[np.flatnonzero(~violates(risk, seen, alpha))[-1]])
    note(f"{fitted.records.source}: plug-in mutants {over}, limit {limit}")
    assert max(over.values()) > limit


@pytest.mark.parametrize("alpha", [0.05, 0.1])
@pytest.mark.parametrize("policy", [CASCADE, ROUTE_ONLY])
def test_joint_certificate_holds(pool: Pool, policy: str, alpha: float) -> None:
    """P(joint risk of the deployed policy > alpha) <= delta over redraws of calib."""
    violations, limit = coverage(pool, policy, alpha, DELTA)
    assert violations <= limit


@pytest.mark.parametrize("rival", BASELINES)
def test_certificates_of_rivals_hold(pool: Pool, rival: str) -> None:
    """Rivals go through the very same test, so what is shown of them holds as well."""
    violations, limit = coverage(pool, rival, 0.05, DELTA)
    note(f"{rival}: {violations}/2000, limit {limit}")
    assert violations <= limit


def test_rivals_that_choose_their_step_by_what_they_see_fail(pool: Pool) -> None:
    """Mutant: the last step of a rival's path whose seen risk is at most alpha breaks its bound."""
    alpha, draws, rng = 0.05, 2_000, np.random.default_rng(2)
    limit = int(binom.isf(1e-4, draws, DELTA))
    over = dict.fromkeys(RIVALS, 0)
    for rival in over:
        bad = pool.bad[rival]
        risk = bad.mean(axis=1)
        for _ in range(draws):
            seen = bad[:, rng.integers(0, bad.shape[1], size=pool.calib)].mean(axis=1)
            over[rival] += bool(risk[np.flatnonzero(seen <= alpha)[-1]] > alpha)
    note(f"plug-in rivals {over}, limit {limit}")
    assert max(over.values()) > limit


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
