"""Divergences between two distributions over the vocabulary, token by token.

Each has an exponent p: for small steps it grows with the step's size to the power p. A new one is an entry in
`DIVERGENCES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cotune.errors import BalanceError, nearest

# Values that are held at once in a tensor: in fp64 32 MB, which a GPU works through at once, and 1 MB, which stays in a
# processor's cache through all twenty passes over it.
_CHUNK, _CACHED_CHUNK = 1 << 22, 1 << 17
# Below it, a difference of exponentials loses more to rounding than their series to truncation.
_SERIES = 0.1


@dataclass(frozen=True)
class Divergence:
    """A divergence of two distributions given as log-probabilities [tokens, vocabulary], and its exponent p."""

    name: str
    exponent: int
    between: Callable[[Tensor, Tensor], Tensor]


def _kullback_leibler(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) [tokens] as the sum of q - p - p ln(q/p): every term is positive, so none cancels another.

    For small d = ln(q/p) a term is p (d^2/2 + d^3/6 ...), which fp32 holds to six digits where the usual sum of
    p ln(p/q) is mostly rounding. Tokens that p rules out (log-probability -inf) contribute q.
    """
    ratio = log_q - log_p  # [tokens, vocabulary]
    p, q = log_p.exp(), log_q.exp()
    series = 1 + ratio * (1 / 3 + ratio * (1 / 12 + ratio * (1 / 60 + ratio * (1 / 360))))
    terms = torch.where(ratio.abs() < _SERIES, p * ratio.square() / 2 * series, q - p - p * ratio)
    return torch.where(log_p.isneginf(), q, terms).sum(-1)


def _jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the mean of the Kullback-Leibler divergences to the middle distribution [tokens]."""
    middle = torch.logaddexp(log_p, log_q) - math.log(2.0)
    return (_kullback_leibler(log_p, middle) + _kullback_leibler(log_q, middle)) / 2


def _squared_hellinger(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return half the squared distance of the square roots of the probabilities [tokens]."""
    return ((log_p / 2).exp() - (log_q / 2).exp()).square().sum(-1) / 2


def _hellinger(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the Hellinger distance, a metric [tokens]."""
    return _squared_hellinger(log_p, log_q).sqrt()


def _total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return half the sum of the probabilities' differences, a metric [tokens]."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


DIVERGENCES = {
    found.name: found
    for found in (
        Divergence("kl", 2, _kullback_leibler),
        Divergence("js", 2, _jensen_shannon),
        Divergence("squared-hellinger", 2, _squared_hellinger),
        Divergence("hellinger", 1, _hellinger),
        Divergence("tv", 1, _total_variation),
    )
}


def divergence_named(name: str) -> Divergence:
    """Return the divergence of a name; raises BalanceError with the nearest one for an unknown name."""
    if name not in DIVERGENCES:
        raise BalanceError(f"divergence: no divergence '{name}'{nearest(name, list(DIVERGENCES))}")
    return DIVERGENCES[name]


def token_divergences(divergence: Divergence, before: Tensor, after: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the divergence of every token [tokens] between two sets of logits [tokens, vocabulary].

    Computed in `dtype`. Adding a constant to all logits of a token changes nothing.
    """
    parts = [
        divergence.between(old.to(dtype).log_softmax(-1), new.to(dtype).log_softmax(-1)).clamp_min(0)
        for old, new in _chunks(before, after)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype, device=before.device)


def token_losses(logits: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the cross-entropy of every token [tokens], computed in `dtype`."""
    parts = [
        -part.to(dtype).log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        for part, wanted in _chunks(logits, targets)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype, device=logits.device)


def token_entropies(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the entropy of every token's distribution [tokens], in nats, computed in `dtype`."""
    parts = [torch.special.entr(part.to(dtype).softmax(-1)).sum(-1) for (part,) in _chunks(logits)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype, device=logits.device)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few rows of all tensors, so that a long probe over a large vocabulary needs little memory."""
    values = _CACHED_CHUNK if tensors[0].device.type == "cpu" else _CHUNK
    rows = max(1, values // tensors[0].shape[-1])
    for start in range(0, len(tensors[0]), rows):
        yield tuple(tensor[start : start + rows] for tensor in tensors)
