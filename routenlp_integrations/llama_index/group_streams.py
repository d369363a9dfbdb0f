"""Streams of an engine that may still be taken back: held until there is something to show, or until judged."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, closing, nullcontext
from typing import Any

from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse

from routenlp_integrations.llama_index.node_evidence import EMPTY_RESPONSE
from routenlp_integrations.llama_index.routes import remade

__all__ = ["AsyncStream", "Stream"]


class _Pieces:
    """What a stream said so far."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text so far, ``""`` while it is no more than the beginning of LlamaIndex's "Empty Response"."""
        said = "".join(self.pieces)
        return "" if EMPTY_RESPONSE.startswith(said.strip()) else said


class Stream(_Pieces):
    """The stream of one engine, in pieces of text.

    Parameters
    ----------
    response
        What the engine returned.
    """

    def __init__(self, response: StreamingResponse) -> None:
        super().__init__()
        self.response = response
        said = response.response_txt
        self._source: Iterator[Any] = iter(response.response_gen if said is None else [said])

    def begin(self) -> bool:
        """Read until there is something to show; False when the stream ended before."""
        for piece in self._source:
            self.pieces.append(str(piece))
            if self.text:
                return True
        return False

    def whole(self) -> StreamingResponse:
        """Read to the end, and give a response that streams it again."""
        with self.left():
            self.pieces.extend(str(piece) for piece in self._source)
        return remade(self.response, response_gen=(piece for piece in self.pieces), response_txt=None)

    def rest(self) -> Generator[str, None, None]:
        """What was held back, then the rest as it comes."""
        yield from list(self.pieces)
        for piece in self._source:
            self.pieces.append(str(piece))
            yield str(piece)

    def left(self) -> AbstractContextManager[Any]:
        """Close the engine's stream, however it is left."""
        return closing(self._source) if isinstance(self._source, Generator) else nullcontext()


class AsyncStream(_Pieces):
    """`Stream` for asynchronous streams."""

    def __init__(self, response: AsyncStreamingResponse) -> None:
        super().__init__()
        self.response = response
        said = response.response_txt
        self._source: AsyncIterator[Any] = aiter(response.response_gen if said is None else _again([said]))

    async def begin(self) -> bool:
        """Read until there is something to show; False when the stream ended before."""
        async for piece in self._source:
            self.pieces.append(str(piece))
            if self.text:
                return True
        return False

    async def whole(self) -> AsyncStreamingResponse:
        """Read to the end, and give a response that streams it again."""
        async with self.left():
            async for piece in self._source:
                self.pieces.append(str(piece))
        return remade(self.response, response_gen=_again(self.pieces), response_txt=None)

    async def rest(self) -> AsyncGenerator[str, None]:
        """What was held back, then the rest as it comes."""
        for piece in list(self.pieces):
            yield piece
        async for piece in self._source:
            self.pieces.append(str(piece))
            yield str(piece)

    def left(self) -> AbstractAsyncContextManager[Any]:
        """Close the engine's stream, however it is left."""
        return aclosing(self._source) if isinstance(self._source, AsyncGenerator) else nullcontext()


async def _again(pieces: list[str]) -> AsyncGenerator[str, None]:
    for piece in pieces:
        yield piece
