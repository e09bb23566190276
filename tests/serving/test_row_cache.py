"""Rows that come and go in one cache against each sequence alone, for families whose attention differs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache

from cotune.adapters.attach import decoder
from cotune.serving.row_cache import RowCache
from tests.decoders import random_tokens, tiny_decoder

# Windows shorter than the sequences, positions by rotation, by table and by distance.
FAMILIES = ["llama", "mistral", "gemma3", "gpt2", "opt", "falcon_alibi", "bloom", "mpt", "gpt_neo"]


def alone(llm: Any, tokens: Tensor) -> Tensor:
    """Return the last hidden state [width] of one sequence, computed whole."""
    return decoder(llm)(input_ids=tokens.unsqueeze(0), use_cache=False).last_hidden_state[0, -1]  # type: ignore[no-any-return]


class Together:
    """Sequences of tokens in one cache, stepped together."""

    def __init__(self, llm: Any) -> None:
        self.llm, self.cache = llm, RowCache()
        self.rows: list[Tensor] = []
        self._made = 0

    def join(self, length: int, copies: int = 1) -> None:
        tokens = random_tokens(length, seed=self._made)
        self._made += 1
        prompt = DynamicCache()
        decoder(self.llm)(input_ids=tokens.unsqueeze(0), past_key_values=prompt, use_cache=True)
        self.cache.join(prompt, copies)
        self.rows += [tokens] * copies

    def leave(self, row: int) -> None:
        self.cache.leave(row)
        last = self.rows.pop()
        if row < len(self.rows):
            self.rows[row] = last

    def step(self) -> None:
        """Give every row a token and compare its state with the sequence's alone."""
        new = random_tokens(len(self.rows), 1, seed=100 + self._made)
        self._made += 1
        self.cache.ready()
        found = decoder(self.llm)(
            input_ids=new,
            attention_mask=self.cache.mask(new.device),
            position_ids=self.cache.positions(new.device),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.cache.advance()
        self.rows = [torch.cat([row, token]) for row, token in zip(self.rows, new, strict=True)]
        assert self.cache.lengths == [len(row) for row in self.rows]
        for row, state in zip(self.rows, found, strict=True):
            torch.testing.assert_close(state, alone(self.llm, row), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_row_is_what_it_is_alone(family: str) -> None:
    together = Together(tiny_decoder(family))
    together.join(5)
    together.step()
    together.join(3, copies=2)  # shorter
    together.step()
    together.join(11)  # longer than all
    together.step()
    together.leave(3)  # the longest, the last
    together.step()
    together.leave(0)
    together.step()


MOVES = st.lists(
    st.one_of(st.tuples(st.just("join"), st.integers(1, 12)), st.tuples(st.just("leave"), st.integers(0, 5))),
    min_size=1,
    max_size=12,
)


@settings(max_examples=15)
@given(moves=MOVES)
@torch.no_grad()
def test_any_coming_and_going_leaves_every_row_what_it_is_alone(moves: list[tuple[str, int]]) -> None:
    together = Together(tiny_decoder("gemma3"))
    for move, number in moves:
        if move == "join" and len(together.rows) < 5:
            together.join(number)
        elif move == "leave" and together.rows:
            together.leave(number % len(together.rows))
        if together.rows:
            together.step()


@torch.no_grad()
def test_memory_follows_the_rows_and_not_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotune.serving.row_cache.AHEAD", 4)
    together = Together(tiny_decoder("llama"))
    together.join(3)
    for _ in range(12):
        together.join(3)
        together.step()
        together.leave(0)  # never more than two rows, and never long ones
    assert together.cache.layers[0].keys.shape[2] <= 30
    assert together.cache.layers[0].keys.shape[0] <= 2
