"""The loss in chunks against the loss of all logits at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cotune.training import chunked_loss
from cotune.training.chunked_loss import chunk_rows, summed_loss

WIDTH, VOCABULARY = 6, 11


def capped_logits(hidden: Tensor) -> Tensor:
    """Return logits as Gemma caps them, by a fixed output layer."""
    weight = torch.randn(VOCABULARY, WIDTH, dtype=hidden.dtype, generator=torch.Generator().manual_seed(1))
    return 3 * torch.tanh(hidden @ weight.T / 3)


@given(tokens=st.integers(0, 20), rows=st.integers(1, 8), scale=st.floats(0.1, 10))
@settings(deadline=None, max_examples=30)
def test_loss_and_gradient_are_those_of_all_logits_at_once(tokens: int, rows: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, WIDTH, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    found, expected = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_loss, "_AT_ONCE_ON_CPU", rows * VOCABULARY)
        loss = scale * summed_loss(found, targets, capped_logits, VOCABULARY)
    naive = scale * functional.cross_entropy(capped_logits(expected), targets, reduction="sum")
    loss.backward()
    naive.backward()
    assert loss.item() == pytest.approx(naive.item(), rel=1e-5)  # the sum is kept in fp32
    torch.testing.assert_close(found.grad, expected.grad)


def test_logits_are_never_made_for_more_rows_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "_AT_ONCE_ON_CPU", 4 * VOCABULARY + 3)
    seen = []

    def logits_of(hidden: Tensor) -> Tensor:
        seen.append(len(hidden))
        return capped_logits(hidden)

    summed_loss(torch.randn(10, WIDTH), torch.zeros(10, dtype=torch.long), logits_of, VOCABULARY)
    assert seen == [4, 4, 2]


def test_without_anything_that_learns_there_is_no_gradient() -> None:
    loss = summed_loss(torch.randn(3, WIDTH), torch.zeros(3, dtype=torch.long), capped_logits, VOCABULARY)
    assert not loss.requires_grad


def test_a_vocabulary_larger_than_a_chunk_takes_a_row_at_a_time() -> None:
    assert chunk_rows(10**9, on_gpu=False) == 1
    assert chunk_rows(1000, on_gpu=True) > chunk_rows(1000, on_gpu=False)


def test_the_loss_is_the_same_under_autocast_as_that_of_all_logits() -> None:
    hidden = torch.randn(9, WIDTH)
    targets = torch.arange(9)
    layer = torch.nn.Linear(WIDTH, VOCABULARY).requires_grad_(False)
    found, expected = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = summed_loss(found, targets, lambda rows: layer(rows).float(), VOCABULARY)
        naive = functional.cross_entropy(layer(expected).float(), targets, reduction="sum")
    loss.backward()
    naive.backward()
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(found.grad, expected.grad)
