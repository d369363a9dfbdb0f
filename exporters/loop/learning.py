"""The first half of a round: what failed, what of it is taught, what the teacher says, and the students made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from exporters.cluster_map import plot_clusters
from exporters.clusters import Clusters, Failure, find_clusters
from exporters.loop.files import read_json, read_lines, write_json, write_lines
from exporters.loop.harvesting import Fence, Found, gaps, harvest_failures, to_row
from exporters.loop.journal import Journal
from exporters.loop.lessons import no_teacher, pairs_of, pick, questions_of, worst_price
from exporters.loop.state import pairs_keys, read_pairs_of, students_of, write_pairs
from exporters.loop.work import Work, merged_pairs
from exporters.students.data import Pair
from exporters.students.teacher import Ask, Lesson, teach
from router_core.bundle import Bundle
from router_core.checkpoint import Checkpoint
from router_core.errors import InputError
from router_core.groups import hash_key
from router_core.release import Release

__all__ = ["Learning"]


class Learning:
    """Steps harvest, cluster, select, teach and distil of one round.

    Parameters
    ----------
    work
        What the round is called with.
    journal
        Of the round.
    incumbent
        The release that serves now.
    """

    def __init__(self, work: Work, journal: Journal, incumbent: Release) -> None:
        self.work, self.journal, self.incumbent = work, journal, incumbent
        self.options = work.options

    @cached_property
    def before(self) -> dict[str, list[Pair]]:
        """What the current students learned from, by task."""
        return self.work.state.learned(self.incumbent.id)

    @cached_property
    def found(self) -> list[Found]:
        """What was harvested."""
        return [Found(**row) for row in read_lines(self.journal.path("harvest") / "failures.jsonl")]

    def harvest(self, ledger: str, left_out: Counter[str]) -> None:
        """Read the ledger; queries that students may be taught, with their gaps."""
        options, work = self.options, self.work

        def step(folder: Path) -> dict[str, Any]:
            answers = {
                (task, hash_key(pair.prompt)): pair.answer for task, pairs in self.before.items() for pair in pairs
            }
            taught = pairs_keys(self.before)
            fence = Fence(
                work.prepared, work.calib, taught, options.student_share, work.test, work.groups, answers
            )  # fmt: skip
            found = harvest_failures(
                ledger, fence, tasks=options.plans, since=self.journal.begun["since"],
                until=self.journal.begun["until"], everything=options.select == "traffic",
                dearer=options.portfolio.names[options.portfolio.index(options.tier) + 1 :],
                recorded=options.reuse_records, tolerance=options.settings.tolerance,
                limit=options.clusters.limit, seed=options.seed, left_out=left_out,
            )  # fmt: skip
            students = students_of(self.incumbent, options.tier, list(options.plans))
            column = options.portfolio.index(options.tier)
            found = gaps(found, students, work.prepared.records, column, options.grades)
            write_lines(folder / "failures.jsonl", map(to_row, found))
            count = Counter(one.task for one in found)
            return {"found": dict(sorted(count.items())), "left_out": dict(sorted(left_out.items()))}

        self.journal.run("harvest", step)

    def cluster(self) -> None:
        """Group what was harvested by the current router's hidden vectors; nothing to do for untargeted picks."""

        def step(folder: Path) -> dict[str, Any]:
            if self.options.select != "clusters" or not self.found:
                return {"clusters": 0}
            clusters = self._clusters()
            write_json(folder / "clusters.json", clusters.to_json())
            plot_clusters(clusters, folder / "clusters.png")
            return {"clusters": len(clusters.clusters), "silhouette": clusters.silhouette}

        self.journal.run("cluster", step)

    def select(self) -> None:
        """Pick what is taught."""

        def step(folder: Path) -> dict[str, Any]:
            by_cluster = self.options.select == "clusters" and bool(self.found)
            told = read_json(self.journal.path("cluster") / "clusters.json") if by_cluster else None
            picked = pick(self.found, None if told is None else _worst(told, self.options.per_task), self.options)
            write_json(folder / "picked.json", picked)
            return {"picked": {task: len(ids) for task, ids in picked.items()}}

        self.journal.run("select", step)

    def teach(self, ask: Ask | None) -> None:
        """Get the reference tier's answers, those that escalations paid for first."""
        work = self.work

        def step(folder: Path) -> dict[str, Any]:
            picked = read_json(self.journal.path("select") / "picked.json")
            ids = [query for _, mine in sorted(picked.items()) for query in mine]
            asked = questions_of(ids, self.found, self._earlier())
            if ask is None:
                asked = [one for one in asked if one.known is not None]
            taught = teach(
                asked, ask or no_teacher, budget_usd=max(0.0, self.options.budget_usd - self._fold_usd),
                worst_usd=lambda prompt: worst_price(self.options.portfolio.reference, prompt),
                journal=self.journal.folder / "teacher.jsonl", calib=work.calib, concurrency=self.options.concurrency,
                progress=work.progress,
            )  # fmt: skip
            by_id = {one.query_id: one for one in self.found}
            write_lines(
                folder / "lessons.jsonl",
                (
                    {
                        "query_id": query, "key": f"{by_id[query].task}|{hash_key(by_id[query].prompt)}",
                        "text": lesson.text, "usd": lesson.cost_usd,
                        "soft": None if lesson.soft is None else dict(lesson.soft),
                    }
                    for query, lesson in taught.lessons.items()
                ),
            )  # fmt: skip
            return {
                "usd": taught.spent_usd, "asked": taught.asked, "reused": taught.reused, "stopped": taught.stopped,
                "reused_usd": sum(one.known.cost_usd for one in asked if one.known is not None),
                "unanswered": len(ids) - len(taught.lessons),
            }  # fmt: skip

        self.journal.run("teach", step)

    def distil(self) -> dict[str, Path]:
        """Make a student of every task that was taught enough; folders of the new ones by task."""
        picked: Mapping[str, list[str]] = read_json(self.journal.path("select") / "picked.json")
        lessons = {
            row["query_id"]: Lesson(row["text"], row["usd"], row["soft"])
            for row in read_lines(self.journal.path("teach") / "lessons.jsonl")
        }
        made = {}
        for task, ids in sorted(picked.items()):
            told = self.journal.run(f"distil@{task}", partial(self._student, task=task, ids=ids, lessons=lessons))
            if "skipped" not in told:
                made[task] = self.journal.path(f"distil@{task}") / "checkpoint"
        return made

    def learned(self) -> dict[str, list[Pair]]:
        """What the students of the next release learned from, by task."""
        found = dict(self.before)
        for step in self.journal.steps:
            path = self.journal.path(step) / "pairs.jsonl"
            if step.startswith("distil@") and path.exists():
                task = step.partition("@")[2]
                found[task] = merged_pairs(found.get(task, []), read_pairs_of(path))
        return found

    def _student(self, folder: Path, task: str, ids: list[str], lessons: Mapping[str, Lesson]) -> dict[str, Any]:
        new = pairs_of(ids, self.found, lessons)
        if len(new) < self.options.least:
            return {"skipped": f"{len(new)} answers are fewer than {self.options.least}"}
        parent = None
        if self.options.tier in self.incumbent.tiers:
            held = self.incumbent.tasks(self.options.tier)
            if not held or task in held:
                parent = Checkpoint.load(self.incumbent.checkpoint(self.options.tier, task))
        lineage = {
            "round": self.journal.begun["round"], "release": self.incumbent.id,
            "teacher": self.options.portfolio.names[-1],
            "ledger": [self.journal.begun["since"], self.journal.begun["until"]],
        }  # fmt: skip
        again = {hash_key(pair.prompt) for pair in new}
        replay = [pair for pair in self.before.get(task, []) if hash_key(pair.prompt) not in again]
        kind = self.options.plans[task].kind
        same = parent if parent is not None and parent.spec.kind == kind else None
        try:
            made = self.work.distil(task, new, replay=replay, parent=same, lineage=lineage)
        except InputError as error:
            # A leak was refused before; what is left is that these pairs make no student, which stops no other task.
            return {"skipped": str(error)}
        write_pairs(folder / "pairs.jsonl", new)
        saved = made.save(folder / "checkpoint")
        return {"student": saved.fingerprint, "pairs": len(new), "replay": len(replay), "metrics": dict(saved.metrics)}

    def _clusters(self) -> Clusters:
        encoder = Bundle.load(self.incumbent.bundle).scorer.encoder
        failures = (
            Failure(one.query_id, one.task, one.prompt, encoder.embed(one.prompt), one.gap, one.route_usd, one.group)
            for one in self.found
        )
        return find_clusters(failures, self.options.clusters, calib=self.work.calib, seed=self.options.seed)

    @property
    def _fold_usd(self) -> float:
        """What was paid for answers that a fold of fresh audits lacked."""
        return float(self.journal.steps["fold"]["usd"]) if self.journal.done("fold") else 0.0

    def _earlier(self) -> dict[str, str]:
        """Answers that earlier rounds got from the teacher, by task and key of the text."""
        found = {}
        for number in self.work.state.rounds():
            for row in read_lines(self.work.state.round(number) / "teach" / "lessons.jsonl"):
                found[row["key"]] = row["text"]
        return found


def _worst(told: Mapping[str, Any], per_task: int) -> list[str]:
    """Ids of the failures in the worst clusters, as `Clusters.pick` gives them."""
    return [query for one in told["clusters"] if one["number"] <= per_task for query in one["query_ids"]]
