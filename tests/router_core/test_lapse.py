"""Lapses: the file beside the bundle, limits, changed models, and what running routers make of them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import router_core.lapse
from router_core import Cascade, Router
from router_core.bundle import Bundle
from router_core.errors import BundleError, InputError
from router_core.fingerprints import Fingerprints, fingerprint_changed
from router_core.lapse import DAY_S, Lapse, LapseWatch, Validity, lapse_file, read_lapses, write_lapses

TEXT = "Review 7 from the harbour: I love this lamp. Is the mood 'good' or 'bad'?"
ALARM = Lapse("mood", "alarm", "audits say so", 1e9, {"n": 10, "value": 12.5})


@pytest.fixture
def folder(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the small bundle, with room beside it."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of lapses, to be turned by hand."""
    now = [time.monotonic()]

    class Clock:
        monotonic = staticmethod(lambda: now[0])
        time = staticmethod(time.time)

    monkeypatch.setattr(router_core.lapse, "time", Clock)
    return now


def _served(router: Router, task: str | None) -> Any:
    tiers = dict.fromkeys(router.portfolio.names, lambda query: "The answer is good.")
    return Cascade(router, tiers).run(TEXT, task)


def test_an_alarm_reaches_a_running_router(folder: Path, clock: list[float]) -> None:
    """Within a second of the file the scope goes to the reference without a claim; taking the file away ends it."""
    router = Router.load(folder)
    before = _served(router, "mood")
    assert before.certificate is not None
    other = _served(router, "sum")
    assert write_lapses(folder, router.bundle_id, [ALARM]) == (ALARM,)
    assert _served(router, "mood").certificate is not None, "the file is looked at once a second"
    clock[0] += 1.1
    after = _served(router, "mood")
    assert (after.tier, after.certificate) == ("large", None)
    assert after.reason == "certificate lapsed: audits say so; sent to large"
    assert len(after.attempts) == 1
    assert _served(router, "sum").certificate == other.certificate
    decision = router.decide(TEXT, "mood")
    assert (decision.tier, decision.certificate, decision.scope) == ("large", None, "mood")
    forced = router.force(TEXT, "mood", "cascade", "large", "the tools need it")
    assert router.claim(forced) is None
    assert "certificate lapsed" in forced.reason
    lapse_file(folder).unlink()
    clock[0] += 1.1
    assert _served(router, "mood").certificate == before.certificate


def test_it_lies_beside_the_bundle(folder: Path, tmp_path: Path) -> None:
    """The bundle still loads: nothing was put into it, and nothing but the one file beside it."""
    write_lapses(folder, Bundle.load(folder).id, [ALARM])
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bundle", "bundle.lapse.json"]
    assert read_lapses(folder, Bundle.load(folder).id) == (ALARM,)
    told = json.loads((tmp_path / "bundle.lapse.json").read_text())
    assert told["lapses"][0]["bundle"] == Bundle.load(folder).id


def test_a_release_root_has_its_lapses_inside_the_release(folder: Path, tmp_path: Path, clock: list[float]) -> None:
    """A ROOT's lapse is that of its release: promoting another release leaves it behind."""
    root = tmp_path / "root"
    release = root / "releases" / "r1"
    release.mkdir(parents=True)
    shutil.copytree(folder, release / "bundle")
    (root / "current").write_text("r1")
    router = Router.load(root)
    write_lapses(release / "bundle", router.bundle_id, [ALARM])
    assert (release / "bundle.lapse.json").is_file()
    clock[0] += 1.1
    assert _served(router, "mood").certificate is None


def test_another_bundles_lapse_is_ignored(folder: Path) -> None:
    """Lapses name their bundle; one file holds those of several, and each reads its own."""
    write_lapses(folder, "f" * 64, [ALARM])
    router = Router.load(folder)
    assert _served(router, "mood").certificate is not None
    mine = Lapse(None, "shift", "everything moved", 2e9)
    write_lapses(folder, router.bundle_id, [mine])
    assert read_lapses(folder, "f" * 64) == (ALARM,)
    assert read_lapses(folder, router.bundle_id) == (mine,)
    fresh = Router.load(folder)
    assert _served(fresh, "mood").certificate is _served(fresh, None).certificate is None


