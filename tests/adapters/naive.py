"""The adapter a second time, straight from the formula: block matrices by hand, loops over experts and samples."""

from __future__ import annotations

import torch
from torch import Tensor

from cotune.adapters.mm_adapter import MMAdapter


def block_diagonal(grouped: Tensor, groups: int) -> Tensor:
    """Return the dense [width, rank] matrix of a grouped [width, rank / groups] one, entry by entry."""
    width, columns = grouped.shape
    dense = torch.zeros(width, groups * columns, dtype=grouped.dtype)
    for row in range(width):
        group = row // (width // groups)
        for column in range(columns):
            dense[row, group * columns + column] = grouped[row, column]
    return dense


def naive_adapter(adapter: MMAdapter, hidden: Tensor, weights: Tensor) -> Tensor:
    """Return x + s * sum_e w_e (B_e (A x + a) + b_e) for hidden [batch, tokens, width], weights [batch, experts]."""
    result = torch.empty_like(hidden)
    for sample in range(hidden.shape[0]):
        for token in range(hidden.shape[1]):
            x = hidden[sample, token]
            low = adapter.down @ x
            if adapter.down_bias is not None:
                low = low + adapter.down_bias
            y = x
            for expert in range(adapter.experts):
                raised = block_diagonal(adapter.up[expert], adapter.groups) @ low
                if adapter.up_bias is not None:
                    raised = raised + adapter.up_bias[expert]
                y = y + adapter.scale * weights[sample, expert] * raised
            result[sample, token] = y
    return result
