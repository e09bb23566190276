"""The next token of each answer: the likeliest one, or one drawn by the request's own dice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Below it the likeliest token has all the weight that a 32-bit number can tell from none.
_GREEDY = 1e-4


@dataclass(frozen=True)
class SamplingSettings:
    """How tokens are chosen: `temperature` 0 takes the likeliest, `top_p` (0 to 1) leaves out the unlikely tail."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


GREEDY = SamplingSettings()


class Sampler:
    """The dice of one answer. The same seed gives the same tokens, whoever is answered at the same time."""

    def __init__(self, settings: SamplingSettings, number: int = 0) -> None:
        self.settings = settings
        self._generator = torch.Generator()
        if settings.seed is None:
            self._generator.seed()
        else:
            # Any number of 64 bits is a seed; several answers to one request draw differently.
            self._generator.manual_seed((settings.seed + number) % 2**63)

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.settings.temperature < _GREEDY

    def draw(self, logits: Tensor) -> int:
        """Return a token for the logits [vocabulary], by inverting the cumulated probabilities.

        Kept are the fewest likeliest tokens that together have `top_p` (nucleus sampling, Holtzman et al. 2020, arXiv
        1904.09751), never none.
        """
        logits, order = logits.cpu(), None
        if self.settings.top_p < 1.0:
            # By the logits: two of them may differ by less than their probabilities can tell.
            logits, order = logits.sort(descending=True)
        weights = ((logits - logits.max()) / self.settings.temperature).softmax(-1)
        if order is not None:
            kept = max(1, int((weights.cumsum(-1) - weights < self.settings.top_p).sum()))
            weights = weights[:kept]
        cumulated = weights.double().cumsum(-1)
        point = torch.rand((), generator=self._generator, dtype=torch.float64) * cumulated[-1]
        place = min(int(torch.searchsorted(cumulated, point, right=True)), len(cumulated) - 1)
        return place if order is None else int(order[place])


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Return the next token of each row of logits [rows, vocabulary]."""
    likeliest: list[int] = logits.argmax(-1).tolist()
    return [
        token if sampler.greedy else sampler.draw(row)
        for token, row, sampler in zip(likeliest, logits, samplers, strict=True)
    ]
