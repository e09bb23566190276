"""The loss of frozen output layers without its logits: a few rows of them at a time, and their gradient at once.

The logits of one pass, tokens x vocabulary in fp32, are the largest tensor of a small model's step, and its softmax and
gradient are as large again. The loss needs no more than a chunk of them: its gradient on the hidden states follows from
the same logits (softmax minus the target), so it is computed before they are let go, and the backward pass only scales
it. No product is computed twice. (The scheme is that of Liger Kernel, Hsu et al. 2024, arXiv 2410.10989, section 3.2.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cotune.data.collate import Batch
from cotune.model.multimodal_lm import MultimodalLM

LogitsOf = Callable[[Tensor], Tensor]
# Logits at a time. On a CPU 24 MiB: what is larger than 32 MiB goes back to the system and comes anew, page by page
# (M_MMAP_THRESHOLD in mallopt(3)).
_AT_ONCE, _AT_ONCE_ON_CPU = 2**27, 6 * 2**20


def pass_loss(
    model: MultimodalLM,
    batch: Batch,
    collect: Callable[[Tensor], None] | None = None,
    keep: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Return the summed loss in nats of all tokens of a batch that carry loss.

    `collect` is given all their logits at once, as is an output layer that learns; else they are made in chunks. `keep`
    is given the last hidden states [loss tokens, width] and the targets.
    """
    hidden, targets = model.hidden_of_loss(batch)
    if keep is not None:
        keep(hidden, targets)
    if collect is None and model.output_is_frozen:
        return summed_loss(hidden, targets, model.logits, model.vocabulary)
    logits = model.logits(hidden)
    if collect is not None:
        collect(logits)
    return functional.cross_entropy(logits, targets, reduction="sum")


def summed_loss(hidden: Tensor, targets: Tensor, logits_of: LogitsOf, vocabulary: int) -> Tensor:
    """Return the summed cross-entropy in nats of hidden states [tokens, width] and their targets [tokens].

    `logits_of` gives logits [n, vocabulary] for hidden states [n, width]; nothing in it gets a gradient, so it must
    hold nothing that learns. The gradient on `hidden` is that of the whole sum, to rounding.
    """
    rows = chunk_rows(vocabulary, on_gpu=hidden.is_cuda)
    loss: Tensor = _SummedLoss.apply(hidden, targets, logits_of, rows)  # type: ignore[no-untyped-call]
    return loss


def chunk_rows(vocabulary: int, *, on_gpu: bool) -> int:
    """Return how many rows of logits are held at a time."""
    return max(1, (_AT_ONCE if on_gpu else _AT_ONCE_ON_CPU) // vocabulary)


class _SummedLoss(torch.autograd.Function):
    """The summed loss, and its gradient on the hidden states, made together from chunks of logits."""

    @staticmethod
    def forward(context: Any, hidden: Tensor, targets: Tensor, logits_of: LogitsOf, rows: int) -> Tensor:
        learns = context.needs_input_grad[0]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if learns else None
        for start in range(0, len(hidden), rows):
            chunk = hidden[start : start + rows].detach().requires_grad_(learns)  # [rows, width]
            with torch.set_grad_enabled(learns):
                logits = logits_of(chunk)  # [rows, vocabulary]
            loss, of_logits = _loss_and_gradient(logits.detach(), targets[start : start + rows])
            if gradient is not None:
                logits.backward(of_logits)  # type: ignore[no-untyped-call]  # not `grad`: counters of operations fail
                assert chunk.grad is not None
                gradient[start : start + rows] = chunk.grad
            total += loss
        context.save_for_backward(*([] if gradient is None else [gradient]))
        return total

    @staticmethod
    def backward(context: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = context.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None


def _loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of logits [rows, vocabulary] and its gradient on them, softmax minus target.

    By hand it takes half the time of autograd's, whose gradient begins with a tensor of zeros as large as the logits.
    """
    logarithms = logits.log_softmax(-1)
    targets = targets.unsqueeze(1)  # [rows, 1]
    loss = -logarithms.gather(1, targets).sum()
    ones = torch.ones_like(targets, dtype=logits.dtype)
    return loss, logarithms.exp_().scatter_add_(1, targets, -ones)
