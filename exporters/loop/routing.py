"""The rows that the router of a release is fitted and certified on: what no student was taught, and one calib fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from exporters.fence import Keys, item_keys
from exporters.loop.folds import calib_keys, router_rows
from exporters.loop.options import LoopOptions
from router_core.keys import check_disjoint, hash_keys
from router_core.portfolio import Portfolio
from router_core.records import Records
from router_core.splits import Prepared

__all__ = ["check_untaught", "priced_as", "router_sheet", "with_column"]


def with_column(records: Records, options: LoopOptions) -> Records:
    """The records of the portfolio's tiers; a student tier that was never recorded becomes an empty column.

    Raises
    ------
    InputError
        When another tier is missing.
    """
    if options.tier not in records.models:

        def wider(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.column_stack([values, np.full(len(records), np.nan)])

        records = replace(
            records,
            models=(*records.models, options.tier),
            quality=wider(records.quality),
            cost=wider(records.cost),
            response=[[*row, None] for row in records.response],
            prompt_tokens=wider(records.prompt_tokens),
            completion_tokens=wider(records.completion_tokens),
            signals={name: wider(values) for name, values in records.signals.items()},
        )
    return records.for_models(options.portfolio.names)


def router_sheet(
    prepared: Prepared, options: LoopOptions, fold: Sequence[int], taught: Keys, *, own_tune: bool = False
) -> Records:
    """Choose the rows of one release: the router's part of train, the fold as calib, and test, each with its group.

    Parameters
    ----------
    prepared
        All records.
    options
        Of the loop.
    fold
        Rows of this round's calib fold.
    taught
        Hashed keys of all pairs that this release's students learned from.
    own_tune
        The records name tune rows of their own; else the fit sets some aside.

    Raises
    ------
    InputError
        When a student was taught a query of the fold or of test.
    """
    records = prepared.records
    learned, test = router_rows(prepared, options.student_share, taught), prepared.test.tolist()
    held = calib_keys(records, [*fold, *test])
    check_disjoint(**{"what students were taught": taught, "calibration and test": held})
    tune = set(prepared.tune.tolist()) if own_tune else set()
    split = [
        *("tune" if i in tune else "train" for i in learned),
        *("calib" for _ in fold),
        *("test" for _ in test),
    ]
    return replace(records.take([*learned, *fold, *test]), split=split)


def check_untaught(sheet: Records, taught: Keys) -> None:
    """Make sure that the router learns from no answer to a query that the answering tier was trained on.

    Raises
    ------
    InputError
        When train or tune rows share a key with what students were taught.
    """
    rows = [i for i, split in enumerate(sheet.split) if split in ("train", "tune")]
    keys = hash_keys(key for i in rows for key in item_keys(sheet.query_id[i], sheet.group[i], sheet.prompt[i]))
    check_disjoint(**{"the router's training": keys, "what students were taught": taught})


def priced_as(portfolio: Portfolio, tier: str, fingerprint: str | None) -> Portfolio:
    """The portfolio with a tier's fingerprint; as it is when there is none."""
    if fingerprint is None:
        return portfolio
    return Portfolio(tuple(replace(t, model=fingerprint) if t.name == tier else t for t in portfolio.tiers))
