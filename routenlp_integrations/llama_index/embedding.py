"""`RouterEmbedding`: a bundle's encoder as a LlamaIndex embedding, so that an index needs no other model."""

import asyncio
from pathlib import Path
from typing import Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from router_core.router import Router

__all__ = ["RouterEmbedding"]


class RouterEmbedding(BaseEmbedding):
    """Embeds texts by the encoder of a bundle: its hidden vector, whose cosine measures likeness.

    Local, without a key or torch. A transformer encoder knows language; the static one knows the words of the records
    it was fitted on, which suits an index over the same subject.

    Parameters
    ----------
    router
        A loaded router.
    **params
        What `BaseEmbedding` takes, such as ``embed_batch_size``.
    """

    _router: Router = PrivateAttr()

    def __init__(self, router: Router, **params: Any) -> None:
        super().__init__(**{"model_name": f"routenlp-{router.bundle_id[:12]}", **params})
        self._router = router

    @classmethod
    def from_bundle(cls, path: str | Path, **params: Any) -> Self:
        """Load a bundle, or the one in the current release of a ROOT.

        Raises
        ------
        BundleError
            When the bundle is changed, incomplete, newer than this reader, or none.
        """
        return cls(Router.load(path), **params)

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name for the class."""
        return "RouterEmbedding"

    def _get_text_embedding(self, text: str) -> list[float]:
        vector: list[float] = self._router.scorer.encoder.embed(text).tolist()
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        if self._router.quick:
            return self._get_text_embedding(text)
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self._aget_text_embedding(query)
