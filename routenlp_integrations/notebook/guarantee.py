"""What rules for a threshold really do: thousands of calibration sets from a population whose risks are known.

Each rule gets a calibration set and returns how many steps of a fixed path it accepts; the population says what the
risk of that step is. The right rules are the package's own; the broken ones are written as they are found in the wild.
Source: METHOD.md, Part 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routenlp_integrations.notebook.population import REFERENCE, Population, path_bad_counts
from router_core.alarms import Alarm, Detector
from router_core.certificate import allowed_bad, crc_allowed, fixed_sequence, selective_p_values, walk
from router_core.show import Share, Table

__all__ = ["RULES", "Deployed", "Drift", "certified_share", "compare", "delays", "deploy", "drift", "false_finds"]

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]
_PATH = 200


@dataclass(frozen=True, eq=False)
class Calibration:
    """R calibration sets of n items: uncertainty and bad flag [R, n], bad and accepted items by step [R, G + 1]."""

    u: Floats
    is_bad: NDArray[np.bool_]
    bad: NDArray[np.int64]
    accepted: NDArray[np.int64]
    path: Floats

    @classmethod
    def draw(cls, population: Population, n: int, draws: int, seed: int) -> Calibration:
        """Draw them from a population, for a path of 200 thresholds that was fixed beforehand."""
        path = population.path(_PATH)
        u, is_bad = population.draw(np.random.default_rng(seed), draws, n)
        every = np.ones_like(is_bad)
        return cls(u, is_bad, path_bad_counts(u, is_bad, path), path_bad_counts(u, every, path), path)


def _correct_quantile(told: Calibration, alpha: float, _delta: float) -> Steps:
    """The 1 - alpha quantile of the scores of correct items: as often written, and about another thing altogether."""
    threshold = np.nanquantile(np.where(told.is_bad, np.nan, told.u), 1.0 - alpha, axis=1)
    return np.searchsorted(told.path, threshold, side="right").astype(np.int64)


def _plug_in(told: Calibration, alpha: float, _delta: float) -> Steps:
    """The largest threshold whose observed risk is at most alpha."""
    return _last(told.bad <= alpha * told.u.shape[1])


def _expectation(told: Calibration, alpha: float, _delta: float) -> Steps:
    """Conformal risk control: right on average over calibration sets, and not a promise about the one at hand."""
    return _last(told.bad <= crc_allowed(told.u.shape[1], alpha))


def _certified(told: Calibration, alpha: float, delta: float) -> Steps:
    """The certificate: an exact test along the path, stopped at its first failure."""
    n = told.u.shape[1]
    return np.asarray([walk(counts, n, alpha, delta) for counts in told.bad], np.int64)


def _last(passes: NDArray[np.bool_]) -> Steps:
    return np.asarray(np.logical_and.accumulate(passes, axis=1).sum(axis=1) - 1, np.int64)


RULES: dict[str, Callable[[Calibration, float, float], Steps]] = {
    "quantile of correct items": _correct_quantile,
    "plug-in: observed risk": _plug_in,
    "conformal risk control": _expectation,
    "certificate": _certified,
}
"""Rules by the name that pictures give them."""


@dataclass(frozen=True, eq=False)
class Deployed:
    """What one rule deployed, calibration set by calibration set.

    Attributes
    ----------
    rule
        Its name.
    alpha
        What it was asked for.
    joint, selective, share
        [R]: true joint risk, true selective risk (0 where nothing is served cheaply), share of cheap answers.
    """

    rule: str
    alpha: float
    joint: Floats
    selective: Floats
    share: Floats

    @property
    def broken(self) -> float:
        """How often the deployed threshold's joint risk exceeds alpha."""
        return float((self.joint > self.alpha).mean())


def deploy(
    rule: str,
    *,
    n: int = 500,
    draws: int = 1_000,
    alpha: float = 0.05,
    delta: float = 0.1,
    population: Population = REFERENCE,
    seed: int = 0,
) -> Deployed:
    """Give a rule of `RULES` many calibration sets of n items, and look up the true risks of what it deploys."""
    steps = RULES[rule](Calibration.draw(population, n, draws, seed), alpha, delta)
    return _risks_of(rule, alpha, steps, population)


def _risks_of(rule: str, alpha: float, steps: Steps, population: Population) -> Deployed:
    path = population.path(_PATH)
    joint = np.concatenate([[0.0], population.joint_risk(path)])
    share = np.concatenate([[0.0], population.acceptance(path)])
    selective = joint / np.maximum(share, 1e-300)
    return Deployed(rule, alpha, joint[steps], selective[steps], share[steps])


def compare(deployed: list[Deployed]) -> Table:
    """Rules side by side: the risks they deploy, and how often the joint risk exceeds alpha."""
    return Table(
        {
            "rule": one.rule,
            "mean joint risk": f"{100 * one.joint.mean():.1f} %",
            "mean selective risk": f"{100 * one.selective.mean():.1f} %",
            "cheap answers": f"{100 * one.share.mean():.0f} %",
            "deployed above alpha": Share(one.broken),
        }
        for one in deployed
    )


