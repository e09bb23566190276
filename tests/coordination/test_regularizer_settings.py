"""Forms, decay and refusals of the regulariser's settings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from cotune.coordination.regularizer_settings import FORMS, RegularizerSettings
from cotune.errors import RegularizerError

CHANGES, TARGETS = st.floats(0, 100), st.floats(1e-4, 10)


def test_it_is_off_by_default() -> None:
    assert RegularizerSettings().weight_at(1) == 0.0


@pytest.mark.parametrize("name", FORMS)
@given(change=CHANGES, target=TARGETS)
def test_the_slope_is_the_rewards_derivative(name: str, change: float, target: float) -> None:
    form, width = FORMS[name], 1e-5 * target
    numerical = (form.reward(change + width, target) - form.reward(change - width, target)) / (2 * width)
    assert form.slope(change, target) == pytest.approx(numerical, rel=1e-4, abs=1e-6)
    assert form.reward(0.0, target) == 0.0


@given(CHANGES, TARGETS)
def test_the_saturating_reward_never_exceeds_its_target_and_lets_go(change: float, target: float) -> None:
    form = FORMS["saturating"]
    assert 0 <= form.reward(change, target) <= min(target, change) * (1 + 1e-9)
    assert form.slope(5 * target + change, target) < 0.01
    assert form.slope(1e-4 * target, target) > 0.99


def test_the_saturating_push_on_parameters_is_bounded_and_fades_where_the_plain_one_grows() -> None:
    # Logits x * t with a large input x: the prediction leaves its reference as t grows.
    reference, direction = torch.zeros(3, dtype=torch.float64), torch.tensor([50.0, 0.0, -50.0], dtype=torch.float64)
    pushes: dict[str, list[float]] = {"saturating": [], "unbounded": []}
    for place in torch.linspace(1e-3, 1, 200, dtype=torch.float64):
        place.requires_grad_()
        now = (place * direction).log_softmax(0)
        change = functional.kl_div(now, reference.log_softmax(0), reduction="sum", log_target=True)
        (gradient,) = torch.autograd.grad(change, [place])
        for name, found in pushes.items():
            found.append(FORMS[name].slope(change.item(), 0.02) * gradient.item())
    assert pushes["unbounded"][-1] > 30
    assert max(pushes["saturating"]) < 10
    assert pushes["saturating"][-1] < 1e-100


def test_weight_by_step() -> None:
    linear = RegularizerSettings(weight=2.0, warmup_steps=2, total_steps=6)
    assert [linear.weight_at(step) for step in range(1, 8)] == [0, 0, 2.0, 1.5, 1.0, 0.5, 0]
    cosine = RegularizerSettings(weight=2.0, total_steps=4, decay="cosine")
    expected = [1 + math.cos(math.pi * part) for part in (0, 0.25, 0.5, 0.75, 1, 1)]
    assert [cosine.weight_at(step) for step in range(1, 7)] == pytest.approx(expected)
    assert RegularizerSettings(weight=2.0).weight_at(10**6) == 2.0
    assert RegularizerSettings(weight=2.0, total_steps=9, decay="constant").weight_at(9) == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "saturate"}, "no form 'saturate'; did you mean 'saturating'"),
        ({"reference": "epoch"}, "no reference 'epoch'"),
        ({"decay": "cos"}, "no decay 'cos'"),
        ({"weight": -1.0}, r"weight=-1.0 \(must be at least 0\)"),
        ({"weight": math.inf}, "weight=inf"),
        ({"cap": 1.0, "kept": 0}, r"cap=1.0 .*kept=0"),
        ({"target": 0.0}, "target=0.0"),
        ({"warmup_steps": 5, "total_steps": 5}, "total_steps=5 .*above warmup_steps"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(RegularizerError, match=message):
        RegularizerSettings(**options)  # type: ignore[arg-type]
