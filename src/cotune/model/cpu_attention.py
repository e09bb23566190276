"""Causal attention on a CPU: each sequence of a row by itself, and in bfloat16 by matrix products.

PyTorch's kernel computes a packed row under a dense mask, all pairs of tokens, and is no faster in bfloat16 than in
float32. Samples of a row see only themselves, so a row of 1024 tokens with four of them needs an eighth of the pairs;
and the products of queries, keys and values run in oneDNN's bfloat16, as fast as those of linear layers.

What belongs together is read off the mask that transformers makes for the model. Every other pattern than sequences
behind each other (padding on the left, a sliding window shorter than a sequence, a bias) is left to PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

IMPLEMENTATION = "cotune_cpu"  # the name transformers knows it by
_OTHER_PATTERNS = ("softcap", "position_bias", "cache", "s_aux")  # options with which it is no plain attention
# Queries at a time: their scores stay in a processor's cache, and most of what is above the diagonal is spared.
_BLOCK = 128
# Scores at a time, where rows are short: as many rows as keep below it.
_SCORES = 2**18
_masks_lengths = WeakIdKeyDictionary()  # what was read off a mask: it is the same for all layers of a pass


def attend_on_cpu(llm: Any) -> None:
    """Let a language model of transformers on a CPU attend by `cpu_attention`, if it would by PyTorch's kernel."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if llm.config._attn_implementation != "sdpa":  # the user's own choice, or a model that knows no other
        return
    AttentionInterface.register(IMPLEMENTATION, cpu_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    llm.set_attn_implementation(IMPLEMENTATION)


def cpu_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return attention's output [batch, tokens, heads, width], in the form transformers asks of a kernel.

    `query` is [batch, heads, tokens, width]; `key` and `value` may have fewer heads, which neighbours then share.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = dropout == 0 and all(options.get(name) is None for name in _OTHER_PATTERNS)
    lengths = _lengths(query, key, attention_mask, causal) if plain else None
    if lengths is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **options
        )
        return output, None
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    if len(lengths) == 1:  # the same for all rows
        output = _attend_rows(query, key, value, lengths[0], scale)
    else:
        rows = zip(query.split(1), key.split(1), value.split(1), lengths, strict=True)  # type: ignore[no-untyped-call]
        output = torch.cat([_attend_rows(*row, scale) for row in rows])
    return output.transpose(1, 2).contiguous(), None


