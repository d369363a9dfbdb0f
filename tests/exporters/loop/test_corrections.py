"""A correction of a user is never lost: not to another route of its query, not to its delay, not to an older lesson."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

for _name in ("sqlalchemy", "sklearn", "filelock"):
    pytest.importorskip(_name, reason="needs routenlp[fit,ledger] and filelock")

from ledgers import accepted as served_cheaply
from ledgers import both, escalated
from loops import loop_options, loop_records

from exporters.fence import NO_KEYS
from exporters.loop import harvesting
from exporters.loop.harvesting import Fence, Found, harvest_failures
from exporters.loop.lessons import pairs_of, pick, questions_of
from exporters.loop.work import Work
from router_core.groups import hash_key
from router_core.keys import hash_keys
from router_core.ledger import Ledger

STRANGE = "love the lamp that nobody recorded"


@pytest.fixture(scope="module")
def fence() -> Fence:
    """As a round makes it, all queries in the student part."""
    work = Work.of("unused", loop_records(), loop_options())
    return Fence(work.prepared, work.calib, NO_KEYS, 1.0, work.test, work.groups)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a ledger."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def harvest(url: str, fence: Fence, *, since: float | None = None, counts: Counter[str] | None = None) -> list[Found]:
    """Failures since a moment."""
    return harvest_failures(
        url, fence, tasks=("mood", "tone"), since=since, until=None, everything=False, dearer=("large",), recorded=True,
        tolerance=0.0, limit=5_000, seed=0, left_out=Counter() if counts is None else counts,
    )  # fmt: skip


def taught(found: list[Found]) -> list[str]:
    """Answers that students would be taught."""
    picked = pick(found, None, loop_options(least=1)).get("mood", [])
    lessons = {one.query_id: one.known for one in questions_of(picked, found, {}) if one.known is not None}
    return [pair.answer for pair in pairs_of(picked, found, lessons)]


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("corrected", [0, 1])
def test_a_repeated_query_keeps_its_correction(
    url: str, fence: Fence, recorded: bool, corrected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of two routes was corrected, both are taught so; the mutant takes what the later route says."""
    records = fence.prepared.records
    text = records.prompt[0] if recorded else STRANGE
    with Ledger(url, store_text=True) as ledger:
        names = [
            ledger.append(escalated(), text=text, answers=both(), reference="large", at=float(at)) for at in range(2)
        ]
        ledger.feedback(names[corrected], "correction", text="splendid")
    found = harvest(url, fence)
    assert [one.answer for one in found] == ["splendid"] * 2
    assert {one.answer_usd for one in found} == {0.0}
    assert taught(found) == ["splendid"]
    monkeypatch.setattr(harvesting, "settle_corrections", lambda found, *_: found)
    assert [one.answer for one in harvest(url, fence)] != ["splendid"] * 2


def test_the_latest_of_several_corrections_holds(url: str, fence: Fence) -> None:
    """However the routes lie in time, the one given last; what it contradicts is counted, what it repeats is not."""
    with Ledger(url, store_text=True) as ledger:
        first, second = (
            ledger.append(escalated(), text=STRANGE, answers=both(), reference="large", at=at) for at in (2.0, 1.0)
        )
        for name, told in ((first, "fine"), (second, "good"), (second, "fine"), (first, "splendid")):
            ledger.feedback(name, "correction", text=told)
    counts: Counter[str] = Counter()
    assert {one.answer for one in harvest(url, fence, counts=counts)} == {"splendid"}
    assert counts["corrections that a later one contradicts"] == 3


def test_what_was_corrected_is_found_whenever_it_was_answered(url: str, fence: Fence) -> None:
    """A cheap answer that nothing audited, corrected after the round that read it; one that was right is left out."""
    with Ledger(url, store_text=True) as ledger:
        for told in ("splendid", "good"):
            name = ledger.append(served_cheaply(), text=f"{STRANGE} {told}", reference="large", at=1.0)
            ledger.feedback(name, "label", text=told)
        ledger.append(served_cheaply(), text="nobody said anything", reference="large", at=1.0)
    counts: Counter[str] = Counter()
    (one,) = harvest(url, fence, since=100.0, counts=counts)
    assert (one.prompt, one.answer) == (f"{STRANGE} splendid", "splendid")
    assert counts["audited and not bad"] == 1


def test_what_was_taught_wrong_is_taught_again(url: str, fence: Fence) -> None:
    """A student learned the reference's answer; the user's differs. Said again, there is nothing new in it."""
    with Ledger(url, store_text=True) as ledger:
        name = ledger.append(escalated(), text=STRANGE, answers=both(), reference="large", at=1.0)
        ledger.feedback(name, "correction", text="splendid")
    key = hash_key(STRANGE)
    for answer, count in (("bad", 1), ("splendid", 0)):
        mine = replace(fence, taught=hash_keys([key]), answers={("mood", key): answer})
        assert len(harvest(url, mine)) == count
    assert not harvest(url, replace(fence, taught=hash_keys([key])))
