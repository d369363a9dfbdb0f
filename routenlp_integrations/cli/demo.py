"""``routenlp demo``: the whole road on the data that ships with the package; no key, no network."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routenlp_integrations.cli.output import STDOUT, check_target, console, need_fit, write_json
from routenlp_integrations.cli.progress import progress_bar
from router_core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from router_core.bundle import Bundle
    from router_core.fitting.tables import Progress
    from router_core.portfolio import Portfolio
    from router_core.records import Records

__all__ = ["DATA", "demo"]

DATA = Path(__file__).parent / "demo_data"
"""Folder of the packaged records."""

_MARK, _OUT = "demo.json", Path("routenlp-demo")
_ALPHA, _DELTA = 0.05, 0.1


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for bundle, report and picture; that of an earlier demo is used again.")
    ] = _OUT,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write everything as JSON to this file too; - for stdout."),
    ] = None,
    loop: Annotated[
        bool, typer.Option("--loop", help="Show the closed loop instead: a round that is promoted, one refused.")
    ] = False,
) -> None:
    """Fit, certify and route the records that ship with the package. No key, no network."""
    if loop and out == _OUT:
        out = Path("routenlp-demo-loop")
    check_target(json_file, "--json", taken=[out, DATA])
    need_fit("run the demo")
    if loop:
        from routenlp_integrations.cli.demo_loop import demo_loop

        demo_loop(DATA, out, json_file)
        return
    from routenlp_integrations.cli.demo_routes import agree, route_all, test_rows
    from routenlp_integrations.cli.summary import summarise
    from routenlp_integrations.langchain import RoutingChatModel  # noqa: F401 - refused before any work if it is missing
    from router_core.evaluation import evaluate
    from router_core.plots import plot_evaluation
    from router_core.portfolio import Portfolio
    from router_core.records import read_records

    _check_folder(out)
    began = time.perf_counter()
    portfolio = Portfolio.load(DATA / "portfolio.json")
    records = read_records(DATA / "records.jsonl", portfolio)
    to_stdout = str(json_file) == STDOUT
    with progress_bar(silent=to_stdout) as progress:
        bundle, fresh = _bundle(out, records, portfolio, progress)
        report = evaluate(bundle, records, progress=progress)
        rows = test_rows(records, bundle.portfolio.names)
        routed = route_all(out / "bundle", rows, progress)
        agree(routed, report)
    plot_evaluation(report, out / "evaluation.png")
    write_json(out / "evaluation.json", report)
    seconds = time.perf_counter() - began
    told = {
        "out": str(out),
        "fitted_now": fresh,
        "queries": len(records),
        "test": len(rows),
        "bundle": summarise(bundle, str(out / "bundle")),
        "evaluation": report,
        "routed": {
            "n": len(routed),
            "cost_usd": sum(item.cost_usd for item in routed),
            "certified": sum(item.certified for item in routed),
            "agrees_with_evaluation": True,
        },
        "example": {"text": rows.prompt[0], "task": rows.task[0]},
        "picture": str(out / "evaluation.png"),
        "seconds": round(seconds, 3),
    }
    _tell(console(quiet=to_stdout), told)
    if json_file is not None:
        write_json(json_file, told)


def _check_folder(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).is_file())):
        raise InputError(f"{out} exists and is not the folder of a demo; choose another --out or remove it")
    if not (DATA / "records.jsonl").is_file():
        raise InputError(f"{DATA / 'records.jsonl'} is missing; install routenlp again")


def _bundle(out: Path, records: Records, portfolio: Portfolio, progress: Progress | None) -> tuple[Bundle, bool]:
    """The bundle of an earlier demo on the same records, else a fresh one; calib is not spent twice for nothing."""
    from router_core.bundle import Bundle
    from router_core.fitting.fit_bundle import FitSettings, fit

    content = b"".join((DATA / name).read_bytes() for name in ("records.jsonl", "portfolio.json"))
    data = hashlib.sha256(content).hexdigest()
    mark = out / _MARK
    if mark.is_file() and (out / "bundle").is_dir():
        bundle = Bundle.load(out / "bundle")
        if _read(mark) == {"data": data, "bundle": bundle.id}:
            return bundle, False
    out.mkdir(parents=True, exist_ok=True)
    # Marked before anything else is written, so that a demo cut short can be started again.
    write_json(mark, {"data": data, "bundle": None})
    bundle = fit(
        records,
        out=out / "bundle",
        portfolio=portfolio,
        tiers=portfolio.names,
        settings=FitSettings(_ALPHA, _DELTA),
        progress=progress,
    )
    write_json(mark, {"data": data, "bundle": bundle.id})
    return bundle, True


def _read(mark: Path) -> Any:
    try:
        return json.loads(mark.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _tell(screen: Console, told: dict[str, Any]) -> None:
    from routenlp_integrations.cli.report import heading, lines, print_missing, print_tiers
    from routenlp_integrations.cli.scorecard import print_policies, print_scopes

    report, summary = told["evaluation"], told["bundle"]
    how = "fitted and certified" if told["fitted_now"] else "bundle of an earlier demo, not fitted again"
    screen.print(
        f"{told['queries']} recorded queries of {len(summary['tasks'])} tasks, {len(summary['tiers'])} tiers; {how}; "
        f"{told['test']} test queries routed; {told['seconds']:.0f} s",
        style="bold",
    )
    print_tiers(screen, summary)
    print_policies(screen, report)
    print_scopes(screen, report)
    print_missing(screen, summary)
    heading(screen, "What this says")
    lines(screen, _findings(told))
    heading(screen, "What it does not say")
    lines(screen, _limits(told))
    heading(screen, "See")
    bundle = f"{told['out']}/bundle"
    for line in (
        f"picture  {told['picture']}",
        f"report   {told['out']}/evaluation.json",
        f"bundle   routenlp inspect {bundle}",
        f"route    routenlp route {bundle} {shlex.quote(told['example']['text'])} --task {told['example']['task']}",
    ):
        screen.print(line, soft_wrap=True)


def _findings(told: dict[str, Any]) -> list[str]:
    from routenlp_integrations.cli.scorecard import with_interval

    policies, summary = told["evaluation"]["overall"]["policies"], told["bundle"]
    ours, reference, settings = policies["routenlp"], summary["reference"], summary["settings"]
    saved = [1.0 - limit for limit in reversed(ours["cost_ratio_ci"])]
    certified = [c["scope"] for c in summary["certificates"] if c["policy"] == "cascade" and c["certified"]]
    claim = f"at most {100 * settings['alpha']:g} % with confidence {1 - settings['delta']:g}"
    return [
        f"Saved: {with_interval(1.0 - ours['cost_ratio'], saved, ' %')} of the cost of always {reference}; an oracle "
        f"would have saved {100 * (1.0 - policies['oracle']['cost_ratio']):.0f} %.",
        f"Kept: {with_interval(ours['quality_ratio'], ours['quality_ratio_ci'], ' %')} of its quality.",
        f"Joint risk: {with_interval(ours['joint_risk'], ours['joint_risk_ci'], ' %')} of the queries got a cheap "
        f"answer worse than {reference}'s. "
        + (f"Certified for {', '.join(certified)}, each by itself: {claim}." if certified else "Nothing is certified."),
        f"{told['routed']['n']} test queries went through RoutingChatModel (LangChain) over the recorded answers: the "
        "same tiers, quality and cost as in the tables above, task by task.",
    ]


def _limits(told: dict[str, Any]) -> list[str]:
    summary, policies = told["bundle"], told["evaluation"]["overall"]["policies"]
    sizes = {c["scope"]: c["n"] for c in summary["certificates"] if c["policy"] == "cascade"}
    calib = ", ".join(f"{scope} {n}" for scope, n in sizes.items())
    right = policies[f"always:{summary['reference']}"]["quality"]
    return [
        f"The data are small and were written for this demo. Calibration items: {calib}; test queries: {told['test']}. "
        "The intervals are wide, and nothing here is a benchmark.",
        f"The reference, {summary['reference']}, is the best of {len(summary['tiers'])} small models that run on a "
        f"laptop, no frontier model: it answers {100 * right:.0f} % of these queries right. Quality, and what is bad, "
        "are relative to it.",
        "The answers are real, recorded once; the prices are nominal, nobody charges them: read savings as ratios.",
        "A certificate speaks of queries like the calibration items, and of these tiers as they are.",
    ]
