"""Logged records: one query answered by several models, with quality and cost.

`read_records` turns long tables (one row for each query and model) into one `Records` with a row for each
query. Null means a missing answer, which `complete` drops and counts; NaN, a number out of range, a duplicate
or two rows that contradict each other are errors that name the file, the row and the column.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from router_core.costs import row_costs
from router_core.errors import InputError
from router_core.ledger.logged import Moment
from router_core.ledger.url import is_ledger_url, mask
from router_core.portfolio import Portfolio
from router_core.rows import OPTIONAL, REQUIRED, Rows
from router_core.selection import SPLITS, DropReport, choose_tiers, complete
from router_core.tables import Table, read_table

__all__ = ["SPLITS", "DropReport", "Records", "choose_tiers", "complete", "read_records"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Texts = list[str | None]

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Controls, line separators and marks of direction: a name that holds one does not look like what it is."""

# Names other tools give these columns, too unlike ours for a spelling check.
_OTHER_NAMES = {
    "query_id": ("id", "qid", "question_id", "sample_id"),
    "prompt": ("query", "question", "input", "text", "instruction"),
    "model": ("llm", "model_name", "tier", "model_id"),
    "quality": ("score", "performance", "correct", "accuracy", "reward"),
    "cost_usd": ("cost", "usd", "price", "price_usd"),
}


