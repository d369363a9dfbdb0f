"""How many audits the alarm and the restarted detector need, and how often they are wrong.

    python benchmarks/watch/run.py [--tables]

Audits with equal propensity of answers that are bad with probability `risk`, independently; the wealth and the
statistic are those of `router_core.alarms` with its own bets. "Never" counts runs without an alarm within the audits
that were simulated. The detector is started by a good period (risk .03) before the change.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import write_between
from router_core.alarms import ARL, bets_above, excess, log_detector, log_wealth

ALPHA, DELTA = 0.05, 0.1
RISKS = (0.05, 0.06, 0.07, 0.08, 0.10, 0.15)
RUNS, AUDITS, GOOD, BLOCK = 4_000, 8_000, 2_000, 500


def waits(risk: float, rng: np.random.Generator, *, restarted: bool) -> NDArray[np.float64]:
    """Audits until the alarm, of the detector after the change; infinite where none came."""
    bets, found = bets_above(ALPHA), []
    for _ in range(RUNS // BLOCK):
        bad = rng.random((BLOCK, AUDITS)) < risk
        if restarted:
            bad = np.concatenate((rng.random((BLOCK, GOOD)) < 0.03, bad), axis=1)
        z = excess(bad, np.ones(bad.shape), ALPHA, 1.0)
        path = (log_detector if restarted else log_wealth)(z, bets)[0]
        level = np.log(ARL) if restarted else -np.log(DELTA)
        hit = path[:, GOOD:] >= level if restarted else path >= level
        found.append(np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, np.inf))
    return np.concatenate(found)


def row(risk: float, rng: np.random.Generator) -> str:
    """One line of the table."""
    cells = []
    for restarted in (False, True):
        found = waits(risk, rng, restarted=restarted)
        low, middle, high = np.quantile(found, (0.1, 0.5, 0.9), method="nearest")
        mean = f"{found.mean():.0f}" if np.isfinite(found).all() else "-"
        shown = " / ".join(f"{one:.0f}" if np.isfinite(one) else "-" for one in (low, middle, high))
        cells += [mean, shown, f"{np.isinf(found).mean():.3f}"]
    return f"| {risk:.2f} | {' | '.join(cells)} |"


def main() -> None:
    """Simulate, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="rewrite the table in the README")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    head = "| risk | alarm: mean | 10 / 50 / 90 % | never | detector: mean | 10 / 50 / 90 % | never |"
    lines = [head, "| --- " * 7 + "|", *(row(risk, rng) for risk in RISKS)]
    print("\n".join(lines))
    if args.tables:
        write_between(Path(__file__).with_name("README.md"), "\n".join(lines))


if __name__ == "__main__":
    main()
