"""``routenlp demo --loop``: the whole loop on the data that ships with the package."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routenlp_integrations.cli.output import STDOUT, console, write_json
from routenlp_integrations.cli.progress import progress_bar
from router_core.errors import InputError

if TYPE_CHECKING:
    from exporters.loop import LoopOptions
    from router_core.portfolio import Portfolio
    from router_core.records import Records
    from router_core.route import Route

__all__ = ["demo_loop", "loop_options", "loop_records", "send_through", "shuffled"]

_TASKS, _TIERS, _MARK = ("intent", "sentiment"), ("student", "panel"), "loop-demo.json"
_SEED_PAIRS, _ALPHA, _STUDENT_SHARE = 16, 0.15, 0.6


def demo_loop(data: Path, out: Path, json_file: Path | None) -> None:
    """Start a loop on the demo's labelled tasks, run a round, and plant a student that learned shuffled labels.

    Parameters
    ----------
    data
        Folder of the packaged records.
    out
        Folder to write; that of an earlier demo is replaced.
    json_file
        Where everything is written as JSON too.
    """
    from routenlp_integrations.cli.distill import quiet
    from routenlp_integrations.cli.loop import need_loop, show_round

    need_loop()
    from exporters.loop import run_round, start
    from router_core.portfolio import Portfolio
    from router_core.records import read_records

    quiet()
    root, url = out / "loop", f"sqlite:///{out / 'ledger.db'}"
    if out.exists() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise InputError(f"{out} exists and is not the folder of a demo of the loop; choose another --out or remove it")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / _MARK, {"demo": "loop"})
    for path in (root, *out.glob("ledger.db*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    began = time.perf_counter()
    portfolio = Portfolio.load(data / "portfolio.json").select(_TIERS)
    records = loop_records(read_records(data / "records.jsonl"))
    options, screen = loop_options(portfolio), console(quiet=str(json_file) == STDOUT)
    told: dict[str, Any] = {"root": str(root), "rounds": []}
    with progress_bar(silent=screen.quiet) as progress:
        start(root, records, options=options, progress=progress)
        send_through(root, records, url=url)
        first = run_round(root, ledger=url, records=records, options=options, progress=progress)
        send_through(root, records, url=url)
        last = run_round(root, ledger=url, records=records, options=options, progress=progress, distil=shuffled)
    screen.print(
        f"before: students taught {_SEED_PAIRS} queries each, certified at joint risk {_ALPHA:g}; then one round on "
        "what they left to the reference",
        style="bold",
        soft_wrap=True,
    )
    show_round(screen, first)
    screen.print("\nthen a round whose student was taught shuffled labels, which the gate should refuse", style="bold")
    show_round(screen, last)
    told["rounds"] = [first.to_json(), last.to_json()]
    told["seconds"] = round(time.perf_counter() - began, 1)
    screen.print(f"\n{told['seconds']:.0f} s. The data are small and prices nominal: it shows the road, no benchmark.")
    if json_file is not None:
        write_json(json_file, told)


def loop_records(found: Records) -> Records:
    """The demo's tasks with labels; what the recorded student answered is left to the one that is distilled."""
    mine = found.take([i for i, task in enumerate(found.task) if task in _TASKS])
    return mine.for_models(_TIERS)


def loop_options(portfolio: Portfolio) -> LoopOptions:
    """Options of the demo's loop, given its two tiers."""
    from exporters.loop import LoopOptions, TaskPlan
    from exporters.students import EncoderOptions
    from router_core.fitting import FitSettings

    options = EncoderOptions(max_tokens=64)
    plan = TaskPlan("classifier", options, grade="exact", seed_pairs=_SEED_PAIRS)
    return LoopOptions(
        portfolio,
        _TIERS[0],
        dict.fromkeys(_TASKS, plan),
        settings=FitSettings(_ALPHA),
        folds=3,
        least=8,
        student_share=_STUDENT_SHARE,
    )


def shuffled(kind: str, pairs: Any, options: Any, **more: Any) -> Any:
    """Distil from the same pairs with their answers shuffled: a plant that the gate should find; needs torch."""
    import random
    from dataclasses import replace

    from exporters.students import distil

    answers = [pair.answer for pair in [*pairs, *more["replay"]]]
    random.Random(0).shuffle(answers)  # noqa: S311 - a plant, not a secret
    mixed = [replace(pair, answer=answer) for pair, answer in zip([*pairs, *more["replay"]], answers, strict=True)]
    return distil(kind, mixed, options, **{**more, "replay": ()})


def send_through(root: Path, records: Records, *, split: str = "train", url: str | None = None) -> list[Route]:
    """Send the queries of a split through the release that serves, and log them where a ledger is named.

    Parameters
    ----------
    root
        Of the loop.
    records
        From `loop_records`; the reference tier replays what it is recorded with.
    split
        Whose queries, in the order of the records.
    url
        Of the ledger.
    """
    from router_core import Answer, Cascade, Router
    from router_core.ledger import Ledger
    from router_core.student_set import StudentSet

    students = StudentSet.load(root, _TIERS[0])
    row = {prompt: i for i, prompt in enumerate(records.prompt)}
    said: dict[str, Answer] = {}

    def student(prompt: str) -> Answer:
        found = students.answer(prompt, records.task[row[prompt]])
        return Answer(found.text, found.prompt_tokens, found.completion_tokens, signals=dict(found.signals))

    def panel(prompt: str) -> Answer:
        i = row[prompt]
        return Answer(
            str(records.response[i][1]), int(records.prompt_tokens[i, 1]), int(records.completion_tokens[i, 1])
        )

    def kept(name: str, ask: Callable[[str], Answer]) -> Callable[[Any], Answer]:
        def call(prompt: str) -> Answer:
            said[name] = ask(prompt)
            return said[name]

        return call

    tiers: Mapping[str, Callable[[Any], Answer]] = {
        _TIERS[0]: kept(_TIERS[0], student),
        _TIERS[1]: kept(_TIERS[1], panel),
    }
    cascade, routes = Cascade(Router.load(root), tiers), []
    with nullcontext() if url is None else Ledger(url, store_text=True) as ledger:
        for prompt, task, its in zip(records.prompt, records.task, records.split, strict=True):
            if its == split:
                said.clear()
                route = cascade.run(prompt, task=task)
                routes.append(route)
                if ledger is not None:
                    ledger.append(route, text=prompt, answers=dict(said), reference=_TIERS[1])
        if ledger is not None:
            ledger.flush()
    return routes
