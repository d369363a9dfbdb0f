"""Tasks and subtasks as rows of a table, their levels of masking, and what is known of a label alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from router_core.encoder import Examples
from router_core.groups import normalise

__all__ = ["LabelTable", "group_folds"]

Float = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class LabelTable:
    """Labels seen in training.

    Attributes
    ----------
    labels
        ``(task, subtask)`` of rows 1, 2, ...; ``(task, "")`` is the task with its subtask masked. Row 0 is masked.
    task, subtask
        int64 ``[L]``: the embedding row of every label; 0 = unknown.
    levels
        int64 ``[n]`` each: the label row of every query at every level of masking, from all masked to all named.
        A level that tells nothing apart is left out.
    """

    labels: tuple[tuple[str, str], ...]
    task: Rows
    subtask: Rows
    levels: tuple[Rows, ...]

    @classmethod
    def of(cls, examples: Examples) -> LabelTable:
        """Read the labels of the examples."""
        pairs = set(zip(examples.task, examples.subtask, strict=True))
        several_tasks, several_pairs = len(set(examples.task)) > 1, len(pairs) > 1
        named = {(task, "") for task, _ in pairs} if several_tasks else set()
        labels = tuple(sorted(named | pairs if several_pairs else named))
        row = {label: i for i, label in enumerate(labels, start=1)}
        levels = [np.zeros(len(examples), dtype=np.int64)]
        if several_tasks:
            levels.append(np.array([row[task, ""] for task in examples.task], dtype=np.int64))
        if several_pairs and any(examples.subtask):
            levels.append(np.array([row[pair] for pair in zip(examples.task, examples.subtask, strict=True)]))
        tasks = {task: i for i, task in enumerate(sorted({task for task, _ in labels}), start=1)}
        subtasks = {pair: i for i, pair in enumerate((pair for pair in labels if pair[1]), start=1)}
        return cls(
            labels,
            np.array([0, *(tasks[task] for task, _ in labels)], dtype=np.int64),
            np.array([0, *(subtasks.get(pair, 0) for pair in labels)], dtype=np.int64),
            tuple(levels),
        )

    @property
    def size(self) -> int:
        """Rows of the table, masked included."""
        return len(self.labels) + 1

    def priors(self, target: Float, fold: Rows, strength: float) -> tuple[Float, list[Float]]:
        """Smoothed means of the targets per label, less the overall mean.

        Parameters
        ----------
        target
            float64 ``[n, m]``.
        fold
            Fold of every query.
        strength
            Pseudo-observations of the task's mean (for a subtask) and of the overall mean (for a task).

        Returns
        -------
        tuple
            Per label ``[L, m]``, and out of fold per level ``[n, m]``.
        """
        out = [np.zeros_like(target) for _ in self.levels]
        for held in range(int(fold.max()) + 1):
            mine = fold != held
            means = self._means(target[mine], [rows[mine] for rows in self.levels], strength)
            for rows, found in zip(self.levels, out, strict=True):
                found[~mine] = means[rows[~mine]]
        return self._means(target, list(self.levels), strength), out

    def _means(self, target: Float, levels: list[Rows], strength: float) -> Float:
        found = np.zeros((self.size, target.shape[1]))
        overall = target.mean(axis=0)
        parent = np.zeros(self.size, dtype=np.int64)
        for coarse, fine in pairwise(levels):
            parent[fine] = coarse
        for rows in levels[1:]:
            count = np.bincount(rows, minlength=self.size).astype(np.float64)
            total = np.zeros_like(found)
            np.add.at(total, rows, target - overall)
            for label in np.flatnonzero(count):
                found[label] = (total[label] + strength * found[parent[label]]) / (count[label] + strength)
        return found


def group_folds(texts: list[str], folds: int, seed: int) -> Rows:
    """Fold of every query, ``[n]``; texts alike but for case and punctuation share one."""
    first: dict[str, int] = {}
    group = np.array([first.setdefault(normalise(text) or text, len(first)) for text in texts])
    rng = np.random.default_rng(seed)
    if len(first) < 2 * folds:
        return np.asarray(rng.permutation(len(texts)) % folds, dtype=np.int64)
    return np.asarray((rng.permutation(len(first)) % folds)[group], dtype=np.int64)
