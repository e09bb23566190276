"""Routing inside one pass: modality tokens and packed samples share a row, and none sees another.

In front of each row stand the modality tokens of its samples; an adapter reads each sample's weights off its token's
column. For that a row falls apart into segments (every token, every sample, every piece of padding by itself), whose
positions restart at 0: every sample keeps the positions it has when it stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cotune.adapters.isolation import PADDING
from cotune.adapters.routing import Route, router_weights
from cotune.errors import ModelError


@dataclass(frozen=True)
class RoutedInputs:
    """What to call the decoder with, and which of its outputs belong to the embeddings given.

    `embeddings` is [batch, leading + tokens, width], `positions` [batch, leading + tokens] or None where the model's
    own are right.
    """

    embeddings: Tensor
    positions: Tensor | None = None
    leading: int = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """The decoder's keyword arguments; neither mask nor cache, with which positions would make no segments."""
        positions = {} if self.positions is None else {"position_ids": self.positions}
        return {"inputs_embeds": self.embeddings, "use_cache": False, **positions}

    def keep(self, hidden: Tensor) -> Tensor:
        """Return the columns [batch, tokens, ...] of the decoder's output that belong to the embeddings given."""
        return hidden[:, self.leading :]


class InlineRoute(Route):
    """Weights read off the modality tokens at the front of the very rows that are adapted.

    `samples` [batch, leading + tokens] says for each column which of the row's tokens routes it, `offsets`
    [batch, leading, experts] what is added to each token's logits.
    """

    fixed = False

    def __init__(
        self, samples: Tensor, leading: int, temperature: float, offsets: Tensor | None, segments: Tensor | None
    ) -> None:
        super().__init__(torch.empty(0, 0), segments=segments)
        self.batch, self.samples, self.leading = len(samples), samples, leading
        self.temperature, self.offsets = temperature, offsets

    def weights(self, hidden: Tensor, router: nn.Linear | None) -> Tensor:
        """Return [batch, leading + tokens, experts], or [batch, 1, experts] where one token routes the whole row."""
        assert router is not None  # only soft routing has tokens
        weights = router_weights(router, hidden[:, : self.leading], self.temperature, self.offsets)
        if self.leading == 1:
            return weights
        return weights.gather(1, self.samples.unsqueeze(2).expand(-1, -1, weights.shape[2]))


def check_segments(segments: Tensor, samples: Sequence[int], shape: Sequence[int]) -> None:
    """Raise ModelError unless each row's segments number its samples 0, 1 ... in unbroken runs, padding -1.

    `segments` is [batch, tokens], `samples` the number of samples per row, `shape` the embeddings' [batch, tokens].
    """
    if tuple(segments.shape) != tuple(shape) or len(samples) != len(segments):
        raise ModelError(f"segments {tuple(segments.shape)}, names {len(samples)} and embeddings {tuple(shape)} differ")
    for row, (numbers, count) in enumerate(zip(segments.tolist(), samples, strict=True)):
        runs = [number for place, number in enumerate(numbers) if place == 0 or numbers[place - 1] != number]
        of_samples = [number for number in runs if number != PADDING]
        if len(set(of_samples)) != len(of_samples) or not all(0 <= number < count for number in of_samples):
            raise ModelError(
                f"segments, row {row}: the runs {runs} are not its {count} samples, each in one piece (padding is -1)"
            )


def lead(segments: Tensor, leading: int) -> Tensor:
    """Return the segments [batch, leading + tokens] of rows with that many modality tokens in front of them."""
    tokens = torch.arange(leading, device=segments.device) - leading + PADDING  # numbers no sample and no padding has
    return torch.cat([tokens.expand(len(segments), -1), segments], dim=1)
