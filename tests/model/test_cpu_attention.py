"""Attention by sequences against attention under a dense mask, in float64."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cotune.model import cpu_attention as module
from cotune.model.cpu_attention import IMPLEMENTATION, attend_on_cpu, cpu_attention, sequence_lengths
from tests.decoders import tiny_decoder

WIDTH = 4
LAYER: Any = SimpleNamespace(is_causal=True, num_key_value_groups=2)


def causal_mask(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return a mask [rows, 1, tokens, tokens] of sequences behind each other, written out token by token."""
    mask = torch.zeros(len(rows), 1, sum(rows[0]), sum(rows[0]), dtype=torch.bool)
    for row, lengths in enumerate(rows):
        start = 0
        for length in lengths:
            for token in range(length):
                mask[row, 0, start + token, start : start + token + 1] = True
            start += length
    return mask


def inputs(batch: int, tokens: int, dtype: torch.dtype, heads: int = 4, key_heads: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    sizes = (heads, key_heads, key_heads)
    drawn = [torch.randn(batch, size, tokens, WIDTH, generator=generator) for size in sizes]
    return [tensor.to(dtype).requires_grad_() for tensor in drawn]


def naive(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Return softmax(scale Q K^T + mask) V [batch, tokens, heads, width], every key head copied for its queries."""
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def check(rows: Sequence[Sequence[int]], dtype: torch.dtype, tolerance: float, mask: Tensor | None) -> None:
    """Compare output and gradients with those of the dense mask in float64."""
    tensors = inputs(len(rows), sum(rows[0]), dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    output, _ = cpu_attention(LAYER, *tensors, mask, scaling=0.7)
    expected = naive(*exact, causal_mask(rows), 0.7)
    assert output.is_contiguous() and output.shape == expected.shape
    outer = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = torch.autograd.grad(output, tensors, outer, materialize_grads=True)  # tokens on their own need no query
    right = torch.autograd.grad(expected, exact, outer.double())
    for one, other in zip((output, *found), (expected, *right), strict=True):
        assert (one.double() - other).norm() <= tolerance * other.norm()


rows_of_a_length = st.lists(st.integers(1, 40), min_size=1, max_size=6).flatmap(
    lambda lengths: st.lists(st.permutations(lengths), min_size=1, max_size=3)
)


@given(rows_of_a_length)
def test_sequences_of_a_row_attend_as_under_a_dense_mask(rows: Sequence[Sequence[int]]) -> None:
    check(rows, torch.float64, 1e-12, causal_mask(rows))


@given(rows_of_a_length)
def test_products_in_bfloat16_are_as_near_as_bfloat16_is(rows: Sequence[Sequence[int]]) -> None:
    check(rows, torch.bfloat16, 0.02, causal_mask(rows))


def test_without_a_mask_all_tokens_are_one_sequence() -> None:
    check([[130], [130]], torch.float64, 1e-12, None)
    check([[130], [130]], torch.bfloat16, 0.02, None)


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (lambda mask: mask, [[3, 5], [1, 7]]),
        (lambda mask: mask.logical_or(torch.eye(8, dtype=torch.bool)), [[3, 5], [1, 7]]),
        (lambda mask: mask & torch.ones(8, 8, dtype=torch.bool).triu(-2), None),  # a window of three
        (lambda mask: mask | mask.transpose(2, 3), None),  # both ways
        (lambda mask: torch.ones_like(mask), None),
        (lambda mask: torch.zeros_like(mask), None),
    ],
)
def test_only_sequences_behind_each_other_are_taken_for_such(change: Any, known: Any) -> None:
    assert sequence_lengths(change(causal_mask([[3, 5], [1, 7]]))[:, 0]) == known


@pytest.mark.parametrize("case", ["window", "left padding", "both ways", "numbers", "one token", "longer past"])
def test_everything_else_is_left_to_pytorch(case: str) -> None:
    query, key, value = inputs(2, 6, torch.float64)
    causal: bool | None = None
    mask: Tensor | None = causal_mask([[6], [6]])
    if case == "window":
        mask = mask & torch.ones(6, 6, dtype=torch.bool).triu(-1)
    elif case == "left padding":
        mask[1, 0, 2:, :2] = False
    elif case == "both ways":
        mask, causal = None, False
    elif case == "numbers":
        mask = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    elif case == "one token":
        query, mask = query[:, :, -1:], mask[:, :, -1:]
    else:
        query, mask = query[:, :, 3:], mask[:, :, 3:]
    found, _ = cpu_attention(LAYER, query, key, value, mask, is_causal=causal)
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    expected = functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)
    torch.testing.assert_close(found, expected)


def test_what_was_read_off_a_mask_is_forgotten_with_it() -> None:
    mask = causal_mask([[2, 4]])
    cpu_attention(LAYER, *inputs(1, 6, torch.float64), mask)
    assert mask in module._masks_lengths
    before = len(module._masks_lengths)
    del mask
    gc.collect()
    assert len(module._masks_lengths) < before


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gpt2", "bloom"])
def test_a_model_says_what_it_said_before(family: str) -> None:
    llm = tiny_decoder(family).float()  # transformers' masks overflow in float64
    tokens = torch.randint(0, 40, (3, 9))
    padded = torch.ones_like(tokens)
    padded[1, :4] = 0
    before = [llm(tokens).logits, llm(tokens, attention_mask=padded).logits[padded.bool()]]
    uses = llm.config._attn_implementation
    attend_on_cpu(llm)
    assert llm.config._attn_implementation == (IMPLEMENTATION if uses == "sdpa" else uses)
    after = [llm(tokens).logits, llm(tokens, attention_mask=padded).logits[padded.bool()]]
    torch.testing.assert_close(after, before)


def test_the_users_own_choice_of_attention_stays() -> None:
    llm = tiny_decoder("llama")
    llm.set_attn_implementation("eager")
    attend_on_cpu(llm)
    assert llm.config._attn_implementation == "eager"
