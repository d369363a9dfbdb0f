"""The watch: audits counted once and in order, verdicts, lapses, and a state to go on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_core.alarms import Alarm
from router_core.audit_files import open_audits, read_audits
from router_core.audit_risk import Audited, betting_interval, estimate_risk, losses_of
from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.lapse import DAY_S, Validity
from router_core.monitor import Watcher, WatchSettings

Make = Callable[..., list[Audited]]


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    """Tasks "mood" and "sum", certified at a joint risk of .1."""
    return Bundle.load(small_bundle)


@pytest.fixture
def make(bundle: Bundle) -> Make:
    """Make audits of a scope: half of them served cheaply, of which a share is bad."""

    def made(n: int, risk: float, seed: int = 0, rates: Sequence[float] = (0.1,), **more: Any) -> list[Audited]:
        rng = np.random.default_rng(seed)
        cheap, p = rng.random(n) < 0.5, rng.choice(rates, n)
        bad = cheap & (rng.random(n) < 2 * risk)
        fields = {"task": "mood", "scope": "mood", "policy": "cascade", "bundle": bundle.id, **more}
        return [
            Audited(
                at=1e9 + i, tier="small" if cheap[i] else "large", cheap=bool(cheap[i]), bad=bool(bad[i]),
                propensity=float(p[i]), key=f"{seed}-{i}", **fields,
            )
            for i in range(n)
        ]  # fmt: skip

    return made


def _verdict(watcher: Watcher, now: float = 1e9, scope: str = "mood") -> Any:
    return next(v for v in watcher.verdicts(now) if (v.stream.shown.scope, v.stream.shown.policy) == (scope, "cascade"))


def test_all_is_fine(bundle: Bundle, make: Make) -> None:
    """Audits within the certified risk raise nothing, and the estimates are those of the audits."""
    watcher, audits = Watcher(bundle), make(400, 0.04)
    assert watcher.read(audits) == 400
    found = _verdict(watcher)
    assert found.verdict == "fine"
    assert found.decisions == pytest.approx(4000)
    joint, selective = found.estimates["joint"], found.estimates["selective"]
    assert joint.value == pytest.approx(sum(a.bad for a in audits) / 400)
    assert (selective.n, selective.bad) == (sum(a.cheap for a in audits), joint.bad)
    assert watcher.lapses(watcher.verdicts(1e9), 1e9) == []
    assert _verdict(watcher, scope="sum").verdict == "no audits"


def test_an_alarm_becomes_a_lapse(bundle: Bundle, make: Make) -> None:
    """Three times the certified risk raises the alarm; the lapse names the scope and the numbers."""
    watcher = Watcher(bundle)
    watcher.read(make(600, 0.3))
    (lapse,) = watcher.lapses(watcher.verdicts(5.0), 5.0)
    assert (lapse.scope, lapse.kind, lapse.at) == ("mood", "alarm", 5.0)
    assert "exceeds 0.1" in lapse.reason
    assert lapse.numbers["value"] >= lapse.numbers["bar"] == 10.0
    json.dumps(asdict(lapse), allow_nan=False)
    # It stays raised whatever comes after, until another bundle is in place.
    watcher.read(make(3000, 0.0, seed=1))
    assert _verdict(watcher).verdict == "alarm"


def test_a_shift_after_a_good_stretch(bundle: Bundle, make: Make) -> None:
    """What the sleeping alarm misses the detector sees."""
    watcher = Watcher(bundle, WatchSettings(arl=2000.0))
    watcher.read(make(2000, 0.02))
    watcher.read(make(400, 0.2, seed=1))
    found = _verdict(watcher)
    assert found.verdict == "shift"
    assert found.stream.alarm.raised_at is None
    assert found.stream.detector.raised_at > 2000
    assert "has come to exceed" in watcher.lapses([found], 1.0)[0].reason
    assert found.stream.again.raised_at is not None, "the good stretch was shown to be good"


def test_each_audit_is_counted_once(bundle: Bundle, make: Make) -> None:
    """Reading the same ledger again, or an audit told twice, adds nothing; what is new is added in order."""
    audits = make(300, 0.1)
    whole, pieces = Watcher(bundle), Watcher(bundle)
    assert whole.read([*audits, *audits[:50]]) == 300
    assert [pieces.read(audits[:end]) for end in (100, 100, 250, 300, 300)] == [100, 0, 150, 50, 0]
    one, other = _verdict(whole).stream, _verdict(pieces).stream
    assert other.alarm.now == pytest.approx(one.alarm.now)
    assert other.detector.now == pytest.approx(one.detector.now)
    assert np.array_equal(one.bad, other.bad)
    alarm, detector = one.paths()
    assert alarm[-1] == pytest.approx(one.alarm.now)
    assert detector.max() == pytest.approx(one.detector.peak)


def test_the_state_outlives_the_process(bundle: Bundle, make: Make) -> None:
    """Through JSON and back, with only new audits at hand, the evidence is that of one pass."""
    audits, settings = make(500, 0.15, rates=(0.05, 0.2)), WatchSettings(floor=0.05)
    whole, watcher = Watcher(bundle, settings), Watcher(bundle, settings)
    whole.read(audits)
    for at in range(0, 500, 125):
        watcher.read(audits[at : at + 125])
        watcher = Watcher.from_json(bundle, settings, json.loads(json.dumps(watcher.to_json(), allow_nan=False)))
    assert watcher.read(audits) == 0
    assert _verdict(watcher).stream.alarm.now == pytest.approx(_verdict(whole).stream.alarm.now)
    assert _verdict(watcher).to_json()["estimates"] == _verdict(whole).to_json()["estimates"]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"bundle": "x"}, WatchSettings(), "another bundle"),
        ({"schema": 9}, WatchSettings(), "another version"),
        ({}, WatchSettings(delta=0.01), "cannot change its levels"),
        ({}, WatchSettings(floor=0.01), "begun with the floor"),
        ({"streams": [{}]}, WatchSettings(), "damaged"),
        ({"seen": None}, WatchSettings(), "damaged"),
    ],
)
def test_a_state_that_does_not_fit(
    bundle: Bundle, make: Make, change: dict[str, Any], settings: WatchSettings, message: str
) -> None:
    """A state of another bundle or of other levels is refused, and so is a damaged one."""
    watcher = Watcher(bundle)
    watcher.read(make(10, 0.1))
    with pytest.raises(InputError, match=message):
        Watcher.from_json(bundle, settings, watcher.to_json() | change)


def test_what_is_left_out(bundle: Bundle, make: Make) -> None:
    """Audits of another bundle and of no certificate are counted as such, and nowhere else."""
    watcher = Watcher(bundle)
    strangers = [*make(5, 0.1, bundle="other"), *make(3, 0.1, seed=1, scope="poetry"), *make(2, 0.1, 2, policy="coin")]
    assert watcher.read(strangers) == 0
    assert watcher.ignored == {"of another bundle": 5, "of no certificate": 5}


def test_a_propensity_below_the_floor(bundle: Bundle, make: Make) -> None:
    """It is refused by name, and nothing of that reading is counted."""
    watcher = Watcher(bundle, WatchSettings(floor=0.1))
    watcher.read(make(50, 0.05))
    with pytest.raises(InputError, match=r"propensity 0\.01, below the floor 0\.1"):
        watcher.read([*make(5, 0.05, seed=1, scope="sum"), *make(5, 0.05, seed=2, rates=(0.01,))])
    assert _verdict(watcher, scope="sum").verdict == "no audits"
    assert watcher.read(make(5, 0.05, seed=1, scope="sum")) == 5


def test_a_rate_that_is_lowered(bundle: Bundle, make: Make) -> None:
    """Without a named floor the evidence goes on at the new weight, says so, and is the same read whole or in parts."""
    before, after = make(60, 0.05), make(60, 0.3, seed=1, rates=(0.02,))
    watcher, whole = Watcher(bundle), Watcher(bundle)
    watcher.read(before)
    assert _verdict(watcher).note == ""
    watcher = Watcher.from_json(bundle, WatchSettings(), json.loads(json.dumps(watcher.to_json())))
    watcher.read([*before, *after])
    whole.read([*before, *after])
    found = _verdict(watcher)
    assert (found.stream.alarm.floor, found.stream.lowered_at) == (0.02, 61)
    assert "smallest so far (0.02, first at audit 61)" in found.note
    assert found.stream.alarm.now == pytest.approx(_verdict(whole).stream.alarm.now)
    # Every weight is 1, as each rate was the smallest of its time; going back up costs weight.
    plain = Alarm(0.1, 1.0, delta=found.stream.alarm.delta).update(found.stream.bad, np.ones(120))
    assert found.stream.alarm.now == pytest.approx(plain.now)
    assert found.stream.paths()[0][-1] == pytest.approx(found.stream.alarm.now)
    whole.read(make(1, 0.0, seed=2, rates=(0.1,)))
    assert abs(_verdict(whole).stream.alarm.now - plain.now) < abs(plain.update([0.0], [1.0]).now - plain.now)


def _failing(audits: list[Audited], share: float, of: str = "cheap") -> list[Audited]:
    """The same audits, a share of those of cheap answers failed."""
    rng = np.random.default_rng(5)
    return [
        replace(a, bad=False, failed="large: TimeoutError") if getattr(a, of) and rng.random() < share else a
        for a in audits
    ]


@pytest.mark.parametrize("share", [0.93, 1.0])
def test_a_watch_whose_audits_fail_is_blind(bundle: Bundle, make: Make, share: float) -> None:
    """Most audits of bad answers fail: not fine, not re-certified, no lapse, and one sentence that counts them."""
    watcher = Watcher(bundle)
    watcher.read(_failing(make(800, 0.3), share))
    found = _verdict(watcher)
    joint, stream = found.estimates["joint"], found.stream
    assert found.verdict == "blind"
    assert watcher.lapses([found], 1.0) == []
    assert stream.again.raised_at is None
    assert joint.failed == stream.failed.sum() == stream.failures["large: TimeoutError"]
    assert joint.high > joint.worst > 0.1 > joint.low  # type: ignore[operator]
    assert (joint.value is None) == (share == 1.0)
    if joint.value is not None:
        assert joint.value == pytest.approx(0.3, abs=0.1), "the graded ones stand for the failed ones, undiluted"
    assert f"{joint.failed} of {stream.cheap.sum()} audits of cheap answers failed (large: TimeoutError: " in found.note
    again = Watcher.from_json(bundle, WatchSettings(), json.loads(json.dumps(watcher.to_json(), allow_nan=False)))
    assert _verdict(again).to_json() == found.to_json()


def test_audits_that_begin_to_fail(bundle: Bundle, make: Make) -> None:
    """After a long good stretch the watch goes blind long before the mean of all would show it, and sees again."""
    watcher = Watcher(bundle, WatchSettings(arl=2000.0))
    watcher.read(make(4000, 0.01))
    watcher.read(_failing(make(100, 0.3, seed=1), 1.0))
    found = _verdict(watcher)
    assert found.verdict == "blind"
    assert found.estimates["joint"].worst < 0.1  # type: ignore[operator]
    assert "would have come to exceed the 10 % certified" in found.note
    watcher.read(make(1000, 0.01, seed=2))
    assert _verdict(watcher).verdict == "fine"


def test_few_failed_audits_are_only_told(bundle: Bundle, make: Make) -> None:
    """What cannot matter does not blind; the upper limit counts it as bad, the lower one and the alarm as good."""
    audits = make(600, 0.03)
    plain, failing = Watcher(bundle), Watcher(bundle)
    plain.read(audits)
    failing.read(_failing(audits, 0.05))
    found, before = _verdict(failing), _verdict(plain)
    assert found.verdict == "fine"
    assert "the upper limit and the re-certification count them as bad" in found.note
    assert found.estimates["joint"].high > before.estimates["joint"].high
    assert found.estimates["joint"].low <= before.estimates["joint"].low
    assert found.stream.alarm.now <= before.stream.alarm.now
    assert found.stream.again.now < before.stream.again.now
    failing.read([replace(_failing(make(1, 0.0, seed=3, scope="sum"), 1.0)[0], cheap=True, failed="\x1b[31mx")])
    assert "([31mx: 1)" in _verdict(failing, scope="sum").note, "what a terminal would obey is not shown"
    with pytest.raises(InputError, match="only a cheap answer's can"):
        replace(next(a for a in audits if not a.cheap), failed="x")


def test_one_audit_of_a_conversation_or_text_counts(bundle: Bundle, make: Make) -> None:
    """The first; others are left out and counted, through a state too, and each certificate has its own."""
    audits = [
        replace(audit, groups=(f"conversation {i // 5}", f"text {i % 40}"))
        for i, audit in enumerate(make(100, 0.1))
    ]  # fmt: skip
    watcher = Watcher(bundle)
    assert watcher.read(audits[:60]) == 60
    # Of the first 40 the first of each conversation; all texts are known then.
    assert (len(_verdict(watcher).stream.bad), _verdict(watcher).stream.repeated) == (8, 52)
    watcher = Watcher.from_json(bundle, WatchSettings(), json.loads(json.dumps(watcher.to_json())))
    assert watcher.read(audits) == 40
    found = _verdict(watcher)
    assert (len(found.stream.bad), found.stream.repeated) == (8, 92)
    assert "92 audits of a conversation or text that was audited before were left out" in found.note
    assert found.decisions == pytest.approx(1000), "decisions are decisions all the same"
    assert found.to_json()["repeated"] == 92
    assert watcher.read([replace(a, scope="sum", key=f"s{a.key}") for a in audits]) == 100
    assert len(_verdict(watcher, scope="sum").stream.bad) == 8


def test_age_and_decisions(bundle: Bundle, make: Make) -> None:
    """Limits lapse through the watch too: age everything, decisions their scope, counted by 1 / propensity."""
    assert bundle.certified_at is not None
    old = Watcher(bundle, WatchSettings(validity=Validity(max_age_days=2)))
    assert {v.verdict for v in old.verdicts(bundle.certified_at + DAY_S)} == {"no audits"}
    late = bundle.certified_at + 3 * DAY_S
    assert {lapse.scope for lapse in old.lapses(old.verdicts(late), late)} == {None}
    busy = Watcher(bundle, WatchSettings(validity=Validity(max_decisions=900)))
    busy.read(make(80, 0.0))
    assert _verdict(busy).verdict == "fine"
    busy.read(make(20, 0.0, seed=1))
    (lapse,) = busy.lapses(busy.verdicts(1e9), 1e9)
    assert (lapse.scope, lapse.kind) == ("mood", "decisions")
    assert "about 1000 decisions" in lapse.reason


def test_selective_risk_is_about_cheap_answers(bundle: Bundle, make: Make) -> None:
    """A selective certificate is held to the bad share of what cheap tiers served; a joint one to all traffic."""
    audits, key = make(1000, 0.08), ("mood", "cascade")
    certificates = {**bundle.certificates, key: replace(bundle.certificates[key], risk="selective")}
    selective = Watcher(replace(bundle, certificates=certificates))
    joint = Watcher(bundle)
    for watcher in (selective, joint):
        watcher.read(audits)
    assert _verdict(joint).verdict == "fine"
    assert _verdict(selective).verdict == "alarm"
    assert _verdict(selective).stream.alarm.n == sum(a.cheap for a in audits)
    loss, _ = losses_of(audits, "selective")
    assert len(loss) == sum(a.cheap for a in audits)


def test_what_cannot_be_watched_is_said(bundle: Bundle, make: Make) -> None:
    """Retention needs qualities; a joint risk needs the traffic of the reference tier too."""
    watcher = Watcher(bundle)
    watcher.read([audit for audit in make(200, 0.05) if audit.cheap])
    assert "list them too" in _verdict(watcher).note
    key = ("mood", "cascade")
    kept = {**bundle.certificates, key: replace(bundle.certificates[key], risk="retention", bad=None, lower_bound=0.9)}
    found = _verdict(Watcher(replace(bundle, certificates=kept)))
    assert (found.verdict, "two qualities" in found.note) == ("not watched", True)


def test_intervals_hold_the_estimate(make: Make) -> None:
    """No audits, none bad, all bad, one audit: an interval inside [0, 1] around the estimate."""
    assert (estimate_risk([], []).value, estimate_risk([], []).low, estimate_risk([], []).high) == (None, 0.0, 1.0)
    for losses in ([0], [1], [0, 0, 0], [1, 1, 1], [0, 1, 0, 1]):
        for rates in ([0.5] * len(losses), np.linspace(0.1, 0.9, len(losses))):
            found = estimate_risk(losses, rates)
            assert found.value is not None
            assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    low, high = betting_interval(np.zeros((2, 0)), np.zeros((2, 0)))
    assert (low.tolist(), high.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_audits_are_read_from_lines(tmp_path: Path, make: Make) -> None:
    """What was written is read back, blank lines aside; a wrong line is named."""
    audits, path = make(3, 0.1), tmp_path / "audits.jsonl"
    path.write_text("\n\n".join(json.dumps(asdict(audit)) for audit in audits) + "\n")
    assert list(open_audits(str(path))) == audits
    with pytest.raises(InputError, match="no file of audits"):
        list(read_audits(tmp_path / "none"))
    with pytest.raises(InputError, match="no such database"):
        list(open_audits(f"sqlite:///{tmp_path / 'none.db'}"))
    good = asdict(audits[0])
    for change in (
        {"propensity": 0.0}, {"propensity": 1.5}, {"propensity": "x"}, {"cheap": 2}, {"scope": None}, {"task": 3},
        {"cheap": False, "bad": True}, {"more": 1}, {"groups": "c"}, {"groups": [1]}, {"failed": None},
    ):  # fmt: skip
        path.write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
        with pytest.raises(InputError, match=r"audits\.jsonl, line 2: "):
            list(read_audits(path))


@pytest.mark.parametrize(
    "settings",
    [
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": 1e-310},
        {"arl": 1.0},
        {"arl": float("inf")},
        {"floor": 0.0},
        {"floor": 2.0},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float]) -> None:
    """Levels outside (0, 1) are refused."""
    with pytest.raises(InputError):
        WatchSettings(**settings)
