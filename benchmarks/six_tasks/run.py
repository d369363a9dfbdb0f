"""The six-task benchmark: tiers, the closed loops, and everything that is reported of them.

    OMP_NUM_THREADS=1 python benchmarks/six_tasks/run.py [--until STEP] [--only TASK] [--tables]

Every step keeps what it made under ``work/`` (git-ignored) and is never done twice, so a run can be stopped and gone on
with; the figures go to ``results.json``, the tables into README.md. ``--only TASK`` plays one task's loop and reports
nothing, so that several can be played side by side. Needs routenlp[train,ledger], seqeval, rouge-score and
../shared/data/tasks.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ablations import ablated, cheapest_at
from closed_loop import Stage, generation_bundle, played, test_of
from data import rounds_of
from figures import bounds, figures, together, verdict
from pilot import Latency, replay
from plots import draw
from prices import measured_usd, nominal_usd
from protocol import GENERATION, ROUNDS, STRUCTURED, TASKS, tiers_of
from readme import write_tables
from scoring import beside, grades, raw_score
from served import Served
from sheet import all_answers, taus
from targeted import compared
from tiers import Answers, answers, items_of
from traffic import always, serve, sources_of

from router_core.bundle import Bundle
from router_core.policy import CASCADE
from router_core.router import Router

HERE = Path(__file__).resolve().parent
FIRST = HERE / "results_protocol1.json"
STEPS = ("tiers", "loop", "targeted", "ablations", "all")
SAME_RISK = 0.03
"""Joint risk on test at which stages are compared without the luck of their folds; what quality .97 allows."""

Known = Mapping[str, Mapping[str, Answers]]
Scored = tuple[Stage, Served]


def tier_figures(known: Known, tau: Mapping[str, float]) -> dict[str, Any]:
    """What every real tier is worth on test, and what an answer takes."""
    of, found = grades(tau), {}
    for task in TASKS:
        test = test_of(task)
        for tier in tiers_of(task)[:-1]:
            told = known[task][tier]
            answers = [told.said[item.query_id][0] for item in test]
            right = [of[task](answer, item.gold) for answer, item in zip(answers, test, strict=True)]
            found[f"{task}.{tier}"] = {
                "n": len(test), "quality": float(np.mean(right)), **beside(task, test, answers),
                "cpu_ms": 1e3 * float(np.mean(told.cpu_s)), "wall_p50_ms": float(np.median(told.wall_ms)),
                "wall_p99_ms": float(np.quantile(told.wall_ms, 0.99)),
            }  # fmt: skip
    return found


def stage_figures(stage: Stage, known: Known) -> tuple[dict[str, Any], Served]:
    """One stage of a task's loop on test, under both price lists, with its certificate."""
    task, bundle = stage.task, Bundle.load(stage.bundle)
    test = test_of(task)
    served = serve(Router.from_bundle(bundle), test, sources_of(known, {task: stage.said}), raw_score[task])
    said = [stage.said[item.query_id][0] for item in test]
    return {
        "outcome": stage.outcome, "bundle": bundle.id, **described(bundle, task, served, known),
        "t2": beside(task, test, said), "cost_at": cheapest_at(stage, known, SAME_RISK), "round": _round(stage),
    }, served  # fmt: skip


def described(bundle: Bundle, task: str, served: Served, known: Known) -> dict[str, Any]:
    """Figures of one task with its certificate and its cost under measured prices."""
    shown = bundle.certificates[task, CASCADE]
    cheap = repriced(task, served, known)
    path = bundle.report["choices"][task][CASCADE]
    return {
        **figures(served),
        "measured_cost_ratio": float(cheap.cost.sum() / cheap.always.sum()),
        "certificate": {"n": shown.n, "bad": shown.bad, "certified": shown.certified, "step": shown.step},
        "path": {"scale": path["scale"], "tiers": path["tiers"]},
    }


def repriced(task: str, served: Served, known: Known) -> Served:
    """The same routes of test queries under measured prices."""
    test = test_of(task)
    cpu = {tier: float(np.mean(told.cpu_s)) for tier, told in known[task].items()}
    return served.priced(measured_usd([i.prompt for i in test], [i.gold for i in test], cpu))


def _round(stage: Stage) -> dict[str, Any]:
    told = stage.told
    if not told:
        return {}
    compared_to, steps = told["comparison"]["overall"], told["steps"]
    stream = rounds_of(items_of(stage.task))[told["round"] - 1]
    return {
        "taught": sum(one.get("pairs", 0) for one in told["students"].values()), "reasons": told["reasons"],
        "fold_cost": [compared_to[f"{name}_usd"] / compared_to["reference_usd"] for name in ("old", "new")],
        "fold": [compared_to["n"], compared_to["old_bad"], compared_to["new_bad"]],
        "difference": [limit / compared_to["reference_usd"] for limit in compared_to["difference_usd"]],
        "cpu_s": sum(step["cpu_seconds"] for step in steps.values()),
        "teacher_usd": told["teach"]["usd"],
        "teacher_share": told["teach"]["usd"] / float(nominal_usd([item.prompt for item in stream])[:, -1].sum()),
    }  # fmt: skip


def latency_of(task: str, router: Router, known: Known) -> Latency:
    """Measured milliseconds of a decision and of every real tier."""
    walls = []
    for item in test_of(task)[:200]:
        began = time.perf_counter()
        router.decide(item.prompt, task)
        walls.append(1e3 * (time.perf_counter() - began))
    return Latency(walls[1:], {tier: told.wall_ms for tier, told in known[task].items()})


