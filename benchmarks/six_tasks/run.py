"""The six-task benchmark: tiers, the closed loop, and everything that is reported of it.

    OMP_NUM_THREADS=1 python benchmarks/six_tasks/run.py [--until tiers|loop|targeted|ablations|all] [--tables]

Every step keeps what it made under ``work/`` (git-ignored) and is never done twice, so a run can be stopped and gone on
with; the figures go to ``results.json``, the tables into README.md. Needs routenlp[train,ledger], seqeval, rouge-score
and ../shared/data/tasks.
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
from ablations import ablated
from closed_loop import SETTINGS, Stage, generation_bundle, played, test_of
from data import calib_folds
from figures import figures, together, verdict
from pilot import Latency, replay
from plots import draw
from prices import measured_usd, nominal_portfolio
from protocol import GENERATION, STRUCTURED, TASKS, TIERS
from readme import write_tables
from scoring import beside, grades
from served import Served
from sheet import all_answers, records_of, taus
from targeted import compared, untargeted_t1
from tiers import WORK, Answers, items_of, learners
from traffic import always, serve, sources_of

from router_core.bundle import Bundle
from router_core.fitting import fit
from router_core.policy import CASCADE
from router_core.router import Router

HERE = Path(__file__).resolve().parent
STEPS = ("tiers", "loop", "targeted", "ablations", "all")
Known = Mapping[str, Mapping[str, Answers]]


def tier_figures(known: Known, tau: Mapping[str, float]) -> dict[str, Any]:
    """What every real tier is worth on test, and what an answer takes."""
    of, found = grades(tau), {}
    for task in TASKS:
        test = test_of(task)
        for tier in TIERS[:-1]:
            told = known[task][tier]
            answers = [told.said[item.query_id][0] for item in test]
            right = [of[task](answer, item.gold) for answer, item in zip(answers, test, strict=True)]
            found[f"{task}.{tier}"] = {
                "n": len(test), "quality": float(np.mean(right)), **beside(task, test, answers),
                "cpu_ms": 1e3 * float(np.mean(told.cpu_s)), "wall_p50_ms": float(np.median(told.wall_ms)),
                "wall_p99_ms": float(np.quantile(told.wall_ms, 0.99)),
            }  # fmt: skip
    return found


def stage_figures(stage: Stage, known: Known) -> tuple[dict[str, Any], dict[str, Served]]:
    """One stage of the loop on test, under both price lists, with its certificates."""
    bundle, sources, of = Bundle.load(stage.bundle), sources_of(known, stage.t1), grades({})
    router, parts, told = Router.from_bundle(bundle), {}, {}
    for task in STRUCTURED:
        test = test_of(task)
        parts[task] = serve(router, test, sources, of[task])
        said = [stage.t1[task][item.query_id][0] for item in test]
        told[task] = {
            **described(bundle, task, parts[task], known), "t1": beside(task, test, said),
        }  # fmt: skip
    overall = together(parts)
    cheap = {task: repriced(task, one, known) for task, one in parts.items()}
    return {
        "outcome": stage.outcome, "serving": stage.serving, "bundle": bundle.id, "tasks": told, "overall": overall,
        "overall_measured": together(cheap), "verdict": verdict(overall, told), "round": _round(stage),
    }, parts  # fmt: skip


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
    cpu = {tier: float(np.mean(known[task][tier].cpu_s)) for tier in TIERS[:-1]}
    return served.priced(measured_usd([i.prompt for i in test], [i.gold for i in test], cpu))


def _round(stage: Stage) -> dict[str, Any]:
    told = stage.told
    if not told:
        return {}
    compared_to = told["comparison"]["overall"]
    return {
        "picked": told["picked"],
        "taught": {task: one.get("pairs", 0) for task, one in told["students"].items()}, "reasons": told["reasons"],
        "fold_cost": [compared_to[f"{name}_usd"] / compared_to["reference_usd"] for name in ("old", "new")],
        "difference": [limit / compared_to["reference_usd"] for limit in compared_to["difference_usd"]],
        "cpu_s": sum(step["cpu_seconds"] for step in told["steps"].values()),
        "usd": sum(step["usd"] for step in told["steps"].values()),
        "clusters": [{k: c[k] for k in ("task", "size", "gap", "keywords")} for c in told["clusters"]],
    }  # fmt: skip


def latency_of(task: str, router: Router, known: Known) -> Latency:
    """Measured milliseconds of a decision and of every real tier."""
    walls = []
    for item in test_of(task)[:200]:
        began = time.perf_counter()
        router.decide(item.prompt, task)
        walls.append(1e3 * (time.perf_counter() - began))
    return Latency(walls[1:], {tier: known[task][tier].wall_ms for tier in TIERS[:-1]})


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
    parser.add_argument("--tables", action="store_true", help="only write the tables again")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    given = parser.parse_args()
    if given.tables:
        write_tables(HERE / "README.md", json.loads(given.out.read_text()))
        return
    _quiet()
    known = all_answers()
    tau = taus(known)
    results: dict[str, Any] = {}
    for found in _steps(given.until, known, tau):
        # A run that is stopped leaves the figures of the steps it did.
        results |= found
        given.out.write_text(json.dumps(results, indent=1) + "\n")
        write_tables(HERE / "README.md", results)
        draw(HERE, results)


def _steps(until: str, known: Known, tau: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    yield {"tau": tau, "parts": _counts(), "tiers": tier_figures(known, tau)}
    if until == "tiers":
        return
    always_one = {
        tier: together({t: always(test_of(t), sources_of(known), grades({})[t], tier) for t in STRUCTURED})
        for tier in TIERS
    }
    yield {"always": always_one}
    scored: list[tuple[Stage, dict[str, Served]]] = []
    figured: dict[str, Any] = {}
    for stage in played(known):
        figured[stage.name], parts = stage_figures(stage, known)
        scored.append((stage, parts))
        yield {"stages": figured}
    generation, generated, writer = generation_figures(known, tau)
    yield {"generation": generation}
    last = [one for one in scored if one[0].outcome == "promoted"][-1]
    yield {"pilot": _pilot(last, generated, writer, known)}
    if until == "loop":
        return
    first, taught = scored[0][0], scored[-1][0]
    start = Bundle.load(first.bundle)
    yield {"targeted": compared(known, Router.from_bundle(start))}
    if until != "targeted":
        yield {
            "ablations": _ablations(taught, start, known),
            "ablated": {"stage": taught.name, "outcome": taught.outcome},
        }


def _ablations(taught: Stage, start: Bundle, known: Known) -> dict[str, Any]:
    other = untargeted_t1(known, Router.from_bundle(start))
    sources = {"taught": sources_of(known, taught.t1), "untargeted": sources_of(other)}
    served = ablated(Bundle.load(taught.bundle), start, _untargeted(other), sources, grades({}), STRUCTURED)
    return {
        name: {"overall": together(parts), "tasks": {task: figures(one) for task, one in parts.items()}}
        for name, parts in served.items()
    }


def _untargeted(known: Known) -> Bundle:
    """A router for the T1 that the untargeted arm taught; never certified."""
    out = WORK / "untargeted"
    if not out.exists():
        items = [
            item for task in STRUCTURED
            for item in (*learners(task, "router"), *calib_folds(items_of(task))[0], *test_of(task))
        ]  # fmt: skip
        fit(
            records_of(items, known, {}), out=out, tiers=TIERS, portfolio=nominal_portfolio(), settings=SETTINGS,
            certified=False,
        )  # fmt: skip
    return Bundle.load(out)


def _pilot(last: tuple[Stage, dict[str, Served]], generated: dict[str, Served], writer: Router, known: Known) -> Any:
    stage, parts = last
    router = Router.from_bundle(Bundle.load(stage.bundle))
    both = {"cs_intent": parts["cs_intent"], "cs_response": generated["cs_response"]}
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
