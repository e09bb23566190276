"""The connector: encoder features to the language model's width, by two linear layers (LaVIN's projector)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Connector(nn.Module):
    """Linear, SiLU, linear; features standardised per channel before, scaled to the embeddings' size behind.

    Standardising decides whether the colours of the quickstart are learned at all in a few hundred steps; without
    the output scale the first steps push tokens of the wrong size through the frozen model.
    """

    mean: Tensor
    deviation: Tensor
    output_scale: Tensor

    def __init__(self, width_in: int, hidden: int, width_out: int, output_scale: float) -> None:
        super().__init__()
        self.input = nn.Linear(width_in, hidden)
        self.output = nn.Linear(hidden, width_out)
        self.register_buffer("mean", torch.zeros(width_in))
        self.register_buffer("deviation", torch.ones(width_in))
        self.register_buffer("output_scale", torch.tensor(output_scale))
        for layer in (self.input, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def standardize(self, batches: Iterable[Tensor]) -> None:
        """Set mean and deviation per channel from batches of features [images, tokens, width_in]."""
        count, total = 0, torch.zeros_like(self.mean, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for features in batches:
            rows = features.flatten(0, 1).double()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        if not count:
            return
        mean = total / count
        self.mean.copy_(mean)
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        # A channel that never changes says nothing: divided by next to nothing, the first that does would be noise.
        constant = deviation < 1e-5 * mean.abs().clamp_min(1)
        self.deviation.copy_(deviation.masked_fill(constant, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """Return tokens [images, tokens, width_out] for features [images, tokens, width_in]."""
        standard = (features.to(self.mean.dtype) - self.mean) / self.deviation
        tokens: Tensor = self.output(nn.functional.silu(self.input(standard))) * self.output_scale
        return tokens
