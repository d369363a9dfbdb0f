"""Everything that is fitted before calib is read: encoder, evidence models, policy paths and rivals."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router_core.baselines import Baselines
from router_core.encoder import Encoder, EncoderTrainer, Examples, Prediction
from router_core.fitting.baselines import fit_isotonic, fit_neighbours, neighbour_risk
from router_core.fitting.candidates import (
    Choice,
    ScoreTable,
    best_path,
    choose_path,
    coin_path,
    confidence_paths,
    tried_sets,
)
from router_core.fitting.certify import Candidate
from router_core.fitting.evidence_model import fit_view_models
from router_core.fitting.tables import HiddenFrom, Progress, bad_answers, evidence_of, score_table, views_of
from router_core.policy import CASCADE, ROUTE_ONLY, Policy
from router_core.records import Records
from router_core.router import Scopes
from router_core.scoring import Scorer, View
from router_core.splits import Prepared

if TYPE_CHECKING:
    from router_core.fitting.fit import FitSettings

__all__ = ["Fitter"]

_FOLDS = 5


class Fitter:
    """The steps of one fit, sharing prepared records; never touches a calib or test row."""

    def __init__(
        self, prepared: Prepared, settings: FitSettings, trainer: EncoderTrainer, progress: Progress | None
    ) -> None:
        self.settings, self.trainer, self.progress = settings, trainer, progress
        self.records = prepared.records
        self.train, self.tune, self.calib = prepared.train, prepared.tune, prepared.calib
        self.group = prepared.group_id
        self.bad = bad_answers(self.records, settings.tolerance)
        self.scopes = _scopes(self.records, np.union1d(self.train, self.tune))
        self.choices: dict[str, Any] = {}

    def candidate(self) -> Candidate:
        """Fit everything and lay the paths."""
        final = self._encoder(self.train, "encoder")
        known = evidence_of(self.records, self.train, self.progress)
        held_out = len(self.tune) > 0
        folds = self._fold_of(self.train)
        encoders: list[Encoder] = [final]
        if known or not held_out:
            encoders = [
                HiddenFrom(self._encoder(self.train[folds != f], f"encoder, fold {f + 1} of {_FOLDS}"), final)
                for f in range(_FOLDS)
            ]
        models = {}
        tables: dict[str, ScoreTable] = {}
        for view in self.scopes.views:
            views = self._views(view.scope, self.train)
            predictions = [
                encoders[folds[r] if len(encoders) > 1 else 0].predict(
                    self.records.prompt[i], views[r].task, views[r].subtask
                )
                for r, i in enumerate(self.train.tolist())
            ]
            if view.models not in models:
                models[view.models] = self._models(views, predictions, known, np.ones(len(self.train), bool))
            if not held_out:
                tables[view.scope] = self._out_of_fold(view, views, predictions, known, folds, encoders)
        scorer = Scorer(self.records.models, final, models)
        if held_out:
            known_tune = evidence_of(self.records, self.tune, self.progress)
            for view in self.scopes.views:
                tables[view.scope] = score_table(
                    scorer,
                    self.records,
                    self.tune,
                    self._views(view.scope, self.tune),
                    self.bad,
                    known_tune,
                    self.progress,
                )
        return self._lay(scorer, tables, self.tune if held_out else self.train)

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
        )
        return self.trainer.train(examples, seed=self.settings.seed)

    def _views(self, scope: str, rows: NDArray[np.intp]) -> list[View]:
        """Every row as the scope's models see it, also rows of other tasks: models are shared by all tasks."""
        views = []
        for i in rows.tolist():
            task, subtask = self.records.task[i], self.records.subtask[i]
            if scope == "*":
                views.append(View("*", None, None))
            elif scope.endswith("/*"):
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
        view: View,
        views: Sequence[View],
        predictions: Sequence[Prediction],
        known: Mapping[Any, Any],
        folds: NDArray[np.intp],
        encoders: Sequence[Encoder],
    ) -> ScoreTable:
        """Score train rows with models that saw neither the row nor its group."""
        order, parts = [], []
        for f in range(_FOLDS):
            models = self._models(views, predictions, known, folds != f)
            scorer = Scorer(self.records.models, encoders[f], {view.models: models})
            mine = [r for r in np.flatnonzero(folds == f).tolist() if _serves(self.scopes, view.scope, views[r])]
            if not mine:
                continue
            order.extend(mine)
            held = {key: [items[r] for r in mine] for key, items in known.items()}
            parts.append(
                score_table(
                    scorer,
                    self.records,
                    self.train[mine],
                    [views[r] for r in mine],
                    self.bad,
                    held,
                    self.progress,
                )
            )
        return _concatenate(parts).take(np.argsort(np.asarray(order), kind="stable"))

    def _fold_of(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Fold of each row by the hash of its group."""
        digest = [hashlib.sha256(f"routenlp-fold-v1|{self.records.group[i]}".encode()).digest() for i in rows.tolist()]
        return np.asarray([int.from_bytes(d[:6], "big") % _FOLDS for d in digest], np.intp)

    def _lay(self, scorer: Scorer, tables: Mapping[str, ScoreTable], rows: NDArray[np.intp]) -> Candidate:
        """Choose a path for every scope and policy, and fit the rivals."""
        s, embed = self.settings, scorer.encoder.embed
        hidden = np.stack([embed(self.records.prompt[i]) for i in self.train.tolist()])
        near = fit_neighbours(hidden, self.bad[self.train], self.group[self.train], seed=s.seed)
        voters = self.group[self.train] if len(self.tune) == 0 else None
        policies: dict[tuple[str, str], Policy] = {}
        cost: dict[tuple[str, str], NDArray[np.float64]] = {}
        isotonic = {}
        for view in self.scopes.views:
            scope, table = view.scope, tables[view.scope]
            n = sum(item is not None for item in views_of(self.records, self.scopes, scope, self.calib))
            mine = self._rows_of(scope, rows)
            at = np.stack([embed(self.records.prompt[i]) for i in mine.tolist()])
            if view.models not in isotonic:
                isotonic[view.models] = fit_isotonic(table.risk, table.bad)
            own = None if voters is None else self.group[mine]
            rivals = {
                "knn": neighbour_risk(near, at, own, voters),
                "isotonic": isotonic[view.models].risk(table.risk),
            }
            chosen: dict[str, Choice] = {
                name: choose_path(table, name, scope, n, s.alpha, s.delta, s.seed) for name in (CASCADE, ROUTE_ONLY)
            }
            cheap = table.risk.shape[1]
            coins = [coin_path("coin", scope, cheap, tier) for tier in range(cheap)]
            chosen["coin"] = best_path(table, coins, n, s.alpha, s.delta, s.seed)
            for name, risk in rivals.items():
                rival = ScoreTable(risk, table.saving, table.toss, {}, (False,) * cheap, table.cost, table.bad)
                chosen[name] = best_path(rival, confidence_paths(rival, name, scope), n, s.alpha, s.delta, s.seed)
            for name, choice in chosen.items():
                policies[scope, name] = choice.policy
                cost[scope, name] = choice.step_cost
            self.choices[scope] = {name: _told(choice, self.records.models, table) for name, choice in chosen.items()}
        return Candidate(self.scopes, scorer, Baselines(near, isotonic), policies, cost, s.alpha, s.delta, s.tolerance)

    def _rows_of(self, scope: str, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        served = [_serves(self.scopes, scope, view) for view in self._views(scope, rows)]
        return np.asarray(rows[np.asarray(served, bool)])


def _serves(scopes: Scopes, scope: str, view: View) -> bool:
    if scope == "*":
        return True
    return view.scope == scope


def _scopes(records: Records, rows: NDArray[np.intp]) -> Scopes:
    found: dict[str, set[str]] = {}
    for i in rows.tolist():
        found.setdefault(records.task[i], set()).update([records.subtask[i]] if records.subtask[i] else [])
    return Scopes({task: tuple(sorted(subtasks)) for task, subtasks in sorted(found.items())})


def _concatenate(parts: Sequence[ScoreTable]) -> ScoreTable:
    # A fold whose models could not judge a tier makes the tier unjudged for the whole path.
    judged = tuple(all(flags) for flags in zip(*(part.judged for part in parts), strict=True))
    keys = [key for key in parts[0].after if judged[key[0]]]
    return ScoreTable(
        np.concatenate([part.risk for part in parts]),
        np.concatenate([part.saving for part in parts]),
        np.concatenate([part.toss for part in parts]),
        {key: np.concatenate([part.after[key] for part in parts], axis=1) for key in keys},
        judged,
        np.concatenate([part.cost for part in parts]),
        np.concatenate([part.bad for part in parts]),
    )


def _told(choice: Choice, tiers: Sequence[str], table: ScoreTable) -> dict[str, Any]:
    reference = float(table.cost[:, -1].mean())
    scale = reference if reference > 0 else 1.0
    return {
        "scale": choice.policy.scale,
        "offset": choice.policy.offset,
        "tiers": [tiers[k] for k in choice.policy.called],
        "expected_cost_ratio": round(choice.expected_cost / scale, 6),
        "expected_by_scale": {name: round(value / scale, 6) for name, value in sorted(choice.by_scale.items())},
    }
