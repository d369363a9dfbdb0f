"""The report of a round: what was learned, what it cost, what was gained, and what was refused and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.clusters import Clusters
from exporters.loop.files import read_json, write_json
from exporters.loop.gate import Verdict
from exporters.loop.journal import Journal
from exporters.loop.work import Work
from exporters.showing import round_html
from router_core.durable import write_file
from router_core.release import Release

__all__ = ["OUTCOMES", "RoundReport", "exhausted", "fold_line", "report_of"]

OUTCOMES = ("promoted", "refused", "nothing to learn", "no fold left")


@dataclass(frozen=True)
class RoundReport:
    """What a round did.

    Attributes
    ----------
    root
        The ROOT.
    number
        Of the round; 0 when none was begun.
    outcome
        One of `OUTCOMES`.
    release
        Id of the release that serves now.
    reasons
        By check of the gate, what spoke against promotion.
    told
        Everything, as in ``report.json``: ``fold`` (where it is one of fresh audits), ``harvest``, ``clusters``,
        ``picked``, ``teach``, ``students``, ``gate``, ``comparison`` on the fold, ``test`` (before and after on the
        test split), ``steps`` (seconds, CPU seconds and US dollars of each).
    folder
        Where it is written; None when no round was begun.
    """

    root: Path
    number: int
    outcome: str
    release: str
    reasons: Mapping[str, tuple[str, ...]]
    told: Mapping[str, Any]
    folder: Path | None = None

    @property
    def promoted(self) -> bool:
        """Whether a new release serves."""
        return self.outcome == "promoted"

    @property
    def verdict(self) -> Verdict | None:
        """The gate's; None when there was nothing to judge."""
        return Verdict(self.promoted, self.reasons) if "gate" in self.told else None

    @property
    def clusters(self) -> Clusters | None:
        """What failed, with its map; None when nothing was clustered."""
        path = None if self.folder is None else Journal(self.folder).path("cluster") / "clusters.json"
        return None if path is None or not path.exists() else Clusters.from_json(read_json(path))

    def _repr_html_(self) -> str:
        return round_html(self)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(f"Round {self.number}: {self.outcome}; release {self.release} serves")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "root": str(self.root), "round": self.number, "outcome": self.outcome, "release": self.release,
            "reasons": {name: list(said) for name, said in self.reasons.items()}, **self.told,
        }  # fmt: skip


def exhausted(root: Path, folds: int) -> RoundReport:
    """No round can be certified any more."""
    why = (
        f"all {folds} calibration folds are used; nothing was changed. Certify on fresh queries: random audits of the "
        "ledger (--fresh audits), or new records in a new folder"
    )
    return RoundReport(root, 0, "no fold left", Release.current(root).id, {}, {"why": why})


def report_of(work: Work, journal: Journal, incumbent: Release) -> RoundReport:
    """Make the report, write it, and close the round."""
    told = _told(work, journal)
    gate = told.get("gate")
    promoted = journal.promoted
    outcome = "nothing to learn" if gate is None else "refused" if promoted is None else "promoted"
    release = promoted or Release.current(work.state.root).id
    reasons = {} if gate is None else {name: tuple(said) for name, said in gate["reasons"].items()}
    if journal.done("promote") and promoted is None:
        reasons["incumbent"] = (journal.steps["promote"]["told"]["refused"],)
    report = RoundReport(work.state.root, int(journal.begun["round"]), outcome, release, reasons, told, journal.folder)
    write_json(journal.folder / "report.json", report.to_json())
    write_file(journal.folder / "report.md", _markdown(report).encode())
    picture = journal.path("cluster") / "clusters.png"
    if picture.exists():
        write_file(journal.folder / "clusters.png", picture.read_bytes())
    journal.run("report", lambda _: {"outcome": outcome})
    return report


def _told(work: Work, journal: Journal) -> dict[str, Any]:
    steps = journal.steps
    told: dict[str, Any] = {
        "harvest": steps["harvest"]["told"],
        "clusters": [],
        "picked": steps["select"]["told"]["picked"],
        "teach": steps["teach"]["told"],
        "students": {name.partition("@")[2]: one["told"] for name, one in steps.items() if name.startswith("distil@")},
        "steps": {
            name: {key: one[key] for key in ("seconds", "cpu_seconds", "usd")}
            for name, one in steps.items()
            if name != "report"
        },
    }
    if journal.done("fold"):
        told["fold"] = steps["fold"]["told"]
    clusters = journal.path("cluster") / "clusters.json"
    if clusters.exists():
        kept = ("task", "number", "size", "gap", "score", "cost_usd", "keywords", "typical")
        told["clusters"] = [{key: one[key] for key in kept} for one in read_json(clusters)["clusters"]]
    if journal.done("gate"):
        told["gate"] = steps["gate"]["told"]
        told["tiers"] = list(work.options.portfolio.names)
        measured = journal.path("gate") / "measurements.json"
        if measured.exists():
            told["measurements"] = read_json(measured)
            told["comparison"] = told["measurements"]["comparison"]
    if journal.done("test") and (found := read_json(journal.path("test") / "test.json")):
        told["test"] = found
    return told


