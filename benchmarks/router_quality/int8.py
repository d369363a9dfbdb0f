"""What int8 costs: the same start tier as float32 on tune queries, and certified cost, on the files of cost_quality.

    OMP_NUM_THREADS=1 python -m benchmarks.router_quality.int8 [--files a,b] [--out results.json] [--tables]

Needs routenlp[train]. One router is fitted as it ships (int8), with heads trained on the int8 encoder.

*Start tier*: that router's heads, policy and thresholds with the int8 encoder and with the float32 one, on tune queries
(out-of-fold train queries, each by a router that never saw it, where the file has no tune). *Deployed* is the step in
force, *path* the mean over all its steps, *deciles* the figure of the manifest (`fitted.agreement`).

*Certified cost*: the median of 20 salted re-splits as in cost_quality, of the int8 router, of the same router with the
float32 encoder, and of a router fitted with the float32 encoder from the start, whose heads and paths are others too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cost_quality.run import FILES
from benchmarks.tables import write_between
from exporters.transformer import TransformerOptions, TransformerTrainer
from exporters.transformer.fitted import FittedTransformer, agreement
from router_core.bundle import Bundle
from router_core.encoder import Examples
from router_core.fitting.fit_bundle import FitSettings, fit
from router_core.policy import CASCADE, ROUTE_ONLY, Policy
from router_core.records import Records, read_records
from router_core.redraws import pool_of, salted
from router_core.scoring import Before
from router_core.splits import prepare

Starts = NDArray[np.intp]
LAYERS = {"3": (0, 1, 2), "6": None}


class Remembering(TransformerTrainer):
    """A trainer that keeps its routers and the texts each was trained on; the first is the final one."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__(options=options)
        self.made: list[tuple[set[str], FittedTransformer]] = []

    def train(self, examples: Examples, *, seed: int) -> FittedTransformer:
        """Train and remember."""
        fitted = super().train(examples, seed=seed)
        self.made.append((set(examples.text), fitted))
        return fitted

    def blind_to(self, text: str) -> FittedTransformer:
        """The first router that was not trained on a text."""
        return next(fitted for seen, fitted in self.made if text not in seen)


def starts(path: Policy, known: list[Before]) -> Starts:
    """Start tier of every query."""
    return np.array([path.first([path.score(j.risk, j.saving, one.toss) for j in one.judgements]) for one in known])


def same_starts(bundle: Bundle, records: Records, trainer: Remembering) -> dict[str, Any]:
    """How often int8 and float32 start at the same tier, with the same heads and thresholds."""
    prepared, _ = prepare(records).complete(bundle.portfolio.names)
    rows = prepared.tune if len(prepared.tune) else prepared.train
    view = bundle.scopes.views[0]
    small, exact = [], []
    for i in rows.tolist():
        text = prepared.records.prompt[i]
        fitted = trainer.blind_to(text)
        small.append(replace(bundle.scorer, encoder=fitted).before(text, view))
        exact.append(replace(bundle.scorer, encoder=fitted.in_float32()).before(text, view))
    passes = [np.stack([one.prediction.pass_probability for one in known]) for known in (small, exact)]
    found: dict[str, Any] = {"on": "tune" if len(prepared.tune) else "train, out of fold", **agreement(*passes)}
    for name in (CASCADE, ROUTE_ONLY):
        path = bundle.policies[view.scope, name]
        steps = [path.at(step) for step in range(1, len(path.start))]
        same = [float((starts(one, small) == starts(one, exact)).mean()) for one in steps]
        found[name] = {
            "deployed": round(float((starts(path, small) == starts(path, exact)).mean()), 4),
            "path": round(float(np.mean(same)), 4),
            "path_worst": round(min(same), 4),
        }
    return found


def costs(bundle: Bundle, records: Records) -> dict[str, float]:
    """Certified cost ratios, medians of 20 salts."""
    pool = pool_of(bundle, records, bundle.scopes.views[0].scope)
    found = salted(pool, bundle.settings["alpha"], bundle.settings["delta"])
    return {name: round(float(np.median(found[name])), 4) for name in (CASCADE, ROUTE_ONLY)}


def measure(path: Path, tiers: tuple[str, ...], layers: tuple[int, ...] | None, seed: int) -> dict[str, Any]:
    """Everything reported of one file."""
    began = time.perf_counter()
    records, settings = read_records(path), FitSettings(seed=seed)
    trainer = Remembering(TransformerOptions(layers=layers, min_agreement=0.0, max_difference=1.0))
    bundle = fit(records, tiers=tiers, settings=settings, trainers=[trainer])
    found: dict[str, Any] = {"start_tier": same_starts(bundle, records, trainer), "int8": costs(bundle, records)}
    whole = replace(bundle.scorer, encoder=trainer.made[0][1].in_float32())
    found["fp32"] = costs(replace(bundle, scorer=whole), records)
    exact = TransformerTrainer(options=TransformerOptions(layers=layers, quantised=False))
    # The float32 encoder is the same, and so are its features.
    exact._stores = {digest: (store, None) for digest, (_, store) in trainer._stores.items() if store is not None}
    found["fp32_fitted"] = costs(fit(records, tiers=tiers, settings=settings, trainers=[exact]), records)
    found["seconds"] = round(time.perf_counter() - began, 1)
    return found


def markdown(results: dict[str, Any]) -> str:
    """The table of the README."""
    lines = [
        "| records | queries (tune, or train out of fold) | same start tier, deployed: cascade / route only "
        "| over the whole path | at deciles | certified cost, cascade: int8 / fp32 / fitted in fp32 | route only |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        same = found["start_tier"]
        cost = {
            policy: " / ".join(f"{found[which][policy]:.3f}" for which in ("int8", "fp32", "fp32_fitted"))
            for policy in (CASCADE, ROUTE_ONLY)
        }
        lines.append(
            f"| {name} | {same['queries']}, {same['on']} "
            f"| {same[CASCADE]['deployed']:.3f} / {same[ROUTE_ONLY]['deployed']:.3f} "
            f"| {same[CASCADE]['path']:.3f} / {same[ROUTE_ONLY]['path']:.3f} | {same['start_tier']:.3f} "
            f"| {cost[CASCADE]} | {cost[ROUTE_ONLY]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the files and write the results, each as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/routing"))
    parser.add_argument("--files", default=",".join(FILES), help="comma-separated subset")
    parser.add_argument("--layers", choices=[*LAYERS], default="3")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--tables", action="store_true", help="rewrite the table in the README")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {}
    for name in args.files.split(","):
        results[name] = measure(args.data / f"{name}.parquet", FILES[name], LAYERS[args.layers], args.seed)
        print(json.dumps({name: results[name]}), flush=True)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n")
    if args.tables:
        write_between(Path(__file__).resolve().parent / "README.md", markdown(results), "table: int8")


if __name__ == "__main__":
    main()
