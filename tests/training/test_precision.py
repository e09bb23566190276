"""Precision: what is computed in 16 bits, and a scaled loss whose steps are those of an unscaled one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cotune.trace import read_trace
from cotune.training.precision import Precision
from tests.tiny import tiny_recipe
from tests.training.test_loop import make_loop, run, weights

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_products_are_computed_in_the_precision_asked_for(name: Any, dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 2)
    with Precision(name, CPU).autocast():
        assert layer(torch.ones(1, 3)).dtype == dtype


def step_of(name: Any, gradient: float) -> tuple[torch.Tensor, Precision]:
    """Return a weight after one step of plain descent along a gradient, and the precision it was taken in."""
    weight = nn.Parameter(torch.ones(4))
    optimizer, precision = torch.optim.SGD([weight], lr=0.5), Precision(name, CPU)
    precision.backward((weight * gradient).sum())
    precision.unscale(optimizer)
    assert precision.ran_over([weight]) == (not torch.isfinite(weight.grad).all())
    precision.step(optimizer)
    return weight.detach(), precision


def test_a_scaled_loss_makes_the_step_of_an_unscaled_one() -> None:
    assert step_of("fp16", 0.25)[0].equal(step_of("fp32", 0.25)[0])


def test_a_gradient_that_runs_over_takes_no_step_and_halves_the_scale() -> None:
    weight, precision = step_of("fp16", float("inf"))
    assert weight.equal(torch.ones(4))
    assert precision.scaler.get_scale() == step_of("fp16", 1.0)[1].scaler.get_scale() / 2


def test_an_infinite_gradient_is_not_hidden_where_nothing_is_scaled() -> None:
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.full((1,), float("inf"))
    assert not Precision("bf16", CPU).ran_over([weight])


def test_steps_that_run_over_in_fp16_are_counted_change_nothing_and_lower_the_scale_to_go_on_with(root: Path) -> None:
    recipe = tiny_recipe(root, "training.precision=fp16", "training.snapshot_every=3")
    loop = make_loop(recipe)
    loop.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)  # so large that every step runs over
    before = weights(loop)
    run(loop)
    rows = list(read_trace(loop.run_folder.trace, "step"))
    assert all(row["overflow"] and "rates" not in row for row in rows)
    assert loop.costs.overflows == len(rows) == 6
    assert all(tensor.equal(before[name]) for name, tensor in weights(loop).items())
    again = make_loop(recipe)
    assert again.resume()
    assert again.precision.state_dict()["scale"] == 2.0**94
    assert again.costs.overflows == 6


# fp16 leaves out first steps, whose scaled gradients run over, and lags behind by so many.
@pytest.mark.parametrize(("precision", "nearly"), [("bf16", 0.02), ("fp16", 0.1)])
def test_sixteen_bits_learn_nearly_what_thirty_two_do(root: Path, precision: str, nearly: float) -> None:
    # The tiny encoder's gradients are next to nothing, and Adam makes full steps of their rounding.
    more = ("components.vision.tune=frozen", "training.steps=20")
    losses = []
    for name in ("fp32", precision):
        loop = make_loop(tiny_recipe(root, f"training.precision={name}", *more, f"output={root}/{name}"))
        run(loop)
        losses.append([row["loss"] for row in read_trace(loop.run_folder.trace, "step")])
    assert losses[1] == pytest.approx(losses[0], rel=nearly)
    assert losses[1] != losses[0]
