"""A small server that streams prepared answers in OpenAI's form: what the page's tests talk to instead of a model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from cotune.serving.page import page, page_headers


@dataclass
class Refusal:
    """An answer that is an error."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Reply:
    """A streamed answer: its pieces, what path made it, how it ends, and how long each piece takes."""

    pieces: Sequence[str]
    cotune: Mapping[str, Any] | None = None
    finish: str | None = "stop"
    seconds: float = 0.0
    error: str | None = None


class FakeServer(ThreadingHTTPServer):
    """Answers every question with `reply` and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply: Reply | Refusal = Reply(["It is ", "blue."])
        self.models: list[dict[str, Any]] = [{"id": "quickstart", "object": "model"}]
        self.key: str | None = None
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.left = Event()  # set when a reader went away before the end

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The messages of the last request."""
        return self.requests[-1]["messages"]


@contextmanager
def serving() -> Iterator[FakeServer]:
    """Give a server that runs until the end of the block."""
    server = FakeServer()
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self.path == "/":
            content = page()
            self._send(200, content, page_headers(content))
        elif self.path != "/v1/models":
            self._refuse(Refusal(404, "There is nothing here."))
        elif self._may():
            self._send(200, json.dumps({"object": "list", "data": self.server.models}).encode(), {})

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._may():
            return
        self.server.requests.append(json.loads(body))
        reply = self.server.reply
        if isinstance(reply, Refusal):
            self._refuse(reply)
        else:
            self._stream(reply)

    def _may(self) -> bool:
        key = self.server.key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self._refuse(Refusal(401, "No or a wrong API key."))
            return False
        return True

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, refusal: Refusal) -> None:
        body = {"error": {"message": refusal.message, "type": "invalid_request_error", "param": None, "code": None}}
        self._send(refusal.status, json.dumps(body).encode(), refusal.headers)

    def _stream(self, reply: Reply) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for chunk in _chunks(reply):
                self.wfile.write(b"data: " + chunk.encode() + b"\n\n")
                self.wfile.flush()
                time.sleep(reply.seconds)
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def handle(self) -> None:
        with suppress(ConnectionResetError):
            super().handle()


def _chunks(reply: Reply) -> Iterator[str]:
    for piece in reply.pieces:
        yield json.dumps({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
    if reply.error is not None:
        yield json.dumps({"error": {"message": reply.error, "type": "server_error", "param": None, "code": None}})
    if reply.finish is None:
        return  # the connection ends here
    last: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish}]}
    if reply.cotune is not None:
        last["cotune"] = reply.cotune
    yield json.dumps(last)
    yield json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": len(reply.pieces)}})
    yield "[DONE]"