def test_a_lapse_is_told_once(folder: Path) -> None:
    """The same scope and kind is written once, another kind is added."""
    assert write_lapses(folder, "x", [ALARM]) == (ALARM,)
    assert write_lapses(folder, "x", [Lapse("mood", "alarm", "again", 2e9)]) == ()
    shift = Lapse("mood", "shift", "of late", 2e9)
    assert write_lapses(folder, "x", [ALARM, shift]) == (shift,)
    assert read_lapses(folder, "x") == (ALARM, shift)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 2, "lapses": []}', b'{"schema": 1, "lapses": [{}]}',
     b'{"schema": 1, "lapses": [{"bundle": "x", "scope": 3, "kind": "", "reason": "", "at": 0, "numbers": {}}]}',
     b'{"schema": 1, "lapses": 7}', b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_a_lapse_of_everything(folder: Path, content: bytes) -> None:
    """Fail safe: what cannot be read may have said so; one warning, and nothing is written over it."""
    lapse_file(folder).write_bytes(content)
    with pytest.warns(UserWarning, match=r"damaged or newer.*every query goes to the reference tier"):
        router = Router.load(folder)
    for task in ("mood", "sum", None):
        route = _served(router, task)
        assert (route.tier, route.certificate) == ("large", None)
        assert "damaged" in route.reason
    with pytest.raises(BundleError, match="damaged"):
        write_lapses(folder, router.bundle_id, [ALARM])
    assert lapse_file(folder).read_bytes() == content


