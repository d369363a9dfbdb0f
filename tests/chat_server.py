"""An OpenAI-compatible chat server on the loopback interface: answers, fails and breaks off as a test tells it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from pytest_socket import enable_socket, socket_allow_hosts

Reply = Callable[[list[dict[str, Any]]], str]


class ChatServer:
    """Answers ``/v1/chat/completions``, whole or as server-sent events, one word a chunk.

    `refusals` are (status, headers) given to the first calls; `cut_after` closes a stream's socket after that many
    words; `usage` tells whether tokens are reported.
    """

    def __init__(
        self,
        reply: Reply = lambda messages: "yes",
        *,
        delay: float = 0.0,
        refusals: tuple[tuple[int, dict[str, str]], ...] = (),
        cut_after: int | None = None,
        usage: bool = True,
    ) -> None:
        self.reply, self.delay, self.cut_after, self.usage = reply, delay, cut_after, usage
        self.refusals = list(refusals)
        self.calls: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """What goes into ``base_url``."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self.lock:
            self.calls.append(body)
            self.keys.append(request.headers.get("Authorization"))
            refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            told = json.dumps({"error": {"message": "refused; key sk-live-1234567890abcdef", "type": "t"}}).encode()
            _send(request, refusal[0], told, refusal[1])
            return
        time.sleep(self.delay)
        text = self.reply(body["messages"])
        usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25} if self.usage else None
        head = {"id": "c1", "created": 1, "model": body["model"], "usage": None}
        if body.get("stream"):
            self._stream(request, text, head)
            return
        message = {"role": "assistant", "content": text}
        told = {**head, "object": "chat.completion", "usage": usage}
        told["choices"] = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
        _send(request, 200, json.dumps(told).encode(), {})

    def _stream(self, request: BaseHTTPRequestHandler, text: str, head: dict[str, Any]) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        if self.cut_after is not None:
            # A length that is never reached, so that closing early is seen as breaking off.
            request.send_header("Content-Length", "1000000")
        request.end_headers()
        for number, word in enumerate(text.split(" ")):
            if number == self.cut_after:
                return
            delta = {"role": "assistant", "content": word if number == 0 else f" {word}"}
            _event(request, head, {"index": 0, "delta": delta, "finish_reason": None})
        _event(request, head, {"index": 0, "delta": {}, "finish_reason": "stop"})
        request.wfile.write(b"data: [DONE]\n\n")


def _event(request: BaseHTTPRequestHandler, head: dict[str, Any], choice: dict[str, Any]) -> None:
    told = {**head, "object": "chat.completion.chunk", "choices": [choice]}
    request.wfile.write(f"data: {json.dumps(told)}\n\n".encode())
    request.wfile.flush()


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def loopback_only() -> Iterator[None]:
    """Allow sockets to 127.0.0.1, refuse all others."""
    enable_socket()
    socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)
    try:
        yield
    finally:
        import pytest_socket

        pytest_socket._remove_restrictions()


__all__ = ["ChatServer", "loopback_only"]