def _lengths(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> list[list[int]] | None:
    """Return the lengths of the sequences in each row, or of all rows alike; None where it is not causal attention."""
    length = query.shape[2]
    if length == 1 or key.shape[2] != length or query.device.type != "cpu":
        return None
    if mask is None:
        return [[length]] if causal else None
    if mask.dtype != torch.bool or mask.shape[1:] != (1, length, length):
        return None
    if mask not in _masks_lengths:
        _masks_lengths[mask] = sequence_lengths(mask[:, 0])
    found: list[list[int]] | None = _masks_lengths[mask]
    return found


def sequence_lengths(mask: Tensor) -> list[list[int]] | None:
    """Return the lengths of the sequences that stand behind each other in each row of a mask, True where seen.

    `mask` is [batch, tokens, tokens]. None where any row is anything but sequences that each see their own past.
    """
    columns = torch.arange(mask.shape[2], device=mask.device)
    first = mask.to(torch.uint8).argmax(2)  # [batch, tokens]: the first token that each one sees
    past = (columns >= first.unsqueeze(2)) & (columns <= columns.unsqueeze(1))
    # Each sees all from there to itself; the first of a sequence sees itself alone, and nothing behind sees past it.
    begins = torch.equal(first.gather(1, first), first) and bool((first.diff(dim=1) >= 0).all())
    if not (begins and torch.equal(mask, past)):
        return None
    return [[len(list(run)) for _, run in groupby(row)] for row in first.tolist()]


def _attend_rows(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """Return the output [batch, heads, tokens, width] of rows whose sequences have the same lengths."""
    pieces = _joined_singles(lengths)
    if len(pieces) == 1 and not pieces[0][1]:
        return _attend(query, key, value, scale)
    sizes = [tokens for tokens, _ in pieces]
    parts = zip(*(torch.split(tensor, sizes, 2) for tensor in (query, key, value)), pieces, strict=True)
    shared = query.shape[1] // key.shape[1]
    return torch.cat(
        [
            # A token that sees itself alone takes its own value.
            own.repeat_interleave(shared, 1) if single else _attend(asked, of_key, own, scale)
            for asked, of_key, own, (_, single) in parts
        ],
        2,
    )


def _joined_singles(lengths: Sequence[int]) -> list[tuple[int, bool]]:
    """Return pieces of a row and whether they are tokens on their own: neighbours of those are one piece."""
    pieces: list[tuple[int, bool]] = []
    for single, run in groupby(lengths, lambda length: length == 1):
        found = list(run)
        pieces += [(len(found), True)] if single else [(length, False) for length in found]
    return pieces


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return causal attention within sequences of one length."""
    if query.dtype == torch.bfloat16:
        heads, tokens = query.shape[1:3]
        rows = max(1, _SCORES // (heads * min(_BLOCK, tokens) * tokens))
        parts = zip(*(torch.split(tensor, rows) for tensor in (query, key, value)), strict=True)
        return _one([_Products.apply(*part, scale) for part in parts])  # type: ignore[no-untyped-call]
    shared = query.shape[1] > key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=shared)


def _one(parts: Sequence[Tensor]) -> Tensor:
    """Return parts of a batch as one tensor."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class _Products(torch.autograd.Function):
    """Causal attention as softmax(Q K^T scale) V, a block of queries at a time.

    Nothing of the size tokens x tokens is kept: the backward pass makes the probabilities again, P = softmax(S), and
    from them dV = P^T dO, dS = P (dO V^T - sum(P dO V^T)), dQ = dS K and dK = dS^T Q.
    Query heads that share a key stand below each other as more queries, so that no key is copied for them.
    """

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        context.save_for_backward(query, key, value)
        context.scale = scale
        shape, groups = query.shape, key.shape[0] * key.shape[1]
        query, key, value = _scaled_heads(query, scale), key.flatten(0, 1), value.flatten(0, 1)
        output = [
            torch.bmm(_probabilities(block, key, start, stop), value[:, :stop])
            for start, stop, block in _blocks(query, groups)
        ]
        return _joined(output, shape[:2])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = context.saved_tensors
        heads, of_key_heads, groups = query.shape[:2], key.shape[:2], key.shape[0] * key.shape[1]
        query, key, value = _scaled_heads(query, context.scale), key.flatten(0, 1), value.flatten(0, 1)
        of_query, of_key, of_value = [], torch.zeros_like(key), torch.zeros_like(value)
        of_output = _blocks(gradients[0].flatten(0, 1), groups)
        for (start, stop, block), (_, _, outer) in zip(_blocks(query, groups), of_output, strict=True):
            seen = _probabilities(block, key, start, stop)  # [groups, shared * block, stop]
            of_value[:, :stop] += torch.bmm(seen.transpose(1, 2), outer)
            of_seen = torch.bmm(outer, value[:, :stop].transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_seen, seen, -1, seen.dtype)
            of_query.append(torch.bmm(of_scores, key[:, :stop]))
            of_key[:, :stop] += torch.bmm(of_scores.transpose(1, 2), block)  # holds the scale already
        return (
            _joined(of_query, heads).mul_(context.scale),
            of_key.view(*of_key_heads, *of_key.shape[1:]),
            of_value.view(*of_key_heads, *of_value.shape[1:]),
            None,
        )


def _scaled_heads(query: Tensor, scale: float) -> Tensor:
    """Return queries [batch * heads, tokens, width] times the scale: fewer numbers than the scores are."""
    return query.flatten(0, 1) * scale


def _blocks(rows: Tensor, groups: int) -> list[tuple[int, int, Tensor]]:
    """Return blocks of tokens of [batch * heads, tokens, width]: start, stop, [groups, shared * block, width]."""
    heads, tokens, width = rows.shape
    return [
        (start, stop, rows[:, start:stop].reshape(groups, heads // groups * (stop - start), width))
        for start in range(0, tokens, _BLOCK)
        for stop in [min(tokens, start + _BLOCK)]
    ]


def _probabilities(queries: Tensor, key: Tensor, start: int, stop: int) -> Tensor:
    """Return what the queries of tokens start to stop see of their past [groups, shared * block, stop]."""
    scores = torch.bmm(queries, key[:, :stop].transpose(1, 2))
    block = stop - start
    scores.view(len(scores), -1, block, stop)[..., start:].add_(_future(block))
    return scores.softmax(-1)


@lru_cache(maxsize=_BLOCK)
def _future(tokens: int) -> Tensor:
    """Return [tokens, tokens]: minus infinity where a column is behind its row, else 0. To add it beats filling."""
    return torch.full((tokens, tokens), -math.inf, dtype=torch.bfloat16).triu_(1)


def _joined(blocks: Sequence[Tensor], heads: Sequence[int]) -> Tensor:
    """Return blocks [groups, shared * block, width] as [batch, heads, tokens, width]."""
    width = blocks[0].shape[2]
    of_heads = [block.view(heads[0] * heads[1], -1, width) for block in blocks]
    return torch.cat(of_heads, 1).view(*heads, -1, width)
