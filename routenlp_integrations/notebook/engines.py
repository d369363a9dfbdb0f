"""Two query engines over the documents of `company`, one cheap and one dear: no key, no network, no model."""

from __future__ import annotations

import math
import re
from collections import Counter
from hashlib import sha256
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.response.schema import RESPONSE_TYPE, Response
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from routenlp_integrations.notebook.company import QUESTIONS, documents
from router_core.portfolio import Portfolio, Tier

__all__ = [
    "PRICES",
    "ExtractiveEngine",
    "ReadingLLM",
    "WordEmbedding",
    "company_engines",
    "company_index",
    "synthesising",
]

_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    "a an and at by do does for from how in is it its of on the there to what when which who with".split()  # noqa: SIM905
)


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


class WordEmbedding(BaseEmbedding):
    """One number for every word of the documents, rare ones counting most: an index without any model."""

    _word: dict[str, tuple[int, float]] = PrivateAttr(default_factory=dict)

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        found = Counter(word for text in documents().values() for word in set(_WORD.findall(text.lower())))
        self._word = {word: (at, math.log(len(documents()) / found[word])) for at, word in enumerate(sorted(found))}

    def _get_text_embedding(self, text: str) -> list[float]:
        # A text of unknown words needs a length too.
        vector = [1e-9] * len(self._word)
        for at, weight in {self._word[word] for word in _WORD.findall(text.lower()) if word in self._word}:
            vector[at] += weight
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


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


def company_index(embedding: BaseEmbedding, *kinds: str) -> VectorStoreIndex:
    """The index of the documents of these kinds, or of all, one node each."""
    return VectorStoreIndex(
        nodes=[TextNode(id_=title, text=text) for title, text in documents(*kinds).items()], embed_model=embedding
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
