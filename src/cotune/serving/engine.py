"""Continuous batching: one thread computes, requests join and leave between any two tokens.

Requests wait in a bounded queue, first come, first served. In every round the engine reads a piece of the next prompt
and computes one token of every answer; answers that run through the same weights share one call of the model. A
request's answer does not depend on who is computed with it.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping

import torch

from cotune.adapters.mm_adapter import kept_mixtures
from cotune.compute_threads import dismiss_helpers
from cotune.data.collate import collate
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.feature_shelf import FeatureShelf
from cotune.serving.generation import Failed, Generation
from cotune.serving.prefill import Prefill
from cotune.serving.running_batch import Routes, RunningBatch
from cotune.serving.ways import Way

_LOG = logging.getLogger(__name__)
# Tokens of a prompt read in one round while others are being answered.
_PIECE = 256


class QueueFullError(Exception):
    """As many requests wait as may; `seconds` is after how long it is worth trying again."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"the queue is full; try again in {seconds} s")


class Engine:
    """The model at work. `start` begins it, `submit` asks it; `rows` answers are computed at a time, `queue` wait."""

    def __init__(self, model: MultimodalLM, ways: Mapping[str, Way], *, rows: int = 8, queue: int = 64) -> None:
        self.model, self.ways, self.rows, self.queue = model, ways, rows, queue
        self.shelf = FeatureShelf(model)
        # A copy of its own: fast tokenizers refuse to be used by two threads at once.
        self._tokenizer = copy.deepcopy(model.template.tokenizer)
        routes = Routes(model)
        self._routes = routes
        self._batches: dict[int, RunningBatch] = {}
        for way in ways.values():
            taken = routes if way.routes else None
            self._batches.setdefault(id(way.body), RunningBatch(model, way.body, taken))
        self._waiting: deque[Generation] = deque()
        self._prefill: Prefill | None = None
        self._changed = threading.Condition()
        self._draining = self._stopping = False
        self._begun, self._seconds_each = time.monotonic(), 1.0
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work, in a thread of its own; the caller's will compute no more."""
        dismiss_helpers()
        self._thread.start()

    def submit(self, generation: Generation) -> None:
        """Put a request into the queue; raises QueueFullError when it is full or the engine takes no more."""
        if generation.choices > self.rows:
            raise ValueError(f"{generation.choices} answers to one request; {self.rows} are computed at a time")
        with self._changed:
            if self.full:
                raise QueueFullError(self.retry_after)
            self._waiting.append(generation)
            self._changed.notify()

    @property
    def full(self) -> bool:
        """Whether a request that came now would be turned away."""
        return self._draining or len(self._waiting) >= self.queue

    @property
    def retry_after(self) -> int:
        """Whole seconds after which a place in the queue is likely to be free."""
        return max(1, min(60, round(self._seconds_each)))

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many answers are being computed."""
        return sum(len(batch.answers) for batch in self._batches.values()) + (self._prefill is not None)

    def drain(self) -> None:
        """Take no more requests and turn away those that wait; what is being answered goes on."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def stop(self, seconds: float = 10.0) -> None:
        """End the thread once nothing runs, or after some seconds whatever runs."""
        self.drain()
        limit = time.monotonic() + seconds
        while self.running and time.monotonic() < limit:
            time.sleep(0.02)
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=seconds)

    @torch.inference_mode()
    def _work(self) -> None:
        adapters = self.model.adapters
        with kept_mixtures([] if adapters is None else adapters.site_adapters):
            while self._wait_for_work():
                try:
                    self._round()
                except Exception:  # a fault must not end the server: those it met are told, the others go on
                    _LOG.exception("a round of the engine failed")
                    self._fail_all()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._stopping or self._waiting or self.running):
                self._changed.wait()
            return not self._stopping

    def _round(self) -> None:
        self._turn_away()
        self._admit()
        busy = any(batch.answers for batch in self._batches.values())
        reading, tokens = self._prefill, _PIECE if busy else None
        if reading is not None and (reading.generation.cancelled or reading.go_on(tokens, self._tokenizer)):
            self._prefill = None
        for batch in self._batches.values():
            batch.drop()
            if batch.answers:
                batch.step()
                batch.drop()

    def _turn_away(self) -> None:
        """Take those out of the queue who waited too long or left, and all of them when the server is leaving."""
        now = time.monotonic()
        with self._changed:
            late = [each for each in self._waiting if each.cancelled or self._draining or now >= each.deadline]
            for generation in late:
                self._waiting.remove(generation)
        for generation in late:
            if not generation.cancelled:
                generation.listener(Failed(busy=True))

    def _admit(self) -> None:
        """Begin with the next prompt if there is room for its answers."""
        with self._changed:
            if self._prefill is not None or not self._waiting:
                return
            if self.running + self._waiting[0].choices > self.rows:
                return
            generation = self._waiting.popleft()
            self._count_time(queued=bool(self._waiting))
        try:
            self._prefill = self._begin(generation)
        except Exception:
            _LOG.exception("a prompt could not be begun")
            generation.listener(Failed(busy=False))

    def _count_time(self, *, queued: bool) -> None:
        """Keep a running mean of the seconds from one request's beginning to the next one's, while others wait."""
        now = time.monotonic()
        if queued:
            self._seconds_each += 0.2 * (now - self._begun - self._seconds_each)
        self._begun = now

    def _begin(self, generation: Generation) -> Prefill:
        prompt = generation.prompt
        loaders = self.shelf.loaders(prompt.inputs)
        batch = collate([prompt.encoded], self.model.template.filler, loaders, pad_left=True)
        body = self.ways[prompt.modality].body
        return Prefill(generation, self._batches[id(body)], batch.to(self.model.device))

    def _fail_all(self) -> None:
        """Tell everybody who is being answered that nothing will come, and begin anew."""
        met = {id(answer.generation): answer.generation for each in self._batches.values() for answer in each.answers}
        if self._prefill is not None:
            met[id(self._prefill.generation)] = self._prefill.generation
        self._prefill = None
        self._routes.forget()
        for key, batch in self._batches.items():
            self._batches[key] = RunningBatch(batch.model, batch.body, batch.routes)
        for generation in met.values():
            generation.listener(Failed(busy=False))
