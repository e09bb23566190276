"""Drawn tokens against their probabilities and against transformers' own nucleus."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.generation.logits_process import TopPLogitsWarper

from cotune.serving.sampling import Sampler, SamplingSettings, choose

LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.5, -3.0, 0.0])
DRAWS = 4000


def drawn(temperature: float, top_p: float, seed: int = 1) -> Counter[int]:
    sampler = Sampler(SamplingSettings(temperature, top_p, seed))
    return Counter(sampler.draw(LOGITS) for _ in range(DRAWS))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.3, 0.7, 0.95, 1.0])
def test_tokens_come_as_often_as_they_are_likely(temperature: float, top_p: float) -> None:
    kept = TopPLogitsWarper(top_p)(None, (LOGITS / temperature).unsqueeze(0))[0] if top_p < 1 else LOGITS / temperature
    likely = kept.softmax(-1)
    found = drawn(temperature, top_p)
    assert set(found) <= set(likely.nonzero().flatten().tolist())
    # Pearson's statistic over the kept tokens; 30 is beyond its 99.99% point for 5 degrees of freedom.
    statistic = sum(
        (found[token] - DRAWS * p) ** 2 / (DRAWS * p) for token, p in enumerate(likely.tolist()) if p * DRAWS > 5
    )
    assert statistic < 30


@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=30, unique=True),
    top_p=st.floats(0, 1),
    temperature=st.floats(0, 2),
    seed=st.integers(-(2**63), 2**63 - 1),
)
@example(logits=[-1e-12, 0.0], top_p=0.0, temperature=1.0, seed=0)  # equally likely as far as 32 bits can tell
def test_a_draw_is_a_token_the_same_for_the_same_seed_and_the_likeliest_without_chance(
    logits: list[float], top_p: float, temperature: float, seed: int
) -> None:
    rows = torch.tensor([logits])
    settings = SamplingSettings(temperature, top_p, seed)
    first, again = (choose(rows, [Sampler(settings)])[0] for _ in range(2))
    assert first == again and 0 <= first < len(logits)
    likeliest = int(rows[0].argmax())
    assert choose(rows, [Sampler(SamplingSettings(0.0, top_p, seed))]) == [likeliest]
    assert choose(rows, [Sampler(SamplingSettings(temperature, 0.0, seed))]) == [likeliest]


def test_answers_to_one_request_have_their_own_dice_and_without_a_seed_all_differ() -> None:
    settings = SamplingSettings(1.0, 1.0, 5)
    lists = [[sampler.draw(LOGITS) for _ in range(30)] for sampler in (Sampler(settings, n) for n in range(3))]
    assert lists[0] != lists[1] != lists[2]
    free = [Sampler(SamplingSettings(1.0)) for _ in range(2)]
    assert [free[0].draw(LOGITS) for _ in range(60)] != [free[1].draw(LOGITS) for _ in range(60)]
