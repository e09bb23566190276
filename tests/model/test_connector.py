"""The connector: statistics against numpy, and its two layers by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.model.connector import Connector


def connector(width: int = 3) -> Connector:
    return Connector(width, hidden=5, width_out=4, output_scale=0.25)


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(2, 20),
    tokens=st.integers(1, 3),
    cuts=st.lists(st.integers(1, 19), max_size=4),
    offset=st.floats(-100, 100),
    size=st.floats(0.01, 100),
    seed=st.integers(0, 99),
)
def test_the_statistics_are_those_of_all_rows_however_they_are_cut(
    images: int, tokens: int, cuts: list[int], offset: float, size: float, seed: int
) -> None:
    features = (np.random.default_rng(seed).normal(size=(images, tokens, 3)) * size + offset).astype(np.float32)
    made = connector()
    edges = [0, *sorted(cut for cut in set(cuts) if cut < images), images]
    made.standardize(torch.from_numpy(features[a:b]) for a, b in pairwise(edges))
    rows = features.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(made.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made.deviation, rows.std(0), rtol=1e-4)


def test_half_precision_features_are_summed_in_full() -> None:
    features = torch.full((4000, 1, 3), 1.0, dtype=torch.bfloat16)
    features[::2] = 3.0
    made = connector()
    made.standardize([features])
    torch.testing.assert_close(made.mean, torch.full((3,), 2.0))
    torch.testing.assert_close(made.deviation, torch.ones(3))


def test_a_channel_that_never_changed_stays_small_when_it_does_change() -> None:
    made = connector()
    features = torch.randn(50, 2, 3)
    features[..., 1], features[..., 2] = 0.0, 12345.678
    made.standardize(features.split(7))
    assert made.deviation[1:].equal(torch.ones(2))
    surprise = features[:1].clone()
    surprise[..., 1:] += 0.5
    standard = (surprise - made.mean) / made.deviation
    assert standard.abs().max() < 10
    assert made(surprise).isfinite().all()


def test_without_features_nothing_is_standardised() -> None:
    made = connector()
    made.standardize([])
    made.standardize([torch.empty(0, 2, 3)])
    assert made.mean.equal(torch.zeros(3))
    assert made.deviation.equal(torch.ones(3))


def test_the_output_is_linear_silu_linear_of_the_standardised_features_times_the_scale() -> None:
    made, features = connector(), torch.randn(6, 2, 3)
    made.standardize([features])
    values = {name: value.detach().numpy().astype(np.float64) for name, value in made.state_dict().items()}
    standard = (features.numpy() - values["mean"]) / values["deviation"]
    hidden = standard @ values["input.weight"].T + values["input.bias"]
    hidden = hidden / (1 + np.exp(-hidden))
    expected = (hidden @ values["output.weight"].T + values["output.bias"]) * 0.25
    np.testing.assert_allclose(made(features).detach(), expected, atol=1e-5)
