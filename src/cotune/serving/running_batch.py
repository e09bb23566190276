"""Answers that are computed together, one token each at a time; they join and leave between any two tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cotune.model.growing_text import GrowingText
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.generation import Ended, Generation, Piece, Reason
from cotune.serving.row_cache import RowCache
from cotune.serving.sampling import Sampler, choose


class Answer:
    """One answer being made: its request, its text, its dice and its last token."""

    def __init__(self, generation: Generation, choice: int, text: GrowingText) -> None:
        self.generation, self.choice, self.text = generation, choice, text
        self.sampler = Sampler(generation.sampling, choice)
        self.last = 0
        self._made = 0
        self.ended = False

    @property
    def modality(self) -> str:
        """The modality that routes it."""
        return self.generation.prompt.modality

    def add(self, token: int) -> None:
        """Take the next token, and tell the listener what there is to tell."""
        self.last, self._made = token, self._made + 1
        piece = self.text.add(token)
        out_of_time = time.monotonic() >= self.generation.deadline
        at_longest = self._made >= self.generation.max_tokens
        self.ended = self.text.stopped or out_of_time or at_longest
        if self.ended:
            piece += self.text.finish()
        if piece:
            self.generation.listener(Piece(self.choice, piece))
        if self.ended:
            reason: Reason = "stop" if self.text.stopped else "length" if at_longest else "time"
            self.generation.listener(Ended(self.choice, reason, self._made))


class Routes:
    """Routes the model's adapters, and remembers how they are routed: setting them costs as much as a small layer."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model
        self._now: list[str] = []

    def set(self, modalities: Sequence[str]) -> None:
        """Route the rows of the next call by their modalities."""
        if list(modalities) != self._now:
            self.model.route(modalities)
            self._now = list(modalities)

    def forget(self) -> None:
        """Expect nothing: something may have gone wrong half-way."""
        self._now = []


class RunningBatch:
    """The answers that one decoder computes."""

    def __init__(self, model: MultimodalLM, body: nn.Module, routes: Routes | None) -> None:
        self.model, self.body, self.routes = model, body, routes
        self.answers: list[Answer] = []
        self.cache = RowCache()
        self._embed = model.llm.get_input_embeddings()

    def join(self, answers: Sequence[Answer], prompt: object) -> None:
        """Add answers to one prompt; `prompt` is its computed cache."""
        self.cache.join(prompt, len(answers))
        self.answers += answers

    def leave(self, row: int) -> None:
        """Take out an answer; the last row takes its place."""
        self.cache.leave(row)
        last = self.answers.pop()
        if row < len(self.answers):
            self.answers[row] = last

    def drop(self) -> None:
        """Take out every answer that has ended or that nobody waits for."""
        for row in reversed(range(len(self.answers))):
            if self.answers[row].ended or self.answers[row].generation.cancelled:
                self.leave(row)

    def step(self) -> None:
        """Compute the next token of every answer."""
        for answer, token in zip(self.answers, self._next_tokens(), strict=True):
            answer.add(token)

    def _next_tokens(self) -> list[int]:
        device = self.model.device
        if self.routes is not None:
            self.routes.set([answer.modality for answer in self.answers])
        self.cache.ready()
        last = torch.tensor([[answer.last] for answer in self.answers], device=device)  # [rows, 1]
        positions = self.cache.positions(device)
        output = self.body(
            inputs_embeds=self._embed(last),
            attention_mask=self.cache.mask(device),
            # As the original LaVIN code had them while it generated.
            position_ids=positions - 1 if self.model.off_by_one_positions else positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache.advance()
        hidden: Tensor = output.last_hidden_state[:, -1].contiguous()  # [rows, width]
        return choose(self.model.logits(hidden), [answer.sampler for answer in self.answers])
