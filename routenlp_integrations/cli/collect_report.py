"""What `routenlp collect` says at the end: what was written, what is missing, what it is enough for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_collected"]

_DELTA = 0.1


def print_collected(out: Console, told: dict[str, Any], path: Path, metric: str, tiers: Sequence[str]) -> None:
    """Say what was written, and add to `told` what calib holds and needs.

    Parameters
    ----------
    out
        Where to.
    told
        What was done, as the JSON will have it.
    path
        The records.
    metric
        How they were graded.
    tiers
        Names in cascade order.
    """
    out.print()
    out.print(f"{told['rows']} records of {told['queries']} queries written to {path}", style="bold")
    out.print(
        f"{told['spent_usd']:.4f} USD of {told['budget_usd']:g} spent; prompts and answers are stored in the file."
    )
    for name, count in told["missing"].items():
        if count:
            why = told["why"].get(name)
            out.print(f"{name} gave no answer to {count} queries{f' ({why})' if why else ''}; their quality is null.")
    if told["ungraded"]:
        out.print(
            f"{told['ungraded']} answers have no grade the judge's reply could be read as; their quality is null."
        )
    if metric.startswith("judge:"):
        out.print(
            "Graded by a judge: a certificate made from these records is about this judge's grades, not people's. "
            "Grade some by hand, and add the share on which judge and people disagree to the risk you name."
        )
    if metric == "agree_with_reference":
        out.print(f"Graded by agreement with {tiers[-1]}: a better answer than its own counts as bad.")
    if told["stopped"] == "budget":
        out.print(
            f"Stopped at the budget after {told['queries']} of {told['prompts']} prompts, a fair sample of them; run "
            "the same command with a larger --budget to go on."
        )
    _print_calib(out, told, path)
    out.print(f"Next: routenlp fit {path} --tiers {','.join(tiers)} --out bundle", soft_wrap=True)


def _print_calib(out: Console, told: dict[str, Any], path: Path) -> None:
    from importlib.util import find_spec

    from routenlp_integrations.cli.report import heading, percent, table

    if find_spec("scipy") is None:
        out.print("How many calib rows each alpha needs is told where routenlp[fit] is installed.")
        return
    from router_core.calib_size import ALPHAS, calib_sizes
    from router_core.errors import InputError
    from router_core.records import read_records

    try:
        sizes = calib_sizes(read_records(path), _DELTA)
    except InputError as error:
        # They are written all the same: what is missing may come with the next run.
        out.print(f"Not enough for a router yet: {error}")
        return
    heading(out, f"Calib rows, and how many each alpha needs at delta {_DELTA:g} (least / realistic)")
    made = table(("task", "left"), ("rows", "right"), *((f"alpha {alpha:g}", "right") for alpha in ALPHAS))
    for task, size in sizes.items():
        needs = (f"{size.least[alpha]} / {size.realistic[alpha]}" for alpha in ALPHAS)
        made.add_row(task, str(size.rows), *needs)
    out.print(made)
    for task, size in sizes.items():
        if size.bad_rate is not None:
            out.print(
                f"{task}: serving {size.tier} always would be bad on {percent(size.bad_rate)} of {size.train_rows} "
                "train queries."
            )
    out.print(
        "Least: with no bad answer among them. Realistic: for a router at half of alpha, or at that share if smaller.",
        style="dim",
    )
    told["calib"] = {
        task: {
            "rows": size.rows,
            "tier": size.tier,
            "bad_rate": size.bad_rate,
            "train_rows": size.train_rows,
            "least": {str(alpha): n for alpha, n in size.least.items()},
            "realistic": {str(alpha): n for alpha, n in size.realistic.items()},
        }
        for task, size in sizes.items()
    }
