"""P16 and P17 in traffic as it is: audits fail, conversations and texts repeat, rates are lowered on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from router_core.alarms import Alarm
from router_core.audit_risk import Audited
from router_core.bundle import Bundle
from router_core.monitor import Watcher
from router_core.watch_stream import Stream

from .checks import holds, note

pytestmark = pytest.mark.statistical

STREAMS, RISK, DELTA = 200, 0.1, 0.1
Flags = NDArray[np.bool_]
Change = Callable[[Audited], Audited | None]


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    """Certified at a joint risk of .1 with delta .1."""
    found = Bundle.load(small_bundle)
    shown = found.certificates["mood", "cascade"]
    assert (shown.alpha, shown.delta, shown.risk) == (RISK, DELTA, "joint")
    return found


def listed(
    bundle: Bundle, cheap: Flags, bad: Flags, failed: Flags, groups: list[tuple[str, ...]], rate: float
) -> list[Audited]:
    """These queries as audits of one rate."""
    fixed = (1e9, "mood", "mood", "cascade", bundle.id)
    return [
        Audited(
            *fixed, "small" if cheap[i] else "large", bool(cheap[i]), bool(bad[i] & ~failed[i]), rate, str(i),
            groups[i], "x" if failed[i] else "",
        )
        for i in range(len(cheap))
    ]  # fmt: skip


def watched(bundle: Bundle, streams: Iterator[list[Audited]], change: Change = lambda audit: audit) -> list[Stream]:
    """What the watch, or a mutant that changes what it is told, makes of each stream."""
    found = []
    for audits in streams:
        watcher = Watcher(bundle)
        watcher.read(told for audit in audits if (told := change(audit)) is not None)
        found.append(watcher.streams["mood", "cascade"])
    return found


def raised(streams: list[Stream]) -> int:
    """How many alarms were raised."""
    return sum(stream.alarm.raised_at is not None for stream in streams)


def failing(bundle: Bundle, bad_fail: float, good_fail: float, seed: int) -> Iterator[list[Audited]]:
    """Streams at a joint risk of exactly alpha whose audits of bad and of good cheap answers fail so often."""
    rng, n = np.random.default_rng(seed), 1000
    for _ in range(STREAMS):
        cheap = rng.random(n) < 0.5
        bad = cheap & (rng.random(n) < 2 * RISK)
        failed = cheap & (rng.random(n) < np.where(bad, bad_fail, good_fail))
        yield listed(bundle, cheap, bad, failed, [()] * n, 0.1)


def left_out(audit: Audited) -> Audited | None:
    """Mutant: a failed audit was never there."""
    return None if audit.failed else audit


def test_p17_good_answers_whose_audits_fail(bundle: Bundle) -> None:
    """P17: when the audits of good answers fail, the alarm keeps its delta; leaving failed ones out breaks it."""
    assert holds("P17 failing", raised(watched(bundle, failing(bundle, 0.0, 0.6, 1710))), STREAMS, DELTA)
    mutant = raised(watched(bundle, failing(bundle, 0.0, 0.6, 1710), left_out))
    assert not holds("P17 failed ones left out", mutant, STREAMS, DELTA)


def test_p16_bad_answers_whose_audits_fail(bundle: Bundle) -> None:
    """P16: when the audits of bad answers fail, none is re-certified, the interval covers, and few are called fine."""

    def wrong(streams: list[Stream]) -> tuple[int, int]:
        again = sum(stream.again.raised_at is not None for stream in streams)
        joint = [stream.estimates(0.95)["joint"] for stream in streams]
        return again, sum(not one.low <= RISK <= one.high for one in joint)

    streams = watched(bundle, failing(bundle, 0.6, 0.0, 1610))
    again, missed = wrong(streams)
    assert holds("P16 failing: re-certified", again, STREAMS, DELTA)
    assert holds("P16 failing: interval", missed, STREAMS, 0.05)
    again, missed = wrong(watched(bundle, failing(bundle, 0.6, 0.0, 1610), left_out))
    assert not holds("P16 failed ones left out: re-certified", again, STREAMS, DELTA)
    assert not holds("P16 failed ones left out: interval", missed, STREAMS, 0.05)
    # At three times alpha, with 93 of 100 audits of cheap answers failing whatever they are.
    rng, unseen = np.random.default_rng(1611), 0
    for _ in range(50):
        cheap = rng.random(800) < 0.5
        bad, failed = cheap & (rng.random(800) < 0.6), cheap & (rng.random(800) < 0.93)
        watcher = Watcher(bundle)
        watcher.read(listed(bundle, cheap, bad, failed, [()] * 800, 0.1))
        unseen += any(verdict.verdict == "fine" for verdict in watcher.verdicts(1e9))
    assert unseen == 0


def repeating(bundle: Bundle, rate: float, group: str, seed: int) -> Iterator[list[Audited]]:
    """Streams of conversations, or of texts asked again and again, 20 queries each, all bad or all good."""
    rng, turns, conversations = np.random.default_rng(seed), 20, 75 if rate == 1.0 else 120
    for _ in range(STREAMS):
        bad = np.repeat(rng.random(conversations) < RISK, turns)
        names = np.repeat(np.arange(conversations), turns)
        order = rng.permutation(len(bad)) if group == "text" else np.arange(len(bad))
        kept = order[rng.random(len(bad)) < rate]
        yes = np.ones(len(kept), bool)
        yield listed(bundle, yes, bad[kept], ~yes, [(f"{group} {names[i]}",) for i in kept], rate)


@pytest.mark.parametrize(("rate", "group"), [(1.0, "conversation"), (0.5, "text")])
def test_p17_repeated_queries(bundle: Bundle, rate: float, group: str) -> None:
    """P17: one audit of a conversation or text counts and the alarm keeps its delta; counting all breaks it."""
    found = watched(bundle, repeating(bundle, rate, group, 1720))
    note(f"P17 {group}s at rate {rate:g}: {np.mean([len(stream.bad) for stream in found]):.0f} counted")
    assert holds("P17 one of each", raised(found), STREAMS, DELTA)
    mutant = raised(watched(bundle, repeating(bundle, rate, group, 1720), lambda audit: replace(audit, groups=())))
    assert not holds("P17 every turn", mutant, STREAMS, DELTA)


def test_p17_rates_lowered_by_who_has_seen_the_labels() -> None:
    """P17: rates are lowered when the evidence is weak; going on keeps delta, beginning anew each time does not."""
    rng, looks, often = np.random.default_rng(1730), 80, 50
    raised_once = dict.fromkeys(("goes on", "anew"), 0)
    for _ in range(STREAMS):
        losses = rng.random((looks, often)) < RISK
        for name in raised_once:
            alarm, rate = Alarm(RISK, 1.0, follows=True, delta=DELTA), 0.5
            for loss in losses:
                alarm = alarm.update(loss, np.full(often, rate))
                if alarm.raised_at is not None:
                    raised_once[name] += 1
                    break
                if alarm.now < np.log(0.5):
                    rate *= 0.8
                    if name == "anew":
                        alarm = Alarm(RISK, 1.0, follows=True, delta=DELTA)
    assert holds("P17 lowered rates", raised_once["goes on"], STREAMS, DELTA)
    assert not holds("P17 begun anew at each", raised_once["anew"], STREAMS, DELTA)
