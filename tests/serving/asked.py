"""Requests for the engine, made without a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cotune.messages import MEDIA_OF_PART, Message
from cotune.model.feature_cache import loader
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.generation import Ended, Event, Failed, Generation, Piece, Prompt


@dataclass
class Heard:
    """What a request's listener was told; `wait` returns once every answer has ended or the request failed."""

    choices: int = 1
    events: list[Event] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.failed or len(self.ended) == self.choices:
            self.done.set()

    def wait(self) -> Heard:
        assert self.done.wait(60), f"nothing but {self.events} within a minute"
        return self

    def text(self, choice: int = 0) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece) and event.choice == choice)

    @property
    def ended(self) -> list[Ended]:
        return [event for event in self.events if isinstance(event, Ended)]

    @property
    def failed(self) -> list[Failed]:
        return [event for event in self.events if isinstance(event, Failed)]


def prompt_of(model: MultimodalLM, messages: Sequence[Message]) -> Prompt:
    """Return a conversation whose media are files, ready for the engine."""
    encoded = model.template.prompt(messages)
    inputs = {}
    for part in encoded.sample.media:
        encoder = model.encoder(MEDIA_OF_PART[type(part)])
        inputs[str(part.path)] = encoder.preprocess(loader(encoder)(part.path))
    return Prompt(encoded, inputs)


def asked(
    model: MultimodalLM, messages: Sequence[Message], *, max_tokens: int = 8, seconds: float = 60.0, **options: Any
) -> tuple[Generation, Heard]:
    """Return a request and what will hear of it."""
    heard = Heard(options.get("choices", 1))
    prompt = prompt_of(model, messages)
    return Generation(prompt, heard, max_tokens, time.monotonic() + seconds, **options), heard
