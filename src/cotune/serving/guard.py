"""What every request must pass before anything is done for it: where it comes from, the key, its size, its pace."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from cotune.errors import RequestError
from cotune.serving.answer_bodies import error_body, error_headers, event
from cotune.serving.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

# What anybody may see: the page asks for the key itself.
_OPEN = ("/", "/health", "/favicon.ico")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-store",
}


class Guard:
    """Stands in front of an application; whoever does not pass costs nothing but the answer that says why.

    `key` is what clients must show, None for nothing. `hosts` are the names under which the server may be called, None
    for any: without a key, a page of another site that has its own name point here would be a client like any other.
    `count` is told the status of every response.
    """

    def __init__(
        self, app: App, *, limits: Limits, key: str | None, hosts: Collection[str] | None, count: Callable[[int], None]
    ) -> None:
        self.app, self.limits, self.key, self.hosts, self.count = app, limits, key, hosts, count
        self._bytes = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on with its body read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, self.limits.write_seconds, self.count)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        taken = 0
        try:
            self._check_origin(headers)
            self._check_key(scope["path"], headers)
            body = b""
            if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                taken = self._reserve(scope["path"], headers)
                body = await self._read(receive, taken)
            await self.app(scope, _replay(body, receive), answer)
        except RequestError as error:
            await answer.refuse(error)
        except _GoneError:
            abort = scope.get("state", {}).get("abort")
            if abort is not None:
                abort()
                await asyncio.sleep(0)  # the connection notices, and what calls this expects no answer any more
        finally:
            self._bytes -= taken

    def _check_origin(self, headers: dict[str, str]) -> None:
        """Refuse calls under another name, and calls from pages of other sites."""
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise RequestError(403, "this server is not called by that name (header Host)")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RequestError(403, "pages of other sites may not use this server (header Origin)")

    def _check_key(self, path: str, headers: dict[str, str]) -> None:
        if self.key is None or path in _OPEN:
            return
        kind, _, shown = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode("utf-8", "replace"), self.key.encode())
        if kind.lower() != "bearer" or not right:
            raise RequestError(
                401, "no API key, or a wrong one; send it as 'Authorization: Bearer KEY'", code="invalid_api_key"
            )

    def _reserve(self, path: str, headers: dict[str, str]) -> int:
        """Return how many bytes a body may have, taken from what all bodies may have together."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and path.startswith("/v1/"):
            raise RequestError(415, "the body must be JSON (header Content-Type: application/json)")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(415, "compressed bodies are not read (header Content-Encoding)")
        most = self.limits.body_bytes
        said = headers.get("content-length")
        size = int(said) if said is not None and said.isascii() and said.isdigit() else most
        if size > most:
            raise RequestError(413, f"the body has {size:,} bytes; at most {most:,} are read")
        if self._bytes + size > self.limits.all_bodies_bytes:
            raise RequestError(429, "too many large requests at once", code="rate_limit_exceeded", retry_after=2)
        self._bytes += size
        return size

    async def _read(self, receive: Receive, most: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise RequestError(413, f"the body is longer than the {most:,} bytes that are read")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise RequestError(408, f"the body did not arrive within {self.limits.body_seconds:.0f} seconds") from None


class _GoneError(Exception):
    """The client has left."""


class _Answer:
    """Sends a response with the headers that all have, and gives up on a client that does not take it."""

    def __init__(self, send: Send, seconds: float, count: Callable[[int], None]) -> None:
        self.send, self.seconds, self.count = send, seconds, count
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.count(message["status"])
            given = {name.lower() for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *more]}
        try:
            async with asyncio.timeout(self.seconds):
                await self.send(message)
        except TimeoutError:
            raise _GoneError from None

    async def refuse(self, error: RequestError) -> None:
        """Send an error and close: what the client still sends is not waited for."""
        if self.started:
            return
        body = event(error_body(error)).removeprefix(b"data: ").rstrip()
        headers = {"content-type": "application/json", "connection": "close", **error_headers(error)}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        raw.append((b"content-length", str(len(body)).encode()))
        await self({"type": "http.response.start", "status": error.status, "headers": raw})
        await self({"type": "http.response.body", "body": body, "more_body": False})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receiver that gives a body that was read already, and then what comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _name(host: str) -> str:
    """Return a Host header without its port."""
    return host.rpartition(":")[0].lower() if ":" in host and not host.endswith("]") else host.lower()
