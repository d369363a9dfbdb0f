"""Records files: what is written is read back, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_core.errors import InputError
from router_core.records import read_records
from router_core.records_file import write_records


def _rows() -> list[dict[str, Any]]:
    return [
        {
            "query_id": f"q{i}", "prompt": f"prompt {i}", "model": model, "response": None if i else "a",
            "quality": None if i == 1 else 0.5, "prompt_tokens": None, "cost_usd": 0.1,
            **({"signal_mean_logprob": -0.5} if model == "a" else {}),
        }
        for i in range(3)
        for model in ("a", "b")
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["r.parquet", "r.jsonl"])
def test_records_are_read_back(name: str, tmp_path: Path) -> None:
    """Missing cells, a column that is null throughout and one that only some rows have are read as written."""
    write_records(tmp_path / name, _rows())
    records = read_records(tmp_path / name)
    assert records.models == ("a", "b")
    assert np.isnan(records.quality[1]).all()
    assert (records.quality[[0, 2]] == 0.5).all()
    assert np.isnan(records.prompt_tokens).all()
    assert np.isnan(records.signals["mean_logprob"][:, 1]).all()
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    """A value that cannot be written leaves what was there, and no staging file."""
    target = tmp_path / "r.jsonl"
    write_records(target, _rows())
    before = target.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_records(target, [{"query_id": "x", "quality": float("nan")}])
    assert target.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["r.jsonl"]


def test_what_cannot_be_records_is_refused(tmp_path: Path) -> None:
    """Another ending, and no rows at all."""
    with pytest.raises(InputError, match=r"written as \.parquet or \.jsonl"):
        write_records(tmp_path / "r.csv", _rows())
    with pytest.raises(InputError, match="no records to write"):
        write_records(tmp_path / "r.jsonl", [])
