"""Latency of the transformer router: int8, float32 and torch, three and six layers, interleaved in one process.

    OMP_NUM_THREADS=1 python benchmarks/latency/transformer.py [--out results.json]

Text in, prediction out, one thread, no text twice (the encoder remembers texts). ``bare`` is the tokenizer and a plain
ONNX Runtime session. Weights of the heads are of no account here, so they are fitted on made-up grades. Texts are cut
at 512 tokens instead of the default 128 so that 512 can be measured. The load is printed: these machines are shared.
"""

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.transformer import TransformerOptions, TransformerTrainer
from exporters.transformer.body import Body
from exporters.transformer.fitting import HeadOptions
from router_core.encoder import Examples, load_encoder
from router_core.onnx_encoder import OUTPUTS, OnnxEncoder, open_session

WORDS = ("the", "firm", "said", "that", "net", "sales", "rose", "by", "four", "percent", "while", "costs", "fell")
LENGTHS = (8, 32, 128, 512)
REPEATS = {8: 200, 32: 120, 128: 60, 512: 15}
MAX_TOKENS = 512


def text_of(tokens: int, number: int) -> str:
    """A text of this many tokens, unlike any other."""
    rng = np.random.default_rng(number)
    return " ".join(WORDS[int(i)] for i in rng.integers(0, len(WORDS), tokens - 2))


def examples() -> Examples:
    """Made-up grades of short texts."""
    rng = np.random.default_rng(0)
    quality = np.column_stack([rng.integers(0, 2, (60, 2)), np.ones(60)]).astype(np.float64)
    texts = [text_of(10, i) for i in range(60)]
    return Examples(texts, ["t"] * 60, [""] * 60, quality, np.ones((60, 3)), 0.0, ("a", "b", "c"))


def served(layers: tuple[int, ...] | None, quantised: bool) -> tuple[OnnxEncoder, TransformerTrainer]:
    """A router as it is served, and its trainer."""
    options = TransformerOptions(
        layers=layers, max_tokens=MAX_TOKENS, quantised=quantised, heads=HeadOptions(epochs=2), min_agreement=0.0,
        max_difference=1.0,
    )  # fmt: skip
    trainer = TransformerTrainer(options=options)
    encoder = load_encoder(trainer.train(examples(), seed=0).parts())
    assert isinstance(encoder, OnnxEncoder)
    return encoder, trainer


def torch_call(encoder: OnnxEncoder, trainer: TransformerTrainer) -> Callable[[str], Any]:
    """The encoder with its pooling in torch (the head, well under 0.1 ms, is left out)."""
    source = trainer._encoder([])
    body = Body(source.model, trainer._layers(source), trainer.options.pooling).eval()

    def call(text: str) -> Any:
        ids = torch.from_numpy(encoder.tokens.ids(text))[None, :]
        with torch.inference_mode():
            return body(ids, torch.ones_like(ids))

    return call


def bare_call(encoder: OnnxEncoder) -> Callable[[str], Any]:
    """Tokenizer and session, nothing of ours."""
    from tokenizers import Tokenizer

    session = open_session(encoder.parts()["encoder.onnx"])
    tokenizer = Tokenizer.from_str(encoder.parts()["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)

    def call(text: str) -> Any:
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        return session.run(OUTPUTS, {"input_ids": ids, "attention_mask": np.ones_like(ids), "label": np.array([0])})

    return call


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    calls: dict[str, Callable[[str], Any]] = {}
    sizes: dict[str, float] = {}
    for name, layers in (("3_layers", (0, 1, 2)), ("6_layers", None)):
        small, trainer = served(layers, quantised=True)
        exact, _ = served(layers, quantised=False)
        calls[f"{name}_int8"] = lambda text, e=small: e.predict(text, None, None)
        calls[f"{name}_int8_bare"] = bare_call(small)
        calls[f"{name}_fp32"] = lambda text, e=exact: e.predict(text, None, None)
        calls[f"{name}_torch"] = torch_call(small, trainer)
        for kind, encoder in (("int8", small), ("fp32", exact)):
            sizes[f"{name}_{kind}_mb"] = round(sum(len(part) for part in encoder.parts().values()) / 1e6, 2)
    found: dict[str, Any] = {"cpu": platform.processor() or platform.machine(), "load": os.getloadavg(), "sizes": sizes}
    number, order = itertools.count(), np.random.default_rng(0)
    for tokens in LENGTHS:
        walls: dict[str, list[float]] = {name: [] for name in calls}
        for repeat in range(REPEATS[tokens] + 3):
            # Another order every time: whoever follows torch finds its weights gone from the cache.
            for name in order.permutation(list(calls)).tolist():
                call = calls[name]
                text = text_of(tokens, next(number))
                began = time.perf_counter()
                call(text)
                if repeat >= 3:
                    walls[name].append((time.perf_counter() - began) * 1e3)
        found[f"{tokens}_tokens"] = {
            name: {"p50_ms": round(float(np.median(one)), 3), "min_ms": round(min(one), 3),
                   "p99_ms": round(float(np.quantile(one, 0.99)), 3)}
            for name, one in walls.items()
        }  # fmt: skip
        median = {name: float(np.median(one)) for name, one in walls.items()}
        found[f"{tokens}_tokens"]["ratios_of_medians"] = {
            f"{name}_{other}_over_int8": round(median[f"{name}_{other}"] / median[f"{name}_int8"], 2)
            for name in ("3_layers", "6_layers")
            for other in ("int8_bare", "fp32", "torch")
        }
    found["load_after"] = os.getloadavg()
    print(json.dumps(found, indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
