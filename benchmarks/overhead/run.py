"""What a router costs around a model call: bare model, `with_fallbacks`, two rival routers, RouteNLP; one run.

    python -m venv rivals && rivals/bin/pip install -r benchmarks/overhead/requirements.txt -e '.[langchain]'
    routenlp demo --out demo && rivals/bin/python benchmarks/overhead/run.py demo/bundle [--out results.json] [--tables]

The models replay the packaged demo's answers at once, so that what is left is overhead. Every contender answers the
same prompts, those whose first answer RouteNLP judges and serves, in turn within each round. The encoder is timed in
turn with them, where all find the processor's caches as cold, and alone, one prediction after another; it is taken off
where it says "without it", and judging the answer stays in. Tracing is off.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from benchmarks.replaying import interleaved, recorded
from benchmarks.tables import write_between
from router_core.bench import machine, spread

HERE = Path(__file__).resolve().parent
CONCURRENT = 64
WAIT_S = 0.05
PROMPTS = 50


class Replay(BaseChatModel):
    """Answers a prompt with the recorded text, after `wait` seconds when asked asynchronously."""

    answers: dict[str, str]
    signals: dict[str, dict[str, float]]
    wait: float = 0.0
    model_name: str = "replay"

    @property
    def _llm_type(self) -> str:
        return "replay"

    def _result(self, messages: list[BaseMessage]) -> ChatResult:
        prompt = str(messages[-1].content)
        message = AIMessage(content=self.answers[prompt], response_metadata={"signals": self.signals[prompt]})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return self._result(messages)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        if self.wait:
            await asyncio.sleep(self.wait)
        return self._result(messages)

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for word in self.answers[str(messages[-1].content)].split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))


def contenders(bundle: str, told: dict[str, dict[str, Any]], wait: float) -> dict[str, Any]:
    """Every chat model to be measured, over the same replayed tiers."""
    from routenlp_integrations.langchain import RoutingChatModel
    from router_core import Router

    names = Router.load(bundle).portfolio.names
    tiers = {name: Replay(**told[name], wait=wait, model_name=name) for name in names}
    cheap, dear = tiers[names[0]], tiers[names[-1]]
    found: dict[str, Any] = {"bare": cheap, "with_fallbacks": cheap.with_fallbacks([dear])}
    if find_spec("langchain_model_router"):
        from langchain_model_router import ChatRouter, HeuristicStrategy

        found["langchain-model-router"] = ChatRouter(
            routes={"small": cheap, "large": dear}, default_route="large", strategy=HeuristicStrategy("small", "large")
        )
    if find_spec("cascadeflow"):
        from cascadeflow.integrations.langchain import CascadeFlow

        found["cascadeflow"] = CascadeFlow(drafter=cheap, verifier=dear, quality_threshold=0.0)
    found["RouteNLP"] = RoutingChatModel.from_bundle(bundle, tiers=tiers)
    return found


def one_attempt(model: Any, prompts: list[str]) -> list[str]:
    """Prompts of which RouteNLP judges the first answer, a cheap tier's, and serves it."""
    kept = []
    for prompt in prompts:
        whole = model.invoke(prompt).response_metadata["routenlp"]
        if len(whole["attempts"]) == 1 and whole["attempts"][0]["confidence"] is not None:
            kept.append(prompt)
        if len(kept) == PROMPTS:
            break
    return kept


def first_token(model: Any, prompt: str) -> None:
    """Ask for a stream and wait for its first text."""
    stream = model.stream(prompt)
    for chunk in stream:
        if chunk.content:
            break
    stream.close()


async def together(model: Any, prompts: list[str]) -> float:
    """Seconds for 64 concurrent calls."""
    began = time.perf_counter()
    await asyncio.gather(*(model.ainvoke(prompts[i % len(prompts)]) for i in range(CONCURRENT)))
    return time.perf_counter() - began


