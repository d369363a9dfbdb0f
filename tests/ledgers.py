"""Routes as a cascade leaves them, and ledgers filled with them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import router_core
from router_core import Answer, Attempt, Route

CERTIFICATE = {"scope": "mood", "policy": "cascade", "risk": "joint", "alpha": 0.05, "delta": 0.1, "n": 100, "bad": 1}


def accepted(text: str = "good", task: str | None = "mood", confidence: float = 0.9) -> Route:
    """A route whose cheap answer was served."""
    attempts = (Attempt("small", confidence, 1e-5, True, "small: score 0.9 >= 0.5; served", 20.0),)
    answer = Answer(text, 12, 3, signals={"mean_logprob": -0.1})
    return Route("small", answer, attempts, 1e-5, task, "mood", "cascade", "b" * 64, CERTIFICATE, "served")


def escalated(task: str | None = "mood") -> Route:
    """A route that went from the cheap tier to the reference tier."""
    attempts = (
        Attempt("small", 0.3, 1e-5, False, "small: score 0.3 < 0.5; escalated", 20.0),
        Attempt("large", None, 1e-3, True, "escalated", 200.0),
    )
    return Route(
        "large", Answer("bad", 12, 3), attempts, 1e-3 + 1e-5, task, "mood", "cascade", "b" * 64, None, "escalated"
    )


def both(cheap: str = "good", reference: str = "bad") -> dict[str, Answer]:
    """What the two tiers of `escalated` answered."""
    return {"small": Answer(cheap, 12, 3, signals={"mean_logprob": -0.7}), "large": Answer(reference, 12, 3)}


def url_of(folder: Path, name: str = "ledger.db") -> str:
    """URL of a ledger in this folder."""
    return f"sqlite:///{folder / name}"


def look(path: Path, query: str) -> list[Any]:
    """Rows of a query, read without any of our code."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def fill(path: Path, routes: int, every: int, rate: float | None = None) -> None:
    """Insert many routes at once, by SQL; every so many-th was audited, at that rate, and every next one escalated."""
    rate = 1.0 / every if rate is None else rate

    def rows() -> Iterator[tuple[Any, ...]]:
        for i in range(routes):
            yield f"{i:032x}", float(i), i % every == 1, i % every == 0, rate, f"Is the mood of review {i} good or bad?"

    def attempts() -> Iterator[tuple[Any, ...]]:
        for i in range(routes):
            yield f"{i:032x}", 0, float(i), "small", True, "good"
            if i % every in (0, 1):
                yield f"{i:032x}", 1, float(i), "large", False, "good" if i % 3 else "bad"

    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO routenlp_routes (id, at, task, tier, reference, certified, escalated, audited, "
            "audit_probability, text) VALUES (?, ?, 'mood', 'small', 'large', 0, ?, ?, ?, ?)",
            rows(),
        )
        connection.executemany(
            "INSERT INTO routenlp_attempts (route, position, at, tier, accepted, audit, cost_usd, answer) "
            "VALUES (?, ?, ?, ?, ?, 0, 0.001, ?)",
            attempts(),
        )
        connection.commit()


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a program of ours in a process of its own; it may import this module."""
    home = f"{Path(router_core.__file__).parents[1]}{os.pathsep}{Path(__file__).parent}"
    words = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": home}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)  # noqa: S603
