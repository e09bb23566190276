"""The first amplification is a guess: where it is far off, the step is measured again with a better one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cotune.coordination.amplification import Amplification
from cotune.coordination.balance import Balance
from cotune.coordination.components import components
from cotune.coordination.meter import BalanceMeter

PARTS = {"features": frozenset({"vision"}), "language": frozenset({"llm"})}


def balance(divergence: float, factor: float, exponent: int = 2) -> Balance:
    """Return a balance whose step of both sides, taken once, changes the predictions by `divergence`."""
    found = dict.fromkeys(PARTS, divergence)
    return Balance(0.0, found, {}, exponent=exponent, amplification=dict.fromkeys(PARTS, factor))


def factors(found: Amplification, dtype: torch.dtype = torch.bfloat16) -> dict[str, float]:
    return found.factors(nn.Linear(1, 1), PARTS, PARTS, dtype)


@pytest.mark.parametrize(
    ("divergence", "far_off", "chosen"),
    [
        (1e-3 / 900, False, 30.0),  # 30 times is what is wanted
        (1e-3 / 900 * 5, False, 30 / 5**0.5),
        (1e-3 / 900 * 50, True, 30 / 50**0.5),
        (1.0, True, 1.0),
        (1e-3 / 900 / 50, True, 100.0),
        (0.0, True, 100.0),
    ],
)
def test_it_is_far_off_where_the_change_is_ten_times_as_large_or_small_as_wanted(
    divergence: float, far_off: bool, chosen: float
) -> None:
    for exponent in (1, 2):
        found = Amplification("auto")
        first = factors(found)
        assert first == dict.fromkeys(PARTS, 30.0)
        measured = balance(divergence ** (exponent / 2), 30.0, exponent)
        assert found.learn(measured, list(PARTS)) is far_off
        assert factors(found) == pytest.approx(dict.fromkeys(PARTS, chosen))
        assert not found.learn(measured, list(PARTS)), "known by now"


@pytest.mark.parametrize(("rounding", "wanted"), [(0.0, 1e-3), (1e-5, 1e-3), (5e-4, 5e-3), (2e-2, 1e-2)])
def test_ten_times_what_rounding_does_is_wanted_within_bounds(rounding: float, wanted: float) -> None:
    found = Amplification("auto")
    found.rounding = rounding
    found.learn(balance(wanted / 400, 30.0), list(PARTS))
    assert factors(found) == pytest.approx(dict.fromkeys(PARTS, 20.0))


def test_full_precision_and_fixed_factors_are_never_guesses() -> None:
    exact, fixed = Amplification("auto"), Amplification(30.0)
    assert factors(exact, torch.float32) == dict.fromkeys(PARTS, 1.0)
    assert not exact.learn(balance(1.0, 1.0), list(PARTS))
    assert factors(fixed) == dict.fromkeys(PARTS, 30.0)
    assert not fixed.learn(balance(1.0, 30.0), list(PARTS))
    assert factors(fixed) == dict.fromkeys(PARTS, 30.0)


class Wide(nn.Module):
    """A model of two sides in fp32, run under 16-bit autocast."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision, self.llm = nn.Linear(32, 64), nn.Linear(64, 48)

    def component_modules(self) -> dict[str, list[nn.Module]]:
        return {"vision": [self.vision], "llm": [self.llm]}

    def forward(self, inputs: Any) -> Any:
        return self.llm(self.vision(inputs).tanh())


@pytest.mark.parametrize(("size", "forwards"), [(3e-4, [4, 3]), (2e-2, [7, 3])])
def test_a_long_first_step_is_measured_twice_once_and_its_result_is_the_better(
    size: float, forwards: list[int]
) -> None:
    model = Wide()
    inputs, targets = torch.randn(8, 6, 32), torch.randint(48, (8, 6))

    def forward(_: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(inputs), targets

    def exactly(_: Any) -> Any:
        return model(inputs), targets

    meter, exact = (BalanceMeter(model, components(model)) for _ in range(2))
    found = []
    for _ in range(2):
        for one in (meter, exact):
            one.before_step()
        with torch.no_grad():
            for value in model.parameters():
                value += size * torch.randn(value.shape).sign()
        found.append(meter.measure(forward, [0]))
        assert found[-1].log_kappa == pytest.approx(exact.measure(exactly, [0]).log_kappa, abs=0.2)
    assert [one.forwards for one in found] == forwards  # the first with one more, for what it rounds
    assert meter.measured == 2