def import_seconds() -> dict[str, float]:
    """Seconds that importing each package adds to langchain_core.language_models, median of five processes."""
    code = (
        "import time, langchain_core.language_models as _; b = time.perf_counter(); import {}; "
        "print(time.perf_counter() - b)"
    )
    found = {}
    for name in ("routenlp_integrations.langchain", "langchain_model_router", "cascadeflow.integrations.langchain"):
        if find_spec(name.partition(".")[0]) is None:
            continue
        command = [sys.executable, "-W", "ignore", "-c", code.format(name)]
        walls = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])  # noqa: S603
            for _ in range(5)
        ]
        found[name] = round(float(np.median(walls)), 3)
    return found


def markdown(found: dict[str, Any]) -> str:
    """The table of the README."""
    lines = [
        "| | invoke, ms (quartiles) | over bare, ms | first token, ms (quartiles) | over bare, ms "
        "| 64 concurrent ainvoke, ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    bare, first = found["invoke"]["bare"]["p50"], found["first_token"]["bare"]["p50"]
    encoder, alone = found["encoder"]["p50"], found["encoder_alone"]["p50"]
    for name, one in found["invoke"].items():
        stream, many = found["first_token"][name], found["concurrent"][name]
        lines.append(
            f"| {name} | {one['p50']:.3f} ({one['q25']:.3f} to {one['q75']:.3f}) | {one['p50'] - bare:.3f} "
            f"| {stream['p50']:.3f} ({stream['q25']:.3f} to {stream['q75']:.3f}) | {stream['p50'] - first:.3f} "
            f"| {many['p50']:.1f} |"
        )
    ours, streamed = found["invoke"]["RouteNLP"]["p50"] - bare, found["first_token"]["RouteNLP"]["p50"] - first
    lines += [
        "",
        f"The encoder takes {encoder:.3f} ms in turn with the others; without it RouteNLP is {ours - encoder:.3f} ms "
        f"over the bare `invoke` and {streamed - encoder:.3f} ms over its first token. One prediction after another, "
        f"it takes {alone:.3f} ms, which would leave {ours - alone:.3f} ms and {streamed - alone:.3f} ms. "
        "Import time added to langchain_core.language_models, s: "
        + ", ".join(f"{name} {value:.2f}" for name, value in found["import_s"].items())
        + f". {found['cpu']}, load {found['load'][0]:.1f}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="bundle of `routenlp demo`")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--tables", action="store_true", help="rewrite the table in the README")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["LANGSMITH_TRACING"] = "false"
    told, prompts = recorded()
    models = contenders(args.bundle, told, 0.0)
    prompts = one_attempt(models["RouteNLP"], prompts)
    waiting = contenders(args.bundle, told, WAIT_S)
    walls: dict[str, list[float]] = {name: [] for name in waiting}
    for _ in range(5):
        for name, model in waiting.items():
            walls[name].append(asyncio.run(together(model, prompts)) * 1e3)
    predict = models["RouteNLP"].router.scorer.encoder.predict
    calls: dict[str, Callable[[str], Any]] = {name: model.invoke for name, model in models.items()}
    calls["encoder"] = lambda prompt: predict(prompt, None, None)
    invoke = interleaved(calls, prompts, lambda call, prompt: call(prompt))
    found = {
        "cpu": machine()["cpu"],
        "load": os.getloadavg(),
        "prompts": len(prompts),
        "encoder": invoke.pop("encoder"),
        "encoder_alone": interleaved({"x": predict}, prompts, lambda call, prompt: call(prompt, None, None))["x"],
        "invoke": invoke,
        "first_token": interleaved(models, prompts, first_token),
        "concurrent": {name: spread(values) for name, values in walls.items()},
        "import_s": import_seconds(),
    }
    print(json.dumps(found, indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    if args.tables:
        write_between(HERE / "README.md", markdown(found))


if __name__ == "__main__":
    main()
