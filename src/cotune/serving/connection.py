"""One connection to the server: a client that dawdles over its header, or one too many, is sent away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from cotune.errors import RequestError
from cotune.serving.answer_bodies import error_body
from cotune.serving.limits import Limits

# Seconds in which what a refused client still sends is thrown away.
_LINGER = 0.5
_PHRASES = {400: "Bad Request", 408: "Request Timeout", 429: "Too Many Requests"}


def connections_within(limits: Limits) -> type[H11Protocol]:
    """Return uvicorn's protocol with limits on headers: their time, and the number of connections.

    uvicorn itself waits for a header for ever. The size of a header is h11's affair (`h11_max_incomplete_event_size`).
    """

    class BoundedConnection(H11Protocol):
        _header_timer: asyncio.TimerHandle | None = None
        _refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # For a client that takes nothing more: closing would wait for it.
            self.app_state = {**self.app_state, "abort": transport.abort}
            if len(self.connections) > limits.connections:
                self._refuse(RequestError(429, "too many connections", code="rate_limit_exceeded", retry_after=1))
                return
            self._expect_header()

        def data_received(self, data: bytes) -> None:
            if self._refused or self.transport.is_closing():
                return
            if self._header_timer is None and not self._answering():
                self._expect_header()
            super().data_received(data)
            if self._answering():
                self._stop_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def timeout_keep_alive_handler(self) -> None:
            self._stop_timer()
            super().timeout_keep_alive_handler()

        def send_400_response(self, msg: str) -> None:
            self._refuse(RequestError(400, msg))

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _expect_header(self) -> None:
            self._header_timer = self.loop.call_later(limits.header_seconds, self._too_slow)

        def _stop_timer(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _too_slow(self) -> None:
            self._header_timer = None
            if not self._answering() and not self.transport.is_closing():
                self._refuse(RequestError(408, "the header did not arrive in time"))

        def _refuse(self, error: RequestError) -> None:
            self._stop_timer()
            self._refused = True
            self.transport.write(_raw(error))
            # Closed at once while more comes in, the client would see a reset instead of the reason.
            wait = 0.0 if error.status == 429 else _LINGER
            self.transport.write_eof()
            self.loop.call_later(wait, self.transport.close)

    return BoundedConnection


def _raw(error: RequestError) -> bytes:
    """Return a whole response, where there is no request yet to answer."""
    body = json.dumps(error_body(error)).encode()
    lines: dict[str, Any] = {
        "content-type": "application/json",
        "content-length": len(body),
        "connection": "close",
        **({"retry-after": error.retry_after} if error.retry_after else {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {error.status} {_PHRASES[error.status]}\r\n{head}\r\n".encode() + body
