"""From records to score tables, through the very code that serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from router_core.bad import is_bad
from router_core.encoder import Encoder, Prediction
from router_core.evidence import Evidence, evidence
from router_core.fitting.candidates import tried_sets
from router_core.fitting.score_table import ScoreTable
from router_core.records import Records
from router_core.router import Scopes
from router_core.scoring import Scorer, View
from router_core.splits import one_of_each

__all__ = ["HiddenFrom", "Known", "Progress", "bad_answers", "evidence_of", "score_table", "scope_rows", "views_of"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is."""

Known = Mapping[tuple[int, tuple[int, ...]], Sequence[Evidence | None]]
"""Evidence of every row's answer, by tier and the tiers tried before it."""


def bad_answers(records: Records, tolerance: float) -> NDArray[np.uint8]:
    """B, uint8 [n, K]: the reference tier's quality exceeds the answer's by more than the tolerance."""
    return is_bad(records.quality[:, -1:], records.quality, tolerance).astype(np.uint8)


def views_of(records: Records, scopes: Scopes, scope: str, rows: NDArray[np.intp]) -> list[View | None]:
    """The view of each row under a scope; None where the scope does not serve the row's task.

    A scope ``t`` with subtasks serves only subtasks it knows.
    """
    found: list[View | None] = []
    for i in rows.tolist():
        task, subtask = records.task[i], records.subtask[i]
        if scope == "*":
            found.append(View("*", None, None))
        elif scope == f"{task}/*":
            found.append(View(scope, task, None))
        else:
            resolved = scopes.resolve(f"{task}/{subtask}" if subtask else task)
            found.append(resolved if resolved is not None and resolved.scope == scope else None)
    return found


def scope_rows(records: Records, scopes: Scopes, scope: str, calib: NDArray[np.intp]) -> NDArray[np.intp]:
    """The calibration rows that certify a scope: one of each group among those it serves, in the order given."""
    views = views_of(records, scopes, scope, calib)
    served = [i for i, view in zip(calib.tolist(), views, strict=True) if view is not None]
    return np.asarray(one_of_each(records, served), np.intp)


def evidence_of(records: Records, rows: NDArray[np.intp], progress: Progress | None = None) -> Known:
    """Evidence of every cheap answer of the rows, under every set of answers that may have been tried before."""
    cheap = len(records.models) - 1
    keys = [(tier, tried) for tier, sets in tried_sets(cheap).items() for tried in sets]
    known: dict[tuple[int, tuple[int, ...]], list[Evidence | None]] = {key: [] for key in keys}
    total = len(rows)
    for done, i in enumerate(rows.tolist()):
        answers = records.response[i]
        for tier, tried in keys:
            known[tier, tried].append(_evidence(records, i, tier, tried, answers))
        if progress is not None and done % 50 == 0:
            progress("reading answers", done, total)
    return {key: items for key, items in known.items() if any(item is not None for item in items)}


def _evidence(
    records: Records, i: int, tier: int, tried: tuple[int, ...], answers: Sequence[str | None]
) -> Evidence | None:
    answer = answers[tier]
    before = {records.models[k]: text for k in tried if (text := answers[k]) is not None}
    if answer is None or not answer.strip() or len(before) < len(tried):
        return None
    signals = {name: float(values[i, tier]) for name, values in records.signals.items() if np.isfinite(values[i, tier])}
    return evidence(records.prompt[i], answer, before, signals)


class HiddenFrom:
    """An encoder of one fold with the hidden vectors of the final encoder.

    Hidden vectors are made of text alone, so the final encoder's may be used out of fold; fold encoders span spaces of
    their own that an evidence model could not compare.
    """

    def __init__(self, fold: Encoder, final: Encoder) -> None:
        self._fold, self._final = fold, final
        self.kind, self.tiers, self.hidden_size = fold.kind, fold.tiers, final.hidden_size

    def predict(self, text: str, task: str | None, subtask: str | None) -> Prediction:
        """The fold's probabilities with the final hidden vector."""
        return replace(self._fold.predict(text, task, subtask), hidden=self.embed(text))

    def embed(self, text: str) -> NDArray[np.float64]:
        """The final encoder's hidden vector."""
        return self._final.embed(text)

    def parts(self) -> dict[str, bytes]:
        """The fold encoder's parts."""
        return self._fold.parts()


def score_table(
    scorer: Scorer,
    records: Records,
    rows: NDArray[np.intp],
    views: Sequence[View],
    bad: NDArray[np.uint8],
    known: Known,
    progress: Progress | None = None,
) -> ScoreTable:
    """Score rows one at a time, exactly as serving does.

    Parameters
    ----------
    rows
        Row numbers in `records`.
    views
        One per row.
    bad
        uint8 [all rows of records, K].
    known
        Evidence in the order of `rows`.
    """
    n, cheap = len(rows), len(records.models) - 1
    risk, saving, toss = np.empty((n, cheap)), np.empty(n), np.empty(n)
    judged = tuple(scorer.judges(tier, views[0]) for tier in range(cheap)) if n else (False,) * cheap
    after = {key: np.full((2, n), np.nan) for key in known if judged[key[0]]}
    for r, i in enumerate(rows.tolist()):
        before = scorer.before(records.prompt[i], views[r])
        risk[r] = [j.risk for j in before.judgements]
        saving[r], toss[r] = before.judgements[0].saving, before.toss
        for key, values in after.items():
            item = known[key][r]
            if item is not None:
                found = scorer.judge(before, key[0], item)
                values[:, r] = found.risk, found.saving
        if progress is not None and r % 50 == 0:
            progress("scoring queries", r, n)
    for tier, sets in tried_sets(cheap).items():
        for tried in sets:
            if judged[tier]:
                after.setdefault((tier, tried), np.full((2, n), np.nan))
    failed, missing = np.zeros((n, cheap), bool), np.zeros((n, cheap), bool)
    for r, i in enumerate(rows.tolist()):
        failed[r] = [text is not None and not text.strip() for text in records.response[i][:-1]]
    for (tier, _), values in after.items():
        missing[:, tier] |= np.isnan(values[0]) & ~failed[:, tier]
    return ScoreTable(
        risk, saving, toss, after, judged, records.cost[rows], bad[rows], records.quality[rows], failed, missing
    )