def _markdown(report: RoundReport) -> str:
    lines = [f"# Round {report.number}: {report.outcome}", "", f"Release {report.release} serves.", ""]
    for name, said in report.reasons.items():
        lines += [f"- **{name}**: {one}" for one in said]
    told = report.told
    lines += ["", "## Learned", ""]
    found, teach = told["harvest"], told["teach"]
    lines.append(
        f"Harvested: {_counts(found['found']) or 'nothing'}. Left out: {_counts(found['left_out']) or 'nothing'}."
    )
    if told["clusters"]:
        lines += ["", "| task | # | size | gap | size x gap | USD | words | a typical query |", "| --- " * 8 + "|"]
        lines += [
            f"| {one['task']} | {one['number']} | {one['size']} | {one['gap']:.2f} | {one['score']:.1f} | "
            f"{one['cost_usd']:.4g} | {', '.join(one['keywords'])} | {_cell(one['typical'])} |"
            for one in told["clusters"]
        ]
        lines += ["", "![failures](clusters.png)"]
    lines += [
        "",
        f"Picked: {_counts(told['picked']) or 'nothing'}. Teacher: {teach['reused']} answers were paid for already "
        f"({teach['reused_usd']:.4g} USD then), {teach['asked']} asked for {teach['usd']:.4g} USD.",
    ]
    for task, one in told["students"].items():
        if "skipped" in one:
            lines.append(f"- {task}: no new student ({one['skipped']})")
        else:
            lines.append(
                f"- {task}: {one['pairs']} new pairs and {one['replay']} replayed; student {one['student'][:12]}"
            )
    if "fold" in told:
        lines += ["", f"Set aside for the certificate, {fold_line(told['fold'])}"]
    if "comparison" in told:
        lines += ["", "## Gained, on the fresh calibration fold", "", *_comparison(told)]
    if "test" in told:
        lines += ["", "## Before and after on the test split", "", *_test(told["test"])]
    lines += ["", "## Cost of the round", "", "| step | seconds | CPU seconds | USD |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {one['seconds']:.1f} | {one['cpu_seconds']:.1f} | {one['usd']:.4g} |"
        for name, one in told["steps"].items()
    ]
    return "\n".join(lines) + "\n"


def fold_line(told: Mapping[str, Any]) -> str:
    """What a fold of fresh audits is made of, in words."""
    asked = f"; {told['asked']} answers were asked for, {told['usd']:.4g} USD" if told["asked"] else ""
    left_out = {
        **told["left_out"],
        "thinned": told["thinned"],
        "where another query stands for the group": told["repeats"],
    }
    return (
        f"fresh audits: {_counts(told['found'])}, each drawn with probability {told['probability']:g} among "
        f"{told['traffic']} logged queries, one of a conversation or text. Of {told['audited']} audits left out: "
        f"{_counts({name: count for name, count in left_out.items() if count}) or 'none'}{asked}."
    )


def _comparison(told: Mapping[str, Any]) -> list[str]:
    comparison = told["comparison"]
    rows = {"all": comparison["overall"], **comparison["tasks"]}
    lines = [
        f"Cost and quality are ratios to always-{told['tiers'][-1]}; the interval is of the paired difference of cost "
        f"(bootstrap over groups), those of quality are of the ratio, those of bad answers exact; all at level "
        f"{comparison['level']:g}.",
        "",
        "| task | n | cost before | cost after | difference | quality before | quality after | bad before | bad after "
        "| served after |",
        "| --- " * 10 + "|",
    ]
    for name, one in rows.items():
        usd, quality = one["reference_usd"] or 1.0, one["reference_quality"] or 1.0
        low, high = (limit / usd for limit in one["difference_usd"])
        old, new = (
            (
                f"{one[f'{side}_quality'] / quality:.3f}{_limits(one[f'{side}_quality_ratio'])}",
                f"{one[f'{side}_bad']}{_limits(one[f'{side}_bad_share'])}",
            )
            for side in ("old", "new")
        )
        shares = ", ".join(
            f"{tier} {100 * share:.0f} %" for tier, share in zip(told["tiers"], one["new_share"], strict=True) if share
        )
        lines.append(
            f"| {name} | {one['n']} | {one['old_usd'] / usd:.3f} | {one['new_usd'] / usd:.3f} | {low:+.3f} to "
            f"{high:+.3f} | {old[0]} | {new[0]} | {old[1]} | {new[1]} | {shares} |"
        )
    return lines


def _test(told: Mapping[str, Any]) -> list[str]:
    lines = [
        "Nothing was decided by these figures. Ratios are to the reference tier, with bootstrap intervals; joint risk "
        "is the share of queries served a bad answer, with its exact interval; all at 95 %.",
        "",
        "| task | n | | quality ratio | cost ratio | joint risk | served |",
        "| --- " * 7 + "|",
    ]
    for name in told["before"]:
        for when in ("before", "after"):
            one = told[when][name]
            cells = [_ratio(one, "quality_ratio"), _ratio(one, "cost_ratio"), _ratio(one, "joint_risk")]
            shares = ", ".join(f"{tier} {100 * share:.0f} %" for tier, share in one["share"].items() if share)
            lines.append(f"| {name} | {one['n']} | {when} | {' | '.join(cells)} | {shares} |")
    return lines


def _ratio(one: Mapping[str, Any], name: str) -> str:
    return "-" if one[name] is None else f"{one[name]:.3f}{_limits(one[f'{name}_ci'])}"


def _limits(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _cell(texts: list[str]) -> str:
    return (" ".join(texts[0].split())[:80] if texts else "").replace("|", "\\|")
