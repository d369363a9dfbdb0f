"""``routenlp route``: where one query would start, and why; nothing is called."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from routenlp_integrations.cli.output import STDOUT, console, write_json
from router_core.promises import claimed, seen

__all__ = ["route"]


def route(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    text: Annotated[str, typer.Argument(help="The query, as the tiers would see it.")],
    task: Annotated[
        str | None,
        typer.Option(help="Task of the query, task or task/subtask. Default: the only task, or the mix of all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead of text.")] = False,
) -> None:
    """Decide which tier a query starts with, and say why. No tier is called."""
    from router_core.errors import InputError
    from router_core.policy import CASCADE, ROUTE_ONLY
    from router_core.router import Router

    if not text.strip():
        raise InputError("the query is empty; give the text that the tiers would see")
    if task is not None and not task.strip():
        raise InputError("--task is empty; name the task, or leave the option out")
    router = Router.load(bundle)
    cascade, alone = (asdict(router.decide(text, task, policy)) for policy in (CASCADE, ROUTE_ONLY))
    told: dict[str, Any] = {"bundle": router.bundle_id, "task": task, **cascade}
    told["route_only"] = {key: alone[key] for key in ("tier", "certificate", "reason")}
    if as_json:
        write_json(Path(STDOUT), told)
        return
    from routenlp_integrations.cli.report import facts, heading, percent, table

    screen = console()
    screen.print(f"Start with {cascade['tier']}", style="bold")
    facts(
        screen,
        [
            ("why", cascade["reason"]),
            ("scope", told["scope"] or "none: the task was never calibrated"),
            ("shown", _shown(cascade["certificate"])),
            ("difficulty", f"{cascade['difficulty']:.2f} (0: the cheapest tier passes, 1: only the reference)"),
        ],
    )
    heading(screen, "If no answer can be judged (streaming, selectors)")
    facts(screen, [("start with", alone["tier"]), ("why", alone["reason"]), ("shown", _shown(alone["certificate"]))])
    heading(screen, "Probability that the answer is not bad")
    made = table(("tier", "left"), ("", "right"))
    for tier, chance in cascade["pass_probability"].items():
        made.add_row(tier, percent(chance))
    screen.print(made)


def _shown(certificate: dict[str, Any] | None) -> str:
    if certificate is None:
        return "nothing; the reference tier answers"
    return f"{claimed(certificate)} ({seen(certificate)})"
