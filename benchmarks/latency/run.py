"""How long a decision takes, encoder by encoder, in one interleaved run: text in, start tier out.

    OMP_NUM_THREADS=1 nice -n 10 python -m benchmarks.latency.run [--out results.json] [--tables]

Needs routenlp[train]. Routers are fitted on real records (finance_sentiment by default) with the options they ship
with: static, three and six layers in int8, and the same routers, to the weight, with a float32 encoder in ONNX Runtime
and in torch. ``bare`` is the tokenizer and the session of the int8 router and nothing of ours. They read up to 512
tokens here so that 512 can be measured, but ``shipped_3``, which cuts at 128.

One call at a time, no text twice, another order every round; two threads where there is a use for them. A batch is 32
queries of 64 tokens: one after another as served, and for bare and torch in one call. Sessions do not spin. Latencies
are by the clock on the wall, and carry whatever else the machine was doing: its load is part of the result. Ratios are
of processor time, from a second interleaved pass with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from rich.progress import Progress

from benchmarks.cost_quality.run import FILES
from benchmarks.latency.judging import judging_calls
from benchmarks.tables import write_between
from router_core.bench import BATCH, LENGTHS, fresh_process, interleaved, machine, spread, texts
from router_core.bundle import Bundle
from router_core.encoder import Prediction, load_encoder
from router_core.fitting.fit_bundle import fit
from router_core.onnx_encoder import OUTPUTS, OnnxEncoder, OnnxHeader, open_session, read_outputs
from router_core.records import read_records
from router_core.router import Router

Call = Callable[[], object]
Key = tuple[str, int, str]
LAYERS: dict[str, tuple[int, ...] | None] = {"3": (0, 1, 2), "6": None}
LONGEST = 512
THREADS = (1, 2)
ONE = {(1, length) for length in LENGTHS}
_FRESH = (("load_s", 2), ("first_ms", 1), ("memory_mb", 0))
PAIRS = (("decision / bare", "int8", "bare"), ("fp32 / int8", "fp32", "int8"), ("torch / int8", "torch", "int8"))


class TorchEncoder:
    """The router in torch, behind the protocol of encoders."""

    kind = "torch"

    def __init__(self, served: OnnxEncoder, body: Any, head: Any, threads: int) -> None:
        self.tiers, self.hidden_size, self.tokens = served.tiers, served.hidden_size, served.tokens
        self._body, self._head, self._threads = body, head, threads

    def run(self, ids: Any) -> list[Any]:
        """Outputs of a batch of token ids ``[b, t]``."""
        import torch

        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            batch = torch.from_numpy(ids)
            features = self._body(batch, torch.ones_like(batch))
            return [one.numpy() for one in self._head(features, torch.zeros(len(batch), dtype=torch.int64))]

    def predict(self, text: str, task: str | None, subtask: str | None) -> Prediction:
        """Predict for one query; labels are masked."""
        del task, subtask
        return read_outputs(self.run(self.tokens.ids(text)[None, :]))

    def embed(self, text: str) -> Any:
        """Return the hidden vector."""
        return self.predict(text, None, None).hidden

    def parts(self) -> dict[str, bytes]:
        """Nothing: it is never stored."""
        return {}


def longer(encoder: Any) -> OnnxEncoder:
    """The same router, reading up to 512 tokens."""
    parts = encoder.parts()
    header = replace(OnnxHeader.from_bytes(parts["encoder.json"]), max_tokens=LONGEST)
    return OnnxEncoder(header, parts["encoder.onnx"], parts["tokenizer.json"])


def fitted_routers(records: Path, folder: Path) -> tuple[dict[str, Path], dict[str, tuple[Any, Any]]]:
    """Fit all routers.

    Returns
    -------
    tuple
        Bundles by name, and the torch modules (encoder with pooling, head) by number of layers.
    """
    from exporters.transformer import TransformerOptions, TransformerTrainer
    from exporters.transformer.body import Body

    class Keeping(TransformerTrainer):
        """A trainer that keeps the head of its first router."""

        head: Any = None

        def _head(self, *rest: Any) -> Any:
            found = super()._head(*rest)
            self.head = self.head or found[0].eval()
            return found

    read, tiers = read_records(records), FILES[records.stem]
    paths = {"static": folder / "static"}
    fit(read, out=paths["static"], tiers=tiers)
    modules = {}
    for name, layers in LAYERS.items():
        trainer = Keeping(options=TransformerOptions(layers=layers, min_agreement=0.0, max_difference=1.0))
        bundle = fit(read, tiers=tiers, trainers=[trainer])
        small: Any = bundle.scorer.encoder
        variants = {f"int8_{name}": longer(small), f"fp32_{name}": longer(small.in_float32())}
        if name == "3":
            variants["shipped_3"] = load_encoder(small.parts())
        for what, encoder in variants.items():
            paths[what] = folder / what
            replace(bundle, scorer=replace(bundle.scorer, encoder=encoder)).save(paths[what])
        source = trainer._encoder([])
        modules[name] = (Body(source.model, trainer._layers(source), trainer.options.pooling).eval(), trainer.head)
    return paths, modules


def router_calls(name: str, router: Router, threads: int) -> Iterator[tuple[Key, Call]]:
    """Decisions of every length, and a batch of them."""
    task = next(iter(router.scopes.subtasks))
    for length, size in LENGTHS.items():
        made = texts(*size)
        yield (name, threads, length), lambda made=made: router.decide(next(made), task)  # type: ignore[misc]
    some = texts(BATCH[1], seed=1)
    if threads == 1 and not name.startswith("torch"):
        yield (name, threads, "batch"), lambda: [router.decide(text, task) for text in islice(some, BATCH[0])]


def bare_calls(name: str, parts: dict[str, bytes], threads: int) -> Iterator[tuple[Key, Call]]:
    """Tokenizer and session, nothing of ours."""
    from tokenizers import Tokenizer

    session = open_session(parts["encoder.onnx"], threads)
    tokenizer = Tokenizer.from_str(parts["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)

    def run(found: list[Any]) -> Any:
        ids = np.array([one.ids for one in found], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "label": np.zeros(len(ids), dtype=np.int64)}
        return session.run(OUTPUTS, feed)

    for length, size in LENGTHS.items():
        made = texts(*size)
        yield (name, threads, length), lambda made=made: run([tokenizer.encode(next(made))])  # type: ignore[misc]
    some = texts(BATCH[1], seed=1)
    if threads == 1:
        yield (name, threads, "batch"), lambda: run(tokenizer.encode_batch([*islice(some, BATCH[0])]))


def torch_calls(name: str, bundle: Bundle, modules: tuple[Any, Any], threads: int) -> Iterator[tuple[Key, Call]]:
    """The same decisions with the encoder in torch."""
    served: Any = bundle.scorer.encoder
    encoder = TorchEncoder(served, *modules, threads)
    router = replace(Router.from_bundle(bundle), scorer=replace(bundle.scorer, encoder=encoder))
    yield from router_calls(name, router, threads)
    some = texts(BATCH[1], seed=1)
    if threads == 1:
        yield (
            (name, threads, "batch"),
            lambda: encoder.run(np.stack([encoder.tokens.ids(text) for text in islice(some, BATCH[0])])),
        )


def all_calls(paths: dict[str, Path], modules: dict[str, tuple[Any, Any]]) -> dict[Key, Call]:
    """Everything that is timed."""
    calls: dict[Key, Call] = {}
    for name, path in paths.items():
        for threads in THREADS[:1] if name == "static" else THREADS:
            calls |= router_calls(name, Router.load(path, threads=threads), threads)
    for layers in LAYERS:
        bundle = Bundle.load(paths[f"int8_{layers}"])
        for threads in THREADS:
            calls |= bare_calls(f"bare_{layers}", bundle.scorer.encoder.parts(), threads)
            calls |= torch_calls(f"torch_{layers}", bundle, modules[layers], threads)
    return calls


def torch_process() -> dict[str, float]:
    """Load time and peak memory of a process that runs the packaged encoder in torch."""
    code = (
        "import time\nbegan = time.perf_counter()\n"
        "from exporters.transformer.source import load_source\nsource = load_source('minilm')\n"
        "loaded = time.perf_counter()\nimport torch\nsource.model(torch.ones(1, 128, dtype=torch.int64))\n"
        "first = time.perf_counter()\n"
        "memory = next(int(x.split()[1]) / 1024 for x in open('/proc/self/status') if x.startswith('VmHWM'))\n"
        "print(loaded - began, 1e3 * (first - loaded), memory)"
    )
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    return dict(zip(("load_s", "first_ms", "memory_mb"), map(float, done.stdout.split()), strict=True))


def ratios(cpu: dict[Key, list[float]]) -> dict[str, Any]:
    """Ratios of the processor time of decisions at one thread, of medians and of lower quartiles, by length."""
    found: dict[str, Any] = {}
    for length in LENGTHS:
        for layers in LAYERS:
            for what, over, under in PAIRS:
                one, other = (spread(cpu[f"{kind}_{layers}", 1, length]) for kind in (over, under))
                found.setdefault(f"{what}, {layers} layers", {})[length] = {
                    key: round(one[key] / other[key], 3) for key in ("p50", "q25")
                }
    return found


def report(walls: dict[Key, list[float]], cpu: dict[Key, list[float]]) -> dict[str, Any]:
    """Sort what was timed: by the clock on the wall, and in processor time."""
    latency: dict[str, Any] = {length: {} for length in LENGTHS}
    batch = {}
    for (name, threads, length), one in walls.items():
        if length == "batch":
            batch[name] = spread([1e3 * BATCH[0] / wall for wall in one])
        elif length in latency:
            latency[length].setdefault(name, {})[str(threads)] = spread(one)
    judging = {name: spread(one) for (name, _, length), one in walls.items() if length == "judging"}
    return {"latency_ms": latency, "ratios": ratios(cpu), "batch_per_s": batch, "judging_ms": judging}


def markdown(found: dict[str, Any]) -> dict[str, str]:
    """The tables of the README, by name."""
    host, latency = found["machine"], found["latency_ms"]
    heads = [length.replace("10000", "10,000").replace("_", " ") for length in LENGTHS]
    lines = [
        f"{host['cpu']}, {host['cores']} cores; load {host['load_before']} before and {host['load_after']} after; "
        f"onnxruntime {host['onnxruntime']}, torch {host['torch']}. Milliseconds: median (quartiles).\n",
        _row("encoder", "threads", *heads),
        _rule(len(heads) + 2),
    ]
    for name, per_thread in latency["8_tokens"].items():
        for threads in per_thread:
            cells = [_median(latency[length][name][threads]) for length in LENGTHS]
            lines.append(_row(name, threads, *cells))
    ratio = [_row("processor time, one thread: ratio of medians (of lower quartiles)", *heads), _rule(len(heads) + 1)]
    for what, cells in found["ratios"].items():
        ratio.append(_row(what, *(f"{one['p50']:.2f} ({one['q25']:.2f})" for one in cells.values())))
    columns = ("bundle, MB", "loaded in, s (imports included)", "first decision, ms", "peak memory, MB", "decisions/s")
    rest = [_row("encoder", *columns), _rule(len(columns) + 1)]
    for name in dict.fromkeys([*found["fresh_process"], *found["batch_per_s"]]):
        cells = [str(found["bundle_mb"].get(name, ""))]
        fresh = found["fresh_process"].get(name, {})
        cells += [f"{fresh[key]['p50']:.{digits}f}" if fresh else "" for key, digits in _FRESH]
        cells.append(_median(found["batch_per_s"][name], 0) if name in found["batch_per_s"] else "")
        rest.append(_row(name, *cells))
    judged = [_row("", "median (quartiles), ms"), _rule(2)]
    judged += [_row(name, _median(one, 3)) for name, one in found["judging_ms"].items()]
    return {name: "\n".join(made) for name, made in
            (("latency", lines), ("ratios", ratio), ("rest", rest), ("judging", judged))}  # fmt: skip


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return _row(*["---"] * columns)


def _median(one: dict[str, float], digits: int = 2) -> str:
    return f"{one['p50']:.{digits}f} ({one['q25']:.{digits}f}-{one['q75']:.{digits}f})"


def main() -> None:
    """Fit, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=Path("../shared/data/routing/finance_sentiment.parquet"))
    parser.add_argument("--seconds", type=float, default=100.0, help="of each of the two passes")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tables", action="store_true", help="rewrite the tables in the README")
    args = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads must not spin beside the others
    warnings.simplefilter("ignore")
    import torch

    before = machine()
    with tempfile.TemporaryDirectory() as folder, Progress(transient=True) as bar:
        line = bar.add_task("fitting", total=None)
        paths, modules = fitted_routers(args.records, Path(folder))
        calls = all_calls(paths, modules) | judging_calls(paths["static"], args.records)

        def told(what: str, done: int, total: int) -> None:
            bar.update(line, description=what, completed=done, total=total)

        found = report(
            interleaved(calls, args.seconds, told),
            interleaved({key: call for key, call in calls.items() if key[1:] in ONE}, args.seconds, told, process_time),
        )
        started = {name: [fresh_process(path) for _ in range(3)] for name, path in paths.items()}
        started["torch_6"] = [torch_process() for _ in range(3)]
        sizes = {name: round(sum(f.stat().st_size for f in path.iterdir()) / 1e6, 2) for name, path in paths.items()}
    found["fresh_process"] = {
        name: {key: spread([one[key] for one in runs]) for key in runs[0]} for name, runs in started.items()
    }
    found["bundle_mb"] = sizes
    after = [round(value, 2) for value in os.getloadavg()]
    found["machine"] = {**before, "load_after": after, "torch": torch.__version__}
    print(json.dumps(found["ratios"], indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    if args.tables:
        for name, table in markdown(found).items():
            write_between(Path(__file__).resolve().parent / "README.md", table, f"table: {name}")


if __name__ == "__main__":
    main()
