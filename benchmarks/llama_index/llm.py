"""What `RoutingLLM` costs around an LLM call: the bare LLM and the router over it, in turn, in one run.

    pip install -e '.[llama-index]' && routenlp demo --out demo
    python benchmarks/llama_index/llm.py demo/bundle [--out llm.json] [--tables]

The LLMs replay the packaged demo's answers at once, so that what is left is overhead. Both answer the same prompts,
those whose first answer RouteNLP judges and serves, in turn within each round. The encoder alone is timed in the same
run, and taken off where it says "without it"; judging the answer stays in. For the 64 concurrent calls the LLM waits 50
ms, as a network call would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

from benchmarks.replaying import interleaved, recorded
from benchmarks.tables import write_between
from router_core.bench import machine, spread

HERE = Path(__file__).resolve().parent
CONCURRENT = 64
WAIT_S = 0.05
PROMPTS = 50
CALLS = ("chat", "complete", "first token")


class Replay(CustomLLM):
    """Answers a prompt with the recorded text, after `wait` seconds when asked asynchronously."""

    answers: dict[str, str]
    signals: dict[str, dict[str, float]]
    wait: float = 0.0

    @property
    def metadata(self) -> LLMMetadata:
        """A chat model."""
        return LLMMetadata(is_chat_model=True, context_window=100_000)

    def _told(self, prompt: str) -> dict[str, Any]:
        return {"additional_kwargs": {"signals": self.signals[prompt]}}

    def _chatted(self, messages: Sequence[ChatMessage]) -> ChatResponse:
        prompt = messages[-1].content or ""
        return ChatResponse(message=ChatMessage(role="assistant", content=self.answers[prompt]), **self._told(prompt))

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The recorded answer."""
        return self._chatted(messages)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The recorded answer, later."""
        await asyncio.sleep(self.wait)
        return self._chatted(messages)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The recorded answer."""
        return CompletionResponse(text=self.answers[prompt], **self._told(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Not asked."""
        raise NotImplementedError

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        """The recorded answer word by word."""
        return self._pieces(messages)

    def _pieces(self, messages: Sequence[ChatMessage]) -> Any:
        so_far = ""
        for word in self.answers[messages[-1].content or ""].split(" "):
            so_far += f"{word} "
            yield ChatResponse(message=ChatMessage(role="assistant", content=so_far), delta=f"{word} ")


def contenders(bundle: str, told: dict[str, dict[str, Any]], wait: float) -> dict[str, Any]:
    """The bare LLM and the router over it."""
    from routenlp_integrations.llama_index import RoutingLLM
    from router_core import Router

    names = Router.load(bundle).portfolio.names
    tiers = {name: Replay(**told[name], wait=wait) for name in names}
    return {"bare": tiers[names[0]], "RoutingLLM": RoutingLLM.from_bundle(bundle, tiers)}


def user(prompt: str) -> list[ChatMessage]:
    """A conversation of one turn."""
    return [ChatMessage(role="user", content=prompt)]


def one_attempt(llm: Any, prompts: list[str]) -> list[str]:
    """Prompts of which RouteNLP judges the first answer, a cheap tier's, and serves it."""
    kept = []
    for prompt in prompts:
        attempts = llm.chat(user(prompt)).additional_kwargs["routenlp"]["attempts"]
        if len(attempts) == 1 and attempts[0]["confidence"] is not None:
            kept.append(prompt)
        if len(kept) == PROMPTS:
            break
    return kept


def first_token(llm: Any, prompt: str) -> None:
    """Ask for a stream and wait for its first text."""
    stream = llm.stream_chat(user(prompt))
    for chunk in stream:
        if chunk.delta:
            break
    stream.close()


async def together(llm: Any, prompts: list[str]) -> float:
    """Milliseconds for 64 concurrent calls."""
    began = time.perf_counter()
    await asyncio.gather(*(llm.achat(user(prompts[i % len(prompts)])) for i in range(CONCURRENT)))
    return (time.perf_counter() - began) * 1e3


def markdown(found: dict[str, Any]) -> str:
    """The table of the README."""
    lines = ["| | bare, ms (quartiles) | RoutingLLM, ms (quartiles) | over bare, ms | without the encoder, ms |"]
    lines.append("| --- | --- | --- | --- | --- |")
    encoder = found["encoder"]["p50"]
    for name in (*CALLS, "64 concurrent achat"):
        bare, ours = found[name]["bare"], found[name]["RoutingLLM"]
        told = [f"{one['p50']:.3f} ({one['q25']:.3f} to {one['q75']:.3f})" for one in (bare, ours)]
        over = ours["p50"] - bare["p50"]
        net = f"{over - encoder:.3f}" if name in CALLS else ""
        lines.append(f"| {name} | {told[0]} | {told[1]} | {over:.3f} | {net} |")
    told = f"The encoder alone takes {encoder:.3f} ms. {found['cpu']}, load {found['load'][0]:.1f}, "
    return "\n".join([*lines, "", f"{told}llama-index-core {found['llama_index_core']}."])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="bundle of `routenlp demo`")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--tables", action="store_true", help="rewrite the table in the README")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import llama_index.core

    told, prompts = recorded()
    llms = contenders(args.bundle, told, 0.0)
    prompts = one_attempt(llms["RoutingLLM"], prompts)
    waiting = contenders(args.bundle, told, WAIT_S)
    many: dict[str, list[float]] = {name: [] for name in waiting}
    for _ in range(5):
        for name, llm in waiting.items():
            many[name].append(asyncio.run(together(llm, prompts)))
    predict = llms["RoutingLLM"].router.scorer.encoder.predict
    found = {
        "cpu": machine()["cpu"],
        "load": os.getloadavg(),
        "llama_index_core": llama_index.core.__version__,
        "prompts": len(prompts),
        "chat": interleaved(llms, prompts, lambda llm, prompt: llm.chat(user(prompt))),
        "complete": interleaved(llms, prompts, lambda llm, prompt: llm.complete(prompt)),
        "first token": interleaved(llms, prompts, first_token),
        "encoder": interleaved({"x": predict}, prompts, lambda call, prompt: call(prompt, None, None))["x"],
        "64 concurrent achat": {name: spread(values) for name, values in many.items()},
    }
    print(json.dumps(found, indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    if args.tables:
        write_between(HERE / "llm.md", markdown(found))


if __name__ == "__main__":
    main()
