"""``routenlp loop`` and ``routenlp rollback``: what the cheap tier fails at becomes what it learns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routenlp_integrations.cli.output import STDOUT, check_target, console, need_fit, write_json
from routenlp_integrations.cli.progress import progress_bar
from router_core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console

    from exporters.loop import RoundReport
    from exporters.students.teacher import Ask

__all__ = ["loop", "need_loop", "rollback", "show_round"]

_FIGURES = {"quality_ratio": "quality ratio", "cost_ratio": "cost ratio", "joint_risk": "joint risk"}
_PACKAGES = ("torch", "transformers", "onnx", "filelock")

loop = typer.Typer(
    help="Distil what was escalated into the cheap tier, round by round; nothing unproven is promoted.",
    no_args_is_help=True,
)

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write what was done as JSON to this file; - for stdout.")
]


@loop.command()
def start(
    root: Annotated[Path, typer.Argument(help="Folder of the loop: its releases, folds and rounds.")],
    records: Annotated[
        list[Path], typer.Argument(help="Records of every tier (.parquet, .csv, .jsonl), with the reference's answers.")
    ],
    plan: Annotated[Path, typer.Option(help="TOML file: which tier learns, and how each task's student is made.")],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="A student there is already, as TIER@TASK=FOLDER; may be given several times."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Cut calib into folds, make the first students, certify and promote the first release."""
    given = dict(_checkpoint(one) for one in checkpoint or ())
    inputs = [root, *records, plan, *given.values()]
    check_target(json_file, "--json", taken=inputs)
    need_loop()
    from exporters.loop import start as begin
    from exporters.loop.plan import options_of, portfolio_file, read_plan
    from router_core.bundle import Bundle
    from router_core.records import read_records

    _quiet()
    check_target(json_file, "--json", taken=[portfolio_file(plan)])
    told = read_plan(plan)
    found = read_records(records)
    options = options_of(told, found)
    screen = console(quiet=str(json_file) == STDOUT)
    with progress_bar(silent=screen.quiet) as progress:
        release = begin(
            root, found, options=options, checkpoints=given, progress=progress,
            plan={"plan": told, "records": [str(path.absolute()) for path in records]},
        )  # fmt: skip
    bundle = Bundle.load(release.bundle)
    shown = [c.scope for c in bundle.certificates.values() if c.policy == "cascade" and c.certified]
    screen.print(f"release {release.id} serves from {root}", style="bold")
    screen.print(f"certified: {', '.join(shown) or 'nothing; every query goes to the reference tier'}")
    screen.print(f"{options.folds - 1} rounds can be certified with the calibration queries there are")
    if json_file is not None:
        write_json(json_file, {"release": release.id, "bundle": bundle.id, "certified": shown, "folds": options.folds})


@loop.command(name="round")
def one_round(
    root: Annotated[Path, typer.Argument(help="Folder of the loop.")],
    ledger: Annotated[str, typer.Option(help="URL of the ledger, such as sqlite:///ledger.db.")],
    teacher: Annotated[
        Path | None,
        typer.Option(help="YAML file of tiers, the last of which is asked what no escalation has paid for."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="US dollars the teacher may be paid in this round.", show_default="the plan's")
    ] = None,
    records: Annotated[list[Path] | None, typer.Option(help="The records of the start, where they have moved.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="TOML file in place of the start's plan; needed for a loop started from Python.")
    ] = None,
    fresh: Annotated[
        str | None,
        typer.Option(
            metavar="audits",
            help="Certify on queries that the ledger's random audits chose, and not on the next fold of the start.",
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="With --fresh: audits from this time on (ISO 8601).", show_default="all unused")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="With --fresh: read the ledger up to this time (ISO 8601).", show_default="now")
    ] = None,
    json_file: Json = None,
) -> None:
    """Run the next round, or finish one that was cut short; promote its release if every check of the gate passes."""
    check_target(json_file, "--json", taken=[root, ledger, teacher, *(records or ()), plan])
    need_loop()
    if fresh not in (None, "audits"):
        raise InputError(
            f"--fresh {fresh}: the fresh queries that can certify are those of audits; write --fresh audits"
        )
    for name, bound in (("--since", since), ("--until", until)):
        if bound is not None and fresh is None:
            raise InputError(f"{name} bounds fresh audits; give it with --fresh audits")
    from exporters.loop import FreshAudits, run_round
    from exporters.loop.plan import options_of, portfolio_file, with_budget
    from routenlp_integrations.cli.teacher import live_teacher, live_teachers, reference_of
    from router_core.records import read_records

    _quiet()
    check_target(json_file, "--json", taken=[None if plan is None else portfolio_file(plan)])
    told, files = _planned(root, records, plan)
    check_target(json_file, "--json", taken=files)
    found = read_records(files)
    options = options_of(told, found)
    asks: dict[str, Ask] = {}
    if teacher is not None and fresh is not None:
        asks = {name: one.ask for name, one in live_teachers(teacher).items()}
        ask: Ask | None = asks[reference_of(teacher, asks, options.portfolio)]
    else:
        ask = None if teacher is None else live_teacher(teacher).ask
    screen = console(quiet=str(json_file) == STDOUT)
    with progress_bar(silent=screen.quiet) as progress:
        report = run_round(
            root, ledger=ledger, records=found, options=with_budget(options, budget), ask=ask, progress=progress,
            fresh=None if fresh is None else FreshAudits(since, asks, until),
        )  # fmt: skip
    show_round(screen, report)
    if json_file is not None:
        write_json(json_file, report.to_json())


