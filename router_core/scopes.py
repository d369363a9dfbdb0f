"""Scopes: which promise a query falls under, from the task label it comes with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from router_core.scoring import View

__all__ = ["ALL", "CERTIFY_BY", "CertifyBy", "Scopes"]

ALL = "all"
"""Scope of one certificate over all tasks, labels named."""

CertifyBy = Literal["task", "leaf", "all"]
CERTIFY_BY: tuple[str, ...] = get_args(CertifyBy)
"""What one certificate may be about."""


@dataclass(frozen=True)
class Scopes:
    """Which task labels the router was calibrated on.

    Attributes
    ----------
    subtasks
        For each task, its subtasks; empty when its records have none.
    by
        What a certificate is about: a ``"task"``, a ``"leaf"`` (each subtask on its own), or ``"all"`` tasks at once
        (scope ``"all"``).
    """

    subtasks: Mapping[str, tuple[str, ...]]
    by: CertifyBy = "task"

    @property
    def views(self) -> tuple[View, ...]:
        """One example view per scope, labels left to fill in by `resolve`."""
        found: list[View] = []
        for task, subtasks in self.subtasks.items():
            if self.by == "leaf":
                found.extend(View(f"{task}/{subtask}", task, subtask) for subtask in subtasks)
            if self.by == "task" or not subtasks:
                found.append(View(task, task, None))
            if subtasks:
                found.append(View(f"{task}/*", task, None))
        several = len(self.subtasks) > 1
        if self.by == "all":
            found = [View(ALL, None, None), *(view for view in found if view.scope.endswith("/*") and not several)]
        if several:
            found.append(View("*", None, None))
        return tuple(found)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Scopes of single subtasks; empty unless certified by leaf."""
        if self.by != "leaf":
            return ()
        return tuple(f"{task}/{subtask}" for task, subtasks in self.subtasks.items() for subtask in subtasks)

    def resolve(self, label: str | None) -> View | None:
        """The view under which a query with this label is routed; None for a task never calibrated.

        A missing or never-seen subtask uses ``"task/*"``, or ``"*"`` where all tasks share one certificate; no label
        at all uses the only task, or ``"*"``.
        """
        several = len(self.subtasks) > 1
        if label is None:
            if several:
                return View("*", None, None)
            label = next(iter(self.subtasks))
        task, _, subtask = label.partition("/")
        if task not in self.subtasks:
            return None
        known = not self.subtasks[task] or subtask in self.subtasks[task]
        if not known:
            return View("*", None, None) if self.by == "all" and several else View(f"{task}/*", task, None)
        named = subtask if self.subtasks[task] else None
        if self.by == "all":
            return View(ALL, task, named)
        return View(f"{task}/{named}" if self.by == "leaf" and named else task, task, named)

    def named(self, label: str | None) -> str | None:
        """The label itself, or the only task where none is given; None where the task is not known."""
        return next(iter(self.subtasks)) if not label and len(self.subtasks) == 1 else label or None

    @property
    def promises(self) -> int:
        """How many certificates a bundle stores: two policies for each scope (rivals are no promise)."""
        return 2 * len(self.views)
