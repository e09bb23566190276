"""Reading a prompt a piece at a time, so that a long one does not keep those waiting who are being answered."""

from __future__ import annotations

import torch
from torch import Tensor

from cotune.data.collate import Batch
from cotune.model.growing_text import GrowingText
from cotune.serving.generation import Generation
from cotune.serving.running_batch import Answer, RunningBatch
from cotune.serving.sampling import choose


class Prefill:
    """One prompt being read for one running batch, which its answers join when it is read."""

    def __init__(self, generation: Generation, running: RunningBatch, batch: Batch) -> None:
        from transformers import DynamicCache

        self.generation, self.running = generation, running
        self._embeddings: Tensor = running.model.embed(batch)  # [1, tokens, width]
        self._cache = DynamicCache()
        self._read = 0

    def go_on(self, tokens: int | None, tokenizer: object) -> bool:
        """Read so many tokens more, or all; returns whether the answers have begun."""
        running, length = self.running, self._embeddings.shape[1]
        end = length if tokens is None else min(length, self._read + tokens)
        if running.routes is not None:
            running.routes.set([self.generation.prompt.modality])
        output = running.body(
            inputs_embeds=self._embeddings[:, self._read : end],
            position_ids=torch.arange(self._read, end, device=self._embeddings.device).unsqueeze(0),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._read = end
        if end == length:
            self._begin(output.last_hidden_state[:, -1].contiguous(), tokenizer)
        return end == length

    def _begin(self, hidden: Tensor, tokenizer: object) -> None:
        """Choose every answer's first token, and let those go on that have not ended with it."""
        generation, stop_ids = self.generation, self.running.model.template.stop_ids
        answers = [
            Answer(generation, choice, GrowingText(tokenizer, stop_ids, generation.stops))
            for choice in range(generation.choices)
        ]
        logits = self.running.model.logits(hidden).expand(len(answers), -1)  # [answers, vocabulary]
        for answer, token in zip(answers, choose(logits, [answer.sampler for answer in answers]), strict=True):
            answer.add(token)
        going_on = [answer for answer in answers if not answer.ended]
        if going_on:
            self.running.join(going_on, self._cache)
