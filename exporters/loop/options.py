"""What the loop is told: which tier learns, how each task's student is made and graded, and what the gate allows."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

from exporters.clusters import ClusterOptions
from exporters.students.options import ENCODER_KINDS, EncoderOptions, GenerativeOptions
from router_core.errors import InputError
from router_core.fitting.fit_bundle import FitSettings
from router_core.grades import Grade, grader
from router_core.portfolio import Portfolio

__all__ = ["SELECTIONS", "Limits", "LoopOptions", "Selection", "TaskPlan", "check_number"]

Selection = Literal["clusters", "failures", "traffic"]
SELECTIONS: tuple[Selection, ...] = ("clusters", "failures", "traffic")
"""What is taught: the worst failure clusters; failures in hash order; any logged query in hash order, untargeted."""

_KINDS = (*ENCODER_KINDS, "generative")


@dataclass(frozen=True)
class TaskPlan:
    """How the student of one task is made and judged.

    Attributes
    ----------
    kind
        One of `exporters.students.KINDS`.
    options
        Of the trainer; its defaults when None.
    grade
        Of an answer against the right one: a metric's name or a function (`router_core.grades`). Certificates and the
        gate take the reference tier's answer as right, whose quality is therefore 1 (`answering.with_answers`);
        corrections in the feedback are what students are taught and what failures are found by.
    seed_pairs
        Where the first release is given no student of the task: how many student-part queries of the records, with the
        reference tier's recorded answers, make one. 0 leaves the tier's recorded answers until a round has taught one.
    quality_loss
        How far the mean quality served on the task may lie below the reference tier's; None is alpha + tolerance.
    """

    kind: str
    options: EncoderOptions | GenerativeOptions | None = None
    grade: str | Grade = "agree_with_reference"
    seed_pairs: int = 0
    quality_loss: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise InputError(f"a plan is of the kind {self.kind!r}; use {', '.join(_KINDS)}")
        # Named now, a metric that does not exist is found before anything is written.
        grader(self.grade)
        check_number("seed_pairs", self.seed_pairs, "not negative", lambda x: x >= 0, whole=True)
        if self.quality_loss is not None:
            check_number("quality_loss", self.quality_loss, "in [0, 1)", lambda x: 0 <= x < 1)


@dataclass(frozen=True)
class Limits:
    """What the gate allows beside risk and cost.

    Attributes
    ----------
    student_mb
        Largest weights of one student, millions of bytes.
    student_ms, router_ms
        Largest median time of one answer of a student, and of one decision of the router, milliseconds, one thread, on
        the machine that runs the round.
    """

    student_mb: float = 200.0
    student_ms: float = 2_000.0
    router_ms: float = 100.0

    def __post_init__(self) -> None:
        for name in ("student_mb", "student_ms", "router_ms"):
            check_number(name, getattr(self, name), "above 0", lambda x: x > 0)


@dataclass(frozen=True)
class LoopOptions:
    """Everything about a loop but its data.

    Attributes
    ----------
    portfolio
        Tiers with their prices, the reference last.
    tier
        The cheap tier that learns.
    plans
        By task; tasks without a plan are left alone.
    settings
        What every release is to be certified for.
    folds
        Parts that calib is cut into: one for the start, one for each round.
    student_share
        Share of the learned queries that students may be taught; the router learns from the others.
    clusters, per_task
        How failures are grouped, and how many of a task's clusters are taught.
    select
        What is taught, see `SELECTIONS`.
    reuse_records
        Take the reference tier's answer from the records where a logged query is one of them; False asks the teacher,
        who is paid.
    most, least
        Queries taught per task and round at most; below the least a task's student stays as it is.
    budget_usd
        US dollars that the teacher may be paid in one round.
    concurrency
        Calls to the teacher in flight at once.
    limits
        Of the gate.
    seed
        Of everything random.
    """

    portfolio: Portfolio
    tier: str
    plans: Mapping[str, TaskPlan]
    settings: FitSettings = field(default_factory=FitSettings)
    folds: int = 4
    student_share: float = 0.5
    clusters: ClusterOptions = field(default_factory=ClusterOptions)
    per_task: int = 5
    select: Selection = "clusters"
    reuse_records: bool = True
    most: int = 2_000
    least: int = 20
    budget_usd: float = 1.0
    concurrency: int = 1
    limits: Limits = field(default_factory=Limits)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.portfolio.index(self.tier) == len(self.portfolio.tiers) - 1:
            raise InputError(f"{self.tier!r} is the reference tier, which teaches; name a cheaper one to learn")
        if not self.portfolio.tiers[self.portfolio.index(self.tier)].priced:
            raise InputError(f"tier {self.tier!r} has no price; give one (0 is allowed), the gate compares costs")
        if not self.plans:
            raise InputError("no task has a plan; give at least one task its kind of student")
        if self.select not in SELECTIONS:
            raise InputError(f"select is {self.select!r}; use {', '.join(SELECTIONS)}")
        check_number("folds", self.folds, "at least 2 (the start and one round)", lambda x: x >= 2, whole=True)
        check_number("student_share", self.student_share, "between 0 and 1", lambda x: 0 < x < 1)
        for name in ("per_task", "most", "least", "concurrency"):
            check_number(name, getattr(self, name), "at least 1", lambda x: x >= 1, whole=True)
        check_number("budget_usd", self.budget_usd, "not negative", lambda x: x >= 0)
        check_number("seed", self.seed, "in [0, 2**32)", lambda x: 0 <= x < 2**32, whole=True)

    @property
    def grades(self) -> dict[str, str | Grade]:
        """Grades by task, as `router_core.grades.grader` takes them."""
        return {task: plan.grade for task, plan in self.plans.items()}

    def quality_loss(self, task: str) -> float:
        """How far the mean quality served on a task may lie below the reference tier's."""
        plan = self.plans.get(task)
        if plan is None or plan.quality_loss is None:
            return self.settings.alpha + self.settings.tolerance
        return plan.quality_loss

    @property
    def fixed(self) -> dict[str, Any]:
        """What no round may change, as JSON values: folds and certificates of all rounds were made under it."""
        told = {
            "tier": self.tier,
            "folds": self.folds,
            "student_share": self.student_share,
            "portfolio": self.portfolio.to_json(),
            "settings": asdict(self.settings),
            **{
                f"task {task}": {key: _plan(plan)[key] for key in ("grade", "quality_loss")}
                for task, plan in self.plans.items()
            },
        }
        found: dict[str, Any] = json.loads(json.dumps(told))
        return found

    @property
    def digest(self) -> str:
        """Hash of all options, by which a round that is taken up again is known to be the same."""
        told = {
            **{name: getattr(self, name) for name in ("tier", "folds", "student_share", "per_task", "select", "most")},
            **{name: getattr(self, name) for name in ("least", "budget_usd", "seed", "reuse_records")},
            "portfolio": self.portfolio.to_json(),
            "settings": asdict(self.settings),
            "clusters": asdict(self.clusters),
            "limits": asdict(self.limits),
            "plans": {task: _plan(plan) for task, plan in sorted(self.plans.items())},
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def check_number(name: str, value: Any, must: str, holds: Callable[[float], bool], *, whole: bool = False) -> None:
    """Refuse what is no number, not finite or out of range, by its name.

    Raises
    ------
    InputError
        Naming the key and its value.
    """
    fits = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not (fits and math.isfinite(value) and holds(value)):
        raise InputError(f"{name} is {value!r}; it must be a {'whole ' if whole else ''}number, {must}")


def _plan(plan: TaskPlan) -> dict[str, Any]:
    grade = (
        plan.grade if isinstance(plan.grade, str) else getattr(plan.grade, "__qualname__", type(plan.grade).__name__)
    )
    return {
        "kind": plan.kind,
        "options": None if plan.options is None else asdict(plan.options),
        "grade": grade,
        "seed_pairs": plan.seed_pairs,
        "quality_loss": plan.quality_loss,
    }
