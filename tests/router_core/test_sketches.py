"""Near-duplicates of what was learned are recognised from sketches alone, by the rule that settles splits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bundles import small_records

from router_core.bundle import Bundle
from router_core.errors import InputError
from router_core.fitting import calibrate
from router_core.groups import merge_near_duplicates
from router_core.records import Records
from router_core.sketches import SKETCHES, Sketches

WORDS = np.array([f"w{i}" for i in range(5000)])


def _edited(text: str, draw: np.random.Generator) -> str:
    """A text with a word put in, taken out or replaced, once or more often."""
    words = text.split()
    for _ in range(draw.integers(1, 4)):
        at, how = int(draw.integers(len(words))), draw.integers(3)
        words[at : at + (how > 0)] = [] if how == 1 else [str(draw.choice(WORDS))]
    return " ".join(words)


def _by_the_rule(learned: list[str], fresh: list[str], tasks: list[str]) -> list[bool]:
    """What `merge_near_duplicates` says of each fresh text and all learned ones, and of no other fresh text."""
    n, told = len(learned), []
    for text, task in zip(fresh, tasks[n:], strict=True):
        names = merge_near_duplicates(
            [*learned, text], [str(i) for i in range(n + 1)], [*tasks[:n], task], np.arange(n + 1) < n
        )
        told.append(names[n] in names[:n])
    return told


def test_short_texts_are_judged_exactly_as_for_splits() -> None:
    """Up to 48 3-grams beside the template, sketches say what the exact rule says, by task."""
    draw = np.random.default_rng(0)
    frame = "please read the following note with care and answer in one word"
    learned = [f"{frame} {' '.join(draw.choice(WORDS, draw.integers(1, 45)))}" for _ in range(60)]
    tasks = ["a", "b"] * 30
    fresh = [_edited(text, draw) for text in learned[:40]]
    fresh += [f"{frame} {' '.join(draw.choice(WORDS, 5))}" for _ in range(10)]
    fresh += [learned[0], learned[1].upper() + "!", "no", ""]
    labels = [*tasks[:40], *(["a", "c"] * 5), "a", "b", "a", "a"]
    exact = _by_the_rule(learned, fresh, [*tasks, *labels])
    found = Sketches.of(learned, tasks).near(fresh, labels)
    assert found.tolist() == exact
    assert 5 < sum(exact) < 50
    assert exact[-4:] == [True, True, False, False]


def test_long_texts_are_estimated() -> None:
    """A word put into a long text is always seen; texts that share four fifths of their words in a row never are."""
    draw = np.random.default_rng(1)
    learned = [" ".join(draw.choice(WORDS, 400)) for _ in range(100)]
    kept = Sketches.of(learned, ["t"] * 100)
    assert len(kept.hashes) == 100 * 48
    assert kept.near([f"{text} ok" for text in learned], ["t"] * 100).all()
    half = [" ".join([*text.split()[:200], *draw.choice(WORDS, 200)]) for text in learned]
    assert not kept.near(half, ["t"] * 100).any()


def test_they_are_small_and_read_back() -> None:
    """Five thousand queries take at most a megabyte, and the part that was written says the same."""
    draw = np.random.default_rng(2)
    learned = [" ".join(row) for row in draw.choice(WORDS, (5000, 60))]
    kept = Sketches.of(learned, ["t", "u/v"] * 2500)
    part = kept.part()
    assert len(part) <= 1_000_000
    again = Sketches.from_parts({SKETCHES: part})
    assert again is not None
    assert again.part() == part
    assert again.near([learned[7], "quite another text than any"], ["t", "t"]).tolist() == [True, False]
    assert Sketches.from_parts({}) is None


def _like(records: Records, split: str) -> Records:
    """The queries of a split under other ids, each with a word more, and no split."""
    found = records.take([i for i, name in enumerate(records.split) if name == split])
    return dataclasses.replace(
        found,
        prompt=[f"{text} ok" for text in found.prompt],
        query_id=[f"x{i}" for i in range(len(found))],
        split=[""] * len(found),
    )


def _wordy(records: Records) -> Records:
    """Each query with twenty words of its own, so that one more makes a near-duplicate."""
    draw = np.random.default_rng(3)
    return dataclasses.replace(
        records, prompt=[f"{text} {' '.join(draw.choice(WORDS, 20))}" for text in records.prompt]
    )


def test_calibrate_leaves_near_duplicates_of_training_queries_out(wordy_bundle: Bundle) -> None:
    """They certify nothing, their whole group goes, their number is told; a bundle without sketches says so."""
    near, fresh = _like(_wordy(small_records()), "train"), _wordy(small_records(5))
    with pytest.raises(InputError, match="all 180 calibration queries are near-duplicates"):
        calibrate(wordy_bundle, near)
    mixed = dataclasses.replace(
        fresh,
        split=[""] * len(fresh),
        query_id=[f"f{i}" for i in range(len(fresh))],
        prompt=[*near.prompt[:30], *fresh.prompt[30:]],
        group=["one group"] * 2 + [""] * 28 + ["one group"] * 3 + [""] * (len(fresh) - 33),
    )
    made = calibrate(wordy_bundle, mixed)
    told = made.report["calibrated"]
    assert told["near_duplicates"] == 33
    assert told["n"] == len(fresh) - 33
    older = dataclasses.replace(
        wordy_bundle, baselines={name: part for name, part in wordy_bundle.baselines.items() if name != SKETCHES}
    )
    told = calibrate(older, mixed).report["calibrated"]
    assert told["near_duplicates"] is None
    assert told["n"] > len(fresh) - 33


@pytest.fixture(scope="module")
def wordy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle on `_wordy` records."""
    from bundles import PORTFOLIO, TIERS

    from router_core.fitting import FitSettings, fit

    out: Path = tmp_path_factory.mktemp("wordy") / "bundle"
    records, settings = _wordy(small_records()), FitSettings(alpha=0.1)
    return fit(records, out=out, portfolio=PORTFOLIO, tiers=TIERS, settings=settings)
