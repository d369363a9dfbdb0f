"""The packaged demo data as a notebook uses it: recorded answers of four small models, no key, no network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from routenlp_integrations.cli.demo import DATA
from router_core.errors import MissingExtraError
from router_core.portfolio import Portfolio
from router_core.records import Records, read_records
from router_core.splits import prepare

if TYPE_CHECKING:
    from router_core.bundle import Bundle

__all__ = ["Question", "demo_bundle", "demo_logs", "demo_portfolio", "demo_records", "questions"]


@dataclass(frozen=True, slots=True)
class Question:
    """A query of the test split, and what the reference tier's answer to it cost, US dollars."""

    text: str
    task: str
    reference_usd: float


def demo_portfolio() -> Portfolio:
    """The four tiers of the demo, cheapest first, with their nominal prices."""
    return Portfolio.load(DATA / "portfolio.json")


def demo_records() -> Records:
    """1,198 queries, each answered for real by the four tiers."""
    return read_records(DATA / "records.jsonl", demo_portfolio())


def demo_bundle(folder: str | Path) -> Bundle:
    """Fit and certify a bundle on the demo records, as `routenlp demo` does: joint risk, alpha .05, delta .1.

    Raises
    ------
    MissingExtraError
        Without what fitting needs.
    """
    try:
        from router_core.fitting.fit_bundle import fit
    except ImportError:
        raise MissingExtraError("fit", "fit the demo's bundle") from None
    portfolio = demo_portfolio()
    return fit(demo_records(), out=folder, portfolio=portfolio, tiers=portfolio.names)


def demo_logs(path: str | Path) -> Path:
    """Write the demo records as a Parquet file, one row for each query and model: what your own logs could be.

    Raises
    ------
    MissingExtraError
        Without pyarrow.
    """
    try:
        from pyarrow import Table
        from pyarrow.parquet import write_table
    except ImportError:
        raise MissingExtraError("fit", "write a Parquet file") from None
    with (DATA / "records.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    names = dict.fromkeys(name for row in rows for name in row)
    write_table(Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), path)
    return Path(path)


def questions(records: Records) -> list[Question]:
    """Queries that the bundle has never seen, in the order of the records; the last model is the reference."""
    prepared, _ = prepare(records, require=("test",)).complete(records.models)
    mine = prepared.records.take(prepared.test)
    return [
        Question(text, task, cost)
        for text, task, cost in zip(mine.prompt, mine.task, mine.cost[:, -1].tolist(), strict=True)
    ]