@dataclass(frozen=True, eq=False)
class Records:
    """n queries answered by M models.

    Parameters
    ----------
    query_id, prompt, task, subtask, group, split
        One entry per query. `task` is the label before the first ``/``, `subtask` the rest (``""`` when
        none); `group` and `split` are ``""`` until `router_core.splits.prepare` fills them, unless the file
        gives them.
    models
        Column order of the arrays.
    quality, cost
        float64 [n, M]; quality in [0, 1], cost in US dollars; nan where missing.
    response
        [n][M] texts, None where the source has none.
    prompt_tokens, completion_tokens
        float64 [n, M], nan where missing.
    signals
        Per signal name float64 [n, M], nan where missing or not finite.
    cost_basis
        Where the costs come from: the file's own word, ``"recorded"``, ``"computed"`` (recorded tokens at
        portfolio prices) or ``"assumed"`` (some token counts are assumptions); the weakest that occurs.
    source
        The files read, for messages.
    merged
        Per group that `router_core.splits.prepare` made of several, the keys it was made of.
    """

    query_id: list[str]
    prompt: list[str]
    task: list[str]
    subtask: list[str]
    group: list[str]
    split: list[str]
    models: tuple[str, ...]
    quality: Floats
    cost: Floats
    response: list[list[str | None]]
    prompt_tokens: Floats
    completion_tokens: Floats
    signals: dict[str, Floats] = field(default_factory=dict)
    cost_basis: str = "recorded"
    source: str = "records"
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.query_id)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Records:
        """Take the queries at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.intp)
        at = rows.tolist()
        return Records(
            query_id=[self.query_id[i] for i in at],
            prompt=[self.prompt[i] for i in at],
            task=[self.task[i] for i in at],
            subtask=[self.subtask[i] for i in at],
            group=[self.group[i] for i in at],
            split=[self.split[i] for i in at],
            models=self.models,
            quality=self.quality[rows],
            cost=self.cost[rows],
            response=[self.response[i] for i in at],
            prompt_tokens=self.prompt_tokens[rows],
            completion_tokens=self.completion_tokens[rows],
            signals={name: values[rows] for name, values in self.signals.items()},
            cost_basis=self.cost_basis,
            source=self.source,
            merged=self.merged,
        )

    def for_models(self, names: Sequence[str]) -> Records:
        """Keep the columns of `names`, in that order; `InputError` lists the known names."""
        for name in names:
            if name not in self.models:
                raise InputError(f"{self.source}: unknown model {name!r}; the records have {', '.join(self.models)}")
        at = [self.models.index(name) for name in names]
        return Records(
            query_id=self.query_id,
            prompt=self.prompt,
            task=self.task,
            subtask=self.subtask,
            group=self.group,
            split=self.split,
            models=tuple(names),
            quality=self.quality[:, at],
            cost=self.cost[:, at],
            response=[[row[m] for m in at] for row in self.response],
            prompt_tokens=self.prompt_tokens[:, at],
            completion_tokens=self.completion_tokens[:, at],
            signals={name: values[:, at] for name, values in self.signals.items()},
            cost_basis=self.cost_basis,
            source=self.source,
            merged=self.merged,
        )


def read_records(
    paths: str | Path | Sequence[str | Path],
    portfolio: Portfolio | None = None,
    *,
    since: Moment = None,
    until: Moment = None,
) -> Records:
    """Read records from Parquet, CSV or JSON-lines files and put them side by side, or from a ledger.

    Of a ledger (``sqlite:///file.db``, ``postgresql://...``) the defaults of
    `router_core.ledger.records.records_from_ledger` are read, of a time with ``since <= at < until`` if one is given;
    `portfolio` then names the models whose answers may certify.

    A recorded ``cost_usd`` wins. Where it is missing and `portfolio` prices the model, the cost is its price
    for the recorded tokens; missing prompt tokens are then estimated as one for every four bytes of UTF-8,
    rounded up, and missing completion tokens taken from the tier's ``assumed_completion_tokens``.

    Raises
    ------
    InputError
        Naming file, row and column, for everything in the module's description.
    MissingExtraError
        For Parquet without pyarrow.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not files:
        raise InputError("no records given; name at least one .parquet, .csv or .jsonl file")
    if ledgers := [path for path in files if isinstance(path, str) and is_ledger_url(path)]:
        from router_core.ledger.records import records_from_ledger

        if len(files) > 1:
            raise InputError(f"{mask(ledgers[0])}: a ledger is read alone; export it, or merge ledgers with import")
        return records_from_ledger(ledgers[0], portfolio=portfolio, since=since, until=until)
    if since is not None or until is not None:
        raise InputError("since and until are bounds in time of a ledger; records have none, so leave them out")
    tables = [_known_columns(read_table(path)) for path in files]
    rows = Rows(tables)
    queries, first = _codes(rows.texts("query_id"))
    models, first_model = _codes(rows.texts("model"))
    names = tuple(str(rows.texts("model")[i]) for i in first_model)
    if len(names) < 2:
        raise InputError(f"{rows.source}: records of at least two models are needed, found only {names[0]!r}")
    _refuse_duplicates(rows, queries, models, len(names))
    for column in ("prompt", "task", "split", "group"):
        _refuse_contradictions(rows, column, queries, first)

    def table(values: Floats) -> Floats:
        grid = np.full((len(first), len(names)), np.nan)
        grid[queries, models] = values
        return grid

    splits = [(rows.texts("split")[i] or "").strip() for i in first]
    for i, split in zip(first, splits, strict=True):
        if split not in SPLITS and any(splits):
            raise InputError(f"{rows.place(i)}: column 'split' is {split!r}; it must be one of {', '.join(SPLITS)}")
    cost, basis = row_costs(rows, models, names, portfolio)
    response: list[Texts] = [[None] * len(names) for _ in first]
    for q, m, text in zip(queries.tolist(), models.tolist(), rows.texts("response"), strict=True):
        response[q][m] = text
    labels = [(rows.texts("task")[i] or "default").strip() for i in first]
    for i, label in zip(first, labels, strict=True):
        if label.split("/")[0] in ("", "*") or label.endswith("/*"):
            raise InputError(f"{rows.place(i)}: task {label!r} is reserved or has no name before '/'; rename it")
        if unseen := _UNSEEN.search(label):
            raise InputError(
                f"{rows.place(i)}: column 'task' holds U+{ord(unseen[0]):04X}, a control character; rename it"
            )
    return Records(
        query_id=[rows.texts("query_id")[i] or "" for i in first],
        prompt=[rows.texts("prompt")[i] or "" for i in first],
        task=[label.partition("/")[0] for label in labels],
        subtask=[label.partition("/")[2] for label in labels],
        group=[rows.texts("group")[i] or "" for i in first],
        split=splits,
        models=names,
        quality=table(rows.numbers("quality")),
        cost=table(cost),
        response=response,
        prompt_tokens=table(rows.numbers("prompt_tokens")),
        completion_tokens=table(rows.numbers("completion_tokens")),
        signals={name.removeprefix("signal_"): table(rows.numbers(name)) for name in rows.signals},
        cost_basis=basis,
        source=rows.source,
    )


def _known_columns(table: Table) -> Table:
    given = list(table.columns)
    known = (*REQUIRED, *OPTIONAL)
    unknown = [name for name in given if name not in known and not name.startswith("signal_")]
    for name in known:
        if name in given:
            continue
        near = [other for other in unknown if other.strip().lower().replace(" ", "_") == name]
        near += difflib.get_close_matches(name, unknown, n=1, cutoff=0.8 if name in OPTIONAL else 0.6)
        near += [other for other in unknown if other.strip().lower() in _OTHER_NAMES.get(name, ())]
        if near:
            raise InputError(
                f"{table.source}: column {name!r} is missing; did you mean {near[0]!r}? Rename that column"
            )
        if name in REQUIRED:
            raise InputError(f"{table.source}: column {name!r} is missing; the file has {', '.join(map(str, given))}")
    return table


def _codes(values: Iterable[str | None]) -> tuple[Indices, list[int]]:
    """Numbers 0, 1, ... in order of first appearance, and where each first appears."""
    seen: dict[str | None, int] = {}
    codes = np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.intp)
    first = np.full(len(seen), len(codes), dtype=np.intp)
    np.minimum.at(first, codes, np.arange(len(codes)))
    return codes, first.tolist()


def _refuse_duplicates(rows: Rows, queries: Indices, models: Indices, count: int) -> None:
    keys = queries * count + models
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if same.size:
        a, b = min((int(order[i]), int(order[i + 1])) for i in same)
        raise InputError(
            f"{rows.place(b)}: query {rows.texts('query_id')[b]!r} and model {rows.texts('model')[b]!r} "
            f"were already given at {rows.place(a)}; keep one of the two"
        )


def _refuse_contradictions(rows: Rows, name: str, queries: Indices, first: list[int]) -> None:
    values = rows.texts(name)
    for i, q in enumerate(queries.tolist()):
        if values[i] != values[first[q]]:
            raise InputError(
                f"{rows.place(i)}: column {name!r} differs from {rows.place(first[q])} "
                f"for the same query {rows.texts('query_id')[i]!r}; a query has one {name}"
            )
