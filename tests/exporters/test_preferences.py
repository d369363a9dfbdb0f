"""Preference records: what is refused, what may be learned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs routenlp[train]")

from exporters.transformer.preferences import Preference, for_examples, pairs_of, read_preferences
from router_core.errors import InputError
from router_core.groups import normalise

TIERS = ("small", "medium", "large")
GOOD = [
    {"query_id": "1", "task": "t", "prompt": "one", "winner": "large", "loser": "small"},
    {"query_id": "2", "task": "t", "prompt": "two", "winner": "small", "loser": "large"},
]


def written(folder: Path, rows: list[dict[str, object]]) -> Path:
    """Write records as JSON lines."""
    path = folder / "preferences.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_good_records_are_read_from_every_format(tmp_path: Path) -> None:
    """JSON lines, CSV and Parquet give the same records."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = read_preferences(written(tmp_path, GOOD), TIERS)
    assert found[0] == Preference("1", "t", "one", "large", "small")
    lines = [",".join(GOOD[0]), *(",".join(map(str, row.values())) for row in GOOD)]
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    pq.write_table(pa.Table.from_pylist(GOOD), tmp_path / "p.parquet")
    assert read_preferences(tmp_path / "p.csv", TIERS) == found
    assert read_preferences(tmp_path / "p.parquet", TIERS) == found


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"winner": "huge"}, "query 3 names the unknown tier 'huge'; the tiers are small, medium, large"),
        ({"query_id": "1", "winner": "small", "loser": "large"}, "query 1 contradict each other"),
        ({"winner": "small"}, "query 3 contradict each other"),
        ({"task": "other"}, "task other has one class only: 'large' wins every comparison with 'small'"),
        ({"winner": None}, "record 3: winner is missing"),
        ({"prompt": ""}, "record 3: prompt is missing"),
    ],
    ids=range(6),
)
def test_bad_records_are_refused(row: dict[str, object], message: str, tmp_path: Path) -> None:
    """Unknown tiers, contradictions and one-sided tasks each give one clear sentence."""
    third = {"query_id": "3", "task": "t", "prompt": "three", "winner": "large", "loser": "small"} | row
    with pytest.raises(InputError, match=message):
        read_preferences(written(tmp_path, [*GOOD, third]), TIERS)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    """Empty, missing, malformed and foreign files are input errors."""
    with pytest.raises(InputError, match="holds no preference records"):
        read_preferences(written(tmp_path, []))
    with pytest.raises(InputError, match="cannot be read"):
        read_preferences(tmp_path / "nowhere.jsonl")
    (tmp_path / "p.jsonl").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_preferences(tmp_path / "p.jsonl")
    with pytest.raises(InputError, match=r"\.jsonl, \.csv or \.parquet"):
        read_preferences(tmp_path / "p.txt")


def test_preferences_about_held_out_queries_stay_unused() -> None:
    """Of three prompts, the trained one is joined, the held-out one left out, the foreign one added."""
    preferences = [Preference(str(i), "t", prompt, "large", "small") for i, prompt in enumerate("abc")]
    at, extra = for_examples(preferences, ["x", "A!"], {normalise(p) for p in ("x", "a", "b")})
    assert [(row, one.prompt) for row, one in at] == [(1, "a")]
    assert [one.prompt for one in extra] == ["c"]


def test_pairs_made_from_grades() -> None:
    """Every pair is counted once; ties are half a win for each."""
    beats, known = pairs_of(np.array([[0.2, 0.9, 0.9]]))
    assert beats[0, 1, 0] == 1.0
    assert beats[0, 0, 1] == 0.0
    assert beats[0, 1, 2] == 0.5
    assert known[0].sum() == 3.0
