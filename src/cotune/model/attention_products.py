"""Causal attention by matrix products, a block of queries at a time, over sequences that lie in rows.

In bfloat16 the products run in oneDNN, as fast as those of linear layers. Everything is read where it lies and written
where it belongs: sequences of a row are not cut out and joined again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Queries at a time: their scores stay in a processor's cache, and most of what is above the diagonal is spared.
_BLOCK = 128
# Scores at a time, where rows are short: as many rows as keep below it.
_SCORES = 2**18


class Piece(NamedTuple):
    """The same tokens of some rows: a sequence in each, or tokens that stand alone and see nothing but themselves."""

    rows: slice
    tokens: slice
    alone: bool

    def of(self, heads: Tensor) -> Tensor:
        """Return the piece's part [rows, heads, tokens, width] of [batch, heads, tokens, width]."""
        return heads[self.rows, :, self.tokens]


def pieces_of_row(lengths: Sequence[int]) -> list[tuple[slice, bool]]:
    """Return the tokens of each sequence of a row, and whether they stand alone; neighbours that do are together."""
    pieces, begin = [], 0
    for alone, run in groupby(lengths, lambda length: length == 1):
        found = list(run)
        for length in [len(found)] if alone else found:
            pieces.append((slice(begin, begin + length), alone))
            begin += length
    return pieces


def pieces_of(lengths: Sequence[Sequence[int]], batch: int) -> list[Piece]:
    """Return what attends at once, row by row, for the lengths of the sequences in each row, or of all rows alike."""
    rows = [slice(row, row + 1) for row in range(batch)] if len(lengths) == batch else [slice(0, batch)]
    return [Piece(row, *each) for row, found in zip(rows, lengths, strict=True) for each in pieces_of_row(found)]


def with_few_scores(pieces: Sequence[Piece], heads: int) -> list[Piece]:
    """Return the same pieces, those of many rows cut so that the scores of a block stay in a processor's cache."""
    cut = []
    for rows, tokens, alone in pieces:
        length = tokens.stop - tokens.start
        at_once = max(1, _SCORES // (heads * min(_BLOCK, length) * length))
        starts = range(rows.start, rows.stop, at_once)
        cut += [Piece(slice(start, min(rows.stop, start + at_once)), tokens, alone) for start in starts]
    return cut


class AttentionByProducts(torch.autograd.Function):
    """Causal attention within sequences, softmax(Q K^T scale) V, [batch, tokens, heads, width].

    Nothing of the size tokens x tokens is kept: the backward pass makes the probabilities again, P = softmax(S), and
    from them dV = P^T dO, dS = P (dO V^T - sum(P dO V^T)), dQ = dS K and dK = dS^T Q.
    Query heads that share a key stand below each other as more queries, so that no key is copied for them.
    """

    @staticmethod
    def forward(
        context: Any, query: Tensor, key: Tensor, value: Tensor, pieces: Sequence[Piece], scale: float
    ) -> Tensor:
        """Return the output for `query` [batch, heads, tokens, width], `key` and `value` of as many heads or fewer."""
        pieces = with_few_scores(pieces, query.shape[1])
        context.save_for_backward(query, key, value)
        context.pieces, context.scale = pieces, scale
        output = query.new_empty(query.transpose(1, 2).shape)
        for piece in pieces:
            place = piece.of(output.transpose(1, 2))  # [rows, heads, tokens, width]
            if piece.alone:
                _by_key_head(place, key).copy_(piece.of(value).unsqueeze(2))
                continue
            of_key, own = _together(piece.of(key)).mul_(scale), _together(piece.of(value))
            for start, stop in _blocks(of_key.shape[1]):
                seen = _probabilities(_stacked(piece.of(query)[:, :, start:stop], len(of_key)), of_key, start, stop)
                _put(place[:, :, start:stop], torch.bmm(seen, own[:, :stop]))
        return output

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Return the gradients on queries, keys and values."""
        query, key, value = context.saved_tensors
        outer = gradients[0].transpose(1, 2)  # [batch, heads, tokens, width]
        of_query = query.new_empty(gradients[0].shape).transpose(1, 2)
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
        for piece in context.pieces:
            if piece.alone:
                piece.of(of_value).copy_(_by_key_head(piece.of(outer), key).sum(2))
                piece.of(of_query).zero_()
                continue
            found = _gradients(
                piece.of(query),
                _together(piece.of(key)).mul_(context.scale),
                _together(piece.of(value)),
                piece.of(outer),
                piece.of(of_query),
            )
            for whole, part in zip((of_key, of_value), found, strict=True):
                _put(piece.of(whole), part)
        return of_query, of_key.mul_(context.scale), of_value, None, None


def _gradients(query: Tensor, key: Tensor, value: Tensor, outer: Tensor, of_query: Tensor) -> tuple[Tensor, Tensor]:
    """Fill in the gradient on a piece's queries; returns those on its scaled keys and its values.

    `key` and `value`, and with them what is returned, are [groups, tokens, width], the others as `Piece.of` gives them.
    """
    of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
    for start, stop in _blocks(key.shape[1]):
        block, given = (_stacked(tensor[:, :, start:stop], len(key)) for tensor in (query, outer))
        seen = _probabilities(block, key, start, stop)  # [groups, shared * block, stop]
        of_value[:, :stop].baddbmm_(seen.transpose(1, 2), given)
        of_seen = torch.bmm(given, value[:, :stop].transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_seen, seen, -1, seen.dtype)
        _put(of_query[:, :, start:stop], torch.bmm(of_scores, key[:, :stop]))
        of_key[:, :stop].baddbmm_(of_scores.transpose(1, 2), block)
    return of_key, of_value


def _blocks(tokens: int) -> Iterator[tuple[int, int]]:
    """Yield where blocks of queries start and stop."""
    for start in range(0, tokens, _BLOCK):
        yield start, min(tokens, start + _BLOCK)


def _by_key_head(heads: Tensor, key: Tensor) -> Tensor:
    """Return a view [rows, key heads, shared, tokens, width] of [rows, heads, tokens, width]."""
    rows, _, tokens, width = heads.shape
    return heads.view(rows, key.shape[1], -1, tokens, width)


def _together(heads: Tensor) -> Tensor:
    """Return a copy [rows * heads, tokens, width] of keys or values, as oneDNN's products want them."""
    return heads.flatten(0, 1).clone(memory_format=torch.contiguous_format)


def _stacked(block: Tensor, groups: int) -> Tensor:
    """Return queries [rows, heads, block, width] as [groups, shared * block, width], a group for every key head."""
    return block.reshape(groups, -1, block.shape[3])


def _put(place: Tensor, stacked: Tensor) -> None:
    """Write heads that stand together, [groups, shared * tokens, width], to a place [rows, heads, tokens, width]."""
    place.copy_(stacked.view(place.shape))


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
