"""Everything that is fitted before calib is read: encoder, evidence models, policy paths and rivals."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router_core.encoder import Encoder, EncoderTrainer, Examples, Prediction
from router_core.fitting.baselines import Lesson, Tuning
from router_core.fitting.candidates import Goal, tried_sets
from router_core.fitting.evidence_model import fit_view_models
from router_core.fitting.frozen import Candidate
from router_core.fitting.lay import Tuned, calib_sizes, concatenate, delta_of_each, lay
from router_core.fitting.rivals import fit_rivals
from router_core.fitting.score_table import ScoreTable
from router_core.fitting.tables import HiddenFrom, Known, Progress, bad_answers, evidence_of, score_table
from router_core.records import Records
from router_core.scopes import CertifyBy, Scopes
from router_core.scoring import MASKED, TASK_ONLY, Scorer, View
from router_core.splits import Prepared

if TYPE_CHECKING:
    from router_core.fitting.fit_bundle import FitSettings

__all__ = ["Fitter"]

_FOLDS = 5


class Fitter:
    """The steps of one fit, sharing prepared records; never touches a calib or test row."""

    def __init__(
        self,
        prepared: Prepared,
        settings: FitSettings,
        trainer: EncoderTrainer,
        progress: Progress | None,
        known: dict[str, Known] | None = None,
    ) -> None:
        self.settings, self.trainer, self.progress = settings, trainer, progress
        self.records = prepared.records
        self.train, self.tune, self.calib = prepared.train, prepared.tune, prepared.calib
        self.group = prepared.group_id
        self.bad = bad_answers(self.records, settings.tolerance)
        self.scopes = _scopes(self.records, np.union1d(self.train, self.tune), settings.certify_by)
        self.choices: dict[str, Any] = {}
        self.expected_cost_ratio = 1.0
        # What is known of the answers does not depend on the encoder, so the fits of a comparison share it.
        self._known: dict[str, Known] = {} if known is None else known

    def candidate(self) -> Candidate:
        """Fit everything and lay the paths."""
        final = self._encoder(self.train, "encoder")
        known = self._evidence("train", self.train)
        held_out = len(self.tune) > 0
        folds = self._fold_of(self.train)
        encoders: list[Encoder] = [final]
        if known or not held_out:
            encoders = [
                HiddenFrom(self._encoder(self.train[folds != f], f"encoder, fold {f + 1} of {_FOLDS}"), final)
                for f in range(_FOLDS)
            ]
        models: dict[str, Any] = {}
        tables: dict[str, ScoreTable] = {}
        for kind in dict.fromkeys(view.models for view in self.scopes.views):
            views = self._views(kind, self.train)
            predictions = [
                encoders[folds[r] if len(encoders) > 1 else 0].predict(
                    self.records.prompt[i], views[r].task, views[r].subtask
                )
                for r, i in enumerate(self.train.tolist())
            ]
            models[kind] = self._models(views, predictions, known, np.ones(len(self.train), bool))
            if not held_out:
                tables[kind] = self._out_of_fold(kind, views, predictions, known, folds, encoders)
        scorer = Scorer(self.records.models, final, models)
        if held_out:
            known_tune = self._evidence("tune", self.tune)
            for kind in models:
                views = self._views(kind, self.tune)
                tables[kind] = score_table(scorer, self.records, self.tune, views, self.bad, known_tune, self.progress)
        return self._lay(scorer, tables, self.tune if held_out else self.train)

    def _evidence(self, split: str, rows: NDArray[np.intp]) -> Known:
        if split not in self._known:
            self._known[split] = evidence_of(self.records, rows, self.progress)
        return self._known[split]

    def _encoder(self, rows: NDArray[np.intp], what: str) -> Encoder:
        if self.progress is not None:
            self.progress(f"training the {what}", 0, 1)
        at = rows.tolist()
        r = self.records
        examples = Examples(
            [r.prompt[i] for i in at],
            [r.task[i] for i in at],
            [r.subtask[i] for i in at],
            r.quality[rows],
            r.cost[rows],
            self.settings.tolerance,
            r.models,
            [r.group[i] for i in at],
            tuple((r.prompt[i], r.task[i], r.subtask[i]) for i in self.tune.tolist()),
        )
        return self.trainer.train(examples, seed=self.settings.seed)

    def _views(self, kind: str, rows: NDArray[np.intp]) -> list[View]:
        """Every row as one kind of models sees it; the models are shared by all scopes of that kind."""
        views = []
        for i in rows.tolist():
            task, subtask = self.records.task[i], self.records.subtask[i]
            if kind == MASKED:
                views.append(View("*", None, None))
            elif kind == TASK_ONLY:
                views.append(View(f"{task}/*", task, None))
            else:
                views.append(View(task, task, subtask or None))
        return views

    def _models(
        self,
        views: Sequence[View],
        predictions: Sequence[Prediction],
        known: Mapping[Any, Any],
        keep: NDArray[np.bool_],
    ) -> Any:
        at = np.flatnonzero(keep)
        rows = self.train[at]
        return fit_view_models(
            [self.records.prompt[i] for i in rows.tolist()],
            [views[r].label for r in at.tolist()],
            [predictions[r] for r in at.tolist()],
            {key: [items[r] for r in at.tolist()] for key, items in known.items()},
            tried_sets(len(self.records.models) - 1),
            self.records.models,
            self.bad[rows],
            self.records.cost[rows, -1],
            seed=self.settings.seed,
        )

    def _out_of_fold(
        self,
        kind: str,
        views: Sequence[View],
        predictions: Sequence[Prediction],
        known: Mapping[Any, Any],
        folds: NDArray[np.intp],
        encoders: Sequence[Encoder],
    ) -> ScoreTable:
        """Score train rows with models that saw neither the row nor its group."""
        order, parts = [], []
        for f in range(_FOLDS):
            mine = np.flatnonzero(folds == f).tolist()
            if not mine:
                continue
            models = self._models(views, predictions, known, folds != f)
            scorer = Scorer(self.records.models, encoders[f], {kind: models})
            order.extend(mine)
            held = {key: [items[r] for r in mine] for key, items in known.items()}
            told = [views[r] for r in mine]
            parts.append(score_table(scorer, self.records, self.train[mine], told, self.bad, held, self.progress))
        return concatenate(parts).take(np.argsort(np.asarray(order), kind="stable"))

    def _fold_of(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Fold of each row by the hash of its group."""
        digest = [hashlib.sha256(f"routenlp-fold-v1|{self.records.group[i]}".encode()).digest() for i in rows.tolist()]
        return np.asarray([int.from_bytes(d[:6], "big") % _FOLDS for d in digest], np.intp)

    def _hidden(self, scorer: Scorer, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.stack([scorer.encoder.embed(self.records.prompt[i]) for i in rows.tolist()])

    def _lay(self, scorer: Scorer, tables: Mapping[str, ScoreTable], rows: NDArray[np.intp]) -> Candidate:
        """Fit the rivals, and lay a path for every scope and policy."""
        s, held_out = self.settings, len(self.tune) > 0
        passed = 1 - self.bad[:, :-1]
        lesson = Lesson(
            self._hidden(scorer, self.train),
            passed[self.train],
            self.group[self.train],
            self._fold_of(self.train),
            s.seed,
        )
        tuning = Tuning(
            self._hidden(scorer, rows) if held_out else None,
            {kind: table.risk for kind, table in tables.items()},
            passed[rows],
        )
        baselines, scores = fit_rivals(lesson, tuning)
        labels = [(self.records.task[i], self.records.subtask[i]) for i in rows.tolist()]
        self.tuned = Tuned(tables, scores, labels)
        sizes = calib_sizes(self.records, self.scopes, self.calib)
        goal = Goal(s.risk, s.alpha, delta_of_each(s.delta, self.scopes, simultaneous=s.simultaneous), s.seed)
        laid = lay(self.tuned, self.scopes, sizes, goal, self.records.models)
        self.choices, self.expected_cost_ratio = laid.choices, laid.expected_cost_ratio(sizes)
        return Candidate(
            self.scopes, scorer, baselines, laid.policies, laid.plans, s.risk, goal.alpha, goal.delta, s.tolerance
        )


def _scopes(records: Records, rows: NDArray[np.intp], by: CertifyBy) -> Scopes:
    found: dict[str, set[str]] = {}
    for i in rows.tolist():
        found.setdefault(records.task[i], set()).update([records.subtask[i]] if records.subtask[i] else [])
    return Scopes({task: tuple(sorted(subtasks)) for task, subtasks in sorted(found.items())}, by)