def rollback(
    root: Annotated[Path, typer.Argument(help="Folder of the loop.")],
    json_file: Json = None,
) -> None:
    """Make the release before the current one current again, in one step."""
    check_target(json_file, "--json", taken=[root])
    from router_core.promotion import rollback as back
    from router_core.release import is_root

    if not is_root(root):
        raise InputError(f"{root} is no folder of releases; name the ROOT of a loop")
    release = back(root)
    console(quiet=str(json_file) == STDOUT).print(f"release {release} serves again from {root}", style="bold")
    if json_file is not None:
        write_json(json_file, {"release": release})


def show_round(screen: Console, report: RoundReport) -> None:
    """Tell a round: its outcome, what was taught and its price, before and after."""
    from exporters.loop.reporting import fold_line
    from routenlp_integrations.cli.report import table

    told = report.told
    if report.folder is None:
        screen.print(f"{report.outcome}: {told['why']}", style="bold")
        return
    screen.print(f"round {report.number}: {report.outcome}; release {report.release} serves", style="bold")
    for name, said in report.reasons.items():
        for one in said:
            screen.print(f"  {name}: {one}")
    if "fold" in told:
        screen.print(fold_line(told["fold"]))
    if told["clusters"]:
        made = table(("task", "left"), ("#", "right"), ("size", "right"), ("gap", "right"), ("words", "left"))
        for one in told["clusters"][:8]:
            words = ", ".join(one["keywords"][:4])
            made.add_row(one["task"], str(one["number"]), str(one["size"]), f"{one['gap']:.2f}", words)
        screen.print(made)
    teach = told["teach"]
    for task, one in told["students"].items():
        what = f"{one['pairs']} new pairs, {one['replay']} replayed" if "pairs" in one else one["skipped"]
        screen.print(f"taught {task}: {what}")
    screen.print(
        f"teacher: {teach['reused']} answers paid for before ({teach['reused_usd']:.4g} USD), {teach['asked']} asked "
        f"for {teach['usd']:.4g} USD"
    )
    if "comparison" in told:
        made = table(
            ("", "left"), ("n", "right"), ("cost before", "right"), ("after", "right"), ("difference", "right"),
            ("quality before", "right"), ("after", "right"), ("bad before", "right"), ("after", "right"),
        )  # fmt: skip
        for name, one in {"all": told["comparison"]["overall"], **told["comparison"]["tasks"]}.items():
            made.add_row(name, *_row(one))
        screen.print(made)
    if "test" in told:
        made = table(
            ("on test", "left"), ("n", "right"), ("", "left"), *((name, "right") for name in _FIGURES.values())
        )
        for name in told["test"]["before"]:
            for when in ("before", "after"):
                one = told["test"][when][name]
                made.add_row(name, str(one["n"]), when, *(_figure(one, key) for key in _FIGURES))
        screen.print(made)
    cpu = sum(one["cpu_seconds"] for one in told["steps"].values())
    screen.print(f"{cpu:.0f} CPU seconds; report {report.folder / 'report.md'}", soft_wrap=True)


def _figure(one: dict[str, Any], name: str) -> str:
    value, limits = one[name], one[f"{name}_ci"]
    return "-" if value is None or limits is None else f"{value:.3f} ({limits[0]:.3f} to {limits[1]:.3f})"


def _row(one: dict[str, Any]) -> list[str]:
    usd, quality = one["reference_usd"] or 1.0, one["reference_quality"] or 1.0
    low, high = (limit / usd for limit in one["difference_usd"])
    return [
        str(one["n"]), f"{one['old_usd'] / usd:.3f}", f"{one['new_usd'] / usd:.3f}", f"{low:+.3f} to {high:+.3f}",
        f"{one['old_quality'] / quality:.3f}", f"{one['new_quality'] / quality:.3f}", str(one["old_bad"]),
        str(one["new_bad"]),
    ]  # fmt: skip


def _planned(root: Path, records: list[Path] | None, plan: Path | None) -> tuple[dict[str, Any], list[Path]]:
    """What the plan says, and the files of the records."""
    from exporters.loop.files import read_json
    from exporters.loop.plan import read_plan
    from exporters.loop.state import State

    state = State(root)
    state.check_started()
    if not state.plan.is_file() and not (plan and records):
        raise InputError(f"{root} holds no plan, as its loop was started from Python; give --plan and --records")
    known = read_json(state.plan) if state.plan.is_file() else {"plan": {}, "records": []}
    whole = isinstance(known, dict) and isinstance(known.get("plan"), dict) and isinstance(known.get("records"), list)
    if not whole or not all(isinstance(path, str) for path in known["records"]):
        raise InputError(f"{state.plan} is damaged; restore it, or remove it and give --plan and --records")
    files = records or [Path(path) for path in known["records"]]
    if plan is None:
        return known["plan"], files
    return read_plan(plan), files


def _checkpoint(given: str) -> tuple[str, Path]:
    name, mark, folder = given.partition("=")
    if not mark or not name or not folder:
        raise InputError(f"--checkpoint {given!r}: write TIER@TASK=FOLDER")
    return name, Path(folder)


def need_loop() -> None:
    """Refuse early where a package that the loop needs is not installed."""
    from importlib.util import find_spec

    need_fit("run the loop")
    if any(find_spec(name) is None for name in _PACKAGES):
        raise MissingExtraError("train", "run the loop")
    if find_spec("sqlalchemy") is None:
        raise MissingExtraError("ledger", "run the loop")


def _quiet() -> None:
    from routenlp_integrations.cli.distill import quiet

    quiet()