def false_finds(*, n: int = 500, draws: int = 1_000, alpha: float = 0.05, delta: float = 0.1, seed: int = 0) -> Table:
    """Certificates found where there is nothing to find: every threshold has a selective risk just above alpha."""
    flat = Population(floor=alpha + 0.0005, height=0.0)
    told = Calibration.draw(flat, n, draws, seed)
    p = selective_p_values(told.bad[:, 1:], told.accepted[:, 1:], alpha)
    # The order must not come from calib; here it runs from the threshold that accepts most to the strictest.
    walked = np.asarray([fixed_sequence(row[::-1], delta) > 0 for row in p])
    found = (p <= delta).any(axis=1)
    return Table(
        [
            {"rule": "best of 200 thresholds, each tested at delta", "false certificates": Share(found.mean())},
            {"rule": "fixed sequence, first failure ends it", "false certificates": Share(walked.mean())},
        ]
    )  # fmt: skip


def certified_share(
    sizes: tuple[int, ...] = (45, 100, 200, 500, 1_000, 2_000),
    *,
    draws: int = 300,
    alpha: float = 0.05,
    delta: float = 0.1,
) -> dict[int, tuple[Deployed, int]]:
    """What n buys: per number of calibration items what the certificate deploys, and the bad answers it allows."""
    return {
        n: (deploy("certificate", n=n, draws=draws, alpha=alpha, delta=delta, seed=n), allowed_bad(n, alpha, delta))
        for n in sizes
    }


@dataclass(frozen=True, eq=False)
class Drift:
    """A stream of audits of one deployed threshold, and what the watch made of it.

    Attributes
    ----------
    name
        What happened to the traffic.
    before, after
        True joint risk of the threshold before and after the change.
    at
        Audit at which the traffic changed.
    alarm, detector
        [audits], log10 of what stands against each bar.
    bars
        log10 of the two bars.
    raised
        Audit at which the first of them reached its bar, or None.
    """

    name: str
    before: float
    after: float
    at: int
    alarm: Floats
    detector: Floats
    bars: tuple[float, float]
    raised: int | None


def drift(
    name: str, threshold: float, after: Population, *, harder: bool = False, audits: int = 3_000, at: int = 1_000,
    alpha: float = 0.05, delta: float = 0.1, seed: int = 0,
) -> Drift:  # fmt: skip
    """Audit a threshold on the reference population, which becomes another one on the way.

    Parameters
    ----------
    name
        What happens, for the picture.
    threshold
        Cheap answers are served up to this uncertainty.
    after
        Population from audit `at` on.
    harder
        From then on queries are the more uncertain of two draws: a shift that the score sees.
    audits, at, alpha, delta, seed
        Length of the stream, the change, the levels of the alarm, and the seed of the draws.
    """
    rng = np.random.default_rng(seed)
    u, bad = REFERENCE.draw(rng, at)
    later, later_bad = _draw_later(after, rng, audits - at, harder=harder)
    losses = (np.concatenate([u, later]) <= threshold) & np.concatenate([bad, later_bad])
    sampled, sampled_bad = _draw_later(after, rng, 400_000, harder=harder)
    alarm, detector = Alarm(alpha, 1.0, delta=delta), Detector(alpha, 1.0)
    paths = [one.path(losses, np.ones(audits)) / np.log(10.0) for one in (alarm, detector)]
    bars = (float(np.log10(alarm.bar)), float(np.log10(detector.bar)))
    hits = [np.flatnonzero(path >= bar) for path, bar in zip(paths, bars, strict=True)]
    found = [int(hit[0]) + 1 for hit in hits if len(hit)]
    return Drift(
        name,
        float(REFERENCE.joint_risk(threshold)),
        float(((sampled <= threshold) & sampled_bad).mean()),
        at,
        paths[0],
        paths[1],
        bars,
        min(found, default=None),
    )


def delays(threshold: float, after: Population, *, streams: int = 40) -> Table:
    """How many audits after the change it is noticed, over streams drawn anew; those noticed before it are counted."""
    found = [drift("", threshold, after, seed=seed) for seed in range(streams)]
    heard = [one.raised - one.at for one in found if one.raised is not None and one.raised > one.at]
    first, middle, last = (round(float(np.quantile(heard, q))) for q in (0.1, 0.5, 0.9))
    early = sum(one.raised is not None and one.raised <= one.at for one in found)
    return Table(
        [
            {
                "streams": streams,
                "noticed after (10 %)": first,
                "middle": middle,
                "90 %": last,
                "false, before the change": early,
                "never": sum(one.raised is None for one in found),
            }
        ]
    )


def _draw_later(
    population: Population, rng: np.random.Generator, n: int, *, harder: bool
) -> tuple[Floats, NDArray[np.bool_]]:
    u, _ = population.draw(rng, 2, n)
    worse = u.max(axis=0) if harder else u[0]
    return worse, rng.random(n) < population.bad_probability(worse)
