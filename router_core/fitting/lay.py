"""Laying the paths: from scores on tune to one frozen path for every scope, policy and rival.

`fit()` lays them once; `calibrate()` lays them again for another risk or another cut into scopes, from the same
scores, which the bundle keeps. Nothing here sees calib but the number of its items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_arrays, dump_json, load_arrays, load_json
from router_core.fitting.candidates import Choice, Goal, best_path, choose_path, coin_path, confidence_paths
from router_core.fitting.rivals import COIN
from router_core.fitting.score_table import ScoreTable
from router_core.fitting.tables import scope_rows
from router_core.policy import CASCADE, ROUTE_ONLY, Policy
from router_core.records import Records
from router_core.risks import Plan
from router_core.scopes import Scopes

__all__ = ["Laid", "Tuned", "calib_sizes", "concatenate", "delta_of_each", "lay"]

_LARGEST = 8 * 2**20
"""Most bytes of tune scores that a bundle keeps."""
_FEWEST = 20
"""Rows below which a scope's path is laid on the rows of all scopes; its certificate borrows nothing."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """Scores of tune (or out-of-fold train), from which paths are laid.

    Attributes
    ----------
    tables
        By kind of models: every row as these models see it.
    rivals
        By rival and kind of models: its P(bad), float64 [n, K-1].
    labels
        Task and subtask of each row.
    """

    tables: Mapping[str, ScoreTable]
    rivals: Mapping[str, Mapping[str, NDArray[np.float64]]]
    labels: Sequence[tuple[str, str]]

    def rows_of(self, scopes: Scopes, scope: str) -> NDArray[np.intp]:
        """Rows that a scope serves."""
        if scope == "*":
            return np.arange(len(self.labels))
        found = []
        for row, (task, subtask) in enumerate(self.labels):
            view = scopes.resolve(f"{task}/{subtask}" if subtask else task)
            if scope == f"{task}/*" or (view is not None and view.scope == scope):
                found.append(row)
        return np.asarray(found, np.intp)

    def parts(self) -> dict[str, bytes]:
        """As bundle parts; none when they would be large."""
        names = sorted(set(self.labels))
        number = {label: i for i, label in enumerate(names)}
        first = next(iter(self.tables.values()))
        arrays: dict[str, NDArray[Any]] = {
            "label": np.asarray([number[label] for label in self.labels], np.int32),
            "toss": first.toss,
            "cost": first.cost,
            "bad": first.bad,
            "quality": first.quality,
            "failed": first.failed,
        }
        arrays |= {f"{kind}.by.{name}": risk for name, risks in self.rivals.items() for kind, risk in risks.items()}
        text: dict[str, Any] = {"labels": [list(label) for label in names], "kinds": {}}
        for kind, table in sorted(self.tables.items()):
            keys = sorted(table.after)
            text["kinds"][kind] = {"judged": list(table.judged), "after": [[t, list(tried)] for t, tried in keys]}
            arrays |= {f"{kind}.risk": table.risk, f"{kind}.saving": table.saving, f"{kind}.missing": table.missing}
            arrays |= {f"{kind}.after{i}": table.after[key] for i, key in enumerate(keys)}
        if sum(array.nbytes for array in arrays.values()) > _LARGEST:
            return {}
        return {"tuned.json": dump_json(text), "tuned.npz": dump_arrays(arrays)}

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes]) -> Tuned | None:
        """Inverse of `parts`; None when the bundle keeps no tune scores."""
        if "tuned.npz" not in parts:
            return None
        text, arrays = load_json("tuned.json", parts["tuned.json"]), load_arrays("tuned.npz", parts["tuned.npz"])
        tables = {}
        for kind, told in text["kinds"].items():
            after = {(t, tuple(tried)): arrays[f"{kind}.after{i}"] for i, (t, tried) in enumerate(told["after"])}
            tables[kind] = ScoreTable(
                arrays[f"{kind}.risk"],
                arrays[f"{kind}.saving"],
                arrays["toss"],
                after,
                tuple(told["judged"]),
                arrays["cost"],
                arrays["bad"],
                arrays["quality"],
                arrays["failed"],
                arrays[f"{kind}.missing"],
            )
        rivals: dict[str, dict[str, NDArray[np.float64]]] = {}
        for key, risk in arrays.items():
            kind, by, name = key.partition(".by.")
            if by:
                rivals.setdefault(name, {})[kind] = risk
        names = [(str(task), str(subtask)) for task, subtask in text["labels"]]
        return cls(tables, rivals, [names[i] for i in arrays["label"].tolist()])


@dataclass(frozen=True, eq=False)
class Laid:
    """Paths, plans and costs by (scope, policy or rival), and the choices for the report.

    Attributes
    ----------
    costs
        US dollars a query, on the rows that laid the path: expected once certified, and of always the reference tier.
    """

    policies: dict[tuple[str, str], Policy]
    plans: dict[tuple[str, str], Plan]
    choices: dict[str, Any]
    costs: dict[tuple[str, str], tuple[float, float]]

    def expected_cost_ratio(self, sizes: Mapping[str, int]) -> float:
        """Expected cost of all cascades over that of always the reference; a scope counts by its calib items."""
        paid = sum(n * self.costs[scope, CASCADE][0] for scope, n in sizes.items())
        reference = sum(n * self.costs[scope, CASCADE][1] for scope, n in sizes.items())
        return paid / reference if reference > 0 else 1.0


def delta_of_each(delta: float, scopes: Scopes, *, simultaneous: bool) -> float:
    """The delta of one certificate: all of it, or a share so that all promises hold at once (Bonferroni)."""
    return delta / scopes.promises if simultaneous else delta


def calib_sizes(records: Records, scopes: Scopes, calib: NDArray[np.intp]) -> dict[str, int]:
    """How many calib items each scope has; nothing else of them is looked at."""
    return {view.scope: len(scope_rows(records, scopes, view.scope, calib)) for view in scopes.views}


def lay(
    tuned: Tuned,
    scopes: Scopes,
    sizes: Mapping[str, int],
    goal: Goal,
    tiers: Sequence[str],
) -> Laid:
    """Choose a path for every scope, policy and rival.

    Parameters
    ----------
    tuned
        Scores on tune.
    scopes
        How traffic is cut.
    sizes
        Calibration items of each scope.
    goal
        What will be certified.
    tiers
        Names, for the report.
    """
    laid = Laid({}, {}, {}, {})
    for view in scopes.views:
        scope, n = view.scope, sizes[view.scope]
        rows = tuned.rows_of(scopes, scope)
        if len(rows) < _FEWEST:
            rows = np.arange(len(tuned.labels))
        table = tuned.tables[view.models].take(rows)
        cheap = table.risk.shape[1]
        chosen: dict[str, Choice] = {name: choose_path(table, name, scope, n, goal) for name in (CASCADE, ROUTE_ONLY)}
        chosen[COIN] = best_path(table, [coin_path(COIN, scope, cheap, tier) for tier in range(cheap)], n, goal)
        for name, risks in tuned.rivals.items():
            rival = table.scored_by(risks[view.models][rows])
            chosen[name] = best_path(rival, confidence_paths(rival, name, scope), n, goal)
        for name, choice in chosen.items():
            laid.policies[scope, name], laid.plans[scope, name] = choice.policy, choice.plan
            laid.costs[scope, name] = choice.expected_cost, float(table.cost[:, -1].mean())
        laid.choices[scope] = {name: _told(choice, tiers, table) for name, choice in chosen.items()}
    return laid


def concatenate(parts: Sequence[ScoreTable]) -> ScoreTable:
    """Tables of several folds, one under the other."""
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
        np.concatenate([part.quality for part in parts]),
        np.concatenate([part.failed for part in parts]),
        np.concatenate([part.missing for part in parts]),
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
