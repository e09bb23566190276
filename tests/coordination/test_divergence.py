"""Divergences against their formulas in extended precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cotune.coordination import divergence as module
from cotune.coordination.divergence import (
    DIVERGENCES,
    divergence_named,
    token_divergences,
    token_entropies,
    token_losses,
)
from cotune.errors import BalanceError
from tests.coordination.toy import distributions, naive_divergence

KINDS = list(DIVERGENCES)
SEEDS = st.integers(0, 10_000)


def pair(seed: int, size: float, spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    before = spread * torch.randn(4, 9, generator=generator, dtype=torch.float64)
    return before, before + size * torch.randn(4, 9, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(seed=SEEDS, size=st.floats(1e-2, 30.0), spread=st.floats(0.1, 30.0))
def test_every_divergence_is_that_of_the_books(kind: str, seed: int, size: float, spread: float) -> None:
    before, after = pair(seed, size, spread)
    found = token_divergences(DIVERGENCES[kind], before, after, torch.float64)
    old, new = distributions(before), distributions(after)
    expected = [naive_divergence(old[token], new[token], kind) for token in range(len(old))]
    assert found.numpy() == pytest.approx(np.array(expected, dtype=float), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(seed=SEEDS, first=st.floats(-50, 50), second=st.floats(-50, 50))
def test_a_constant_added_to_a_tokens_logits_changes_nothing(kind: str, seed: int, first: float, second: float) -> None:
    before, after = pair(seed, 0.3)
    expected = token_divergences(DIVERGENCES[kind], before, after, torch.float64)
    found = token_divergences(DIVERGENCES[kind], before + first, after + second, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(seed=SEEDS)
def test_a_ten_times_longer_small_step_changes_the_predictions_by_ten_to_the_exponent(kind: str, seed: int) -> None:
    before, after = pair(seed, 1e-4)
    divergence = DIVERGENCES[kind]
    short, long = (
        token_divergences(divergence, before, before + factor * (after - before), torch.float64) for factor in (1, 10)
    )
    assert (long / short).numpy() == pytest.approx(10.0**divergence.exponent, rel=0.05)


@pytest.mark.parametrize("kind", ["kl", "js", "squared-hellinger"])
def test_single_precision_holds_small_divergences(kind: str) -> None:
    before, after = pair(7, 1e-3)
    exact = token_divergences(DIVERGENCES[kind], before, after, torch.float64)
    found = token_divergences(DIVERGENCES[kind], before.float(), after.float(), torch.float32)
    assert exact.max() < 1e-6
    torch.testing.assert_close(found.double(), exact, rtol=5e-3, atol=0.0)
    usual = before.float().softmax(-1) * (before.float().log_softmax(-1) - after.float().log_softmax(-1))
    assert ((usual.sum(-1) - exact).abs() / exact).max() > 5e-2, "the usual sum is the reason for the other form"


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_ruled_out_in_both_distributions_count_nothing(kind: str) -> None:
    before, after = pair(2, 0.5)
    barred = torch.full((4, 2), -math.inf, dtype=torch.float64)
    found = token_divergences(
        DIVERGENCES[kind], torch.cat([before, barred], -1), torch.cat([after, barred], -1), torch.float64
    )
    torch.testing.assert_close(found, token_divergences(DIVERGENCES[kind], before, after, torch.float64))


def test_ruling_out_a_likely_token_is_an_infinite_kl_and_a_bounded_js() -> None:
    before = torch.zeros(1, 2)
    after = torch.tensor([[0.0, -math.inf]])
    assert token_divergences(DIVERGENCES["kl"], before, after, torch.float64).item() == math.inf
    # In the other direction the first token gains all: ln 2.
    assert token_divergences(DIVERGENCES["kl"], after, before, torch.float64).item() == pytest.approx(math.log(2))
    middle = 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) + 0.5 * math.log(1 / 0.75)
    assert token_divergences(DIVERGENCES["js"], before, after, torch.float64).item() == pytest.approx(middle)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_apart_predictions_stay_finite_and_bad_ones_do_not_hide(kind: str, dtype: torch.dtype) -> None:
    far = torch.tensor([[0.0, 400.0, -400.0]])
    assert torch.isfinite(token_divergences(DIVERGENCES[kind], far, far.flip(-1), dtype)).all()
    bad = torch.tensor([[0.0, math.nan, 1.0]])
    assert torch.isnan(token_divergences(DIVERGENCES[kind], far, bad, dtype)).all()


def test_losses_and_entropies_are_those_of_torch_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = pair(5, 1.0)
    targets = torch.tensor([0, 8, 3, 3])
    whole = token_divergences(DIVERGENCES["kl"], before, after, torch.float64)
    monkeypatch.setattr(module, "_CACHED_CHUNK", 2 * before.shape[-1] + 1)  # two tokens at once
    assert [len(part) for (part,) in module._chunks(before)] == [2, 2]
    torch.testing.assert_close(token_divergences(DIVERGENCES["kl"], before, after, torch.float64), whole)
    expected = functional.cross_entropy(before, targets, reduction="none")
    torch.testing.assert_close(token_losses(before, targets, torch.float64), expected)
    entropies = torch.distributions.Categorical(logits=before).entropy()
    torch.testing.assert_close(token_entropies(before, torch.float64), entropies)


def test_no_tokens_give_no_numbers() -> None:
    nothing = torch.zeros(0, 9)
    assert token_divergences(DIVERGENCES["kl"], nothing, nothing, torch.float64).shape == (0,)
    assert token_losses(nothing, torch.zeros(0, dtype=torch.long), torch.float64).shape == (0,)
    assert token_entropies(nothing, torch.float64).shape == (0,)


def test_an_unknown_divergence_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(BalanceError, match="no divergence 'helinger'; did you mean 'hellinger'"):
        divergence_named("helinger")
