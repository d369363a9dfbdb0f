"""``routenlp inspect``: what a bundle is, what was shown of it, when it lapses, what is missing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from routenlp_integrations.cli.output import STDOUT, console, write_json

__all__ = ["inspect"]

_NOT_STATED = "model not stated: the first name that answers is taken"


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead of text.")] = False,
) -> None:
    """Say what a bundle is, what was shown of it, when that lapses, and which minimum n is missing."""
    from routenlp_integrations.cli.report import (
        print_certificates,
        print_choices,
        print_encoders,
        print_missing,
        print_origin,
        print_tiers,
    )
    from routenlp_integrations.cli.summary import POLICIES, add_allowed, summarise
    from router_core.bundle import Bundle
    from router_core.release import bundle_folder

    loaded = Bundle.load(bundle)
    folder = bundle_folder(bundle)
    summary = summarise(loaded, str(bundle)) | _manifest(folder) | {"lapses": _lapses(folder, loaded.id)}
    summary["models"] = loaded.portfolio.models
    with suppress(ImportError):  # counting what n permits needs routenlp[fit]; the rest does not
        add_allowed(summary)
    if as_json:
        write_json(Path(STDOUT), summary)
        return
    from routenlp_integrations.cli.report import facts, heading, lines

    screen, models = console(), summary["models"].items()
    screen.print(f"Bundle {summary['bundle'][:12]} in {bundle}", style="bold")
    facts(
        screen,
        [
            ("id", summary["bundle"]),
            ("candidate", str(summary["candidate"])),
            ("made with", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())),
            ("certified", _date(summary["certified_at"])),
            ("format", f"schema {summary['schema']}, route text {summary['route_text']}"),
            ("fingerprints", ", ".join(f"{tier} = {model or _NOT_STATED}" for tier, model in models)),
        ],
    )
    if summary["lapses"]:
        heading(screen, "LAPSED: running routers send this to the reference tier and claim nothing")
        lines(screen, [_told(lapse) for lapse in summary["lapses"]])
    heading(screen, "Made from")
    print_origin(screen, summary)
    print_tiers(screen, summary)
    print_encoders(screen, summary)
    heading(screen, "Scopes")
    lines(screen, _scopes(summary["tasks"]))
    print_certificates(screen, summary)
    print_choices(screen, summary)
    heading(screen, "What was shown")
    lines(screen, [shown["sentence"] for shown in summary["certificates"] if shown["policy"] in POLICIES])
    heading(screen, "What ends it")
    lines(screen, [*_limits(summary), *summary["void"]])
    print_missing(screen, summary)
    if not summary["missing"]:
        screen.print()
        screen.print(f"No scope is below its minimum n ({_least(summary)} calibration items at these levels).")


def _manifest(path: Path) -> dict[str, Any]:
    import json

    content = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    told = {key: content[key] for key in ("schema", "versions", "route_text", "fingerprints")}
    return told | {"certified_at": content.get("certified_at")}


def _lapses(folder: Path, bundle_id: str) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from router_core.errors import BundleError
    from router_core.lapse import read_lapses

    try:
        return [asdict(lapse) for lapse in read_lapses(folder, bundle_id)]
    except BundleError as error:
        return [{"scope": None, "kind": "damaged", "reason": str(error), "at": None, "numbers": {}}]


def _told(lapse: dict[str, Any]) -> str:
    scope = "every scope" if lapse["scope"] is None else lapse["scope"]
    return f"{scope}: {lapse['reason']}" + ("" if lapse["at"] is None else f" ({_date(lapse['at'])})")


def _date(at: float | None) -> str:
    from datetime import UTC, datetime

    return "not said" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _limits(summary: dict[str, Any]) -> list[str]:
    from router_core.lapse import DAY_S

    days, most = summary["validity"]["max_age_days"], summary["validity"]["max_decisions"]
    made, told = summary["certified_at"], []
    if days is not None:
        until = "the bundle does not say when it was certified" if made is None else _date(made + days * DAY_S)
        told.append(f"age: {days:g} days ({until})")
    if most is not None:
        told.append(f"decisions: {most:,} under one certificate, counted by each process")
    return told


def _scopes(tasks: dict[str, list[str]]) -> list[str]:
    told = []
    for task, subtasks in tasks.items():
        if subtasks:
            told.append(f"{task}: {len(subtasks)} subtasks named; {task}/* when the subtask is missing or new")
        else:
            told.append(f"{task}: no subtasks")
    if len(tasks) > 1:
        told.append("*: queries whose task is not named; the calibration mix of all tasks")
    told.append("a named task that is not listed goes to the reference tier")
    return told


def _least(summary: dict[str, Any]) -> int:
    return max((int(shown["minimum_n"]) for shown in summary["certificates"]), default=0)
