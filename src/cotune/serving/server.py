"""From a run folder to a server that answers until it is told to stop."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from cotune.errors import ServeError
from cotune.model.loading import load_tuned
from cotune.run_folder import open_run
from cotune.serving.api import make_app
from cotune.serving.cache_check import check_rows_can_share
from cotune.serving.connection import connections_within
from cotune.serving.engine import Engine
from cotune.serving.limits import Limits
from cotune.serving.ways import count_paths, find_ways

_LARGEST_HEADER = 32 * 1024
_KEEP_ALIVE = 15


class Server(uvicorn.Server):
    """uvicorn's server, which lets the engine finish what runs and turn away the rest before it leaves."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self.engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to leave."""
        self.engine.drain()
        super().handle_exit(sig, frame)


def serve_run(
    run: Path, *, host: str, port: int, key: str | None, limits: Limits, fold: bool, say: Callable[[str], None]
) -> None:
    """Serve a run until a signal ends it; `say` is told what is served, how and where.

    Raises:
        ServeError: for an address others can reach without a key, and for one that cannot be had.
        ServeError: for a model whose answers cannot be computed together, and for one that hears without the libraries.
        RunFolderError: when `run` is no run folder.
    """
    check_key(host, key)
    with bind(host, port) as bound:
        folder, recipe = open_run(run)
        model = load_tuned(recipe, folder.adapter)
        if "audio" in model.encoders:
            _need_sound_libraries()
        check_rows_can_share(model)
        engine = Engine(model, find_ways(model, fold=fold, say=say), rows=limits.rows, queue=limits.queue)
        say(f"Paths: {count_paths(list(engine.ways.values()))}")
        server = make_server(folder.path.resolve().name, engine, limits, host=host, key=key)
        at = f"[{host}]" if ":" in host else host
        say(f"Serving {folder.path} at http://{at}:{bound.getsockname()[1]} (page), /v1 (API); Ctrl-C ends it")
        server.run(sockets=[bound])


def make_server(name: str, engine: Engine, limits: Limits, *, host: str, key: str | None) -> Server:
    """Return the server of an engine, not yet running."""
    names = {"localhost", "127.0.0.1", "[::1]", host, f"[{host}]"} if is_loopback(host) else None
    config = uvicorn.Config(
        make_app(name, engine, limits, key=key, hosts=names),
        http=connections_within(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_LARGEST_HEADER,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=round(limits.seconds) + 5,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    return Server(config, engine)


def check_key(host: str, key: str | None) -> None:
    """Raise ServeError for an address that other machines can reach and no key, or for a key no header can hold."""
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
        raise ServeError("--api-key: letters, digits and signs of ASCII without spaces around them, and not nothing")
    if key is None and not is_loopback(host):
        raise ServeError(
            f"--host {host}: other machines could use the model; give them a key by --api-key or the environment "
            "variable COTUNE_API_KEY, or leave --host out to serve this machine only"
        )


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has an address, not yet listening: before there is a model nobody should wait at it.

    Port 0 takes any that is free.

    Raises:
        ServeError: when the address cannot be had.
    """
    bound: socket.socket | None = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise ServeError(f"{host}:{port} cannot be had: {error.strerror or error}; choose another by --port") from None
    return bound


def _need_sound_libraries() -> None:
    try:
        import soundfile  # noqa: F401
        import soxr  # noqa: F401
    except (ImportError, OSError) as error:
        raise ServeError(
            f"this model hears, and sounds need more packages ({error}): pip install 'cotune[audio]'"
        ) from None
