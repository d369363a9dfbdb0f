"""``routenlp collect``: prompts in, graded records of every tier out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routenlp_integrations.cli.interrupts import asyncio_interrupts
from routenlp_integrations.cli.output import STDOUT, check_target, complain, console, write_json
from routenlp_integrations.cli.progress import progress_bar
from router_core.errors import InputError, MissingExtraError, TierError

if TYPE_CHECKING:
    from rich.console import Console

    from routenlp_integrations.langchain.collect import Asked, Asker, Journal, Outcome, Purse
    from routenlp_integrations.langchain.collect.tiers_file import TiersFile
    from router_core.prompts import Prompt
    from router_core.redaction import Redaction

__all__ = ["collect"]

_PACKAGES = ("langchain_core", "langchain", "yaml", "filelock", "tenacity")
_INTERRUPTED = 130


def collect(
    prompts: Annotated[
        Path,
        typer.Argument(
            help="Prompts (.jsonl, .json, .csv, .parquet): a column prompt, text, input or question; or an export of "
            "LangSmith or OpenAI."
        ),
    ],
    tiers: Annotated[Path, typer.Option(help="YAML file of the models to ask, the reference last, with prices.")],
    metric: Annotated[
        str,
        typer.Option(help="How answers are graded: exact, f1, set_f1, rouge_l, agree_with_reference or judge:<model>."),
    ],
    budget: Annotated[
        float, typer.Option(help="US dollars that may be spent in all, earlier runs into the same file included.")
    ],
    out: Annotated[
        Path, typer.Option(help="Records to write (.parquet, .jsonl); prompts and answers are stored in them.")
    ],
    task: Annotated[
        str | None, typer.Option(help="Task of the prompts that name none.", show_default="default")
    ] = None,
    gold: Annotated[
        str | None, typer.Option(help="Column of the gold answers.", show_default="gold, label, answer or ideal")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask this many prompts, a fixed sample; a larger limit adds to it.", min=1)
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Calls in flight at once.", min=1, max=256)] = 4,
    redact: Annotated[
        list[str] | None,
        typer.Option(
            help="Regular expression whose matches are taken out of everything stored, and so of what fit sees; the "
            "tiers are asked the whole. May be given several times. Keys are always taken out."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Spend without asking.")] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write what was done as JSON to this file; - for stdout."),
    ] = None,
) -> None:
    """Ask every tier every prompt, grade the answers, and write records; goes on where it stopped."""
    _need(metric)
    from routenlp_integrations.langchain.collect import Journal, Purse, asking_order, read_tiers
    from routenlp_integrations.langchain.collect.judge import judged_by
    from router_core.metrics import metric as grader
    from router_core.prompts import read_prompts
    from router_core.records_file import RECORD_SUFFIXES
    from router_core.redaction import Redaction

    kept = out.parent / f"{out.name}.journal.jsonl"
    check_target(json_file, "--json", taken=[prompts, tiers, out, kept])
    check_target(out, "--out", RECORD_SUFFIXES, [prompts, tiers])
    check_target(kept, "the journal of --out,", taken=[prompts, tiers])
    if out.suffix.lower() == ".parquet":
        _need_packages("pyarrow")
    judge = judged_by(metric)
    if judge is None:
        grader(metric)
    elif not judge:
        raise InputError("--metric judge: names no model; write judge:openai:gpt-4o or the like")
    file = read_tiers(tiers, judge=judge)
    found = read_prompts(prompts, gold=gold, task=task)
    _check_gold(metric, found.prompts)
    redaction = Redaction.of_environment(redact or ())
    for prompt in found.prompts:
        redaction(prompt.text)
    if out.exists() and not kept.exists():
        raise InputError(f"--out {out} exists, and no journal says that collect made it; choose another --out")
    told: dict[str, Any] = {"out": str(out), "metric": metric, "budget_usd": budget}
    told |= {"kinds": dict(found.kinds), "set_aside": dict(found.set_aside)}
    screen = console(quiet=str(json_file) == STDOUT)
    with Journal(kept) as journal:
        purse = Purse(budget, journal.spent)
        job = _Job(asking_order(found.prompts, limit), file, metric, out, journal, purse, redaction, screen, told)
        _show_price(job)
        _confirm(told, yes=yes)
        outcome = _ask(job, concurrency)
        _write(job, outcome)
    if json_file is not None:
        write_json(json_file, told)
    if outcome.stopped not in ("", "budget"):
        raise TierError(f"{outcome.stopped}; what came is kept, run the same command again once it is mended")


@dataclass(frozen=True)
class _Job:
    prompts: list[Prompt]
    file: TiersFile
    metric: str
    out: Path
    journal: Journal
    purse: Purse
    redaction: Redaction
    screen: Console
    told: dict[str, Any]


def _need(metric: str) -> None:
    _need_packages(*_PACKAGES, *(("rouge_score",) if metric == "rouge_l" else ()))


def _need_packages(*names: str) -> None:
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in names):
        raise MissingExtraError("collect", "collect records")


def _check_gold(metric: str, prompts: tuple[Prompt, ...]) -> None:
    from router_core.metrics import needs_gold

    bare = [prompt for prompt in prompts if prompt.gold is None]
    if needs_gold(metric) and bare:
        raise InputError(
            f"{bare[0].place}: no gold answer, and {len(bare)} of {len(prompts)} prompts have none; --metric {metric} "
            "needs one each (name their column with --gold, or grade by agree_with_reference or judge:<model>)"
        )


def _show_price(job: _Job) -> None:
    from routenlp_integrations.cli.report import table
    from routenlp_integrations.langchain.collect.estimate import expect

    screen, told = job.screen, job.told
    screen.print(", ".join(f"{count} x {kind}" for kind, count in told["kinds"].items()), style="bold")
    for reason, count in told["set_aside"].items():
        screen.print(f"{count} set aside: {reason}, which cannot be asked as text")
    lines = expect(job.prompts, job.file, job.journal, job.redaction)
    made = table(
        ("tier", "left"), ("model", "left"), ("kept", "right"), ("calls", "right"), ("tokens in", "right"),
        ("out", "right"), ("USD", "right"), ("at most", "right"),
    )  # fmt: skip
    for line in lines:
        counts = (str(line.kept), str(line.calls), str(line.prompt_tokens), str(line.completion_tokens))
        made.add_row(line.name, line.model, *counts, _usd(line.usd), _usd(line.worst_usd))
    screen.print(made)
    total, worst = sum(line.usd for line in lines), sum(line.worst_usd for line in lines)
    screen.print(
        f"{len(job.prompts)} prompts: about {_usd(total)} USD, at most {_usd(worst)} without retries. "
        f"Budget {_usd(job.purse.budget)} USD, {_usd(job.purse.spent)} spent before.",
        style="bold",
    )
    screen.print(
        "Tokens in: one for every four bytes; out: a tier's assumed_completion_tokens, else 256 or its max_tokens.",
        style="dim",
    )
    told["prompts"], told["expected"] = len(job.prompts), [vars(line) for line in lines]
    told["expected_usd"], told["spent_before_usd"] = total, job.purse.spent


def _confirm(told: dict[str, Any], *, yes: bool) -> None:
    if yes or not any(line["calls"] for line in told["expected"]):
        return
    if not sys.stdin.isatty():
        raise InputError("nobody is there to confirm the price; say --yes to spend it")
    if not typer.confirm("Spend it?", err=True):
        raise InputError("not confirmed; nothing was asked and nothing spent")


def _ask(job: _Job, concurrency: int) -> Outcome:
    import asyncio

    from routenlp_integrations.langchain.collect import Asker as Ask
    from routenlp_integrations.langchain.collect import Collection

    def asker(asked: Asked) -> Asker:
        return Ask(asked, asked.make(), job.journal, job.purse, job.redaction)

    askers = [asker(asked) for asked in job.file.tiers]
    judge = None if job.file.judge is None else asker(job.file.judge)
    try:
        with progress_bar(silent=job.screen.quiet) as progress:

            def tick(done: int, total: int, spent: float, left: float) -> None:
                if progress is not None:
                    progress(f"{done} of {total} prompts, {_usd(spent)} USD spent, {_usd(left)} left", done, total)

            with asyncio_interrupts():
                return asyncio.run(Collection(askers, judge, tick).run(job.prompts, concurrency))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    except KeyboardInterrupt:
        kept = f"{len(job.journal)} answers are kept ({_usd(job.journal.spent)} USD)"
        complain(f"interrupted; {kept}, run the same command again to go on", _INTERRUPTED)
        raise typer.Exit(_INTERRUPTED) from None


def _write(job: _Job, outcome: Outcome) -> None:
    from routenlp_integrations.cli.collect_report import print_collected
    from routenlp_integrations.langchain.collect import record_rows
    from router_core.records_file import write_records

    asked = [prompt for prompt in job.prompts if prompt.query_id in outcome.asked]
    job.told.update(
        queries=len(asked),
        complete=len(asked) == len(job.prompts),
        stopped=outcome.stopped,
        spent_usd=job.purse.spent,
        failed=dict(outcome.failed),
        why=outcome.why,
    )
    if not asked:
        if outcome.stopped == "budget":
            raise InputError(
                f"--budget {job.purse.budget:g} pays for no whole prompt ({_usd(job.purse.spent)} USD spent); what "
                "came is kept, run the same command with a larger --budget"
            )
        raise TierError(f"{outcome.stopped or 'no prompt was asked'}; nothing was written")
    graded = record_rows(asked, job.file, job.journal, job.metric, job.redaction)
    if not any(row["response"] for row in graded.rows):
        raise TierError(f"no tier answered a single prompt ({'; '.join(outcome.why.values())}); nothing was written")
    job.told.update(missing=graded.missing, ungraded=graded.ungraded, rows=len(graded.rows))
    write_records(job.out, graded.rows)
    print_collected(job.screen, job.told, job.out, job.metric, job.file.portfolio.names)


def _usd(amount: float) -> str:
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.4f}" if amount >= 0.0001 or amount == 0 else f"{amount:.1e}"
