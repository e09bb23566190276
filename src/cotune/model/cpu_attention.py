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
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from cotune.model.attention_products import AttentionByProducts, Piece, pieces_of

IMPLEMENTATION = "cotune_cpu"  # the name transformers knows it by
_OTHER_PATTERNS = ("softcap", "position_bias", "cache", "s_aux")  # options with which it is no plain attention
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
    pieces = pieces_of(lengths, len(query))
    if query.dtype == torch.bfloat16:
        return AttentionByProducts.apply(query, key, value, pieces, scale), None  # type: ignore[no-untyped-call]
    return _by_kernel(query, key, value, pieces, scale), None


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


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, pieces: Sequence[Piece], scale: float) -> Tensor:
    """Return the output [batch, tokens, heads, width] of PyTorch's kernel for each piece by itself."""
    shared = query.shape[1] // key.shape[1]

    def attend(piece: Piece) -> Tensor:
        asked, of_key, own = (piece.of(tensor) for tensor in (query, key, value))
        if piece.alone:  # a token that sees itself alone takes its own value
            return own.repeat_interleave(shared, 1)
        return functional.scaled_dot_product_attention(
            asked, of_key, own, is_causal=True, scale=scale, enable_gqa=shared > 1
        )

    by_rows = groupby(pieces, lambda piece: piece.rows.start)
    rows = [_joined([attend(piece) for piece in found], 2) for _, found in by_rows]
    return _joined(rows, 0).transpose(1, 2).contiguous()


def _joined(parts: Sequence[Tensor], dimension: int) -> Tensor:
    """Return parts as one tensor."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dimension)