def test_a_damaged_file_warns_once_and_may_be_put_right(folder: Path, clock: list[float]) -> None:
    """It is read again every second, quietly."""
    lapse_file(folder).write_bytes(b"{")
    with pytest.warns(UserWarning, match="damaged"):
        router = Router.load(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clock[0] += 1.1
        assert _served(router, "mood").certificate is None
    lapse_file(folder).unlink()
    clock[0] += 1.1
    assert _served(router, "mood").certificate is not None


def test_a_folder_out_of_reach_changes_nothing(folder: Path, clock: list[float], monkeypatch: Any) -> None:
    """A file system that does not answer for a moment neither makes a lapse nor ends one."""
    write_lapses(folder, Bundle.load(folder).id, [ALARM])
    router = Router.load(folder)
    monkeypatch.setattr(Path, "stat", lambda self, **kwargs: (_ for _ in ()).throw(OSError(5, "input/output error")))
    clock[0] += 1.1
    assert router.lapses.why("mood") == "certificate lapsed: audits say so"
    assert router.lapses.why("sum") == ""


def test_written_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that dies before the rename leaves the old file and no remains."""
    write_lapses(folder, "x", [ALARM])
    before = lapse_file(folder).read_bytes()

    def fails(handle: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        write_lapses(folder, "x", [Lapse("sum", "alarm", "too", 1e9)])
    assert lapse_file(folder).read_bytes() == before
    assert sorted(item.name for item in folder.parent.iterdir()) == ["bundle", "bundle.lapse.json"]


def test_readers_never_see_half_a_file(folder: Path) -> None:
    """One thread writes a hundred lapses, another reads all the while: never damaged, never fewer than before."""
    stop, counts, errors = threading.Event(), [0], []

    def read() -> None:
        while not stop.is_set():
            try:
                counts.append(len(read_lapses(folder, "x")))
            except BundleError as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(100):
        write_lapses(folder, "x", [Lapse(f"scope {i}", "alarm", "so", 1e9)])
    stop.set()
    reader.join()
    assert errors == []
    assert counts == sorted(counts)
    assert len(read_lapses(folder, "x")) == 100


def test_age(folder: Path) -> None:
    """The manifest's date counts, without being part of the id; without a date a limit is taken as reached."""
    bundle = Bundle.load(folder)
    assert bundle.certified_at is not None
    limits = Validity(max_age_days=30)
    assert limits.too_old(bundle.certified_at, bundle.certified_at + 29 * DAY_S) == ""
    assert "31.0 days ago" in limits.too_old(bundle.certified_at, bundle.certified_at + 31 * DAY_S)
    assert "does not say" in limits.too_old(None, 0.0)
    assert Validity().too_old(None, 1e12) == ""
    assert _served(Router.load(folder, validity=limits), "mood").certificate is not None
    watch = LapseWatch(None, "x", limits, time.time() - 31 * DAY_S)
    assert "more than 30" in watch.why("mood")
    assert "more than 30" in LapseWatch(None, "x", limits, 0.0).why(None)


def test_copying_a_bundle_does_not_make_it_younger(folder: Path, tmp_path: Path) -> None:
    """The date is that of the first writing: a copy, and a bundle saved again, keep it."""
    bundle = Bundle.load(folder)
    assert bundle.save(tmp_path / "again").certified_at == bundle.certified_at
    assert bundle.id == Bundle.load(tmp_path / "again").id


def test_number_of_decisions(folder: Path) -> None:
    """After max_decisions under one certificate it lapses in this process, and the others go on."""
    router = Router.load(folder, validity=Validity(max_decisions=3))
    shown = [_served(router, "mood").certificate is not None for _ in range(5)]
    assert shown == [True, True, True, False, False]
    assert "3 decisions under the certificate of 'mood' (cascade)" in _served(router, "mood").reason
    assert _served(router, "sum").certificate is not None


def test_limits_from_the_settings_of_the_bundle(folder: Path) -> None:
    """A bundle may bring its own limits; the caller's win."""
    bundle = Bundle.load(folder)
    bundle.settings["max_decisions"] = 1  # type: ignore[index]
    assert [Router.from_bundle(bundle).lapses.count("mood", "cascade")] == [""]
    router = Router.from_bundle(bundle)
    assert [bool(router.lapses.count("mood", "cascade")) for _ in range(2)] == [False, True]
    free = Router.from_bundle(bundle, validity=Validity())
    assert not any(free.lapses.count("mood", "cascade") for _ in range(5))


@pytest.mark.parametrize("limits", [{"max_age_days": 0}, {"max_age_days": float("nan")}, {"max_decisions": 0}])
def test_limits_that_are_none(limits: dict[str, Any]) -> None:
    """A limit of nothing is refused."""
    with pytest.raises(InputError, match=r"above 0|at least 1"):
        Validity(**limits)


def test_unwatched(folder: Path) -> None:
    """`watch=False` looks at no file."""
    write_lapses(folder, Bundle.load(folder).id, [ALARM])
    assert _served(Router.load(folder, watch=False), "mood").certificate is not None


def test_a_copy_in_another_process_knows_it_too(folder: Path) -> None:
    """A pickled router watches on, and keeps what it saw itself."""
    router = Router.load(folder)
    router.saw("medium", "medium-2")
    write_lapses(folder, router.bundle_id, [ALARM])
    copy = pickle.loads(pickle.dumps(router))  # noqa: S301 - our own bytes
    assert _served(copy, "mood").reason.startswith("certificate lapsed")


@pytest.mark.parametrize(
    ("declared", "answered", "changed"),
    [
        ("small-1", "small-1", False),
        ("small-1", "small-2", True),
        ("small-1", None, False),
        ("small-1", "", False),
        ("small-1", "small-1-2026-01-02", False),
        ("small-1", "small-1-20260102", False),
        ("small-1", "small-1-0125", False),
        ("small-1", "small-1-001", False),
        ("small-1", "small-1-latest", False),
        ("small-1", "small-1-mini", True),
        ("small-1", "small-10", True),
        (None, "whatever", False),
        (None, "small-2026-01-02", False),
        (None, "medium", True),
        (None, "medium-1", True),
        (None, "medium-1-2026-01-02", True),
        (None, "large-latest", True),
        ("small-1", "large", True),
        ("a" * 64, "routenlp-student/small@aaaaaaaaaaaa", False),
        ("a" * 64, "routenlp-student/small@bbbbbbbbbbbb", True),
        ("engine@aaaaaaaaaaaa", "engine@aaaaaaaaaaaa", False),
        ("engine@aaaaaaaaaaaa", "engine@bbbbbbbbbbbb", True),
        ("engine@aaaaaaaaaaaa", "whatever", False),
        ("engine@aaaaaaaaaaaa", "medium-1", True),
        ("small-1", "engine@aaaaaaaaaaaa", False),
        (None, "engine@aaaaaaaaaaaa", False),
    ],
)
def test_which_models_are_the_same(
    small_bundle: Path, declared: str | None, answered: str | None, changed: bool
) -> None:
    """The declared name, its dated snapshots and the head of a checkpoint's hash are that model; an engine is none."""
    from dataclasses import replace

    bundle = Bundle.load(small_bundle)
    tiers = (replace(bundle.portfolio.tiers[0], model=declared), *bundle.portfolio.tiers[1:])
    bundle = replace(bundle, portfolio=replace(bundle.portfolio, tiers=tiers))
    assert fingerprint_changed(bundle, "small", answered) is changed


def test_another_model_behind_a_tier(folder: Path) -> None:
    """Every scope that calls the tier lapses, all of them for the reference tier; answers are counted by model."""
    router = Router.load(folder)
    assert not router.saw("small", "small-1")
    assert not router.saw("small", None)
    assert _served(router, "mood").certificate is not None
    assert router.saw("small", "small-9")
    calls = {scope for (scope, _), path in router.policies.items() if 0 in path.called}
    assert "mood" in calls
    for scope in calls:
        assert "answers with 'small-9', it was certified with 'small-1'" in router.lapses.why(scope)
    assert router.fingerprints.counts == {("small", "small-1"): 1, ("small", "small-9"): 1}
    other = Router.load(folder)
    assert other.saw("large", "large-2")
    assert all(other.lapses.why(view.scope) for view in other.scopes.views)
    with pytest.raises(InputError):
        router.saw("nobody", "x")


def test_two_tiers_that_are_swapped(small_bundle: Path) -> None:
    """Where the portfolio states no models, a tier that answers with another one's name is told at the first answer."""
    from dataclasses import replace

    bundle = Bundle.load(small_bundle)
    tiers = tuple(replace(tier, model=None) for tier in bundle.portfolio.tiers)
    router = Router.from_bundle(replace(bundle, portfolio=replace(bundle.portfolio, tiers=tiers)))
    assert not router.saw("large", "large")
    assert router.saw("small", "medium")
    assert "answers with 'medium', which is another tier's model" in router.lapses.why("mood")


def test_an_alias_that_moves(small_bundle: Path) -> None:
    """The snapshot first seen is pinned: when the alias comes to mean another one, that is a change."""
    seen = Fingerprints(Bundle.load(small_bundle))
    assert seen.saw("small", "small-1-2026-01-02") == ""
    assert seen.saw("small", "small-1-2026-01-02") == ""
    assert "before with 'small-1-2026-01-02'" in seen.saw("small", "small-1-2026-03-04")


def test_an_engine_is_pinned_and_its_model_is_not(small_bundle: Path) -> None:
    """A pinned engine may name any model, but not two; another engine is told once it is there, and is no answer."""
    from dataclasses import replace

    bundle = Bundle.load(small_bundle)
    tiers = (replace(bundle.portfolio.tiers[0], model="engine@aaaaaaaaaaaa"), *bundle.portfolio.tiers[1:])
    seen = Fingerprints(replace(bundle, portfolio=replace(bundle.portfolio, tiers=tiers)))
    assert seen.saw("small", "engine@aaaaaaaaaaaa") == seen.saw("small", "some-model") == ""
    assert seen.saw("small", "engine@aaaaaaaaaaaa") == seen.saw("small", "some-model") == ""
    assert "before with 'some-model'" in seen.saw("small", "other-model")
    assert "another tier's model" in seen.saw("small", "medium-1")
    told = "tier small has another engine, engine@bbbbbbbbbbbb, than was certified, engine@aaaaaaaaaaaa"
    assert seen.saw("small", "engine@bbbbbbbbbbbb") == told
    assert set(seen.counts) == {("small", "some-model"), ("small", "other-model"), ("small", "medium-1")}
