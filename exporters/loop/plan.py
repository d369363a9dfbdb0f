"""The plan of a loop as a TOML file.

::

    tier = "student"                 # the cheap tier that learns
    tiers = ["student", "panel"]     # cascade order, the reference last; the records' own when left out
    portfolio = "portfolio.json"     # prices, beside the plan; derived from the records when left out
    folds = 4
    [settings]                       # of fit: alpha, delta, tolerance, risk, seed
    alpha = 0.05
    [limits]                         # of the gate: student_mb, student_ms, router_ms
    [tasks.intent]
    kind = "classifier"
    grade = "exact"
    seed_pairs = 60
    [tasks.intent.options]           # of the trainer
    max_tokens = 64

Other keys of the top are those of `LoopOptions`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from exporters.clusters import ClusterOptions
from exporters.loop.options import Limits, LoopOptions, TaskPlan
from exporters.students.options import EncoderOptions, GenerativeOptions, HeadOptions
from router_core.errors import InputError
from router_core.fitting.fit_bundle import FitSettings
from router_core.portfolio import Portfolio, derive_prices
from router_core.records import Records

__all__ = ["options_of", "portfolio_file", "read_plan", "with_budget"]

_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
# Stands in for the default None where a field is checked by the type of its default.
_OPTIONAL = {"float | None": 0.0, "int | None": 0, "str | None": ""}
_PLACES = ("portfolio", "tiers", "settings", "limits", "clusters", "tasks")


def read_plan(path: Path) -> dict[str, Any]:
    """Read a plan.

    Raises
    ------
    InputError
        When the file is no TOML.
    """
    told = _read(path)
    if (prices := portfolio_file(path)) is not None:
        told["portfolio"] = Portfolio.load(prices).to_json()
    return told


def portfolio_file(path: Path) -> Path | None:
    """The file of prices that a plan names; None when it names none. Raises like `read_plan`."""
    named = _read(path).get("portfolio")
    return path.parent / named if isinstance(named, str) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None


def options_of(told: Mapping[str, Any], records: Records) -> LoopOptions:
    """The options that a plan stands for.

    Parameters
    ----------
    told
        From `read_plan`.
    records
        For prices and tiers that the plan leaves out.

    Raises
    ------
    InputError
        Naming the key that is wrong.
    """
    tasks = told.get("tasks")
    if not isinstance(tasks, Mapping) or not tasks or not isinstance(told.get("tier"), str):
        raise InputError('a plan needs tier = "..." and a table [tasks.<name>] with kind for each task that learns')
    portfolio = _portfolio(told, records)
    top = {key: value for key, value in told.items() if key not in _PLACES}
    made: LoopOptions = _made(
        LoopOptions,
        "the plan",
        {
            **top,
            "portfolio": portfolio,
            "plans": {task: _task(task, row) for task, row in tasks.items()},
            "settings": _made(FitSettings, "[settings]", told.get("settings", {})),
            "limits": _made(Limits, "[limits]", told.get("limits", {})),
            "clusters": _made(ClusterOptions, "[clusters]", told.get("clusters", {})),
        },
    )
    return made


def _portfolio(told: Mapping[str, Any], records: Records) -> Portfolio:
    given = told.get("portfolio")
    portfolio = Portfolio.from_json(given) if given is not None else derive_prices(records)[0]
    names = told.get("tiers")
    if names is None:
        return portfolio
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("tiers must be a list of names in cascade order, the reference last")
    return portfolio.select(names)


def _task(task: str, row: Any) -> TaskPlan:
    place = f"[tasks.{task}]"
    if not isinstance(row, Mapping):
        raise InputError(f"{place} must be a table with kind")
    more = dict(row)
    given = more.pop("options", None)
    if given is not None:
        if not isinstance(given, Mapping):
            raise InputError(f"{place} options is {given!r}; it must be a table, as in {place[:-1]}.options]")
        generative = row.get("kind") == "generative"
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        if "head" in options:
            options["head"] = _made(HeadOptions, f"{place} head", options["head"])
        more["options"] = _made(GenerativeOptions if generative else EncoderOptions, f"{place} options", options)
    made: TaskPlan = _made(TaskPlan, place, more)
    return made


def _made(kind: Any, place: str, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise InputError(f"{place} must be a table")
    known = {field.name: _OPTIONAL.get(str(field.type), field.default) for field in fields(kind)}
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{place}: unknown key {str(key)!r}; known are {', '.join(known)}")
        wanted = _TYPES.get(type(known[key]))
        if wanted is not None and not (type(value) is type(known[key]) or (wanted == "a number" and _whole(value))):
            raise InputError(f"{place}: {key} is {value!r}; it must be {wanted}")
    try:
        return kind(**given)
    except TypeError as error:
        raise InputError(f"{place}: {error}") from None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def with_budget(options: LoopOptions, budget_usd: float | None) -> LoopOptions:
    """The same options with another budget."""
    return options if budget_usd is None else replace(options, budget_usd=budget_usd)
