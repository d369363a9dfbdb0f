"""P14: a promise per task is kept task by task; a threshold pooled over tasks is not such a promise."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from router_core.certificate import certify_path, minimum_n
from router_core.fitting.tables import scope_rows
from router_core.scopes import Scopes
from router_core.splits import one_of_each

from .checks import ALPHA, DELTA, holds, last_steps, note
from .population import REFERENCE, Population, path_bad_counts

pytestmark = pytest.mark.statistical

EASY = REFERENCE
HARD = Population(centre=0.36)
SIX = [EASY] * 5 + [HARD]


def test_p14_hard_task_among_easy_ones() -> None:
    """P14: six certificates each hold on their own task; one pooled threshold breaks the hard task."""
    draws, n, thr = 2000, 300, REFERENCE.path()
    rng = np.random.default_rng(401)
    counts = [path_bad_counts(*task.draw(rng, draws, n), thr) for task in SIX]
    pooled = last_steps(np.sum(counts, axis=0), n * len(SIX))
    for name, task, own in zip("abcdef", SIX, counts, strict=True):
        risk = np.concatenate(([0.0], task.joint_risk(thr)))
        mine = risk[last_steps(own, n)]
        assert mine.mean() > 0.01, "a rule that always escalates would pass"
        assert holds(f"P14 task {name}", int((mine > ALPHA).sum()), draws, DELTA)
        note(f"P14 task {name}: mean risk own {mine.mean():.4f}, pooled {risk[pooled].mean():.4f}")
    # The loop ends on the hard task.
    assert not holds("P14 pooled threshold on the hard task", int((risk[pooled] > ALPHA).sum()), draws, DELTA)


COSTS = np.array([1.0, 0.5, 0.2])

Fallback = Callable[[NDArray[np.uint8], NDArray[np.uint8]], int]


def accepts_nothing_below_minimum(rule: Fallback) -> bool:
    """Whether a faultless task below the minimum n stays with the reference, whatever pool lies beside it."""
    pool = np.zeros((3, 500), dtype=np.uint8)
    sizes = range(minimum_n(ALPHA, DELTA))
    return all(rule(np.zeros((3, n), dtype=np.uint8), pool) == 0 for n in sizes)


def own_items(own: NDArray[np.uint8], pool: NDArray[np.uint8]) -> int:
    """Step certified on the task's own items."""
    del pool
    return certify_path(own, COSTS, ALPHA, DELTA).step


def pooled_fallback(own: NDArray[np.uint8], pool: NDArray[np.uint8]) -> int:
    """Broken rule: a task with too few items is certified on all tasks together."""
    enough = own.shape[1] >= minimum_n(ALPHA, DELTA)
    return certify_path(own if enough else np.hstack((own, pool)), COSTS, ALPHA, DELTA).step


def test_p14_too_small_a_task_accepts_nothing() -> None:
    """P14: below the minimum n even a faultless task serves no cheap answer; a pooled fallback does."""
    assert accepts_nothing_below_minimum(own_items)
    assert not accepts_nothing_below_minimum(pooled_fallback)
    assert own_items(np.zeros((3, minimum_n(ALPHA, DELTA)), dtype=np.uint8), np.empty((3, 0), dtype=np.uint8)) == 2


def one_row_a_conversation(records: Any) -> list[int]:
    """The mutant: a conversation over several tasks stands for one of them."""
    return [i for i in one_of_each(records, range(len(records.group))) if records.task[i] == "tone"]


def test_p14_conversations_over_two_tasks_count_in_both() -> None:
    """Calib's share of bad answers in a task is that task's, though long conversations are mostly about another one."""
    singles, talks, turns, draws = 120, 60, 9, 300
    group = [f"s{i}" for i in range(singles)] + [f"c{i}" for i in range(talks) for _ in range(turns + 1)]
    task = ["tone"] * singles + (["tone"] + ["mood"] * turns) * talks
    # What single queries ask goes well, what conversations ask about tone does not: a third of tone is bad.
    bad = np.array([name.startswith("c") for name in group])
    shares: dict[str, list[float]] = {"right": [], "mutant": []}
    for draw in range(draws):
        ids = [f"{draw}-{i}" for i in range(len(group))]
        records: Any = SimpleNamespace(query_id=ids, group=group, task=task, subtask=[""] * len(ids))
        cells = np.array(one_of_each(records, range(len(ids)), lambda i: task[i]))
        tone = scope_rows(records, Scopes({"tone": (), "mood": ()}), "tone", cells)
        shares["right"].append(float(bad[tone].mean()))
        shares["mutant"].append(float(bad[one_row_a_conversation(records)].mean()))
    assert min(shares["right"]) == max(shares["right"]) == pytest.approx(talks / (singles + talks))
    assert max(shares["mutant"]) < 0.5 * talks / (singles + talks)
