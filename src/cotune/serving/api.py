"""The application: an OpenAI-compatible API, the page, health and metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from cotune import __version__
from cotune.errors import RequestError
from cotune.serving.answer_bodies import error_body, error_headers, model_body
from cotune.serving.chat_request import read_request
from cotune.serving.description import describe
from cotune.serving.engine import Engine
from cotune.serving.exchange import ClientLeftError, ConversationService
from cotune.serving.guard import Guard
from cotune.serving.limits import Limits
from cotune.serving.metrics import Metrics
from cotune.serving.page import page, page_headers

# What nobody receives any more; for the count of responses.
_CLIENT_LEFT = 499


def make_app(
    name: str, engine: Engine, limits: Limits, *, key: str | None = None, hosts: Collection[str] | None = None
) -> Guard:
    """Return the guarded application that serves an engine under a name; it starts the engine and ends it.

    `key` is what clients must show, `hosts` the names under which they may call, None for any.
    """
    metrics = Metrics(engine)
    service = ConversationService(name, engine, limits, metrics)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        service.close()
        engine.stop()

    app = FastAPI(title="cotune", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    _add_models(app, name, sorted(engine.model.encoders))
    _add_chat(app, service)
    _add_watching(app, engine, metrics)
    _add_page(app)
    _answer_errors(app)
    describe(app, name, key=key is not None)
    return Guard(app, limits=limits, key=key, hosts=hosts, count=lambda status: metrics.responses.labels(status).inc())


def _add_chat(app: FastAPI, service: ConversationService) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        asked = read_request(await request.body())
        exchange = await service.ask(asked, request.receive)
        if asked.stream:
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(exchange.stream(), media_type="text/event-stream", headers=headers)
        return JSONResponse(await service.whole(exchange, request.receive))


def _add_models(app: FastAPI, name: str, media: list[str]) -> None:
    created = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the models: one."""
        return {"object": "list", "data": [model_body(name, created, media)]}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        """Describe a model."""
        if model != name:
            raise RequestError(404, f"only '{name}' is served", code="model_not_found", param="model")
        return model_body(name, created, media)


def _add_watching(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Say whether requests are taken, and how much there is to do."""
        state = "busy" if engine.full else "ok"
        return {"status": state, "running": engine.running, "waiting": engine.waiting}

    @app.get("/metrics")
    async def counted() -> Response:
        """Return the counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    content = page()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        """Return the page."""
        return Response(content, headers=page_headers(content))


def _answer_errors(app: FastAPI) -> None:
    """Let every error be answered as the API writes errors."""

    def answer(error: RequestError) -> Response:
        return JSONResponse(error_body(error), error.status, error_headers(error))

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return answer(error)

    @app.exception_handler(ClientLeftError)
    async def left(_: Request, __: ClientLeftError) -> Response:
        return Response(status_code=_CLIENT_LEFT)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        said = {404: "there is nothing here", 405: "not by this method"}.get(error.status_code, str(error.detail))
        return JSONResponse(error_body(RequestError(error.status_code, said)), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return answer(RequestError(500, "the server failed at this request; its log says how"))
