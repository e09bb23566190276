"""Attention by products, cut into blocks and pieces in several ways, against the same in one block and piece."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cotune.model import attention_products as module
from cotune.model.attention_products import AttentionByProducts, Piece, pieces_of, with_few_scores


def inputs(batch: int, tokens: int) -> list[Tensor]:
    """Return queries of four heads, keys and values of two, that lie in memory as a model's do: token by token."""
    generator = torch.Generator().manual_seed(tokens)
    drawn = [torch.randn(batch, tokens, heads, 4, dtype=torch.float64, generator=generator) for heads in (4, 2, 2)]
    return [tensor.transpose(1, 2).requires_grad_() for tensor in drawn]


def results(tensors: list[Tensor], pieces: Sequence[Piece]) -> list[Tensor]:
    """Return the output and the three gradients."""
    output = AttentionByProducts.apply(*tensors, pieces, 0.5)  # type: ignore[no-untyped-call]
    return [output, *torch.autograd.grad(output.square().sum(), tensors)]


@pytest.mark.parametrize("tokens", [2, 127, 128, 129, 300])
def test_blocks_of_queries_make_no_difference(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs(2, tokens)
    expected = results(tensors, pieces_of([[tokens]], 2))
    for block in (7, tokens):
        monkeypatch.setattr(module, "_BLOCK", block)
        for one, other in zip(expected, results(tensors, pieces_of([[tokens]], 2)), strict=True):
            torch.testing.assert_close(one, other)


def test_rows_together_and_row_by_row_are_the_same() -> None:
    tensors, lengths = inputs(3, 20), [9, 1, 1, 4, 5]
    together, one_by_one = pieces_of([lengths], 3), pieces_of([lengths] * 3, 3)
    assert len(one_by_one) == 3 * len(together)
    for one, other in zip(results(tensors, together), results(tensors, one_by_one), strict=True):
        torch.testing.assert_close(one, other)


def test_pieces_hold_every_token_once_and_few_enough_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCORES", 4 * 9 * 9 * 2)  # of two rows of nine tokens
    pieces = with_few_scores(pieces_of([[9, 1, 1, 4]], 5), 4)
    seen = torch.zeros(5, 15)
    for piece in pieces:
        seen[piece.rows, piece.tokens] += 1
    assert seen.eq(1).all()
    assert [piece.rows.stop - piece.rows.start for piece in pieces if piece.tokens == slice(0, 9)] == [2, 2, 1]
    assert {(piece.tokens.start, piece.tokens.stop) for piece in pieces if piece.alone} == {(9, 11)}
