"""A real server on a real port, in this process, over a tiny model."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.engine import Engine
from cotune.serving.limits import Limits
from cotune.serving.server import Server, bind, make_server
from cotune.serving.ways import find_ways

NAME = "tiny"


@dataclass
class Live:
    """A running server."""

    server: Server
    engine: Engine
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, body: Any, **options: Any) -> httpx.Response:
        """Send a body, as JSON or as bytes, to the completions."""
        headers = {"content-type": "application/json", **options.pop("headers", {})}
        sent = {"content": body} if isinstance(body, bytes) else {"json": body}
        return httpx.post(f"{self.url}/v1/chat/completions", **sent, headers=headers, timeout=60, **options)

    def raw(self, data: bytes, seconds: float = 60.0) -> bytes:
        """Send bytes on a connection of their own and return everything that comes back until it is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            received = b""
            while part := connection.recv(65536):
                received += part
            return received


@contextmanager
def live_server(
    model: MultimodalLM, limits: Limits | None = None, *, fold: bool = False, key: str | None = None
) -> Iterator[Live]:
    """Serve a model within the block."""
    limits = limits or Limits()
    ways = find_ways(model, fold=fold, say=lambda _: None)
    engine = Engine(model, ways, rows=limits.rows, queue=limits.queue)
    bound = bind("127.0.0.1", 0)
    server = make_server(NAME, engine, limits, host="127.0.0.1", key=key)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Live(server, engine, bound.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        bound.close()
        assert not thread.is_alive()


def picture_url(path: Path) -> str:
    """Return a file as a data URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def made_picture(size: tuple[int, int], form: str = "PNG", mode: str = "RGB") -> str:
    """Return a picture of one colour as a data URL: small to send, whatever its size."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, form)
    return f"data:image/{form.lower()};base64," + base64.b64encode(file.getvalue()).decode()


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def audio_part(path: Path) -> dict[str, Any]:
    return {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(path.read_bytes()).decode(), "format": "wav"},
    }


def question(text: str = "what?", parts: Sequence[dict[str, Any]] = (), **options: Any) -> dict[str, Any]:
    """Return the body of a request."""
    content = [*parts, {"type": "text", "text": text}]
    return {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 6, **options}
