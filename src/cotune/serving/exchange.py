"""From a request's body to its answer, for asyncio: prompts are made in threads, the engine's events are waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from cotune.compute_threads import threads_without_helpers
from cotune.errors import RequestError
from cotune.serving.answer_bodies import Completion, error_body, event
from cotune.serving.chat_request import ChatRequest
from cotune.serving.engine import Engine, QueueFullError
from cotune.serving.generation import Ended, Event, Failed, Generation, Piece
from cotune.serving.limits import Limits
from cotune.serving.metrics import Metrics
from cotune.serving.prompts import PromptMaker, Question
from cotune.serving.sampling import SamplingSettings

_T = TypeVar("_T")
# Pictures decoded and prompts tokenised at a time; the engine needs the cores more.
_THREADS = 2

Receive = Callable[[], Awaitable[Any]]


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


class ConversationService:
    """Answers requests by one engine, under the name of its model."""

    def __init__(self, name: str, engine: Engine, limits: Limits, metrics: Metrics) -> None:
        self.name, self.engine, self.limits, self.metrics = name, engine, limits, metrics
        self._maker = PromptMaker(engine.model, limits)
        self._threads = threads_without_helpers(_THREADS, "prompts")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, request: ChatRequest, receive: Receive) -> Exchange:
        """Return the exchange that a request begins, once the engine has begun with it.

        Raises:
            RequestError: for what cannot be answered, and with 429 when too many wait.
            ClientLeftError: when the client went away.
        """
        if request.model != self.name:
            raise RequestError(404, f"model: only '{self.name}' is served", code="model_not_found", param="model")
        choices = request.n or 1
        if choices > self.engine.rows:
            raise RequestError(
                400, f"n: {choices}; at most {self.engine.rows} answers are computed at a time", param="n"
            )
        if self.engine.full:
            raise self._busy()
        begun = time.monotonic()
        loop = asyncio.get_running_loop()
        making = loop.run_in_executor(self._threads, self._maker.question, request)
        question = await self._unless_gone(making, receive)
        exchange = Exchange(self, request, question, begun)
        try:
            self.engine.submit(exchange.generation)
        except QueueFullError:
            raise self._busy() from None
        try:
            await self._unless_gone(exchange.begin(), receive)
        except BaseException:
            exchange.generation.cancel()
            raise
        return exchange

    async def whole(self, exchange: Exchange, receive: Receive) -> dict[str, Any]:
        """Return the whole answer; raises as `ask`."""
        try:
            return await self._unless_gone(exchange.body(), receive)
        finally:
            exchange.generation.cancel()

    async def _unless_gone(self, awaited: Awaitable[_T], receive: Receive) -> _T:
        """Return what is awaited, unless the client goes away before."""
        task, gone = asyncio.ensure_future(awaited), asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.metrics.left.inc()
                raise ClientLeftError
            return task.result()
        finally:
            task.cancel()
            gone.cancel()

    def _busy(self) -> RequestError:
        return RequestError(
            429, "the server is busy; try again", code="rate_limit_exceeded", retry_after=self.engine.retry_after
        )


class Exchange:
    """One request and its answers as they come."""

    def __init__(self, service: ConversationService, request: ChatRequest, question: Question, begun: float) -> None:
        self.service, self.request, self._begun = service, request, begun
        prompt = question.prompt
        way = service.engine.ways[prompt.modality]
        self.completion = Completion(service.name, way, len(prompt.encoded), request.n or 1, question.notes)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._first: Event | None = None
        self._loop = asyncio.get_running_loop()
        self.generation = Generation(
            prompt,
            self._listen,
            question.max_tokens,
            begun + service.limits.seconds,
            SamplingSettings(request.temperature or 0.0, 1.0 if request.top_p is None else request.top_p, request.seed),
            request.stops,
            self.completion.choices,
        )

    def _listen(self, heard: Event) -> None:
        """Hand an event from the engine's thread to the loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, heard)

    async def begin(self) -> None:
        """Wait for the first event; raises RequestError when nothing will come."""
        self._first = await self._next()
        self.service.metrics.first.observe(time.monotonic() - self._begun)

    async def body(self) -> dict[str, Any]:
        """Return the whole answer."""
        async for _ in self._heard():
            pass
        return self.completion.body()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events; whoever stops listening stops the computing."""
        completion = self.completion
        try:
            for choice in range(completion.choices):
                yield event(completion.chunk(choice, {"role": "assistant", "content": ""}))
            async for heard in self._heard():
                if isinstance(heard, Piece):
                    yield event(completion.chunk(heard.choice, {"content": heard.text}))
                else:
                    yield event(completion.chunk(heard.choice, {}, heard))
            options = self.request.stream_options
            if options is not None and options.include_usage:
                yield event(completion.usage_chunk())
            yield event("[DONE]")
        except RequestError as error:
            # The status was sent long ago; the client learns of it by an event.
            yield event(error_body(error))
        finally:
            if not completion.complete:
                self.service.metrics.left.inc()
            self.generation.cancel()

    async def _heard(self) -> AsyncIterator[Piece | Ended]:
        """Yield what the engine says until every answer has ended."""
        completion = self.completion
        heard = self._first or await self._next()
        while True:
            assert not isinstance(heard, Failed)
            if isinstance(heard, Piece):
                completion.texts[heard.choice] += heard.text
            else:
                completion.ended[heard.choice] = heard
                if completion.complete:
                    self._count()
            yield heard
            if completion.complete:
                return
            heard = await self._next()

    async def _next(self) -> Piece | Ended:
        heard = await self._events.get()
        if isinstance(heard, Failed):
            if heard.busy:
                raise self.service._busy()
            raise RequestError(500, "the model failed at this request; the server's log says how")
        return heard

    def _count(self) -> None:
        metrics, way = self.service.metrics, self.completion.way
        metrics.answered.labels(way.modality, way.path).inc()
        metrics.prompt_tokens.inc(self.completion.prompt_tokens)
        metrics.answer_tokens.inc(self.completion.completion_tokens)
        metrics.whole.observe(time.monotonic() - self._begun)


async def _left(receive: Receive) -> None:
    """Return when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