def generation_figures(known: Known, tau: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, Served], Router]:
    """The generation tasks' bundle on test."""
    bundle, of, sources = generation_bundle(known, tau), grades(tau), sources_of(known)
    router = Router.from_bundle(bundle)
    parts = {task: serve(router, test_of(task), sources, of[task]) for task in GENERATION}
    told = {task: {**described(bundle, task, one, known), "tau": tau[task]} for task, one in parts.items()}
    return told, parts, router


def main() -> None:
    """Run what is not there yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", choices=STEPS, default="all")
    parser.add_argument("--only", choices=STRUCTURED, help="only play this task's loop")
    parser.add_argument("--tables", action="store_true", help="only write the tables again")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    given = parser.parse_args()
    first = {"protocol1": json.loads(FIRST.read_text())}
    if given.tables:
        write_tables(HERE / "README.md", json.loads(given.out.read_text()) | first)
        return
    _quiet()
    if given.only:
        for stage in played(given.only, {given.only: {t: answers(given.only, t) for t in tiers_of(given.only)[:-1]}}):
            print(stage.task, stage.name, stage.outcome, flush=True)
        return
    known = all_answers()
    tau = taus(known)
    results: dict[str, Any] = {}
    for found in _steps(given.until, known, tau):
        # A run that is stopped leaves the figures of the steps it did.
        results |= found
        given.out.write_text(json.dumps(results, indent=1) + "\n")
        write_tables(HERE / "README.md", results | first)
        draw(HERE, results)


def _steps(until: str, known: Known, tau: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    yield {"tau": tau, "parts": _counts(), "tiers": tier_figures(known, tau)}
    if until == "tiers":
        return
    always_one = {
        tier: together({t: always(test_of(t), sources_of(known), raw_score[t], tier) for t in STRUCTURED})
        for tier in tiers_of(STRUCTURED[0])
    }
    yield {"always": always_one}
    scored, figured = _scored(known)
    serving = {task: [one for one in mine.values() if one[0].promoted][-1] for task, mine in scored.items()}
    yield {"stages": figured, "bounds": {
        name: {task: _bounds(one[0] if name == "end" else scored[task]["start"][0], known)
               for task, one in serving.items()}
        for name in ("start", "end")
    }}  # fmt: skip
    generation, generated, writer = generation_figures(known, tau)
    yield {"generation": generation}
    yield {"pilot": _pilot(serving["cs_intent"], generated, writer, known)}
    if until == "loop":
        return
    start = {task: Bundle.load(mine["start"][0].bundle) for task, mine in scored.items()}
    yield {"targeted": compared({task: (mine["start"][0], start[task]) for task, mine in scored.items()}, known)}
    if until != "targeted":
        parts = ablated({task: one[0] for task, one in serving.items()}, start, known)
        yield {"ablations": {
            name: {"overall": together(mine), "tasks": {task: figures(one) for task, one in mine.items()}}
            for name, mine in parts.items()
        }}  # fmt: skip


def _scored(known: Known) -> tuple[dict[str, dict[str, Scored]], dict[str, Any]]:
    """Every stage of every task on test; and by stage what each task's candidate does, and what serves then."""
    scored: dict[str, dict[str, Scored]] = {task: {} for task in STRUCTURED}
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for task in STRUCTURED:
        for stage in played(task, known):
            told[stage.name, task], parts = stage_figures(stage, known)
            scored[task][stage.name] = stage, parts
    figured, serving = {}, dict[str, Scored]()
    for name in ("start", *(f"round {number}" for number in range(1, ROUNDS + 1))):
        serving |= {task: mine[name] for task, mine in scored.items() if name in mine and mine[name][0].promoted}
        parts = {task: one for task, (_, one) in serving.items()}
        overall = together(parts)
        by_task = {task: told[stage.name, task] for task, (stage, _) in serving.items()}
        figured[name] = {
            "tasks": {task: told[name, task] for task in STRUCTURED if (name, task) in told},
            "serves": {task: stage.name for task, (stage, _) in serving.items()},
            "overall": overall,
            "overall_measured": together({task: repriced(task, one, known) for task, one in parts.items()}),
            "verdict": verdict(overall, by_task),
        }
    return scored, figured


def _bounds(stage: Stage, known: Known) -> dict[str, float]:
    """What no policy could undercut with T1 and the stage's T2, on test."""
    test, sources = test_of(stage.task), sources_of(known, {stage.task: stage.said})[stage.task]
    right = np.array([
        [raw_score[stage.task](sources[tier][item.query_id][0], item.gold) >= 1.0 for tier in ("t1", "t2")]
        for item in test
    ])  # fmt: skip
    usd = nominal_usd([item.prompt for item in test])[:, [0, 1, -1]]
    return bounds(right, usd)


def _pilot(serving: Scored, generated: dict[str, Served], writer: Router, known: Known) -> Any:
    stage, mine = serving
    router = Router.from_bundle(Bundle.load(stage.bundle))
    both = {"cs_intent": mine, "cs_response": generated["cs_response"]}
    latency = {
        "cs_intent": latency_of("cs_intent", router, known), "cs_response": latency_of("cs_response", writer, known),
    }  # fmt: skip
    return {
        "release": stage.name,
        "both": replay(both, latency),
        **{task: replay({task: both[task]}, latency) for task in both},
    }


def _counts() -> dict[str, Any]:
    found: dict[str, dict[str, int]] = {}
    for task in TASKS:
        for item in items_of(task):
            name = item.part or item.split
            found.setdefault(task, {})[name] = found.setdefault(task, {}).get(name, 0) + 1
    return found


def _quiet() -> None:
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    main()
