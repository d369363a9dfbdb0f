"""The uniform sample of logged traffic that random audits make, and what is refused as none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="needs routenlp[ledger]")

from ledgers import accepted, url_of
from scipy.stats import binom

from router_core.audits import AuditDecision
from router_core.errors import InputError
from router_core.groups import unit_interval
from router_core.ledger import Ledger
from router_core.ledger.reader import LedgerReader
from router_core.ledger.sample import Logged, Sample, logged_queries, uniform_sample


def logged(name: str, group: str | None = None, probability: float | None = 0.3, at: float = 0.0) -> Logged:
    """A query decided about as `Auditor` does."""
    chosen = probability is not None and unit_interval("routenlp-audit-v1|0", name) < probability
    return Logged(name, at, group or name, probability, chosen)


def drawn(traffic: Iterable[Logged]) -> Sample:
    """The sample of a list."""
    every = list(traffic)
    return uniform_sample(lambda: every)


def test_each_group_enters_with_one_probability_whatever_its_size() -> None:
    """Long conversations are no likelier than short ones; the mutant that takes any audited turn favours them."""
    traffic = [logged(f"{group}-{turn}", f"g{group}") for group in range(4000) for turn in range(1 + group % 4)]
    sample = drawn(traffic)
    assert sample.probability == 0.3
    size_of = {one.id: 1 + int(one.group[1:]) % 4 for one in traffic}
    mine = Counter(size_of[name] for name in sample.ids)
    anyone = Counter(1 + int(group[1:]) % 4 for group in {one.group for one in traffic if one.audited})
    low, high = binom.isf(1 - 1e-4, 1000, 0.3), binom.isf(1e-4, 1000, 0.3)
    assert all(low <= mine[size] <= high for size in (1, 2, 3, 4)), mine
    assert not all(low <= anyone[size] <= high for size in (1, 2, 3, 4)), anyone
    groups = [one.group for one in traffic if one.id in sample.ids]
    assert len(groups) == len(set(groups))
    assert sample.repeats == sample.audited - len(sample.ids)


def test_denser_audits_are_thinned() -> None:
    """Two rates become the lower one, by the id alone."""
    traffic = [logged(f"q{i}", probability=0.8 if i % 2 else 0.2) for i in range(4000)]
    sample = drawn(traffic)
    dense = sum(int(name[1:]) % 2 for name in sample.ids)
    assert sample.probability == 0.2
    assert sample.thinned > 1000
    for count in (dense, len(sample.ids) - dense):
        assert binom.isf(1 - 1e-4, 2000, 0.2) <= count <= binom.isf(1e-4, 2000, 0.2)
    assert sample == drawn(traffic)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (logged("x", probability=0.0, at=3600.0), r"1 of 51 .* 1970-01-01T01:00:00.000Z, came when budget or backlog"),
        (logged("x", probability=None), "was not put under audit"),
    ],
)
def test_queries_without_a_chance_are_refused(without: Logged, said: str) -> None:
    """A budget that ran out, or a query that no audit could hit: no random sample of all."""
    with pytest.raises(InputError, match=said):
        drawn([*(logged(f"q{i}") for i in range(50)), without])


def test_missing_audits_are_noticed() -> None:
    """Rows that were deleted after their labels were known leave fewer audits than chance would."""
    traffic = [logged(f"q{i}") for i in range(2000)]
    assert drawn(traffic).audited
    with pytest.raises(InputError, match=r"rows of the ledger are missing"):
        drawn([one for one in traffic if not one.audited or int(one.id[1:]) % 2])


def test_nothing_logged_is_an_empty_sample() -> None:
    """No traffic, no fold, no error of ours."""
    assert drawn([]).ids == frozenset()


def test_a_ledger_is_read_by_task_time_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversations group, else texts; a text stands for itself however it is spaced."""
    monkeypatch.setattr("router_core.ledger.sample._PAGE", 2)
    with Ledger(url_of(tmp_path)) as ledger:
        for i, (task, text, conversation) in enumerate(
            [("mood", "a b", None), ("mood", "A  b", None), ("mood", "c", "x"), (None, "d", "x"), ("tone", "e", None)]
        ):
            ledger.append(
                accepted(task=task), text=text, conversation=conversation, audit=AuditDecision(f"r{i}", i == 0, 0.5),
                at=float(i),
            )  # fmt: skip
        ledger.append(accepted(), text="f", at=9.0)
    reader = LedgerReader(url_of(tmp_path))
    found = list(logged_queries(reader, ["mood", "default"], until=9.0))
    assert [one.id for one in found] == ["r0", "r1", "r2", "r3"]
    assert found[0].group == found[1].group
    assert found[2].group == found[3].group != found[0].group
    assert [(one.probability, one.audited) for one in found[:2]] == [(0.5, True), (0.5, False)]
    assert [one.probability for one in logged_queries(reader, ["mood"], since=3.0)] == [None]
